//! What is known about every registry and target: written by the loops, read by
//! everyone else.
//!
//! Nothing here remembers that something is ready. Readiness is worked out from
//! the clock and from what was last found in the targets, each time someone asks.

mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

pub use self::report::{
    Checks, CredentialReport, NotKept, Report, SettingsReport, TargetReport, Trouble, Verdict,
};
use crate::clock::{Clock, SLICE};
use crate::credential::{Lifetime, RegistryHost};
use crate::metrics::Metrics;
use crate::registry::Answer;
use crate::schedule::Next;
use crate::sources::{Origin, Skew};

/// The one value that the loops write and everyone else reads.
pub struct Status {
    clock: Clock,
    state: watch::Sender<State>,
    /// The counters and histograms, for `/metrics`.
    pub metrics: Metrics,
    /// Changes when someone wants every target to look at its file again.
    look_again: watch::Sender<()>,
    pulses: Mutex<Vec<Pulse>>,
}

/// What the loops know. Each changes what is its own.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) registries: BTreeMap<RegistryHost, Registry>,
    pub(crate) targets: Vec<Target>,
    /// What is wrong with the settings that were to be gone by last.
    pub(crate) bad_settings: Option<Failing>,
}

/// What is known about a registry's credential.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pub(crate) origin: Origin,
    pub(crate) identity: Option<String>,
    pub(crate) lifetime: Option<Lifetime>,
    /// How far its issuer's clock was from ours when it was asked last.
    pub(crate) skew: Option<Skew>,
    pub(crate) last_success: Option<SystemTime>,
    pub(crate) last_attempt: Option<SystemTime>,
    /// The last failure, until a fetch succeeds.
    pub(crate) failing: Option<Failing>,
    pub(crate) next: Option<Next>,
    /// What the registry itself said to the credential, if it was asked.
    pub(crate) verified: Option<Verified>,
}

/// What a registry said to its credential.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) at: SystemTime,
    pub(crate) answer: Answer,
}

/// What is known about a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    /// When the file was last looked at, by the monotonic clock.
    pub(crate) looked: Option<Duration>,
    /// When it was last found to be as it should.
    pub(crate) verified: Option<SystemTime>,
    pub(crate) last_write: Option<SystemTime>,
    /// What keeps others' updates safe while the file is written.
    pub(crate) protection: Option<&'static str>,
    /// Whether the file cannot be watched.
    pub(crate) is_polled: bool,
    /// Who reads it.
    pub(crate) reader: &'static str,
    /// What was found: for each host that has a credential, the expiry of the
    /// one that stands in the file.
    pub(crate) found: BTreeMap<RegistryHost, SystemTime>,
    /// What makes a reader pass by what is in the file, and whose entry.
    pub(crate) in_the_way: Vec<InTheWay>,
    pub(crate) failing: Option<Failing>,
}

/// Something that makes a reader pass by an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InTheWay {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) hidden: Vec<RegistryHost>,
}

/// A run of failures.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) since: SystemTime,
    pub(crate) count: u32,
}

impl Failing {
    /// The run after one more failure.
    pub(crate) fn after(
        before: Option<&Self>,
        now: SystemTime,
        kind: &'static str,
        message: String,
    ) -> Self {
        Self {
            kind,
            message,
            since: before.map_or(now, |before| before.since),
            count: before.map_or(1, |before| before.count.saturating_add(1)),
        }
    }
}

impl Registry {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            identity: None,
            lifetime: None,
            skew: None,
            last_success: None,
            last_attempt: None,
            failing: None,
            next: None,
            verified: None,
        }
    }
}

impl Status {
    /// A status in which nothing is known yet but the names.
    #[must_use]
    pub fn new(
        clock: Clock,
        registries: impl IntoIterator<Item = (RegistryHost, Origin)>,
        targets: impl IntoIterator<Item = (PathBuf, &'static str)>,
    ) -> Self {
        let state = State { registries: BTreeMap::new(), targets: Vec::new(), bad_settings: None };
        let status = Self {
            clock,
            state: watch::Sender::new(state),
            metrics: Metrics::new(),
            look_again: watch::Sender::new(()),
            pulses: Mutex::default(),
        };
        status.follow(registries, targets);
        status
    }

    /// Speaks of these from now on. What is known about one of them stays known.
    pub(crate) fn follow(
        &self,
        registries: impl IntoIterator<Item = (RegistryHost, Origin)>,
        targets: impl IntoIterator<Item = (PathBuf, &'static str)>,
    ) {
        self.state.send_modify(|state| {
            let mut before = std::mem::take(&mut state.registries);
            for (host, origin) in registries {
                let known = before.remove(&host).filter(|registry| registry.origin == origin);
                state.registries.insert(host, known.unwrap_or_else(|| Registry::new(origin)));
            }
            let mut before = std::mem::take(&mut state.targets);
            for (path, reader) in targets {
                let known = before.iter().position(|target| target.path == path);
                let known = known.map(|index| before.swap_remove(index)).unwrap_or_default();
                state.targets.push(Target { path, reader, ..known });
            }
        });
    }

    /// Says what is wrong with the newest settings, if anything is.
    pub(crate) fn set_bad_settings(&self, message: Option<String>) {
        let now = self.clock.now();
        self.state.send_modify(|state| {
            state.bad_settings =
                message.map(|message| Failing::after(None, now, "bad_settings", message));
        });
    }

    /// Everything, as it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.state.borrow(), &self.clock)
    }

    /// Everything, after each target has looked at its file.
    ///
    /// A look that is younger than a second will do, and a target that does not
    /// answer within two is reported with the look that it had.
    pub async fn fresh_report(&self) -> Report {
        let now = self.clock.monotonic();
        let is_fresh = |state: &State| {
            state.targets.iter().all(|target| {
                // By the monotonic clock: one that was set back would make an old
                // look new.
                target.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_LASTS)
            })
        };
        if !is_fresh(&self.state.borrow()) {
            let mut changes = self.state.subscribe();
            self.look_again.send_replace(());
            let wait = changes.wait_for(is_fresh);
            drop(tokio::time::timeout(LOOK_LIMIT, wait).await);
        }
        self.report()
    }

    /// Whether every loop has turned lately. Nothing about a cloud or a disk
    /// has a part in it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let now = self.clock.monotonic();
        self.pulses().iter().all(|pulse| now.saturating_sub(pulse.last()) < PULSE_LIMIT)
    }

    /// A new pulse for a loop that [`is_live`](Self::is_live) watches from now on.
    pub fn pulse(&self) -> Pulse {
        let pulse = Pulse { clock: self.clock.clone(), last: Arc::default() };
        pulse.beat();
        self.pulses().push(pulse.clone());
        pulse
    }

    /// The loop with this pulse was ended.
    pub(crate) fn end(&self, pulse: &Pulse) {
        self.pulses().retain(|other| !Arc::ptr_eq(&other.last, &pulse.last));
    }

    fn pulses(&self) -> MutexGuard<'_, Vec<Pulse>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known about a registry.
    pub(crate) fn set_registry(&self, host: &RegistryHost, change: impl FnOnce(&mut Registry)) {
        self.state.send_modify(|state| {
            if let Some(registry) = state.registries.get_mut(host) {
                change(registry);
            }
        });
    }

    /// Changes what is known about a target.
    pub(crate) fn set_target(&self, path: &Path, change: impl FnOnce(&mut Target)) {
        self.state.send_modify(|state| {
            if let Some(target) = state.targets.iter_mut().find(|target| target.path == path) {
                change(target);
            }
        });
    }

    /// What is known about a target.
    pub(crate) fn target<T>(&self, path: &Path, reader: impl FnOnce(&Target) -> T) -> Option<T> {
        let state = self.state.borrow();
        state.targets.iter().find(|target| target.path == path).map(reader)
    }

    /// Changes when someone wants the targets to be looked at.
    pub(crate) fn look_wanted(&self) -> watch::Receiver<()> {
        self.look_again.subscribe()
    }

    /// What is known, for whoever has to read a part of it.
    pub(crate) fn read<T>(&self, reader: impl FnOnce(&State) -> T) -> T {
        reader(&self.state.borrow())
    }

    /// What is counted, and what the gauges show at the moment of `report`.
    pub(crate) fn metrics_text(&self, report: &Report) -> String {
        for (host, registry) in &self.state.borrow().registries {
            let expiry = registry.lifetime.map(|life| self.clock.to_wall(life.expires()));
            let next = registry.next.map(|next| self.clock.to_wall(next.at));
            self.metrics.set_moments(host, expiry, next);
            self.metrics.set_skew(host, registry.skew.map_or(0, Skew::seconds));
        }
        self.metrics.set_ready(report.is_ready());
        self.metrics.text()
    }

    /// Waits until `condition` holds.
    pub(crate) async fn wait_for(&self, mut condition: impl FnMut(&State) -> bool) {
        let mut changes = self.state.subscribe();
        // The sender is `self`, which outlives the wait.
        drop(changes.wait_for(|state| condition(state)).await);
    }
}

/// Beats whenever a loop turns.
#[derive(Clone)]
pub struct Pulse {
    clock: Clock,
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Runs a loop so that the pulse beats each time it is woken. A loop sleeps
    /// in slices, so one that is well is woken at least once in each of them.
    pub async fn watch<F: Future>(self, work: F) -> F::Output {
        let mut watched = Watched { pulse: self, work: Box::pin(work) };
        std::future::poll_fn(move |context| watched.poll(context)).await
    }

    fn beat(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> Duration {
        Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

struct Watched<F> {
    pulse: Pulse,
    work: Pin<Box<F>>,
}

impl<F: Future> Watched<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        self.pulse.beat();
        self.work.as_mut().poll(context)
    }
}

/// How old a look at a target may be for an answer to be true.
const LOOK_LASTS: Duration = Duration::from_secs(1);

/// How long an answer waits for a look.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A loop that has not turned for this long hangs.
const PULSE_LIMIT: Duration = SLICE.saturating_mul(3);

#[cfg(test)]
mod tests;
