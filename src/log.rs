//! Sets up the log: our own events, on standard error.
//!
//! The clouds' libraries are kept out of it whatever the level: some of them
//! print the bodies of requests and answers, which have secrets in them.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::cli::{LogFormat, LogLevel};

/// Starts to log. Without a format it is text on a terminal, JSON elsewhere.
pub fn start(format: Option<LogFormat>, level: LogLevel) {
    let is_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), filter(level));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => {
            fmt::layer().with_writer(io::stderr).with_ansi(is_terminal).with_target(false).boxed()
        }
        LogFormat::Json => {
            fmt::layer().json().with_writer(io::stderr).with_current_span(false).boxed()
        }
    };
    // It is only started once, so nobody was first.
    let _ = Registry::default().with(layer.with_filter(ours)).try_init();
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
