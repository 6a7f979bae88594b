//! Builds the parts, starts the tasks, and ends them in order.

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Settings;
use crate::credential::Wanted;
use crate::http::Bound;
use crate::notify;
use crate::refresh::{Assignment, Refresh};
use crate::status::{Pulse, Report, Status};
use crate::targets::memory::Remembered;
use crate::targets::{self, Target};

/// Keeps everything fresh until SIGTERM or SIGINT.
///
/// # Errors
///
/// If it cannot start, or if one of its tasks ends by itself.
pub async fn run(settings: &Settings, clock: &Clock) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let bound = match settings.listen {
        Some(address) => Some(
            Bound::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?,
        ),
        None => None,
    };
    let mut status = new_status(settings, clock);
    let pulses: Vec<Pulse> =
        (0..settings.sources().len() + settings.targets.len()).map(|_| status.pulse()).collect();
    let parts = Parts::build(settings, clock, Arc::new(status), true);
    let status = Arc::clone(&parts.status);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        registries = settings.registries.len(),
        issuers = parts.refreshes.len(),
        targets = ?settings.targets.iter().map(|target| &target.path).collect::<Vec<_>>(),
        "started"
    );

    let stop = CancellationToken::new();
    let (ask, asked) = watch::channel(());
    // Two groups: targets end after the issuers' loops, and write what these brought.
    let mut fetching = JoinSet::new();
    let mut writing = JoinSet::new();
    let stop_writing = CancellationToken::new();
    let ticking = tokio::spawn(clock.clone().tick());
    let mut pulses = pulses.into_iter();
    for (refresh, pulse) in parts.refreshes.into_iter().zip(&mut pulses) {
        fetching.spawn(pulse.watch(refresh.run(stop.clone(), asked.clone())));
    }
    for (target, pulse) in parts.targets.into_iter().zip(&mut pulses) {
        writing.spawn(pulse.watch(target.run(stop_writing.clone())));
    }
    if let Some(bound) = bound {
        info!(address = %bound.address(), "listening");
        writing.spawn(bound.serve(Arc::clone(&status), clock.clone(), stop_writing.clone()));
    }
    let mut first_pass = std::pin::pin!(first_pass(&status));
    let mut is_first = true;

    let ended_by_itself = loop {
        tokio::select! {
            biased;
            received = signals.next() => match received {
                Received::Stop(name) => {
                    info!(signal = name, "stopping");
                    break false;
                }
                Received::FetchNow => {
                    info!(signal = "SIGHUP", "fetching now");
                    ask.send_replace(());
                }
            },
            Some(_) = fetching.join_next() => break true,
            Some(_) = writing.join_next() => break true,
            () = &mut first_pass, if is_first => {
                is_first = false;
                notify::ready();
            }
        }
    };
    notify::stopping();
    stop.cancel();
    let orderly = async {
        while fetching.join_next().await.is_some() {}
        stop_writing.cancel();
        while writing.join_next().await.is_some() {}
    };
    tokio::select! {
        biased;
        () = orderly => {}
        name = signals.stopped() => {
            error!(signal = name, "stopping at once");
            return Err(DaemonError::StoppedAtOnce);
        }
    }
    ticking.abort();
    info!("stopped");
    if ended_by_itself { Err(DaemonError::TaskEnded) } else { Ok(()) }
}

/// One pass: fetches every credential, writes every target, and reports.
///
/// # Errors
///
/// If it is stopped by a signal.
pub async fn once(settings: &Settings, clock: &Clock) -> Result<Report, DaemonError> {
    let mut signals = Signals::new()?;
    let parts = Parts::build(settings, clock, Arc::new(new_status(settings, clock)), false);
    let status = Arc::clone(&parts.status);
    let pass = async {
        let mut fetching = JoinSet::new();
        for mut refresh in parts.refreshes {
            fetching.spawn(async move { refresh.run_once(TRIES).await.is_ok() });
        }
        while fetching.join_next().await.is_some() {}
        let mut writing = JoinSet::new();
        for mut target in parts.targets {
            writing.spawn(async move { target.run_once().await });
        }
        while writing.join_next().await.is_some() {}
    };
    tokio::select! {
        () = pass => Ok(status.report()),
        _ = signals.stopped() => Err(DaemonError::Interrupted),
    }
}

/// Why the daemon ended, if not in order.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The endpoint's address cannot be had.
    #[error(
        "cannot listen on {address}: {source}; choose another address with --listen, \
         or `--listen off`"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[from] std::io::Error),
    /// A signal came before all was done; a write under way may be finished.
    #[error("stopped by a signal before it was done")]
    Interrupted,
    /// A second signal came, and nothing is to be waited for.
    #[error("stopped at once by a second signal")]
    StoppedAtOnce,
    /// No task should.
    #[error("a part of the daemon ended by itself; this is a defect, please report it")]
    TaskEnded,
}

/// How many issuers are asked at once; with a thousand registries in as many regions and
/// accounts it takes seconds, and nobody's limit is run into.
const MOST_AT_ONCE: usize = 16;

/// How often `once` asks an issuer that fails for a passing reason.
const TRIES: u32 = 3;

struct Parts {
    status: Arc<Status>,
    refreshes: Vec<Refresh>,
    targets: Vec<Target>,
}

impl Parts {
    /// `goes_on` says whether a token that was written in an earlier run, and is good, is
    /// as good as a new one.
    fn build(settings: &Settings, clock: &Clock, status: Arc<Status>, goes_on: bool) -> Self {
        let wanted = watch::Sender::new(Wanted::new());
        let mut dice = fastrand::Rng::new();
        let remembered = settings.shared.memory.load().unwrap_or_else(|error| {
            warn!(%error, "what was written before is not known");
            Remembered::default()
        });
        let turns = Arc::new(Semaphore::new(MOST_AT_ONCE));
        let refreshes = settings.sources().into_iter().map(|(origin, hosts)| {
            let source = origin.source(clock);
            let limit = settings.fetch_timeout;
            let turns = Arc::clone(&turns);
            let assignment = Assignment { origin, hosts, source, limit, turns };
            let (hosts, name) = (assignment.hosts.clone(), assignment.origin.to_string());
            let refresh = Refresh::new(
                assignment,
                clock.clone(),
                Arc::clone(&status),
                wanted.clone(),
                dice.fork(),
            );
            let known = targets::recall(&settings.targets, &remembered, &hosts, &name, clock);
            match known.filter(|_| goes_on) {
                Some(credential) => refresh.going_on_with(credential),
                None => refresh,
            }
        });
        let refreshes = refreshes.collect();
        let targets = settings.targets.iter().enumerate().map(|(index, options)| {
            let (options, shared) = (options.clone(), settings.shared.clone());
            let (status, wanted) = (Arc::clone(&status), wanted.subscribe());
            Target::new(index, options, shared, clock.clone(), status, wanted, dice.fork())
                .remembering(&remembered)
        });
        let targets = targets.collect();
        Self { status, refreshes, targets }
    }
}

fn new_status(settings: &Settings, clock: &Clock) -> Status {
    let registries =
        settings.registries.iter().map(|registry| (registry.host.clone(), registry.origin.clone()));
    let targets =
        settings.targets.iter().map(|target| (target.path.clone(), target.reader.as_str()));
    Status::new(clock.clone(), registries, targets)
}

/// Waits until each registry was asked, and each target was looked at after that.
async fn first_pass(status: &Status) {
    status
        .wait_for(|state| {
            state
                .registries
                .values()
                .all(|registry| registry.last_attempt.is_some() || registry.lifetime.is_some())
                && state.targets.iter().all(|target| {
                    target.failing.is_some()
                        || state.registries.iter().all(|(host, registry)| {
                            registry.lifetime.is_none() || target.found.contains_key(host)
                        })
                })
        })
        .await;
}

/// What a signal asks for.
enum Received {
    Stop(&'static str),
    FetchNow,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            Some(()) = self.terminate.recv() => Received::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Received::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Received::FetchNow,
        }
    }

    async fn stopped(&mut self) -> &'static str {
        loop {
            if let Received::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}
