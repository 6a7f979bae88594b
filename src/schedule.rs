//! When to ask for the next credential. Pure functions: time and dice come in,
//! a time comes out. `docs/architecture.md` draws the life of a token.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::credential::Lifetime;

/// How an issuer behaves when it is asked before a token has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// It mints a new token at every call.
    Minting,
    /// It gives the same token again until that one has only minutes left, as
    /// Google's metadata server does: until about 5 minutes before the end
    /// (<https://github.com/googleapis/google-auth-library-java/pull/749>), with a
    /// new one by 3:45 (<https://go.googlesource.com/oauth2/+/refs/tags/v0.21.0>).
    Caching,
}

/// A throw of the dice: from 0 to 1, the same chance for all of it.
///
/// Twins that start together must not ask together, so every rule takes one.
pub type Dice = f64;

/// What comes next, and why then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When to ask.
    pub at: SystemTime,
    /// Why then.
    pub reason: Reason,
}

/// Why a fetch is when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is nothing yet.
    First,
    /// About half of the life is over: twins do not ask together.
    HalfLife,
    /// The issuer gives no new token before the last minutes.
    LastMinutes,
    /// The issuer gave the same token again.
    SameToken,
    /// Neither the network nor an identity may be there yet.
    Waiting,
    /// The last fetch failed.
    Retry,
    /// The last fetch was refused in a way that lasts.
    RetrySlowly,
    /// A signal asked for it.
    Signal,
    /// Its secret has changed.
    Changed,
    /// The registry refuses what it took before.
    Refused,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::First => "there is no credential yet",
            Self::HalfLife => "about half of its life is over",
            Self::LastMinutes => "its issuer gives no new one before its last minutes",
            Self::SameToken => "its issuer gave the same one again",
            Self::Waiting => "network and identity may not be there yet",
            Self::Retry => "the last fetch failed",
            Self::RetrySlowly => "the last fetch failed in a way that lasts until someone acts",
            Self::Signal => "SIGUSR1 asked for it",
            Self::Changed => "its secret has changed",
            Self::Refused => "the registry refuses the one before",
        })
    }
}

/// When a daemon that has no token yet asks first: almost at once, but twins that are
/// started by the same clock not in the same moment.
#[must_use]
pub fn at_start(now: SystemTime, dice: Dice) -> Next {
    Next { at: now + START_SPREAD.mul_f64(dice), reason: Reason::First }
}

/// When to replace a token of an earlier run.
///
/// What the issuer is, nobody has said yet: half of a life is right for one that mints,
/// and one that caches says so when it is asked. If that half is over, all the daemons
/// of a fleet that was updated would ask at once, so they spread.
#[must_use]
pub fn after_restart(now: SystemTime, life: Lifetime, dice: Dice) -> Next {
    let next = after_success(life, Issuer::Minting, dice);
    let spread = RESTART_SPREAD.min(life.left(now) / SHARES_FOR_RESTART);
    Next { at: next.at.max(now + spread.mul_f64(dice)), ..next }
}

/// When to replace a token that has just come.
///
/// A minting issuer is asked around half of the token's life: later would leave
/// less room for an outage, and earlier would shorten what readers get. A caching
/// one is asked from 5 minutes before the end, since it has nothing new before.
#[must_use]
pub fn after_success(life: Lifetime, issuer: Issuer, dice: Dice) -> Next {
    match issuer {
        Issuer::Minting => {
            let part = HALF_LIFE_FROM + HALF_LIFE_SPREAD * dice;
            let pause = life.length().mul_f64(part).max(SHORTEST_PAUSE);
            Next { at: life.issued() + pause, reason: Reason::HalfLife }
        }
        Issuer::Caching => {
            let early = CACHE_ENDS.mul_f64(1.0 - CACHE_SPREAD * dice);
            let at = life.expires().checked_sub(early).unwrap_or(SystemTime::UNIX_EPOCH);
            Next { at: at.max(life.issued() + SHORTEST_PAUSE), reason: Reason::LastMinutes }
        }
    }
}

/// When to ask again an issuer that gave at `now` the token that is known already.
///
/// A caching one may have been asked long before its last minutes, by a signal:
/// then it is asked in these. Who should have minted is asked after half of what
/// is left. Near the end it is every few seconds, until the token changes.
#[must_use]
pub fn after_same_token(now: SystemTime, life: Lifetime, issuer: Issuer, dice: Dice) -> Next {
    let early = CACHE_ENDS.mul_f64(1.0 - CACHE_SPREAD * dice);
    let until_last_minutes = life.left(now).saturating_sub(early);
    if issuer == Issuer::Caching && !until_last_minutes.is_zero() {
        return Next { at: now + until_last_minutes, reason: Reason::LastMinutes };
    }
    let pause = SAME_TOKEN_PAUSE.mul_f64(1.0 + dice);
    let half = if until_last_minutes.is_zero() { Duration::ZERO } else { life.left(now) / 2 };
    Next { at: now + pause.max(half), reason: Reason::SameToken }
}

/// What is known when a fetch has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// How many have failed in a row, this one included.
    pub count: u32,
    /// Of which kind it is.
    pub kind: Kind,
    /// Whether the issuer caches: then it is on the machine itself, so that asking it
    /// costs nobody anything, and there is little time left when it has a new token.
    pub is_cached: bool,
    /// When the service wants to be asked again, if it said so.
    pub retry_after: Option<Duration>,
}

/// What a failure lets expect of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may be over in a moment.
    Passing,
    /// It will be the same until a person acts.
    Lasting,
    /// There is no token, and what is missing may come any moment: a machine that boots, or
    /// that was cut off, has neither a network nor an identity at first. Asking costs nobody
    /// anything, since nobody is asked.
    NotThereYet,
}

/// When to ask again after a fetch failed at `now`, while the last good token
/// `expires`, if there ever was one.
///
/// The pause is thrown between nothing and a ceiling ("full jitter"). The ceiling
/// doubles with each failure up to a minute: with that, any two minutes in which
/// the cloud can be reached are enough (see `docs/architecture.md`). It never is
/// more than a sixteenth of what is left, so that the attempts come closer as the
/// end does. Asking goes on past the end, for ever.
#[must_use]
pub fn after_failure(
    now: SystemTime,
    expires: Option<SystemTime>,
    failure: Failure,
    dice: Dice,
) -> Next {
    let left = expires.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
    let share = left / SHARES_OF_LIFE_LEFT;
    let doubled = FIRST_CEILING * 2_u32.pow(failure.count.saturating_sub(1).min(MOST_DOUBLINGS));
    let (floor, ceiling, reason) = match failure.kind {
        Kind::Lasting => {
            let ceiling = share.clamp(LASTING_FLOOR + LASTING_FLOOR / 2, LASTING_CEILING);
            (LASTING_FLOOR, ceiling, Reason::RetrySlowly)
        }
        Kind::NotThereYet if failure.count <= MOST_FAST_TRIES => {
            (SHORTEST_RETRY, FIRST_CEILING, Reason::Waiting)
        }
        Kind::NotThereYet => (SHORTEST_RETRY, WAITING_CEILING, Reason::Waiting),
        Kind::Passing if left.is_zero() => {
            (SHORTEST_RETRY, doubled.min(EXPIRED_CEILING), Reason::Retry)
        }
        Kind::Passing => {
            let highest = share.clamp(LOWEST_CEILING, HIGHEST_CEILING);
            (SHORTEST_RETRY, doubled.min(highest), Reason::Retry)
        }
    };
    let ceiling = match failure.kind {
        Kind::Passing | Kind::NotThereYet if failure.is_cached => ceiling.min(CACHED_CEILING),
        _ => ceiling,
    };
    let thrown = floor + ceiling.saturating_sub(floor).mul_f64(dice);
    // A service that is up again earlier than it thought must not cost the token.
    let asked_for = failure.retry_after.unwrap_or_default().min(if left.is_zero() {
        EXPIRED_CEILING
    } else {
        (left / SHARES_FOR_RETRY_AFTER).min(LONGEST_RETRY_AFTER)
    });
    Next { at: now + thrown.max(asked_for), reason }
}

/// How long to wait before an entry is put back again that another program has
/// taken away `times` times in a row.
///
/// A few times cost nothing: someone logs in and out. From then on it is a tug of
/// war, which nobody wins by pulling faster.
#[must_use]
pub fn after_overwrite(times: u32) -> Duration {
    match times.checked_sub(FREE_PULLS + 1) {
        None => Duration::ZERO,
        Some(more) => {
            LONGEST_TUG_PAUSE.min(Duration::from_secs(1) * 2_u32.pow(more.min(MOST_DOUBLINGS)))
        }
    }
}

/// A tug of war is over when nobody has pulled for this long after a pause.
pub const TUG_ENDS: Duration = Duration::from_mins(1);

const FREE_PULLS: u32 = 10;
const LONGEST_TUG_PAUSE: Duration = Duration::from_mins(1);

const START_SPREAD: Duration = Duration::from_millis(500);
const RESTART_SPREAD: Duration = Duration::from_mins(10);
const SHARES_FOR_RESTART: u32 = 4;

/// A token is replaced between 45 and 55 percent of its life.
const HALF_LIFE_FROM: f64 = 0.45;
const HALF_LIFE_SPREAD: f64 = 0.1;

/// How long before the end a caching issuer starts to give a new token.
const CACHE_ENDS: Duration = Duration::from_mins(5);
const CACHE_SPREAD: f64 = 0.1;

/// The shorter pause, and half of the longest, between two looks at a caching
/// issuer in a token's last minutes. It is asked on the machine itself.
const SAME_TOKEN_PAUSE: Duration = Duration::from_secs(15);

/// No issuer is asked more often than this while it gives new tokens.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

const SHORTEST_RETRY: Duration = Duration::from_millis(250);
const FIRST_CEILING: Duration = Duration::from_secs(2);
const LOWEST_CEILING: Duration = Duration::from_secs(1);
const HIGHEST_CEILING: Duration = Duration::from_mins(1);
const EXPIRED_CEILING: Duration = Duration::from_secs(30);
const WAITING_CEILING: Duration = Duration::from_secs(10);
const CACHED_CEILING: Duration = Duration::from_secs(10);
const MOST_DOUBLINGS: u32 = 10;
const SHARES_OF_LIFE_LEFT: u32 = 16;

/// A good minute.
const MOST_FAST_TRIES: u32 = 60;

const LASTING_FLOOR: Duration = Duration::from_mins(1);
const LASTING_CEILING: Duration = Duration::from_mins(5);

const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);
const SHARES_FOR_RETRY_AFTER: u32 = 10;

#[cfg(test)]
mod tests;
