//! Whether a client finds a good credential: the one judgement that `/readyz`, `/status`,
//! the page and the metrics speak of.
//!
//! It is made from what was last found in the targets and from the clock, whenever somebody
//! asks. The times are those of the tokens that stand in the files, which need not be the
//! ones that were fetched last.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::state::{InTheWay, Registry, State, Target, TargetName};
use crate::clock::Clock;
use crate::credential::{Lifetime, RegistryHost};
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
    /// Since when a look at the targets has been wanted that has not come, likewise.
    pub(super) look_wanted: Option<Duration>,
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
        && state.election.as_ref().is_none_or(|election| election.failing.is_none())
        && state.bad_settings.is_none();
    Judgement { is_ready, is_spotless, until: good_until(state, at.now) }
}

/// Until when what is told holds if nothing is changed: until a credential expires, and for a
/// second at most, since it counts in seconds.
pub(super) fn good_until(state: &State, now: SystemTime) -> SystemTime {
    let at_most = now + JUDGEMENT_LASTS;
    next_expiry(state, now).map_or(at_most, |next| next.min(at_most))
}

/// When the next credential expires, fetched or found.
pub(super) fn next_expiry(state: &State, now: SystemTime) -> Option<SystemTime> {
    let fetched = state.registries.values().filter_map(|registry| registry.lifetime);
    let found = state.targets.iter().flat_map(|target| target.found.values().copied());
    fetched.map(Lifetime::expires).chain(found).filter(|end| *end > now).min()
}

/// What keeps a client from using the credential of a registry.
pub(super) enum Lack<'a> {
    /// There is none.
    Nothing { is_waiting: bool, since: SystemTime },
    /// The newest one has expired.
    Expired { at: SystemTime, ago: Duration },
    /// The registry itself refuses it.
    Refused { detail: &'a str, at: SystemTime },
    /// Nobody has been able to look at the file.
    Unseen { target: &'a TargetName, verified: Option<SystemTime>, pause: Duration },
    /// It does not stand in the file.
    Absent { target: &'a TargetName, since: SystemTime },
    /// The one that stands in the file has expired.
    ExpiredIn { target: &'a TargetName, at: SystemTime },
    /// The reader of the file passes by it.
    PassedBy { target: &'a TargetName, reader: &'static str, obstacle: &'a InTheWay },
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
        return Some(Lack::Nothing { is_waiting, since: registry.since });
    };
    let expires = life.expires();
    if life.is_over(at.now) {
        let ago = at.now.duration_since(expires).unwrap_or_default();
        return Some(Lack::Expired { at: expires, ago });
    }
    if let Some(refused) = registry.refused.as_ref().filter(|refused| refused.is(expires)) {
        return Some(Lack::Refused { detail: &refused.detail, at: refused.since });
    }
    targets.iter().find_map(|target| lack_in(target, host, registry, at))
}

/// What keeps the reader of a target from using the credential of `host` that stands there.
fn lack_in<'a>(
    target: &'a Target,
    host: &RegistryHost,
    registry: &'a Registry,
    at: &Moment<'_>,
) -> Option<Lack<'a>> {
    if !target.is_for(host) {
        return None;
    }
    let (name, verified) = (&target.name, target.verified);
    // A look that came after it was wanted is one that was not waited for in vain.
    let wanted = at.look_wanted.filter(|since| target.looked.is_none_or(|looked| looked <= *since));
    let pause = wanted.map(|since| at.monotonic.saturating_sub(since));
    if let Some(pause) = pause.filter(|pause| *pause >= UNSEEN_AFTER) {
        return Some(Lack::Unseen { target: name, verified, pause });
    }
    let Some(expires) = target.found.get(host) else {
        return Some(Lack::Absent { target: name, since: verified.unwrap_or(registry.since) });
    };
    if *expires <= at.now {
        return Some(Lack::ExpiredIn { target: name, at: *expires });
    }
    if let Some(refused) = registry.refused.as_ref().filter(|refused| refused.is(*expires)) {
        return Some(Lack::Refused { detail: &refused.detail, at: refused.since });
    }
    let obstacle = target.in_the_way.iter().find(|one| one.hidden.contains(host))?;
    Some(Lack::PassedBy { target: name, reader: target.reader, obstacle })
}

/// Whether the reader of a target misses the credential of any registry.
pub(super) fn lacks_any(target: &Target, state: &State, at: &Moment<'_>) -> bool {
    let mut registries = state.registries.iter();
    registries.any(|(host, registry)| lack_in(target, host, registry, at).is_some())
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
            Self::Nothing { since, .. } | Self::Absent { since, .. } => Some(*since),
            Self::Expired { at, .. } | Self::Refused { at, .. } | Self::ExpiredIn { at, .. } => {
                Some(*at)
            }
            Self::Unseen { verified, .. } => *verified,
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
            Self::Nothing { is_waiting: true, .. } => {
                write!(formatter, "waiting for a credential: {}", Reason::Waiting)
            }
            Self::Nothing { is_waiting: false, .. } => {
                formatter.write_str("there is no credential yet")
            }
            Self::Expired { ago, .. } => {
                write!(formatter, "the credential expired {} ago", seconds(ago))
            }
            Self::Refused { detail, .. } => {
                write!(formatter, "the registry refuses the credential ({detail})")
            }
            Self::Unseen { target, pause, .. } => write!(
                formatter,
                "nobody knows what is in {target}: it could not be looked at for {}",
                seconds(pause)
            ),
            Self::Absent { target, .. } => write!(formatter, "it is not in {target}"),
            Self::ExpiredIn { target, .. } => {
                write!(formatter, "the one in {target} has expired")
            }
            Self::PassedBy { target, reader, obstacle } => {
                write!(formatter, "{reader} passes by it in {target}: {}", obstacle.message)
            }
        }
    }
}

/// For how long a judgement may be used again.
const JUDGEMENT_LASTS: Duration = Duration::from_secs(1);

/// A disk that has not answered for so long does not for those who read the file either.
/// A busy machine may take seconds to sync a file.
pub(super) const UNSEEN_AFTER: Duration = Duration::from_secs(30);
