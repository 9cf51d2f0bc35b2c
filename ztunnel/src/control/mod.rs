//! The control side: data-plane threads, pods that come and go, and the CLI's requests.

mod admin;
mod config_dump;
mod dispatch;
mod gauges;
mod threads;
mod why;

pub(crate) use admin::AdminHandler;
pub(crate) use config_dump::ConfigDump;
pub(crate) use dispatch::{Dispatch, PodSet};
pub(crate) use gauges::{register_enrolment, register_gauges};
pub use threads::ThreadError;
pub(crate) use threads::Threads;
