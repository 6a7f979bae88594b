//! What is known about every registry and target: written by the loops, read by
//! everyone else.
//!
//! Nothing here remembers that something is ready. Readiness is worked out from
//! the clock and from what was last found in the targets, each time someone asks.

mod history;
mod readiness;
mod report;
mod state;
mod troubles;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

pub use self::history::{QUARTER, QUARTERS};
pub use self::readiness::Judgement;
use self::readiness::Moment;
pub use self::report::{
    Checks, CredentialReport, ElectionReport, HookReport, NamespacesReport, NotKept, QuarterReport,
    Report, SettingsReport, TargetReport, Trouble, Verdict, parse_time,
};
#[cfg(feature = "kubernetes")]
pub(crate) use self::state::{Counts, Election};
pub(crate) use self::state::{
    Failing, Hook, InTheWay, Registry, SAME_EXPIRY, State, Target, Verified,
};
pub use self::state::{Named, TargetName};
pub use self::troubles::{Thing, Wrong};
use crate::clock::{Clock, SLICE};
use crate::credential::{Lifetime, RegistryHost};
use crate::metrics::{Metrics, RegistryGauges};
use crate::sources::{Origin, Skew};
use crate::trouble;

/// The one value that the loops write and everyone else reads.
pub struct Status {
    clock: Clock,
    /// When the program started, by our time, and by the wall clock of then.
    started: SystemTime,
    started_by_wall: SystemTime,
    state: watch::Sender<State>,
    /// Grows with each change of the state.
    version: AtomicU64,
    /// What was worked out last, as long as it holds.
    judged: Mutex<Option<(u64, Judgement)>>,
    reported: Mutex<Option<(u64, SystemTime, Arc<Report>)>>,
    /// The counters and histograms, for `/metrics`.
    pub metrics: Metrics,
    /// Changes when someone wants every target to look at its file again.
    look_again: watch::Sender<()>,
    /// Since when a look has been wanted that has not come, by the monotonic clock.
    look_wanted: Mutex<Option<Duration>>,
    /// When a look was asked for last ahead of its time, in milliseconds of that clock.
    asked_ahead: AtomicU64,
    pulses: Mutex<Vec<Pulse>>,
}

impl Status {
    /// A status in which nothing is known yet but the names.
    #[must_use]
    pub fn new(
        clock: Clock,
        registries: impl IntoIterator<Item = (RegistryHost, Origin)>,
        targets: impl IntoIterator<Item = (PathBuf, &'static str)>,
    ) -> Self {
        let status = Self::with(clock, Metrics::new());
        let targets = targets.into_iter();
        let targets = targets.map(|(path, reader)| Named::file(&path, reader));
        status.follow(registries, targets, []);
        status
    }

    /// A status in which nothing is known, not even names.
    pub(crate) fn with(clock: Clock, metrics: Metrics) -> Self {
        Self {
            started: clock.now(),
            started_by_wall: clock.wall(),
            clock,
            state: watch::Sender::default(),
            version: AtomicU64::new(0),
            judged: Mutex::default(),
            reported: Mutex::default(),
            metrics,
            look_again: watch::Sender::new(()),
            look_wanted: Mutex::default(),
            asked_ahead: AtomicU64::new(0),
            pulses: Mutex::default(),
        }
    }

    /// Speaks of these from now on. What is known about one of them stays known.
    pub(crate) fn follow(
        &self,
        registries: impl IntoIterator<Item = (RegistryHost, Origin)>,
        targets: impl IntoIterator<Item = Named>,
        hooks: impl IntoIterator<Item = String>,
    ) {
        self.change(|state| {
            let mut before = std::mem::take(&mut state.registries);
            for (host, origin) in registries {
                let known = before.remove(&host).filter(|registry| registry.origin == origin);
                let new = || Registry::new(origin, self.clock.now());
                state.registries.insert(host, known.unwrap_or_else(new));
            }
            let mut before = std::mem::take(&mut state.targets);
            for named in targets {
                let known = before.iter().position(|target| target.name == named.name);
                state.targets.push(match known.map(|index| before.swap_remove(index)) {
                    Some(known) => Target { reader: named.reader, hosts: named.hosts, ..known },
                    None => Target::new(named),
                });
            }
            let mut before = std::mem::take(&mut state.hooks);
            for name in hooks {
                let known = before.iter().position(|hook| hook.name == name);
                let known = known.map(|index| before.swap_remove(index));
                let new = || Hook { name, last_run: None, failing: None };
                state.hooks.push(known.unwrap_or_else(new));
            }
        });
    }

    /// Changes what is known.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            change(state);
            // Before anybody can see the state: who sees the new one sees the new version.
            self.version.fetch_add(1, Ordering::Release);
        });
    }

    /// Says what is wrong with the newest settings, if anything is.
    pub(crate) fn set_bad_settings(&self, message: Option<String>) {
        let now = self.clock.now();
        self.change(|state| {
            state.bad_settings = message.map(|message| {
                let before = state.bad_settings.as_ref();
                Failing::after(before, now, trouble::Kind::BadSettings, message)
            });
        });
    }

    /// Everything, as it is now by the last looks at the targets.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.state.borrow(), self.started, &self.moment())
    }

    /// Everything, after each target has looked at its file.
    pub async fn fresh_report(&self) -> Arc<Report> {
        self.look().await;
        self.last_report()
    }

    /// Everything, by the last looks at the targets.
    pub(crate) fn last_report(&self) -> Arc<Report> {
        let version = self.version.load(Ordering::Acquire);
        let at = self.moment();
        let mut reported = lock(&self.reported);
        if let Some((of, until, report)) = &*reported
            && *of == version
            && at.now < *until
        {
            return Arc::clone(report);
        }
        let state = self.state.borrow();
        let report = Arc::new(Report::of(&state, self.started, &at));
        *reported = Some((version, readiness::good_until(&state, at.now), Arc::clone(&report)));
        report
    }

    /// How it is, after each target has looked at its file: what a probe asks, at little
    /// cost however much is kept fresh.
    pub async fn fresh_judgement(&self) -> Judgement {
        self.look().await;
        self.judgement()
    }

    /// How it is, by the last looks at the targets.
    #[must_use]
    pub fn judgement(&self) -> Judgement {
        let version = self.version.load(Ordering::Acquire);
        let at = self.moment();
        let mut judged = lock(&self.judged);
        if let Some((of, judgement)) = *judged
            && of == version
            && at.now < judgement.until
        {
            return judgement;
        }
        let judgement = readiness::judge(&self.state.borrow(), &at);
        *judged = Some((version, judgement));
        judgement
    }

    fn moment(&self) -> Moment<'_> {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        Moment { clock: &self.clock, now, monotonic, look_wanted: *lock(&self.look_wanted) }
    }

    /// Waits until each target has looked at its file.
    ///
    /// A look that is younger than a second will do, and a target that does not answer
    /// in time counts with the look that it had.
    async fn look(&self) {
        let now = self.clock.monotonic();
        // By the monotonic clock: one that was set back would make an old look new.
        let all_looked_since = |state: &State, time: Duration| {
            let mut targets = state.targets.iter();
            targets.all(|target| target.looked.is_some_and(|looked| looked > time))
        };
        let fresh = now.checked_sub(LOOK_LASTS);
        let is_fresh = |state: &State| match fresh {
            Some(fresh) => all_looked_since(state, fresh),
            // It is young itself.
            None => state.targets.iter().all(|target| target.looked.is_some()),
        };
        if is_fresh(&self.state.borrow()) {
            *lock(&self.look_wanted) = None;
            // The next one is made before it is needed, so that who asks all the time never
            // waits for it.
            let is_aging = now.checked_sub(LOOK_LASTS / 2);
            let is_aging =
                is_aging.is_some_and(|time| !all_looked_since(&self.state.borrow(), time));
            if is_aging && self.asks_ahead(now) {
                self.look_again.send_replace(());
            }
            return;
        }
        let mut changes = self.state.subscribe();
        let since = {
            let mut wanted = lock(&self.look_wanted);
            // One that was wanted before may have come meanwhile.
            let open = wanted.filter(|since| !all_looked_since(&self.state.borrow(), *since));
            *wanted.insert(open.unwrap_or(now))
        };
        self.look_again.send_replace(());
        if now.saturating_sub(since) >= LOOK_LIMIT {
            // Whoever has waited for it so long in vain need not be followed.
            return;
        }
        let wait = changes.wait_for(is_fresh);
        if tokio::time::timeout(LOOK_LIMIT, wait).await.is_ok() {
            *lock(&self.look_wanted) = None;
        }
    }

    /// Whether a look is to be asked for ahead of its time: not again before the one that was
    /// asked for last can have come.
    fn asks_ahead(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let last = self.asked_ahead.load(Ordering::Relaxed);
        let pause = u64::try_from((LOOK_LASTS / 4).as_millis()).unwrap_or(u64::MAX);
        // Of several who ask at once, one does.
        now.saturating_sub(last) >= pause
            && self
                .asked_ahead
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
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
        lock(&self.pulses)
    }

    /// Changes what is known about a registry.
    pub(crate) fn set_registry(&self, host: &RegistryHost, change: impl FnOnce(&mut Registry)) {
        self.change(|state| {
            if let Some(registry) = state.registries.get_mut(host) {
                change(registry);
            }
        });
    }

    /// Changes what is known about a target.
    pub(crate) fn set_target(&self, name: &TargetName, change: impl FnOnce(&mut Target)) {
        self.change(|state| {
            if let Some(target) = state.targets.iter_mut().find(|target| target.name == *name) {
                change(target);
            }
        });
    }

    /// Changes what is known about the election; nothing if there is none.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn set_election(&self, election: Option<Election>) {
        self.change(|state| state.election = election);
    }

    /// Changes what is known about a hook.
    pub(crate) fn set_hook(&self, name: &str, change: impl FnOnce(&mut Hook)) {
        self.change(|state| {
            if let Some(hook) = state.hooks.iter_mut().find(|hook| hook.name == name) {
                change(hook);
            }
        });
    }

    /// What is known about a target.
    pub(crate) fn target<T>(
        &self,
        name: &TargetName,
        reader: impl FnOnce(&Target) -> T,
    ) -> Option<T> {
        let state = self.state.borrow();
        state.targets.iter().find(|target| target.name == *name).map(reader)
    }

    /// Changes when someone wants the targets to be looked at.
    pub(crate) fn look_wanted(&self) -> watch::Receiver<()> {
        self.look_again.subscribe()
    }

    /// What is known, for whoever has to read a part of it.
    pub(crate) fn read<T>(&self, reader: impl FnOnce(&State) -> T) -> T {
        reader(&self.state.borrow())
    }

    /// What is counted, and what the gauges show, by the last looks at the targets; these were
    /// judged just now.
    pub(crate) fn metrics_text(&self, judgement: Judgement) -> String {
        let at = self.moment();
        let state = self.state.borrow();
        let gauges = self.metrics.gauges();
        let wall = |time: SystemTime| self.clock.to_wall(time);
        // By the clock of then: it is a fact, and does not move when the clock is set.
        let is_rejected = state.bad_settings.is_some();
        gauges.set_process(judgement.is_ready, is_rejected, self.started_by_wall);
        if let Some(election) = &state.election {
            gauges.set_leading(&election.lease, election.is_leading);
        }
        for hook in &state.hooks {
            gauges.set_hook(&hook.name, hook.failing.is_some());
        }
        for (host, registry) in &state.registries {
            let ending = registry.lifetime.filter(|life| !life.is_endless());
            gauges.set_registry(
                host,
                &RegistryGauges {
                    is_ready: readiness::lack(host, registry, &state.targets, &at).is_none(),
                    lifetime: ending.map(Lifetime::length),
                    expiry: ending
                        .and_then(|_| report::usable_until(host, registry, &state.targets))
                        .map(wall),
                    next_refresh: registry
                        .next
                        .filter(|_| registry.lifetime.is_none() || ending.is_some())
                        .map(|next| wall(next.at)),
                    last_success: registry.last_success.map(wall),
                    failures: registry.failing.as_ref().map_or(0, |failing| failing.count),
                    skew: registry.skew.map_or(0, Skew::seconds),
                },
            );
        }
        for target in &state.targets {
            let is_ready = !readiness::lacks_any(target, &state, &at);
            let kinds = target.in_the_way.iter().map(|obstacle| obstacle.kind.as_str());
            let name = target.name.to_string();
            gauges.set_target(&name, is_ready, kinds);
            if let Some(counts) = target.counts {
                gauges.set_namespaces(&name, counts.by_state());
            }
        }
        self.metrics.text()
    }

    /// When the next credential expires, if one has not yet.
    pub(crate) fn next_expiry(&self) -> Option<SystemTime> {
        readiness::next_expiry(&self.state.borrow(), self.clock.now())
    }

    /// Waits until a change makes it another judgement than this one.
    pub(crate) async fn changed_from(&self, judged: Judgement) {
        let mut changes = self.state.subscribe();
        while self.judgement().is_like(judged) {
            // The sender is `self`, which outlives the wait.
            drop(changes.changed().await);
        }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How old a look at a target may be for an answer to be true.
const LOOK_LASTS: Duration = Duration::from_secs(1);

/// How long an answer waits for a look: less than the second that a probe of the kubelet's
/// waits (<https://kubernetes.io/docs/concepts/workloads/pods/probes/>).
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// A loop that has not turned for this long hangs.
const PULSE_LIMIT: Duration = SLICE.saturating_mul(3);

#[cfg(test)]
mod tests;
