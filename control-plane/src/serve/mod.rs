//! Serving: delta discovery to proxies.
