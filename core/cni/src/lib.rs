//! The plugin's words: network configurations, requests to the agent, results, and conflists.
