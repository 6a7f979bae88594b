//! Sets up the log: our own events, on standard error.
//!
//! The clouds' libraries are kept out of it whatever the level: some of them
//! print the bodies of requests and answers, which have secrets in them.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::cli::{LogFormat, LogLevel};

/// Starts to log. Without a format it is text on a terminal, JSON elsewhere.
///
/// What [runs on](Kind::RunsOn) logs on a thread of its own, whose lines are written out when
/// what is given back is dropped: a terminal that is stopped, or a pipe that nobody empties,
/// must not hold up a renewal or an answer. Lines that nobody takes are dropped, and counted.
pub fn start(kind: Kind, format: Option<LogFormat>, level: LogLevel) -> Option<Log> {
    match kind {
        Kind::Ends => {
            start_on(io::stderr, format, level);
            None
        }
        Kind::RunsOn => {
            let lines = NonBlockingBuilder::default().buffered_lines_limit(MOST_LINES);
            let (writer, guard) = lines.thread_name("log").finish(io::stderr());
            let dropped = writer.error_counter();
            start_on(writer, format, level);
            Some(Log { _guard: guard, dropped })
        }
    }
}

/// Whether a command ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has one thing to do.
    Ends,
    /// It is a daemon.
    RunsOn,
}

/// A log that is written on a thread of its own.
pub struct Log {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Counts the lines that were dropped so far.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

fn start_on<W>(writer: W, format: Option<LogFormat>, level: LogLevel)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let is_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), filter(level));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => {
            fmt::layer().with_writer(writer).with_ansi(is_terminal).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer().json().with_writer(writer).with_current_span(false).boxed(),
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

/// How many lines may wait to be written.
const MOST_LINES: usize = 1024;
