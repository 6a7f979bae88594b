//! Where credentials go: the loop of one docker `config.json` (or podman
//! `auth.json`, which has the same form).
//!
//! [`document`] knows the text, [`file`](mod@file) replaces the file, and this loop makes
//! the one hold what it should, looks whether it still does, and says so.

pub mod document;
pub mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::document::{BadDocument, Document, Obstacle};
use self::file::{FileError, Identity};
use crate::clock::Clock;
use crate::credential::{RegistryHost, Wanted};
use crate::schedule::{self, Failure};
use crate::status::{Failing, InTheWay, Status};

/// Keeps one file as it should be.
pub struct Target {
    index: usize,
    path: PathBuf,
    clock: Clock,
    status: Arc<Status>,
    wanted: watch::Receiver<Wanted>,
    dice: fastrand::Rng,
    /// What the last look found, if the file needs no second one while it stays
    /// the same.
    seen: Option<(Identity, Look)>,
    /// What stood in the file when it last was as it should be. Should a write fail,
    /// that is what still stands there, and it may still be good.
    written: Entries,
    failures: u32,
}

impl Target {
    /// The loop of the target that the status knows by `index`.
    #[must_use]
    pub fn new(
        index: usize,
        path: PathBuf,
        clock: Clock,
        status: Arc<Status>,
        wanted: watch::Receiver<Wanted>,
        dice: fastrand::Rng,
    ) -> Self {
        let written = Entries::new();
        Self { index, path, clock, status, wanted, dice, seen: None, written, failures: 0 }
    }

    /// Keeps the file as it should be until `stop`. A write under way is finished,
    /// and what was fetched by then is written.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = self.status.look_wanted();
        let mut retry = None;
        loop {
            let may_write = retry.is_none_or(|at| at <= self.clock.now());
            self.wanted.mark_unchanged();
            match self.reconcile(may_write).await {
                Reconciled::AsWanted => retry = None,
                Reconciled::Failed(at) => retry = Some(at),
                Reconciled::Waiting => {}
            }
            let check = self.clock.tick_after(CHECK_EVERY);
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if self.wanted.has_changed().unwrap_or(false) {
                        self.reconcile(true).await;
                    }
                    return;
                }
                Ok(()) = self.wanted.changed() => {
                    // Others come at the same moment when the daemon starts.
                    self.clock.sleep(COALESCE).await;
                    retry = None;
                }
                Ok(()) = looks.changed() => {}
                () = self.clock.sleep_until(retry.map_or(check, |at| at.min(check))) => {}
            }
        }
    }

    /// Makes the file hold what it should, once. Says whether it does.
    pub async fn run_once(&mut self) -> bool {
        self.wanted.mark_unchanged();
        matches!(self.reconcile(true).await, Reconciled::AsWanted)
    }

    async fn reconcile(&mut self, may_write: bool) -> Reconciled {
        let wanted: Entries = self.wanted.borrow().iter().map(Entry::of).collect();
        let hosts = self.status.read(|state| state.registries.keys().cloned().collect());
        let work = Work {
            path: self.path.clone(),
            wanted,
            hosts,
            written: self.written.clone(),
            seen: self.seen.take(),
            may_write,
            clock: self.clock.clone(),
        };
        let looked = self.clock.monotonic();
        // The disk may take its time; the other loops must not wait for it.
        let Ok((work, outcome)) = tokio::task::spawn_blocking(move || {
            let outcome = work.reconcile();
            (work, outcome)
        })
        .await
        else {
            // Only a panic gets here, which ends the program where it is released.
            return Reconciled::Waiting;
        };
        self.take_note(work, outcome, looked)
    }

    /// Publishes what was found and done, and says when to try again if it is not
    /// as it should be.
    fn take_note(&mut self, work: Work, outcome: Outcome, looked: Duration) -> Reconciled {
        let now = self.clock.now();
        let Outcome { look, wrote, error } = outcome;
        let in_the_way = look.as_ref().map_or_else(Vec::new, Look::in_the_way);
        self.tell(&work, wrote, error.as_ref(), &in_the_way);
        let is_as_wanted = error.is_none();
        self.status.set_target(self.index, |target| {
            target.looked = Some(looked);
            target.found = look.as_ref().map(|look| look.found.clone()).unwrap_or_default();
            target.in_the_way = in_the_way;
            if is_as_wanted {
                target.verified = Some(now);
            }
            if wrote {
                target.last_write = Some(now);
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
            Some(TargetError::NotNow) => Reconciled::Waiting,
            Some(_) => {
                self.failures = self.failures.saturating_add(1);
                let count = self.failures;
                let failure = Failure { count, is_lasting: false, retry_after: None };
                let earliest = work.wanted.values().map(|entry| entry.expires).min();
                let next = schedule::after_failure(now, earliest, failure, self.dice.f64());
                Reconciled::Failed(next.at)
            }
        }
    }

    /// Counts and logs what is new about a turn.
    fn tell(&self, work: &Work, wrote: bool, error: Option<&TargetError>, in_the_way: &[InTheWay]) {
        let target_file = self.path.display().to_string();
        let (failing, known) = self.status.read(|state| {
            let before = &state.targets[self.index];
            (before.failing.clone(), before.in_the_way.clone())
        });
        if wrote {
            self.status.metrics.wrote(&target_file, "written");
            let hosts: Vec<_> = work.wanted.keys().map(RegistryHost::as_str).collect();
            let because = if work.wanted == self.written {
                "another program changed it"
            } else {
                "there are new credentials"
            };
            info!(target_file, ?hosts, because, "credentials written");
        }
        match error {
            None if failing.is_some() => {
                info!(target_file, failures = self.failures, "target is well again");
            }
            None | Some(TargetError::NotNow) => {}
            Some(error) => {
                self.status.metrics.wrote(&target_file, error.kind());
                let message = error.to_string();
                if failing.is_none_or(|failing| failing.message != message) {
                    warn!(target_file, kind = error.kind(), %error, "target not as it should be");
                }
            }
        }
        for InTheWay { kind, message, .. } in
            in_the_way.iter().filter(|obstacle| !known.contains(obstacle))
        {
            warn!(target_file, kind, detail = message, "readers pass by the credentials");
        }
    }
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

/// An `auth` and when it expires.
#[derive(Clone)]
struct Entry {
    auth: SecretString,
    expires: SystemTime,
}

type Entries = BTreeMap<RegistryHost, Entry>;

impl Entry {
    fn of(
        (host, credential): (&RegistryHost, &crate::credential::Credential),
    ) -> (RegistryHost, Self) {
        let expires = credential.lifetime().expires();
        (host.clone(), Self { auth: credential.auth(), expires })
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

/// All that a turn needs, on the thread that may wait for the disk.
struct Work {
    path: PathBuf,
    wanted: Entries,
    hosts: Vec<RegistryHost>,
    written: Entries,
    seen: Option<(Identity, Look)>,
    may_write: bool,
    clock: Clock,
}

/// What stood in the file when it was looked at.
#[derive(Clone)]
struct Look {
    identity: Identity,
    /// Whether any later write would change the identity.
    is_settled: bool,
    found: BTreeMap<RegistryHost, SystemTime>,
    obstacles: Vec<Obstacle>,
    hosts: Vec<RegistryHost>,
}

impl Look {
    fn in_the_way(&self) -> Vec<InTheWay> {
        let describe = |obstacle: &Obstacle| InTheWay {
            kind: obstacle.kind(),
            message: obstacle.to_string(),
            hidden: self.hosts.iter().filter(|host| obstacle.hides(host)).cloned().collect(),
        };
        self.obstacles.iter().map(describe).collect()
    }
}

/// What a turn found and did.
struct Outcome {
    look: Option<Look>,
    wrote: bool,
    error: Option<TargetError>,
}

impl Work {
    fn reconcile(&self) -> Outcome {
        if let Some((identity, look)) = &self.seen
            && self.wanted == self.written
            && Identity::at(&self.path).is_ok_and(|now| now == *identity)
        {
            return Outcome { look: Some(look.clone()), wrote: false, error: None };
        }
        let mut wrote = false;
        for _ in 0..MOST_ROUNDS {
            match self.turn() {
                Turn::AsWanted(look) => {
                    return Outcome { look: Some(look), wrote, error: None };
                }
                Turn::Written => wrote = true,
                Turn::Overtaken => {}
                Turn::Failed(look, error) => {
                    return Outcome { look, wrote, error: Some(error) };
                }
            }
        }
        let error = TargetError::Contended { path: self.path.clone() };
        Outcome { look: None, wrote, error: Some(error) }
    }

    /// Reads the file, and writes it if it is not as it should be. What was
    /// written is only believed once the next turn has read it back.
    fn turn(&self) -> Turn {
        let old = match file::read(&self.path) {
            Ok(old) => old,
            Err(error) => return Turn::Failed(None, error.into()),
        };
        let document = match Document::parse(&old.content) {
            Ok(document) => document,
            Err(reason) => {
                let path = self.path.clone();
                return Turn::Failed(None, TargetError::Invalid { path, reason });
            }
        };
        let look = self.look(&document, old.identity);
        let wanted: Vec<_> =
            self.wanted.iter().map(|(host, entry)| (host.clone(), entry.auth.clone())).collect();
        let Some(new) = document.with(&wanted) else {
            return Turn::AsWanted(look);
        };
        if !self.may_write {
            return Turn::Failed(Some(look), TargetError::NotNow);
        }
        match file::replace(&old, new.expose_secret().as_bytes()) {
            Ok(true) => Turn::Written,
            Ok(false) => Turn::Overtaken,
            Err(error) => Turn::Failed(Some(look), error.into()),
        }
    }

    /// Which of our tokens stand in the file. Of one that is not ours nobody
    /// knows how long it will live.
    fn look(&self, document: &Document<'_>, identity: Identity) -> Look {
        let expiry_of = |host: &RegistryHost, auth: &SecretString| {
            let ours = [self.wanted.get(host), self.written.get(host)];
            ours.into_iter().flatten().find(|entry| entry.is(auth)).map(|entry| entry.expires)
        };
        let found = self.hosts.iter().filter_map(|host| {
            let auth = document.auth(host)?;
            Some((host.clone(), expiry_of(host, &auth)?))
        });
        Look {
            identity,
            is_settled: !identity.is_fresh(self.clock.now()),
            found: found.collect(),
            obstacles: document.obstacles(&self.hosts),
            hosts: self.hosts.clone(),
        }
    }
}

enum Turn {
    AsWanted(Look),
    Written,
    Overtaken,
    Failed(Option<Look>, TargetError),
}

/// Why a target is not as it should be.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The file could not be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in the file is not docker's.
    #[error("{} is left as it is: {reason}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: BadDocument,
    },
    /// Others write so often that there never was a moment for us.
    #[error("{} is rewritten by other programs all the time", path.display())]
    Contended {
        /// Which file.
        path: PathBuf,
    },
    /// The last try failed, and the next is not due yet.
    #[error("the next try is not due yet")]
    NotNow,
}

impl TargetError {
    /// A short fixed word for logs, metrics and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(error) => error.kind(),
            Self::Invalid { .. } => "invalid",
            Self::Contended { .. } => "contended",
            Self::NotNow => "not_now",
        }
    }
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

/// How often to start again when other programs write at the same time.
const MOST_ROUNDS: u32 = 50;

#[cfg(test)]
mod tests;
