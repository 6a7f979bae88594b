//! Where credentials go: the loop of one docker `config.json` (or podman
//! `auth.json`, which has the same form).
//!
//! | | |
//! | --- | --- |
//! | [`document`] | knows the text, and changes it by splicing |
//! | [`obstacles`] | knows what makes a reader pass by an entry |
//! | [`file`](mod@file), [`replace`] | read the file, and replace it |
//! | [`leftovers`] | clears up after a writer that was killed |
//! | [`memory`] | knows what we wrote in earlier runs |
//!
//! This loop makes the one hold what it should, looks whether it still does, and
//! says so.

pub mod document;
pub mod file;
mod helper;
mod in_place;
mod lease;
pub mod leftovers;
pub mod memory;
pub mod obstacles;
mod place;
mod places;
mod points;
pub mod replace;
pub mod secrets;
mod tug;
mod turn;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::helper::{Action, HelperError};
use self::memory::{Memory, MemoryError, Remembered, Traces};
use self::obstacles::{Obstacle, Reader};
use self::replace::Attributes;
use self::tug::Tug;
pub use self::turn::TargetError;
use self::turn::{Look, Outcome, Work};
use self::watch::{Spot, Watch};
use crate::clock::Clock;
use crate::credential::{Credential, Lifetime, RegistryHost, Wanted};
use crate::schedule::{self, Failure};
use crate::status::{Failing, InTheWay, Status, TargetName};
use crate::trouble;

/// What the settings say about one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// Who reads it.
    pub reader: Reader,
    /// Its owner, group and mode, if they are not to be kept.
    pub attributes: Attributes,
    /// How it is written.
    pub write: Write,
    /// What to do where a reader passes by our entry.
    pub hidden: Hidden,
}

impl Options {
    /// What goes for a file of which nothing else is said.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        let is_podmans = path.file_name().is_some_and(|name| name == "auth.json");
        Self {
            path,
            reader: if is_podmans { Reader::Podman } else { Reader::Docker },
            attributes: Attributes::default(),
            write: Write::Replace,
            hidden: Hidden::Report,
        }
    }
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// By a new one that takes its place.
    Replace,
    /// Into itself, for the single file of a bind mount.
    InPlace,
}

/// What to do where a reader asks a credential helper instead of our entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Say so.
    Report,
    /// Change the file so that the reader reads our entry.
    TakeOver,
    /// Give the credential to the helper.
    Store,
}

/// What goes for all targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Whether an entry of ours that has expired is removed.
    pub remove_expired: bool,
    /// The hosts that `DOCKER_AUTH_CONFIG` names.
    pub in_environment: Arc<[String]>,
    /// What we wrote.
    pub memory: Memory,
}

/// Keeps one file as it should be.
pub struct Target {
    options: Options,
    name: TargetName,
    shared: Shared,
    clock: Clock,
    status: Arc<Status>,
    wanted: Receiver<Wanted>,
    /// What of it is written into a file, made when it changes.
    entries: Option<Arc<Entries>>,
    dice: fastrand::Rng,
    /// What the last look found, if the file needs no second one while it stays
    /// the same.
    seen: Option<(file::Identity, Look)>,
    /// What stood in the file when it last was as it should be. Should a write fail,
    /// that is what still stands there, and it may still be good.
    written: Arc<Entries>,
    /// What we wrote in earlier runs.
    traces: Traces,
    /// What credential helpers have of us.
    stored: BTreeMap<RegistryHost, Stored>,
    is_prepared: bool,
    failures: u32,
    tug: Tug,
    forgotten: Option<String>,
    spots: BTreeSet<Spot>,
    watch: Option<Watch>,
    check_every: Duration,
}

impl Target {
    /// The loop of one target.
    #[must_use]
    pub fn new(
        options: Options,
        shared: Shared,
        clock: Clock,
        status: Arc<Status>,
        wanted: Receiver<Wanted>,
        dice: fastrand::Rng,
    ) -> Self {
        Self {
            name: options.path.as_path().into(),
            options,
            shared,
            clock,
            status,
            wanted,
            dice,
            seen: None,
            entries: None,
            written: Arc::default(),
            traces: Traces::new(),
            stored: BTreeMap::new(),
            is_prepared: false,
            failures: 0,
            tug: Tug::default(),
            forgotten: None,
            spots: BTreeSet::new(),
            watch: None,
            check_every: CHECK_EVERY,
        }
    }

    /// Looks at the file this often when nobody asks, in place of once a minute: for a
    /// simulation of years.
    #[must_use]
    pub fn looking_every(mut self, pause: Duration) -> Self {
        self.check_every = pause;
        self
    }

    /// With what is known from earlier runs.
    #[must_use]
    pub fn remembering(mut self, remembered: &Remembered) -> Self {
        self.traces = remembered.target(&self.options.path);
        self
    }

    /// Keeps the file as it should be until `stop`. A write under way is finished,
    /// and what was fetched by then is written.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = self.status.look_wanted();
        let mut retry = None;
        loop {
            let wait = retry.max(self.tug.until);
            let may_write = wait.is_none_or(|at| at <= self.clock.now());
            match self.reconcile(may_write).await {
                Reconciled::AsWanted => retry = None,
                Reconciled::Failed(at) => retry = Some(at),
                Reconciled::Waiting => {}
            }
            if self.arm() {
                // Something may have happened before it was watched.
                continue;
            }
            let wake = self.wake_at(retry);
            let touched = async {
                match &self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if self.wanted.has_changed().unwrap_or(false) {
                        self.reconcile(true).await;
                    }
                    return;
                }
                Ok(()) = self.wanted.changed() => {
                    self.entries = None;
                    // Others come at the same moment when the daemon starts.
                    self.clock.sleep(COALESCE).await;
                    retry = None;
                    self.tug.until = None;
                }
                Ok(()) = looks.changed() => {}
                watched = touched => {
                    // A program that writes in place takes a moment.
                    self.clock.sleep(COALESCE).await;
                    match (&self.watch, watched) {
                        (Some(watch), Ok(())) if watch.drain().is_ok() => {}
                        _ => self.watch = None,
                    }
                    if self.is_for_the_content() {
                        retry = None;
                    }
                }
                () = self.clock.sleep_until(wake) => {}
            }
        }
    }

    /// Makes the file hold what it should, once. Says whether it does.
    pub async fn run_once(&mut self) -> bool {
        matches!(self.reconcile(true).await, Reconciled::AsWanted)
    }

    /// When to look if nobody asks.
    fn wake_at(&self, retry: Option<SystemTime>) -> SystemTime {
        let now = self.clock.now();
        // A watch can miss what another machine does to a shared folder.
        let check = if self.watch.is_some() {
            self.clock.tick_after(self.check_every)
        } else {
            now + POLL_EVERY
        };
        let expiry = || {
            let (_, look) = self.seen.as_ref()?;
            look.found.values().filter(|expires| **expires > now).min().copied()
        };
        let expiry = if self.shared.remove_expired { expiry() } else { None };
        let waits = [retry, self.tug.until.filter(|until| *until > now), expiry];
        waits.into_iter().flatten().fold(check, SystemTime::min)
    }

    /// Watches what leads to the file. Says whether that is new.
    fn arm(&mut self) -> bool {
        if self.spots.is_empty()
            || self.watch.as_ref().is_some_and(|watch| watch.is_over(&self.spots))
        {
            return false;
        }
        let is_first_failure =
            self.watch.is_some() || self.known(|target| !target.is_polled).unwrap_or(true);
        match Watch::new(&self.spots) {
            Ok(watch) => {
                self.watch = Some(watch);
                self.status.set_target(&self.name, |target| target.is_polled = false);
                true
            }
            // A folder was moved away since the look: it takes another one to know
            // what to watch now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.watch = None;
                self.spots.clear();
                true
            }
            Err(error) => {
                self.watch = None;
                self.status.set_target(&self.name, |target| target.is_polled = true);
                if is_first_failure {
                    let target_file = self.options.path.display();
                    warn!(%target_file, %error, "the file cannot be watched, so it is polled");
                }
                false
            }
        }
    }

    /// What the status knows about it.
    fn known<T>(&self, reader: impl FnOnce(&crate::status::Target) -> T) -> Option<T> {
        self.status.target(&self.name, reader)
    }

    /// Whether what failed last can be mended by whoever writes the file.
    fn is_for_the_content(&self) -> bool {
        let failing = self.known(|target| target.failing.clone()).flatten();
        failing.is_none_or(|failing| {
            matches!(
                failing.kind,
                trouble::Kind::Invalid | trouble::Kind::NotAFile | trouble::Kind::Contended
            )
        })
    }

    /// What a turn at the file needs.
    fn work(&mut self, may_write: bool) -> Work {
        let wanted = match self.entries.take() {
            Some(known) if !self.wanted.has_changed().unwrap_or(false) => known,
            _ => Arc::new(self.wanted.borrow_and_update().iter().map(Entry::of).collect()),
        };
        self.entries = Some(Arc::clone(&wanted));
        let hosts = self.status.read(|state| {
            let registries = state.registries.iter();
            registries
                .map(|(host, registry)| {
                    (host.clone(), registry.origin.fingerprint().unwrap_or_default())
                })
                .collect()
        });
        Work {
            options: self.options.clone(),
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            hosts,
            wanted,
            written: self.written.clone(),
            traces: self.traces.clone(),
            seen: self.seen.take(),
            may_write,
            is_prepared: self.is_prepared,
        }
    }

    async fn reconcile(&mut self, may_write: bool) -> Reconciled {
        let work = self.work(may_write);
        let looked = self.clock.monotonic();
        // The disk may take its time; the other loops must not wait for it.
        let turn = tokio::task::spawn_blocking(move || {
            let outcome = work.reconcile();
            (work, outcome)
        });
        let Ok((work, mut outcome)) = self.clock.attend(turn).await else {
            // Only a panic gets here, which ends the program where it is released.
            return Reconciled::Waiting;
        };
        if let Some(look) = outcome.look.as_ref().filter(|_| self.options.hidden == Hidden::Store) {
            let helpers = look.helpers.clone();
            let clock = self.clock.clone();
            if let Err(error) = clock.attend(self.store(&helpers)).await {
                outcome.error = outcome.error.or(Some(error));
            }
        }
        self.take_note(work, outcome, looked)
    }

    /// Gives credentials to the programs that readers ask, and looks now and then
    /// whether they still have them.
    async fn store(&mut self, helpers: &BTreeMap<RegistryHost, String>) -> Result<(), TargetError> {
        self.stored.retain(|host, stored| helpers.get(host) == Some(&stored.name));
        let wanted = self.wanted.borrow().clone();
        for (host, name) in helpers {
            let Some(credential) = wanted.get(host) else { continue };
            let expires = credential.lifetime().expires();
            if self.shared.remove_expired && credential.lifetime().is_over(self.clock.now()) {
                if self.stored.remove(host).is_some() {
                    helper::erase(name, host.as_str()).await?;
                }
                continue;
            }
            let now = self.clock.monotonic();
            if let Some(stored) = self.stored.get_mut(host)
                && stored.credential.is_same_token(credential)
            {
                if now.saturating_sub(stored.verified) < CHECK_EVERY {
                    continue;
                }
                match helper::holds(name, host, credential).await {
                    Ok(true) => {
                        stored.verified = now;
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        // Whoever asks it is no better off.
                        self.stored.remove(host);
                        return Err(error.into());
                    }
                }
            }
            self.stored.remove(host);
            let (memory, path) = (self.shared.memory.clone(), self.options.path.clone());
            let (traced, named) = (host.to_string(), name.clone());
            let remembered = tokio::task::spawn_blocking(move || {
                memory.update(&path, |traces| {
                    traces.entry(traced.clone()).or_default().stored_with = Some(named.clone());
                })
            });
            if let Ok(Err(error)) = remembered.await {
                self.tell_forgotten(Some(error.to_string()));
            }
            helper::store(name, host, credential).await?;
            let target_file = self.options.path.display();
            info!(%target_file, %host, helper = name, "credential given to its helper");
            let (name, credential) = (name.clone(), credential.clone());
            self.stored.insert(host.clone(), Stored { name, credential, expires, verified: now });
        }
        Ok(())
    }

    /// Publishes what was found and done, and says when to try again if it is not
    /// as it should be.
    fn take_note(&mut self, work: Work, outcome: Outcome, looked: Duration) -> Reconciled {
        let now = self.clock.now();
        let was_overwritten = outcome.wrote && work.is_as_written() && !self.written.is_empty();
        let Outcome {
            look,
            wrote,
            conflicts,
            protection,
            is_prepared,
            mut error,
            forgotten,
            spots,
        } = outcome;
        self.is_prepared = is_prepared;
        if !spots.is_empty() {
            self.spots = spots;
        }
        self.tell_forgotten(forgotten);
        if was_overwritten {
            let pause = self.tug.pulled(now);
            if error.is_none() && !pause.is_zero() {
                let (path, times) = (self.options.path.clone(), self.tug.times);
                error = Some(TargetError::TugOfWar { path, times, pause });
            }
        } else if error.is_none() && self.tug.is_over(now) {
            self.tug = Tug::default();
        } else if error.is_none() && self.tug.until.is_some() {
            // It is as it should be, for the time being.
            error = Some(TargetError::NotNow);
        }
        let is_as_wanted = error.is_none();
        let in_the_way = look.as_ref().map_or_else(Vec::new, |look| self.in_the_way(look, now));
        self.tell(&work, wrote, conflicts, was_overwritten, error.as_ref(), &in_the_way);
        let mut found = look.as_ref().map(|look| look.found.clone()).unwrap_or_default();
        if look.is_some() {
            // Who cannot read the file does not learn whom to ask instead.
            found.extend(self.stored.iter().map(|(host, stored)| (host.clone(), stored.expires)));
        }
        self.status.set_target(&self.name, |target| {
            target.looked = Some(looked);
            target.found = found;
            target.in_the_way = in_the_way;
            target.protection = protection.map(replace::Protection::as_str).or(target.protection);
            if is_as_wanted {
                target.verified = Some(now);
            }
            if wrote {
                target.wrote(now);
            }
            target.failing = match &error {
                None => None,
                Some(TargetError::NotNow) => target.failing.take(),
                Some(error) => {
                    let (before, message) = (target.failing.as_ref(), error.to_string());
                    Some(Failing::after(before, now, error.kind(), message))
                }
            };
        });
        self.seen =
            look.filter(|look| is_as_wanted && look.is_settled).map(|look| (look.identity, look));
        match error {
            None => {
                self.failures = 0;
                self.written = work.wanted;
                Reconciled::AsWanted
            }
            Some(TargetError::TugOfWar { .. }) => Reconciled::AsWanted,
            Some(TargetError::NotNow) => Reconciled::Waiting,
            Some(_) => {
                self.failures = self.failures.saturating_add(1);
                let count = self.failures;
                let failure = Failure {
                    count,
                    kind: schedule::Kind::Passing,
                    is_cached: false,
                    retry_after: None,
                };
                let earliest = work.wanted.values().map(|entry| entry.life.expires()).min();
                let next = schedule::after_failure(now, earliest, failure, self.dice.f64());
                Reconciled::Failed(next.at)
            }
        }
    }

    fn in_the_way(&self, look: &Look, now: SystemTime) -> Vec<InTheWay> {
        let reader = self.options.reader;
        let describe = |obstacle: &Obstacle| {
            let asks_helper =
                matches!(obstacle, Obstacle::CredsStore { .. } | Obstacle::CredHelper { .. });
            let hosts = self.status.read(|state| {
                let hosts = state.registries.keys();
                let hosts = hosts.filter(|host| obstacle.hides(host, reader));
                hosts
                    .filter(|host| !asks_helper || !self.stored.contains_key(*host))
                    .cloned()
                    .collect::<Vec<_>>()
            });
            // With the credential in the helper, or with the reader sent back to the file, it is
            // in nobody's way.
            let is_solved = asks_helper
                && hosts.is_empty()
                && (self.options.hidden == Hidden::TakeOver || !self.stored.is_empty());
            (!is_solved).then(|| InTheWay {
                kind: obstacle.kind(),
                message: obstacle.to_string(),
                hidden: hosts,
                since: now,
            })
        };
        let found = look.obstacles.iter().filter_map(describe);
        let known = self.known(|target| target.in_the_way.clone()).unwrap_or_default();
        // What was there before keeps the time at which it was found first.
        let aged =
            found.map(|new| known.iter().find(|old| old.is_same(&new)).cloned().unwrap_or(new));
        aged.collect()
    }

    /// Counts and logs what is new about a turn.
    fn tell(
        &self,
        work: &Work,
        wrote: bool,
        conflicts: u32,
        was_overwritten: bool,
        error: Option<&TargetError>,
        in_the_way: &[InTheWay],
    ) {
        let target_file = self.options.path.display().to_string();
        let known = self.known(|before| (before.failing.clone(), before.in_the_way.clone()));
        let (failing, known) = known.unwrap_or_default();
        self.status.metrics.merged(&target_file, conflicts);
        if wrote {
            self.status.metrics.wrote(&target_file, "written");
            let hosts: Vec<_> = work.wanted.keys().map(RegistryHost::as_str).collect();
            let because = if was_overwritten {
                self.status.metrics.overwritten(&target_file);
                "another program removed or changed them"
            } else {
                "there are new credentials"
            };
            // A tug of war is told once, not at each pull.
            if failing.as_ref().is_none_or(|failing| failing.kind != trouble::Kind::TugOfWar) {
                info!(target_file, ?hosts, because, "credentials written");
            }
        }
        match error {
            None if failing.is_some() => {
                info!(target_file, failures = self.failures, "target is well again");
            }
            None | Some(TargetError::NotNow) => {}
            Some(error) => {
                if !matches!(error, TargetError::TugOfWar { .. }) {
                    self.status.metrics.wrote(&target_file, error.kind().as_str());
                }
                let message = error.to_string();
                if failing.is_none_or(|failing| {
                    failing.kind != error.kind()
                        || failing.kind != trouble::Kind::TugOfWar && failing.message != message
                }) {
                    warn!(target_file, kind = %error.kind(), %error, "target not as it should be");
                }
            }
        }
        for InTheWay { kind, message, .. } in
            in_the_way.iter().filter(|one| !known.iter().any(|known| known.is_same(one)))
        {
            warn!(target_file, %kind, detail = message, "readers pass by the credentials");
        }
    }

    fn tell_forgotten(&mut self, forgotten: Option<String>) {
        if let Some(error) = forgotten.as_ref().filter(|_| self.forgotten != forgotten) {
            warn!(
                error,
                "what is written cannot be remembered, so a restart fetches anew, and `logout` will \
                 not know it: set `state`"
            );
        }
        if forgotten.is_some() {
            self.forgotten = forgotten;
        }
    }
}

/// What was given to a credential helper.
struct Stored {
    name: String,
    credential: Credential,
    expires: SystemTime,
    /// When it was last found there, by the monotonic clock.
    verified: Duration,
}

/// What came of a turn.
enum Reconciled {
    /// The file is as it should be.
    AsWanted,
    /// It is not, and the next try is then.
    Failed(SystemTime),
    /// It is not, and the next try is not due.
    Waiting,
}

/// An `auth` and its life.
#[derive(Clone)]
struct Entry {
    auth: SecretString,
    life: Lifetime,
}

type Entries = BTreeMap<RegistryHost, Entry>;

impl Entry {
    fn of((host, credential): (&RegistryHost, &Credential)) -> (RegistryHost, Self) {
        (host.clone(), Self { auth: credential.auth(), life: credential.lifetime() })
    }

    fn is(&self, auth: &SecretString) -> bool {
        self.auth.expose_secret() == auth.expose_secret()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.auth)
    }
}

/// The credential that stands in one of the targets, and that we wrote there in an
/// earlier run for a registry of the same origin.
#[must_use]
pub fn recall(
    targets: &[Options],
    remembered: &Remembered,
    hosts: &[RegistryHost],
    origin: &str,
    clock: &Clock,
) -> Option<Credential> {
    let newest = |one: &Credential, other: &Credential| {
        one.lifetime().expires().cmp(&other.lifetime().expires())
    };
    let found = targets.iter().filter_map(|options| {
        let traces = remembered.target(&options.path);
        let old = file::read(&options.path, options.attributes).ok()?;
        let document = document::Document::parse(&old.content).ok()?;
        hosts
            .iter()
            .filter_map(|host| {
                let auth = document.auth(host)?;
                let token = traces.get(host.as_str())?.token(&auth)?;
                (token.origin == origin)
                    .then(|| Credential::from_auth(&auth, token.lifetime(clock)).ok())
                    .flatten()
            })
            .max_by(newest)
    });
    found.max_by(newest)
}

/// Removes from every target what we wrote there, and nothing else. Says, for each
/// target, whether there was something to remove.
///
/// # Errors
///
/// If it is not known what we wrote.
pub async fn logout(
    configured: &[Options],
    memory: &Memory,
) -> Result<Vec<(PathBuf, Result<bool, TargetError>)>, MemoryError> {
    let remembered = memory.load()?;
    let mut results = Vec::new();
    for (path, traces) in remembered.targets() {
        let options = configured.iter().find(|options| options.path == path);
        let options = options.cloned().unwrap_or_else(|| Options::of(path.to_owned()));
        let result = forget(&options, memory, traces.clone()).await?;
        results.push((path.to_owned(), result));
    }
    Ok(results)
}

/// Removes from one target what we wrote there for the hosts that are gone, and forgets
/// it. Says whether there was something to remove.
///
/// # Errors
///
/// If it is not known what we wrote.
pub async fn log_out(
    options: &Options,
    memory: &Memory,
    is_gone: impl Fn(&str) -> bool,
) -> Result<Result<bool, TargetError>, MemoryError> {
    let mut traces = memory.load()?.target(&options.path);
    traces.retain(|host, _| is_gone(host));
    if traces.is_empty() { Ok(Ok(false)) } else { forget(options, memory, traces).await }
}

/// Removes from one target what these traces are of, and the traces.
async fn forget(
    options: &Options,
    memory: &Memory,
    traces: Traces,
) -> Result<Result<bool, TargetError>, MemoryError> {
    let taken = tokio::task::spawn_blocking({
        let (options, memory, traces) = (options.clone(), memory.clone(), traces.clone());
        move || turn::take_away(&options, &memory, &traces)
    });
    // Only a panic gets here, which ends the program where it is released.
    let mut result = taken.await.unwrap_or(Ok(false));
    for (host, trace) in &traces {
        if let Some(name) = &trace.stored_with {
            match helper::erase(name, host).await {
                Ok(()) => result = result.map(|_| true),
                Err(error) => result = result.and_then(|_| Err(error.into())),
            }
        }
    }
    if result.is_ok() {
        memory.update(&options.path, |known| known.retain(|host, _| !traces.contains_key(host)))?;
    }
    Ok(result)
}

/// The file that docker's CLI would read: `$DOCKER_CONFIG/config.json`, else the
/// one in the home folder.
#[must_use]
pub fn default_docker_config(docker_config: Option<&Path>) -> Option<PathBuf> {
    match docker_config {
        Some(folder) => Some(folder.join("config.json")),
        None => Some(dirs::home_dir()?.join(".docker/config.json")),
    }
}

/// How often the file is looked at when nobody asks.
const CHECK_EVERY: Duration = Duration::from_mins(1);

/// How long to wait for further credentials that come at the same moment.
const COALESCE: Duration = Duration::from_millis(20);

/// How often the file is looked at where it cannot be watched.
const POLL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
