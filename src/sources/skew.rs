//! How far an issuer's clock is from ours, by the `Date` of its answer.
//!
//! An issuer says at what time of *its* clock a token expires. Where ours is wrong, a
//! token would look older or younger than it is, or expired as soon as it came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_ecr::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_ecr::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ecr::error::BoxError;
use aws_sdk_ecr::primitives::{DateTime, DateTimeFormat};

use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::network::{Answer, Unanswered};

/// By how many seconds an issuer's clock is ahead of ours; less than zero if it is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew(i64);

impl Skew {
    /// Of an issuer whose answer came while ours showed a time between these two.
    ///
    /// `None` if the two agree as far as can be told: a `Date` has whole seconds, and was
    /// written somewhen between the question and the answer.
    #[must_use]
    pub fn between(date: SystemTime, asked: SystemTime, answered: SystemTime) -> Option<Self> {
        let (earliest, latest) = (asked - SLACK, answered + SLACK);
        if let Ok(ahead) = date.duration_since(latest) {
            return Some(Self(seconds(ahead + SLACK))).filter(|skew| skew.0 != 0);
        }
        let behind = earliest.duration_since(date).ok()?;
        Some(Self(-seconds(behind + SLACK))).filter(|skew| skew.0 != 0)
    }

    /// As a number.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// The time of our clock at which the issuer's shows `theirs`, or a little earlier: a
    /// `Date` has whole seconds, and a token must not seem to live longer than it does.
    #[must_use]
    pub fn to_ours(self, theirs: SystemTime) -> SystemTime {
        let by = Duration::from_secs(self.0.unsigned_abs());
        let ours = if self.0 < 0 { theirs.checked_add(by) } else { theirs.checked_sub(by) };
        ours.and_then(|ours| ours.checked_sub(SLACK)).unwrap_or(theirs)
    }

    /// What the issuer's clock shows when ours shows `ours`.
    pub(super) fn to_theirs(self, ours: SystemTime) -> SystemTime {
        let by = Duration::from_secs(self.0.unsigned_abs());
        let theirs = if self.0 < 0 { ours.checked_sub(by) } else { ours.checked_add(by) };
        theirs.unwrap_or(ours)
    }
}

/// When an issuer was asked, by our time and by the wall clock's.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    clock: &'a Clock,
    /// What a token's life is counted from.
    pub(super) ours: SystemTime,
    /// What a text is dated with that is signed for it.
    pub(super) wall: SystemTime,
}

impl<'a> Asked<'a> {
    pub(super) fn now(clock: &'a Clock) -> Self {
        Self { clock, ours: clock.now(), wall: clock.wall() }
    }

    /// The life of a token that was given at `date` and expires at `expires`, both by the issuer's clock, and how far
    /// that one is from ours.
    pub(super) fn life(
        self,
        date: Option<SystemTime>,
        expires: SystemTime,
    ) -> (Lifetime, Option<Skew>) {
        let Self { clock, ours, wall } = self;
        let skew = date.and_then(|date| Skew::between(date, wall, clock.wall()));
        let expires = skew.map_or(expires, |skew| skew.to_ours(expires));
        (Lifetime::new(ours, clock.from_wall(expires)), skew)
    }

    /// How far the clocks are apart, if that can be why a text was refused that we had dated and signed.
    ///
    /// AWS's SDK does so for its own signatures. Whoever answers is whom the signed text is for, so that nobody gains
    /// anything by a wrong `Date`.
    pub(super) fn blames(self, answer: &Result<Answer, Unanswered>) -> Option<Skew> {
        let refusal = answer.as_ref().ok()?;
        if !matches!(refusal.status.as_u16(), 400 | 401) {
            return None;
        }
        let skew = Skew::between(refusal.date()?, self.wall, self.clock.wall())?;
        (skew.0.unsigned_abs() >= TOLERATED).then_some(skew)
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Clocks that are this close are taken for the same.
const SLACK: Duration = Duration::from_secs(2);

/// So many seconds are nothing that an issuer refuses a signed text for: what we sign is good from half a minute ago.
const TOLERATED: u64 = 30;

/// Notes the `Date` of the last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct DateOfAnswer(Arc<Mutex<Option<SystemTime>>>);

impl DateOfAnswer {
    pub(super) fn last(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for DateOfAnswer {
    fn name(&self) -> &'static str {
        "DateOfAnswer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        let date = date.and_then(|date| SystemTime::try_from(date).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn clocks_that_agree_have_no_skew() {
        let now = SystemTime::UNIX_EPOCH + HOUR * 500_000;
        for seconds in 0..3 {
            let answered = now + Duration::from_millis(1300);
            let date = now + Duration::from_secs(seconds) - Duration::from_secs(1);
            assert_eq!(Skew::between(date, now, answered), None, "{seconds}");
        }
    }

    #[test]
    fn a_skew_is_told_in_both_directions() {
        let now = SystemTime::UNIX_EPOCH + HOUR * 500_000;
        let ahead = Skew::between(now + HOUR, now, now).unwrap();
        assert_eq!((ahead.seconds(), ahead.to_ours(now + HOUR)), (3600, now - SLACK));
        assert_eq!(ahead.to_theirs(now), now + HOUR);
        let behind = Skew::between(now - HOUR, now, now).unwrap();
        assert_eq!((behind.seconds(), behind.to_ours(now - HOUR)), (-3600, now - SLACK));
        assert_eq!(behind.to_theirs(now), now - HOUR);
    }
}
