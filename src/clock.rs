//! The only source of time.
//!
//! A credential expires by the wall clock, and a machine that was suspended
//! must notice when it wakes; but tokio's timers stand still meanwhile
//! (<https://github.com/tokio-rs/tokio/issues/3185>). So a sleep is cut into
//! slices, and after each of them the wall clock is asked again. The slices end
//! at whole minutes for everyone, so that any number of sleepers wakes the
//! processor once.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the wall time and sleeps by it. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    /// The wall time at `started`, if time is simulated.
    epoch: Option<SystemTime>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { started: Instant::now(), epoch: None }
    }

    /// A clock that starts at `epoch` and moves with tokio's, which a test can pause.
    #[must_use]
    pub fn simulated(epoch: SystemTime) -> Self {
        Self { started: Instant::now(), epoch: Some(epoch) }
    }

    /// The wall time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn now(&self) -> SystemTime {
        match self.epoch {
            None => SystemTime::now(),
            Some(epoch) => epoch + self.started.elapsed(),
        }
    }

    /// For how long the program has run; stands still while the machine is
    /// suspended, and is not moved by whoever sets the wall clock.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sleeps until the wall clock shows `deadline`, however it got there.
    #[expect(clippy::disallowed_methods, reason = "the one place that may sleep")]
    pub async fn sleep_until(&self, deadline: SystemTime) {
        loop {
            let now = self.now();
            let Ok(left) = deadline.duration_since(now) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(until_slice_ends(now))).await;
        }
    }

    /// Sleeps for `pause` of wall time.
    pub async fn sleep(&self, pause: Duration) {
        self.sleep_until(self.now() + pause).await;
    }
}

/// How late a sleeper may notice that the machine was suspended or its clock set.
pub const SLICE: Duration = Duration::from_mins(1);

fn until_slice_ends(now: SystemTime) -> Duration {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let into_slice = since_epoch.as_nanos() % SLICE.as_nanos();
    SLICE.saturating_sub(Duration::from_nanos(u64::try_from(into_slice).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_at_its_deadline_and_not_before() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        for pause in [Duration::ZERO, Duration::from_millis(5), SLICE, Duration::from_hours(7)] {
            let deadline = clock.now() + pause;
            clock.sleep_until(deadline).await;
            let late = clock.now().duration_since(deadline).unwrap();
            assert!(late < Duration::from_millis(50), "{late:?} late after {pause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_in_the_past_does_not_sleep() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + SLICE);
        clock.sleep_until(SystemTime::UNIX_EPOCH).await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + SLICE);
    }

    #[test]
    fn slices_end_together() {
        let minute = SystemTime::UNIX_EPOCH + SLICE * 10;
        for into in [Duration::ZERO, Duration::from_millis(1), SLICE - Duration::from_nanos(1)] {
            assert_eq!(into + until_slice_ends(minute + into), SLICE);
        }
    }
}
