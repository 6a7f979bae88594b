//! What the loops know, each writing what is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
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
    /// Of several replicas, if it is one.
    pub(crate) election: Option<Election>,
    /// What is wrong with the settings that were to be gone by last.
    pub(crate) bad_settings: Option<Failing>,
}

/// What is known about a registry's credential.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pub(crate) origin: Origin,
    /// When it was named.
    pub(crate) since: SystemTime,
    pub(crate) identity: Option<String>,
    pub(crate) lifetime: Option<Lifetime>,
    /// How far its issuer's clock was from ours when it was asked last.
    pub(crate) skew: Option<Skew>,
    pub(crate) last_success: Option<SystemTime>,
    pub(crate) last_attempt: Option<SystemTime>,
    /// The last failure, until a fetch succeeds.
    pub(crate) failing: Option<Failing>,
    pub(crate) next: Option<Next>,
    /// What the registry itself said when it was asked last.
    pub(crate) verified: Option<Verified>,
    /// The last time that it refused a token which it has not taken since.
    pub(crate) refused: Option<Refused>,
    /// What came of the fetches of the last day.
    pub(crate) history: History,
}

/// What a registry said to a token.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) at: SystemTime,
    pub(crate) answer: Answer,
    /// Which token it was: the one that expires then.
    pub(crate) expires: SystemTime,
}

/// A token that a registry refuses.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) since: SystemTime,
    pub(crate) detail: String,
    expires: SystemTime,
}

impl Refused {
    /// Whether it is the token that expires then.
    pub(crate) fn is(&self, expires: SystemTime) -> bool {
        let [earlier, later] = [self.expires.min(expires), self.expires.max(expires)];
        later.duration_since(earlier).unwrap_or_default() < SAME_EXPIRY
    }
}

/// An expiry that is worked out from "expires in … seconds" moves by a second or two with
/// each answer.
pub(crate) const SAME_EXPIRY: Duration = Duration::from_secs(5);

/// Which target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetName {
    /// A file.
    File(PathBuf),
    /// A Secret of this name, in many namespaces.
    Secret(String),
}

impl fmt::Display for TargetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Secret(name) => write!(formatter, "secret/{name}"),
        }
    }
}

impl From<&Path> for TargetName {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

/// A target as the settings name it.
#[derive(Clone, Debug)]
pub struct Named {
    /// Which.
    pub name: TargetName,
    /// Who reads it.
    pub reader: &'static str,
    /// Whose credentials are in it; all registries' if it is not said.
    pub hosts: Option<BTreeSet<RegistryHost>>,
}

impl Named {
    /// A file with everybody's credentials.
    #[must_use]
    pub fn file(path: &Path, reader: &'static str) -> Self {
        Self { name: path.into(), reader, hosts: None }
    }
}

/// In how many namespaces a Secret is how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In so many it is to be.
    pub(crate) wanted: usize,
    /// In so many it has the newest credentials.
    pub(crate) fresh: usize,
    /// In so many it has older ones.
    pub(crate) older: usize,
    /// In so many there is none.
    pub(crate) missing: usize,
    /// In so many somebody else's is in its place.
    pub(crate) foreign: usize,
    /// Of all these, so many failed when they were tried last.
    pub(crate) failing: usize,
}

impl Counts {
    pub(crate) fn by_state(self) -> [(&'static str, usize); 5] {
        let Self { wanted: _, fresh, older, missing, foreign, failing } = self;
        [
            ("fresh", fresh),
            ("older", older),
            ("missing", missing),
            ("foreign", foreign),
            ("failing", failing),
        ]
    }
}

/// Who of several replicas works, as this one knows it.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    /// By which lease.
    pub(crate) lease: String,
    /// Whether it is this one.
    pub(crate) is_leading: bool,
    /// Who has the lease, if anybody has.
    pub(crate) holder: Option<String>,
    /// Since when that is so.
    pub(crate) since: Option<SystemTime>,
    /// Why nobody knows, if so.
    pub(crate) failing: Option<Failing>,
}

/// What is known about a target.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: TargetName,
    /// Whose credentials are to be in it; all registries' if it is not said.
    pub(crate) hosts: Option<BTreeSet<RegistryHost>>,
    /// For a Secret: in how many namespaces it is how.
    pub(crate) counts: Option<Counts>,
    /// When the file was last looked at, by the monotonic clock.
    pub(crate) looked: Option<Duration>,
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

impl Target {
    pub(super) fn new(named: Named) -> Self {
        let Named { name, reader, hosts } = named;
        Self {
            name,
            hosts,
            counts: None,
            looked: None,
            verified: None,
            last_write: None,
            writes: 0,
            protection: None,
            is_polled: false,
            reader,
            found: BTreeMap::new(),
            in_the_way: Vec::new(),
            failing: None,
        }
    }

    /// Whether the credential of this registry is to be in it.
    pub(crate) fn is_for(&self, host: &RegistryHost) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(host))
    }

    /// It was changed by us.
    pub(crate) fn wrote(&mut self, now: SystemTime) {
        self.last_write = Some(now);
        self.writes += 1;
    }
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
    /// The registry was asked whether it takes a token.
    pub(crate) fn hear(&mut self, heard: Verified) {
        match &heard.answer {
            Answer::Refused { detail } => {
                let known = self.refused.as_ref().filter(|known| known.is(heard.expires));
                let since = known.map_or(heard.at, |known| known.since);
                let (detail, expires) = (detail.clone(), heard.expires);
                self.refused = Some(Refused { since, detail, expires });
            }
            Answer::Taken if self.refused.as_ref().is_some_and(|one| one.is(heard.expires)) => {
                self.refused = None;
            }
            Answer::Taken | Answer::Unknown { .. } => {}
        }
        self.verified = Some(heard);
    }

    /// Nobody asks it any more, so nobody knows.
    pub(crate) fn forget_verification(&mut self) {
        (self.verified, self.refused) = (None, None);
    }

    pub(super) fn new(origin: Origin, since: SystemTime) -> Self {
        Self {
            since,
            origin,
            identity: None,
            lifetime: None,
            skew: None,
            last_success: None,
            last_attempt: None,
            failing: None,
            next: None,
            verified: None,
            refused: None,
            history: History::default(),
        }
    }
}
