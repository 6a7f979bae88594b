//! One turn at one file, on a thread that may wait for the disk: read it, see what
//! stands there, change what should be otherwise, and read it again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tracing::{info, warn};

use super::document::{BadDocument, Document};
use super::file::{self, FileError, Found, Identity};
use super::helper::HelperError;
use super::in_place::{self, Copy};
use super::leftovers;
use super::memory::{Memory, TakenOver, Token, Traces, fingerprint};
use super::obstacles::{self, Obstacle, Reader};
use super::places::Places;
use super::replace::{self, Protection};
use super::watch::Spot;
use super::{Entries, Hidden, Options, Shared, Write};
use crate::clock::Clock;
use crate::credential::RegistryHost;
use crate::trouble;

/// All that a turn needs.
pub(super) struct Work {
    pub(super) options: Options,
    pub(super) shared: Shared,
    pub(super) clock: Clock,
    /// The registries and who gives their credentials.
    pub(super) hosts: BTreeMap<RegistryHost, String>,
    pub(super) wanted: Arc<Entries>,
    /// What stood in the file when it last was as it should be.
    pub(super) written: Arc<Entries>,
    /// What we wrote in earlier runs.
    pub(super) traces: Traces,
    /// What the last look found, if the file needs no second one while it stays
    /// the same.
    pub(super) seen: Option<(Identity, Look)>,
    pub(super) may_write: bool,
    /// Whether the place was made ready for writing.
    pub(super) is_prepared: bool,
}

/// What stood in the file when it was looked at.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) identity: Identity,
    /// Whether any later write would change the identity.
    pub(super) is_settled: bool,
    /// When each of our tokens expires that stands there.
    pub(super) found: BTreeMap<RegistryHost, SystemTime>,
    pub(super) obstacles: Vec<Obstacle>,
    /// The programs that readers ask instead of the file.
    pub(super) helpers: BTreeMap<RegistryHost, String>,
    /// Where our entries stand.
    places: Places,
}

/// What a turn found and did.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) look: Option<Look>,
    pub(super) wrote: bool,
    /// How many updates of others were merged.
    pub(super) conflicts: u32,
    pub(super) protection: Option<Protection>,
    pub(super) is_prepared: bool,
    pub(super) error: Option<TargetError>,
    /// What could not be remembered, which keeps nothing else from being done.
    pub(super) forgotten: Option<String>,
    /// What to watch.
    pub(super) spots: BTreeSet<Spot>,
}

/// How a file can be written, and whether it is still what was read.
struct Prepared {
    protection: Option<Protection>,
    is_as_read: bool,
}

enum Turn {
    AsWanted(Look),
    Written,
    Overtaken,
    Failed(Option<Look>, TargetError),
}

impl Work {
    /// Makes the file hold what it should, unless it does.
    pub(super) fn reconcile(&self) -> Outcome {
        let mut outcome = Outcome { is_prepared: self.is_prepared, ..Outcome::default() };
        if let Some((identity, look)) = &self.seen
            && self.is_prepared
            && self.is_as_written()
            && self.may_write
            && !self.has_expired()
            && Identity::at(&self.options.path).is_ok_and(|now| now == *identity)
        {
            outcome.look = Some(look.clone());
            return outcome;
        }
        if let Some(look) = self.change_entries(&mut outcome) {
            outcome.look = Some(look);
            return outcome;
        }
        for _ in 0..MOST_ROUNDS {
            match self.turn(&mut outcome) {
                Turn::AsWanted(look) => {
                    outcome.look = Some(look);
                    return outcome;
                }
                Turn::Written => outcome.wrote = true,
                Turn::Overtaken => {}
                Turn::Failed(look, error) => {
                    outcome.look = look;
                    outcome.is_prepared &= !matches!(error, TargetError::File(_));
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        outcome.error = Some(TargetError::Contended { path: self.options.path.clone() });
        outcome
    }

    /// Whether what is wanted is what was written last.
    pub(super) fn is_as_written(&self) -> bool {
        Arc::ptr_eq(&self.wanted, &self.written) || self.wanted == self.written
    }

    /// Changes entries that stood in the file before, where nothing else is to be done:
    /// most of a daemon's life. It costs little more than writing the file, however large
    /// that is. Whatever is not as it was expected to be is for a whole [`Self::turn`].
    fn change_entries(&self, outcome: &mut Outcome) -> Option<Look> {
        let Options { path, attributes, write, .. } = &self.options;
        let (identity, look) = self.seen.as_ref()?;
        let is_simple = self.is_prepared
            && self.may_write
            && *write == Write::Replace
            && look.obstacles.is_empty()
            && look.helpers.is_empty();
        let now = self.clock.now();
        let is_any_over = || self.wanted.values().any(|entry| entry.life.is_over(now));
        if !is_simple || self.has_expired() || (self.shared.remove_expired && is_any_over()) {
            return None;
        }
        let changed = self.wanted.iter().filter(|(host, entry)| {
            self.written.get(*host).is_none_or(|written| !written.is(&entry.auth))
        });
        let changed: Vec<_> = changed.map(|(host, entry)| (host, &entry.auth)).collect();
        // Then it is the file that changed, and a whole turn reads that.
        if changed.is_empty() {
            return None;
        }
        let old = file::read(path, *attributes).ok()?;
        if old.identity != *identity || !attributes.fit(&old) {
            return None;
        }
        let new = look.places.with(&old.content, changed.into_iter())?;
        if let Err(error) = self.remember(&BTreeMap::new(), &BTreeMap::new()) {
            outcome.forgotten = Some(error.to_string());
        }
        let edit = |text: &[u8]| self.edit(&Document::parse(text).ok()?);
        let written = replace::replace(&old, &new.pieces(), &edit, attributes).ok()?;
        let replace::Outcome::Replaced { protection, conflicts, written } = written else {
            outcome.conflicts += 1;
            return None;
        };
        outcome.wrote = true;
        outcome.protection = Some(protection);
        outcome.conflicts += conflicts;
        let identity = file::read_back(&old.place, written, new.changed())?;
        outcome.spots.clone_from(old.place.spots());
        let mut found = look.found.clone();
        let lives = self.wanted.iter().map(|(host, entry)| (host.clone(), entry.life.expires()));
        found.extend(lives);
        Some(Look {
            identity,
            is_settled: !identity.is_fresh(self.clock.wall()),
            found,
            obstacles: Vec::new(),
            helpers: BTreeMap::new(),
            places: new.places(),
        })
    }

    /// Reads the file, and writes it if it is not as it should be. What was
    /// written is only believed once the next turn has read it back.
    fn turn(&self, outcome: &mut Outcome) -> Turn {
        let Options { path, attributes, write, .. } = &self.options;
        if !outcome.is_prepared && *write == Write::InPlace {
            // Before it is read: it needs the file for itself, and half of one is no document.
            let mended = copy_of(&self.options, &self.shared.memory)
                .and_then(|copy| in_place::mend(path, *attributes, &copy));
            match mended {
                Ok(true) => {
                    info!(target_file = %path.display(), "mended what a killed writer left");
                }
                Ok(false) => {}
                Err(error) => return Turn::Failed(None, error.into()),
            }
        }
        let old = match file::read(path, *attributes) {
            Ok(old) => old,
            Err(error) => return Turn::Failed(None, error.into()),
        };
        outcome.spots.clone_from(old.place.spots());
        let document = match Document::parse(&old.content) {
            Ok(document) => document,
            Err(reason) => {
                let path = path.clone();
                return Turn::Failed(None, TargetError::Invalid { path, reason });
            }
        };
        // Not before it is needed: it decodes every entry, and after a write the next
        // turn does that anyway.
        let look = || self.look(&document, &old);
        if !outcome.is_prepared {
            match self.prepare(&document, &old) {
                Ok(Prepared { protection, is_as_read }) => {
                    outcome.is_prepared = true;
                    outcome.protection = protection;
                    if !is_as_read {
                        return Turn::Overtaken;
                    }
                }
                Err(error) => return Turn::Failed(Some(look()), error.into()),
            }
        }
        let new = self.edit(&document);
        let is_theirs = attributes.fit(&old) || *write == Write::InPlace;
        let new = match new {
            Some(new) => new,
            None if is_theirs => return Turn::AsWanted(look()),
            // Another owner or mode for the same text.
            None => match std::str::from_utf8(&old.content) {
                Ok(text) => SecretString::from(text),
                Err(_) => return Turn::AsWanted(look()),
            },
        };
        if !self.may_write {
            return Turn::Failed(Some(look()), TargetError::NotNow);
        }
        let taken_over = match self.options.hidden {
            Hidden::TakeOver => self.taken_over(&document),
            _ => BTreeMap::new(),
        };
        if let Err(error) = self.remember(&taken_over, &document.helpers().by_host) {
            outcome.forgotten = Some(error.to_string());
        }
        let edit = |text: &[u8]| self.edit(&Document::parse(text).ok()?);
        let (result, look) = match write {
            Write::Replace => {
                if old.has_another_name() {
                    warn!(
                        target_file = %path.display(),
                        "the file has another name, a hard link, that keeps the old text"
                    );
                }
                let new = [new.expose_secret().as_bytes()];
                let result = replace::replace(&old, &new, &edit, attributes);
                let look = result.is_err().then(look);
                (result, look)
            }
            Write::InPlace => {
                let look = look();
                drop(document);
                drop(old);
                (self.write_in_place(&edit), Some(look))
            }
        };
        match result {
            Ok(replace::Outcome::Replaced { protection, conflicts, .. }) => {
                outcome.protection = Some(protection);
                outcome.conflicts += conflicts;
                Turn::Written
            }
            Ok(replace::Outcome::Overtaken) => {
                outcome.conflicts += 1;
                Turn::Overtaken
            }
            Err(error) => Turn::Failed(look, error.into()),
        }
    }

    /// Clears up after a writer that was killed, and sees how the file can be
    /// written.
    fn prepare(&self, document: &Document<'_>, old: &Found) -> Result<Prepared, FileError> {
        let Options { attributes, write, .. } = &self.options;
        if *write == Write::InPlace {
            return Ok(Prepared { protection: Some(Protection::InPlace), is_as_read: true });
        }
        // Tried first: what cannot be written cannot be cleared either.
        let protection = replace::probe(old)?;
        let ours: Vec<_> = self
            .hosts
            .keys()
            .filter_map(|host| Some((host.clone(), document.auth(host)?)))
            .collect();
        let edit = |text: &[u8]| Document::parse(text).ok()?.with(&ours);
        // It may have brought something back.
        let is_as_read = leftovers::clear(old, &edit, attributes)? == 0;
        Ok(Prepared { protection, is_as_read })
    }

    fn write_in_place(&self, edit: replace::Edit<'_>) -> Result<replace::Outcome, FileError> {
        let Options { path, attributes, .. } = &self.options;
        let written = in_place::write(
            path,
            *attributes,
            &copy_of(&self.options, &self.shared.memory)?,
            edit,
        )?;
        Ok(written.unwrap_or(replace::Outcome::Overtaken))
    }

    /// The new text, or `None` if it is as it should be.
    fn edit(&self, document: &Document<'_>) -> Option<SecretString> {
        let mut text = None;
        if self.options.hidden != Hidden::Report || self.shared.remove_expired {
            text = document.without(|key, auth| self.is_unwanted(document, key, auth));
        }
        if self.options.hidden == Hidden::TakeOver {
            text = then(document, text, |document| {
                let changes = self.taken_over(document);
                let changes: Vec<_> =
                    changes.iter().map(|(host, value)| (host.as_str(), value.clone())).collect();
                document.with_helpers(&changes)
            });
        }
        then(document, text, |document| document.with(&self.entries(document)))
    }

    /// What the file should hold: what is wanted, without what has its place
    /// elsewhere.
    fn entries(&self, document: &Document<'_>) -> Vec<(RegistryHost, SecretString)> {
        self.wanted
            .iter()
            .filter(|(host, entry)| {
                let is_over = self.shared.remove_expired && entry.life.is_over(self.clock.now());
                !is_over && !self.is_stored(document, host)
            })
            .map(|(host, entry)| (host.clone(), entry.auth.clone()))
            .collect()
    }

    fn is_unwanted(&self, document: &Document<'_>, key: &str, auth: Option<&SecretString>) -> bool {
        if self.options.hidden == Hidden::TakeOver
            && obstacles::twin_of(key).is_some_and(|host| self.wanted.contains_key(host))
        {
            return true;
        }
        let known = self.hosts.get_key_value(key).map(|(host, _)| host);
        let Some((host, auth)) = known.zip(auth) else { return false };
        let Some(expires) = self.expiry_of(host, auth) else { return false };
        let is_over = self.shared.remove_expired && expires <= self.clock.now();
        is_over || self.is_stored(document, host)
    }

    fn is_stored(&self, document: &Document<'_>, host: &RegistryHost) -> bool {
        self.options.hidden == Hidden::Store
            && obstacles::helper_of(document, host, self.options.reader).is_some()
    }

    /// What has to change under `credHelpers` so that the reader reads `auths`.
    fn taken_over(&self, document: &Document<'_>) -> BTreeMap<RegistryHost, Option<String>> {
        let reader = self.options.reader;
        self.wanted
            .keys()
            .filter_map(|host| match reader {
                Reader::Docker => {
                    obstacles::helper_of(document, host, reader)?;
                    // An empty name sends docker back to `auths`.
                    Some((host.clone(), Some("\"\"".to_owned())))
                }
                Reader::Kubelet => None,
                // Podman would run a program with an empty name.
                Reader::Podman => {
                    document.helpers().by_host.get(host.as_str())?;
                    Some((host.clone(), None))
                }
            })
            .collect()
    }

    /// Notes what is about to be written, and what stood there before it was taken over,
    /// so that both are known again after a crash.
    fn remember(
        &self,
        taken_over: &BTreeMap<RegistryHost, Option<String>>,
        helpers: &BTreeMap<String, (String, String)>,
    ) -> Result<(), super::memory::MemoryError> {
        self.shared.memory.update(&self.options.path, |traces| {
            for (host, entry) in &*self.wanted {
                let trace = traces.entry(host.to_string()).or_default();
                trace.add(Token {
                    fingerprint: fingerprint(entry.auth.expose_secret().as_bytes()),
                    origin: self.hosts.get(host).cloned().unwrap_or_default(),
                    issued: self.clock.to_wall(entry.life.issued()),
                    expires: self.clock.to_wall(entry.life.expires()),
                });
                if taken_over.contains_key(host) && trace.taken_over.is_none() {
                    let before = helpers.get(host.as_str()).map(|(_, raw)| raw.clone());
                    trace.taken_over = Some(TakenOver { before });
                }
            }
        })
    }

    /// Which of our tokens stand in the file. Of one that is not ours nobody
    /// knows how long it will live.
    fn look(&self, document: &Document<'_>, old: &Found) -> Look {
        let reader = self.options.reader;
        let hosts: Vec<RegistryHost> = self.hosts.keys().cloned().collect();
        let found = hosts.iter().filter_map(|host| {
            let auth = document.auth(host)?;
            Some((host.clone(), self.expiry_of(host, &auth)?))
        });
        let mut obstacles = obstacles::obstacles(document, &hosts, reader);
        if reader == Reader::Docker {
            let named = |host: &&RegistryHost| {
                self.shared.in_environment.iter().any(|name| name == host.as_str())
            };
            let named = hosts.iter().filter(named);
            obstacles.extend(named.map(|host| Obstacle::Environment { host: host.clone() }));
        }
        obstacles.extend(self.no_permission(old));
        let helpers = hosts
            .iter()
            .filter_map(|host| Some((host.clone(), obstacles::helper_of(document, host, reader)?)));
        Look {
            identity: old.identity,
            is_settled: !old.identity.is_fresh(self.clock.wall()),
            found: found.collect(),
            obstacles,
            helpers: helpers.collect(),
            places: Places::in_document(document, hosts.iter()),
        }
    }

    /// A file that root made in somebody's folder, and that they may not read.
    fn no_permission(&self, old: &Found) -> Option<Obstacle> {
        let stat = old.identity.0?;
        let user = old.place.folder()?.metadata().ok()?.uid();
        let may_read = stat.owner == user || stat.mode & READABLE_BY_OTHERS != 0 || user == ROOT;
        (!may_read && self.options.attributes.owner.is_none())
            .then_some(Obstacle::NoPermission { user })
    }

    fn expiry_of(&self, host: &RegistryHost, auth: &SecretString) -> Option<SystemTime> {
        let ours = [self.wanted.get(host), self.written.get(host)];
        let known = ours.into_iter().flatten().find(|entry| entry.is(auth));
        known.map(|entry| entry.life.expires()).or_else(|| {
            let token = self.traces.get(host.as_str())?.token(auth)?;
            Some(token.lifetime(&self.clock).expires())
        })
    }

    /// Whether something stands there that has to go.
    fn has_expired(&self) -> bool {
        self.shared.remove_expired
            && self.seen.as_ref().is_some_and(|(_, look)| {
                look.found.values().any(|expires| *expires <= self.clock.now())
            })
    }
}

/// Where a target's content is kept while it is written in place.
fn copy_of(options: &Options, memory: &Memory) -> Result<Copy, FileError> {
    use std::os::unix::ffi::OsStrExt;
    let path = &options.path;
    let name = in_place::copy_name(&fingerprint(path.as_os_str().as_bytes())[..16]);
    memory.file(name).map(Copy::at).ok_or_else(|| FileError::NoState { path: path.clone() })
}

/// A further step on what the step before has made.
fn then(
    document: &Document<'_>,
    before: Option<SecretString>,
    step: impl Fn(&Document<'_>) -> Option<SecretString>,
) -> Option<SecretString> {
    let Some(before) = before else { return step(document) };
    let after = match Document::parse(before.expose_secret().as_bytes()) {
        Ok(document) => step(&document),
        // What we made of a document is one.
        Err(_) => None,
    };
    Some(after.unwrap_or(before))
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
    /// Someone takes our entries away as often as they are put back.
    #[error(
        "another program took the entries out of {} {times} times in a row: look for a second \
         daemon or a cron job that writes the same registries; they are put back more and more \
         slowly, after {} the next time",
        path.display(), humantime::format_duration(*pause)
    )]
    TugOfWar {
        /// Which file.
        path: PathBuf,
        /// How often.
        times: u32,
        /// How long we wait the next time.
        pause: std::time::Duration,
    },
    /// A credential helper did not take a credential.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The last try failed, and the next is not due yet.
    #[error("the next try is not due yet")]
    NotNow,
}

impl TargetError {
    /// What is wrong, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::File(error) => error.kind(),
            Self::Invalid { .. } => trouble::Kind::Invalid,
            Self::Contended { .. } => trouble::Kind::Contended,
            Self::TugOfWar { .. } => trouble::Kind::TugOfWar,
            Self::Helper(_) => trouble::Kind::Helper,
            Self::NotNow => trouble::Kind::NotNow,
        }
    }
}

/// Forgets and removes all that was written to one target.
///
/// # Errors
///
/// If the file cannot be read or written, or is not docker's.
pub(super) fn take_away(
    options: &Options,
    memory: &Memory,
    traces: &Traces,
) -> Result<bool, TargetError> {
    let Options { path, attributes, write, .. } = options;
    let edit = |bytes: &[u8]| {
        let document = Document::parse(bytes).ok()?;
        let text = document.without(|key, auth| {
            traces.get(key).zip(auth).is_some_and(|(trace, auth)| trace.token(auth).is_some())
        });
        then(&document, text, |document| {
            let helpers = document.helpers().by_host;
            let changes: Vec<(&str, Option<String>)> = traces
                .iter()
                .filter_map(|(host, trace)| {
                    let TakenOver { before } = trace.taken_over.as_ref()?;
                    // Someone may have changed it since: then it is theirs.
                    let is_ours = match (helpers.get(host), options.reader) {
                        (Some((name, _)), Reader::Docker) => name.is_empty(),
                        (found, Reader::Podman) => found.is_none(),
                        (None, Reader::Docker) | (_, Reader::Kubelet) => false,
                    };
                    is_ours.then_some((host.as_str(), before.clone()))
                })
                .collect();
            document.with_helpers(&changes)
        })
    };
    for _ in 0..MOST_ROUNDS {
        let old = file::read(path, *attributes)?;
        if let Err(reason) = Document::parse(&old.content) {
            return Err(TargetError::Invalid { path: path.clone(), reason });
        }
        let Some(new) = edit(&old.content) else { return Ok(false) };
        let outcome = match write {
            Write::Replace => {
                let new = [new.expose_secret().as_bytes()];
                replace::replace(&old, &new, &edit, attributes)?
            }
            Write::InPlace => {
                drop(old);
                in_place::write(path, *attributes, &copy_of(options, memory)?, &edit)?
                    .unwrap_or(replace::Outcome::Overtaken)
            }
        };
        if matches!(outcome, replace::Outcome::Replaced { .. }) {
            return Ok(true);
        }
    }
    Err(TargetError::Contended { path: path.clone() })
}

const READABLE_BY_OTHERS: u32 = 0o044;
const ROOT: u32 = 0;

/// How often to start again when other programs write at the same time.
const MOST_ROUNDS: u32 = 50;
