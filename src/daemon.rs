//! Builds the parts, starts the tasks, and ends them in order.

mod crew;
mod part;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::crew::Crew;
use self::part::Part;
use crate::clock::Clock;
use crate::config::Settings;
use crate::http::{Address, Bound};
use crate::metrics::Metrics;
use crate::notify;
use crate::status::{Report, Status};

/// Keeps everything fresh until SIGTERM or SIGINT. SIGHUP makes it go by what `reload`
/// gives.
///
/// # Errors
///
/// If it cannot start, or if one of its tasks ends by itself.
pub async fn run(
    settings: &Settings,
    clock: &Clock,
    metrics: Metrics,
    reload: &dyn Fn() -> Result<Settings, String>,
) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let bound = match &settings.listen {
        Some(address) => {
            let bound = Bound::bind(address, &settings.allowed_hosts).await;
            let failed = |source| DaemonError::Listen { address: address.clone(), source };
            Some(bound.map_err(failed)?)
        }
        None => None,
    };
    let mut crew = Crew::new(clock, metrics);
    let status = Arc::clone(&crew.status);
    crew.introduce(settings);
    let ticking = tokio::spawn(clock.clone().tick());
    let stop_serving = CancellationToken::new();
    let serving = match bound {
        Some(bound) => {
            let address = bound.address().clone();
            let (status, clock) = (Arc::clone(&status), clock.clone());
            let serving = bound.serve(status, clock, stop_serving.clone());
            let failed = |source| DaemonError::Listen { address: address.clone(), source };
            let serving = crew.watch(&stop_serving, serving.map_err(failed)?);
            info!(%address, "listening");
            Some(serving)
        }
        None => None,
    };
    let stop_telling = CancellationToken::new();
    let telling = notify::keep_telling(Arc::clone(&status), clock.clone(), stop_telling.clone());
    let telling = crew.watch(&stop_telling, telling);
    let mut part = Part::of(&mut crew, settings);
    go_on(&mut crew, &mut part, &mut signals, settings, reload).await;
    let ended_by_itself = crew.is_broken();
    notify::stopping();
    let orderly = async {
        crew.end().await;
        // Nobody else may begin before.
        part.end(&crew).await;
        stop_telling.cancel();
        // As below.
        let _ = telling.await;
        stop_serving.cancel();
        if let Some(serving) = serving {
            // One that panicked has ended too.
            let _ = serving.await;
        }
    };
    tokio::select! {
        biased;
        () = orderly => {}
        name = stopped_again(&mut signals, clock) => {
            error!(signal = name, "stopping at once");
            return Err(DaemonError::StoppedAtOnce);
        }
    }
    ticking.abort();
    info!("stopped");
    if ended_by_itself { Err(DaemonError::TaskEnded) } else { Ok(()) }
}

/// Goes by the settings until a signal ends it, or a loop ends that should not.
async fn go_on(
    crew: &mut Crew,
    part: &mut Part,
    signals: &mut Signals,
    settings: &Settings,
    reload: &dyn Fn() -> Result<Settings, String>,
) {
    let stopping = |name| info!(signal = name, "stopping");
    // The endpoint answers meanwhile: what was written before is looked for on the disk.
    tokio::select! {
        biased;
        name = signals.stopped() => return stopping(name),
        () = crew.follow(settings) => {}
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        registries = settings.registries.len(),
        issuers = settings.sources().len(),
        targets = ?settings.targets.iter().map(|target| &target.path).collect::<Vec<_>>(),
        secrets = ?settings.secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
        "started"
    );
    let mut newest = None::<Settings>;
    let status = Arc::clone(&crew.status);
    let mut first_pass = std::pin::pin!(first_pass(&status));
    let mut is_first = true;
    loop {
        tokio::select! {
            biased;
            received = signals.next() => match received {
                Received::Stop(name) => return stopping(name),
                Received::FetchNow => {
                    info!(signal = "SIGUSR1", "fetching now");
                    crew.ask.send_replace(());
                }
                Received::Reload => {
                    notify::reloading();
                    tokio::select! {
                        biased;
                        name = signals.stopped() => return stopping(name),
                        changed = change(crew, settings, reload) => newest = changed.or(newest),
                    }
                    if !is_first {
                        notify::ready();
                    }
                }
            },
            () = crew.broken() => return,
            standing = part.changed() => {
                let settings = newest.as_ref().unwrap_or(settings);
                tokio::select! {
                    biased;
                    name = signals.stopped() => return stopping(name),
                    () = part.heed(crew, &standing, settings) => {}
                }
            }
            () = &mut first_pass, if is_first => {
                is_first = false;
                notify::ready();
            }
        }
    }
}

/// Waits for another signal to stop: for one that somebody sent again, not one that was sent to
/// the program and to its group, as `timeout` does.
async fn stopped_again(signals: &mut Signals, clock: &Clock) -> &'static str {
    let first = clock.monotonic();
    loop {
        let name = signals.stopped().await;
        if clock.monotonic().saturating_sub(first) >= ECHO {
            return name;
        }
    }
}

/// Goes by new settings, if they mean something.
async fn change(
    crew: &mut Crew,
    first: &Settings,
    reload: &dyn Fn() -> Result<Settings, String>,
) -> Option<Settings> {
    match reload() {
        Ok(settings) => {
            for (key, has_changed) in [
                ("listen", settings.listen != first.listen),
                ("allowed_hosts", settings.allowed_hosts != first.allowed_hosts),
                ("log_format or log_level", settings.log != first.log),
                ("lease", settings.cluster.lease != first.cluster.lease),
            ] {
                if has_changed {
                    warn!(key, "this setting has changed, which only a restart heeds");
                }
            }
            crew.follow(&settings).await;
            crew.status.set_bad_settings(None);
            info!(
                signal = "SIGHUP",
                registries = settings.registries.len(),
                targets = settings.targets.len(),
                secrets = settings.secrets.len(),
                "going by the new settings"
            );
            Some(settings)
        }
        Err(error) => {
            error!(signal = "SIGHUP", %error, "the new settings mean nothing, so the old ones stay");
            crew.status.set_bad_settings(Some(error));
            None
        }
    }
}

/// One pass: fetches every credential, writes every target, runs the hooks, and reports. Goes on fetching
/// for `wait` where a credential cannot be had at once.
///
/// # Errors
///
/// If it is stopped by a signal.
pub async fn once(
    settings: &Settings,
    clock: &Clock,
    wait: Duration,
) -> Result<Report, DaemonError> {
    let mut signals = Signals::new()?;
    let mut crew = Crew::new(clock, Metrics::new());
    let status = Arc::clone(&crew.status);
    let (refreshes, targets, hooks) = crew.once(settings);
    #[cfg(feature = "kubernetes")]
    let keepers = crew.keepers_once(settings);
    let until = clock.now() + wait;
    let pass = async {
        let mut fetching = JoinSet::new();
        for mut refresh in refreshes {
            fetching.spawn(async move { refresh.run_once(TRIES, until).await.is_ok() });
        }
        while fetching.join_next().await.is_some() {}
        let mut writing = JoinSet::new();
        for mut target in targets {
            writing.spawn(async move { target.run_once().await });
        }
        while writing.join_next().await.is_some() {}
        #[cfg(feature = "kubernetes")]
        for mut keeper in keepers {
            keeper.run_once().await;
        }
        for mut hook in hooks {
            hook.run_once(&CancellationToken::new()).await;
        }
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
        "cannot listen on {address}: {source}{}; choose another address with --listen, \
         or `--listen off`",
        if source.kind() == std::io::ErrorKind::AddrInUse { " (by another freshcreds?)" } else { "" }
    )]
    Listen {
        /// Which.
        address: Address,
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

/// Two signals within this time are one.
const ECHO: Duration = Duration::from_millis(100);

/// How often `once` asks an issuer that fails for a passing reason.
const TRIES: u32 = 3;

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
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            Some(()) = self.terminate.recv() => Received::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Received::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Received::Reload,
            Some(()) = self.user.recv() => Received::FetchNow,
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
