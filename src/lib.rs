//! Keeps container-registry credentials fresh.
//!
//! The way of the data; each module only knows those to its left:
//!
//! ```text
//! config -> sources -> schedule -> targets -> status -> http
//!     \________ credential, clock: nouns that all may use ________/
//! refresh  is the loop of one issuer: sources, schedule, status
//! daemon   builds everything and starts it; nobody uses daemon
//! ```
//!
//! This library is what the `freshcreds` program is made of, so that tests drive
//! what the program drives. Its interface is no promise to other programs.

pub mod credential;
pub mod trouble;

pub mod clock;

pub mod network;
pub mod program;

pub mod kubernetes;

pub mod registry;
pub mod sources;

pub mod schedule;

pub mod metrics;
pub mod status;

pub mod refresh;
pub mod targets;

pub mod hooks;
pub mod page;

pub mod http;

pub mod config;

pub mod daemon;
pub mod doctor;
pub mod notify;
pub mod process;

pub mod cli;
pub mod log;
pub mod table;
pub mod watch;
