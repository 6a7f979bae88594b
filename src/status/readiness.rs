//! Whether a client finds a good credential: the one judgement that `/readyz`, `/status`,
//! the page and the metrics speak of.
//!
//! It is made from what was last found in the targets and from the clock, whenever somebody
//! asks. The times are those of the tokens that stand in the files, which need not be the
//! ones that were fetched last.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::state::{InTheWay, Registry, State, Target, Verified};
use crate::clock::Clock;
use crate::credential::{Lifetime, RegistryHost};
use crate::registry::Answer;
use crate::schedule::Reason;
use crate::trouble;

/// The moment of a judgement.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) clock: &'a Clock,
    /// The time by which tokens age.
    pub(super) now: SystemTime,
    /// For how long the program has run.
    pub(super) monotonic: Duration,
}

impl<'a> Moment<'a> {
    pub(super) fn of(clock: &'a Clock) -> Self {
        Self { clock, now: clock.now(), monotonic: clock.monotonic() }
    }
}

/// How it is, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether each registry has a good credential in each target, where its reader finds it.
    pub is_ready: bool,
    /// Whether nothing at all is to be told.
    pub is_spotless: bool,
    /// When time alone could change that.
    pub(super) until: SystemTime,
}

impl Judgement {
    /// Whether the other one says the same.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        (self.is_ready, self.is_spotless) == (other.is_ready, other.is_spotless)
    }
}

/// How it is at this moment.
pub(super) fn judge(state: &State, at: &Moment<'_>) -> Judgement {
    let is_ready = !state.registries.is_empty()
        && state
            .registries
            .iter()
            .all(|(host, registry)| lack(host, registry, &state.targets, at).is_none());
    let is_spotless = is_ready
        && state.registries.values().all(|registry| registry.failing.is_none())
        && state.targets.iter().all(|one| one.failing.is_none() && one.in_the_way.is_empty())
        && state.hooks.iter().all(|hook| hook.failing.is_none())
        && state.bad_settings.is_none();
    Judgement { is_ready, is_spotless, until: good_until(state, at.now) }
}

/// The next moment at which a credential expires; at most a second away, since what is told
/// counts in seconds.
pub(super) fn good_until(state: &State, now: SystemTime) -> SystemTime {
    let fetched = state.registries.values().filter_map(|registry| registry.lifetime);
    let found = state.targets.iter().flat_map(|target| target.found.values().copied());
    let ends = fetched.map(Lifetime::expires).chain(found).filter(|end| *end > now);
    ends.fold(now + JUDGEMENT_LASTS, SystemTime::min)
}

/// What keeps a client from using the credential of a registry.
pub(super) enum Lack<'a> {
    /// There is none.
    Nothing { is_waiting: bool },
    /// The newest one has expired.
    Expired { at: SystemTime, ago: Duration },
    /// The registry itself refuses it.
    Refused { detail: &'a str, at: SystemTime },
    /// The disk does not say what is in the file.
    Unseen { path: &'a Path, verified: Option<SystemTime>, pause: Duration },
    /// It does not stand in the file.
    Absent { path: &'a Path, verified: Option<SystemTime> },
    /// The one that stands in the file has expired.
    ExpiredIn { path: &'a Path, at: SystemTime },
    /// The reader of the file passes by it.
    PassedBy { path: &'a Path, reader: &'static str, obstacle: &'a InTheWay },
}

/// What keeps a client from using the credential of `host`, if anything does.
pub(super) fn lack<'a>(
    host: &RegistryHost,
    registry: &'a Registry,
    targets: &'a [Target],
    at: &Moment<'_>,
) -> Option<Lack<'a>> {
    let Some(life) = registry.lifetime else {
        let is_waiting = registry.next.is_some_and(|next| next.reason == Reason::Waiting);
        return Some(Lack::Nothing { is_waiting });
    };
    let expires = life.expires();
    if life.is_over(at.now) {
        let ago = at.now.duration_since(expires).unwrap_or_default();
        return Some(Lack::Expired { at: expires, ago });
    }
    if let Some(Verified { answer: Answer::Refused { detail }, at }) = &registry.verified {
        return Some(Lack::Refused { detail, at: *at });
    }
    targets.iter().find_map(|target| {
        let (path, verified) = (target.path.as_path(), target.verified);
        let pause = target.busy_since.map(|since| at.monotonic.saturating_sub(since));
        if let Some(pause) = pause.filter(|pause| *pause >= UNSEEN_AFTER) {
            return Some(Lack::Unseen { path, verified, pause });
        }
        match target.found.get(host) {
            None => Some(Lack::Absent { path, verified }),
            Some(expires) if *expires <= at.now => Some(Lack::ExpiredIn { path, at: *expires }),
            Some(_) => {
                let obstacle = target.in_the_way.iter().find(|one| one.hidden.contains(host))?;
                Some(Lack::PassedBy { path, reader: target.reader, obstacle })
            }
        }
    })
}

impl Lack<'_> {
    pub(super) fn kind(&self) -> trouble::Kind {
        match self {
            Self::Nothing { .. } => trouble::Kind::NothingYet,
            Self::Expired { .. } | Self::ExpiredIn { .. } => trouble::Kind::Expired,
            Self::Refused { .. } => trouble::Kind::Rejected,
            Self::Unseen { .. } => trouble::Kind::Unseen,
            Self::Absent { .. } => trouble::Kind::Absent,
            Self::PassedBy { obstacle, .. } => obstacle.kind,
        }
    }

    /// Since when, as far as it is known.
    pub(super) fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Nothing { .. } => None,
            Self::Expired { at, .. } | Self::Refused { at, .. } | Self::ExpiredIn { at, .. } => {
                Some(*at)
            }
            Self::Unseen { verified, .. } | Self::Absent { verified, .. } => *verified,
            Self::PassedBy { obstacle, .. } => Some(obstacle.since),
        }
    }
}

impl fmt::Display for Lack<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |duration: &Duration| {
            humantime::format_duration(Duration::from_secs(duration.as_secs()))
        };
        match self {
            Self::Nothing { is_waiting: true } => {
                write!(formatter, "waiting for a credential: {}", Reason::Waiting)
            }
            Self::Nothing { is_waiting: false } => {
                formatter.write_str("there is no credential yet")
            }
            Self::Expired { ago, .. } => {
                write!(formatter, "the credential expired {} ago", seconds(ago))
            }
            Self::Refused { detail, .. } => {
                write!(formatter, "the registry refuses the credential ({detail})")
            }
            Self::Unseen { path, pause, .. } => write!(
                formatter,
                "nobody knows what is in {}: the disk has not answered for {}",
                path.display(),
                seconds(pause)
            ),
            Self::Absent { path, .. } => write!(formatter, "it is not in {}", path.display()),
            Self::ExpiredIn { path, .. } => {
                write!(formatter, "the one in {} has expired", path.display())
            }
            Self::PassedBy { path, reader, obstacle } => {
                write!(
                    formatter,
                    "{reader} passes by it in {}: {}",
                    path.display(),
                    obstacle.message
                )
            }
        }
    }
}

/// For how long a judgement may be used again.
const JUDGEMENT_LASTS: Duration = Duration::from_secs(1);

/// A disk that has not answered for so long does not for those who read the file either.
/// A busy machine may take seconds to sync a file.
pub(super) const UNSEEN_AFTER: Duration = Duration::from_secs(30);
