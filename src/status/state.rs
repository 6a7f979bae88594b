//! What the loops know, each writing what is its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::history::History;
use crate::credential::{Lifetime, RegistryHost};
use crate::registry::Answer;
use crate::schedule::Next;
use crate::sources::{Origin, Skew};
use crate::trouble;

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) registries: BTreeMap<RegistryHost, Registry>,
    pub(crate) targets: Vec<Target>,
    pub(crate) hooks: Vec<Hook>,
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
    /// What came of the fetches of the last day.
    pub(crate) history: History,
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
    /// Since when a look or a write has been under way, by the monotonic clock.
    pub(crate) busy_since: Option<Duration>,
    /// When it was last found to be as it should.
    pub(crate) verified: Option<SystemTime>,
    pub(crate) last_write: Option<SystemTime>,
    /// How often it was written.
    pub(crate) writes: u64,
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
#[derive(Clone, Debug)]
pub(crate) struct InTheWay {
    pub(crate) kind: trouble::Kind,
    pub(crate) message: String,
    pub(crate) hidden: Vec<RegistryHost>,
    /// When it was first found there.
    pub(crate) since: SystemTime,
}

impl InTheWay {
    /// Whether it is the same thing, found again.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.message, &self.hidden) == (other.kind, &other.message, &other.hidden)
    }
}

/// What is known about a hook.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) last_run: Option<SystemTime>,
    /// The last failure, until it succeeds.
    pub(crate) failing: Option<Failing>,
}

/// A run of failures.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    pub(crate) kind: trouble::Kind,
    pub(crate) message: String,
    pub(crate) since: SystemTime,
    pub(crate) count: u32,
}

impl Failing {
    /// The run after one more failure.
    pub(crate) fn after(
        before: Option<&Self>,
        now: SystemTime,
        kind: trouble::Kind,
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
    pub(super) fn new(origin: Origin) -> Self {
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
            history: History::default(),
        }
    }
}
