//! Tests of the netns tier.
