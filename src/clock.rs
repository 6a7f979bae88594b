//! The only source of time.
//!
//! A credential expires by the wall clock, and a machine that was suspended, or
//! whose clock was set, must notice at once; but tokio's timers stand still in a
//! suspended machine (<https://github.com/tokio-rs/tokio/issues/3185>). So there is
//! a tick: it comes at every whole minute, and whenever the wall clock jumps, and
//! at each tick every sleeper asks the wall clock again. It is the only thing
//! that wakes an idle daemon. Where nothing ticks, a sleep is cut into slices
//! that end at whole minutes, to the same effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

/// Tells the wall time and sleeps by it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// The wall time at `started`, if time is simulated.
    epoch: Option<SystemTime>,
    ticks: watch::Sender<()>,
    is_ticking: AtomicBool,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::starting_at(None)
    }

    /// A clock that starts at `epoch` and moves with tokio's, which a test can pause.
    #[must_use]
    pub fn simulated(epoch: SystemTime) -> Self {
        Self::starting_at(Some(epoch))
    }

    fn starting_at(epoch: Option<SystemTime>) -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            epoch,
            ticks: watch::Sender::new(()),
            is_ticking: AtomicBool::new(false),
        }))
    }

    /// The wall time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn now(&self) -> SystemTime {
        match self.0.epoch {
            None => SystemTime::now(),
            Some(epoch) => epoch + self.0.started.elapsed(),
        }
    }

    /// For how long the program has run; stands still while the machine is
    /// suspended, and is not moved by whoever sets the wall clock.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Sleeps until the wall clock shows `deadline`, however it got there.
    #[expect(clippy::disallowed_methods, reason = "one of the two places that may sleep")]
    pub async fn sleep_until(&self, deadline: SystemTime) {
        let mut ticks = self.0.ticks.subscribe();
        loop {
            let now = self.now();
            let left = deadline.duration_since(now).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            // Where a tick comes first, the longer sleep is only a backstop, and
            // never slept through: a tokio timer of a minute wakes three times.
            let slice = until_slice_ends(now);
            let is_ticking = self.0.is_ticking.load(Ordering::Relaxed);
            let pause = if is_ticking && left >= slice { BACKSTOP } else { left.min(slice) };
            tokio::select! {
                _ = ticks.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The first tick that is at least `pause` away: for what need not be exact, and
    /// then costs no wake-up of its own.
    #[must_use]
    pub fn tick_after(&self, pause: Duration) -> SystemTime {
        let earliest = self.now() + pause;
        earliest + until_slice_ends(earliest)
    }

    /// Sleeps for `pause` of wall time.
    pub async fn sleep(&self, pause: Duration) {
        self.sleep_until(self.now() + pause).await;
    }

    /// Ticks, for ever. Without it everything goes on, with more wake-ups and a
    /// minute late after the machine was suspended.
    pub async fn tick(self) {
        let mut timer = WallTimer::new().ok();
        loop {
            let pause = until_slice_ends(self.now());
            let is_exact = match &mut timer {
                Some(timer) => timer.sleep_until(self.now() + pause).await.is_ok(),
                None => false,
            };
            self.0.is_ticking.store(is_exact, Ordering::Relaxed);
            if !is_exact {
                timer = None;
                self.sleep(pause).await;
            }
            self.0.ticks.send_replace(());
        }
    }
}

/// How late a sleeper may notice that the machine was suspended or its clock set,
/// and how often a loop that only waits turns all the same.
pub const SLICE: Duration = Duration::from_mins(1);

/// How late a sleeper is at most, should the tick not come.
const BACKSTOP: Duration = Duration::from_mins(10);

fn until_slice_ends(now: SystemTime) -> Duration {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let into_slice = since_epoch.as_nanos() % SLICE.as_nanos();
    SLICE.saturating_sub(Duration::from_nanos(u64::try_from(into_slice).unwrap_or_default()))
}

/// Sleeps by the wall clock itself: ends early when the clock is set, and at once
/// when a suspended machine wakes up after its time.
#[cfg(target_os = "linux")]
struct WallTimer(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl WallTimer {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that change their descriptor, \
                  which an `OwnedFd` does not; and this crate has no unsafe code here"
    )]
    fn new() -> std::io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        Ok(Self(tokio::io::unix::AsyncFd::new(timer)?))
    }

    async fn sleep_until(&mut self, deadline: SystemTime) -> std::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        let since_epoch = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Zero would disarm it.
        let since_epoch = since_epoch.max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(since_epoch).map_err(std::io::Error::other)?;
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.0, flags, &Itimerspec { it_interval, it_value })?;
        let mut expirations = [0; 8];
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            match read {
                Ok(Ok(_)) => return Ok(()),
                // The clock was set.
                Ok(Err(error)) if error.raw_os_error() == Some(CANCELED) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(target_os = "linux")]
const CANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();

/// Other systems have no such timer.
#[cfg(not(target_os = "linux"))]
struct WallTimer;

#[cfg(not(target_os = "linux"))]
impl WallTimer {
    fn new() -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn sleep_until(&mut self, _: SystemTime) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_wall_timer_ends_on_time_and_can_be_used_again() {
        let clock = Clock::system();
        let mut timer = WallTimer::new().unwrap();
        for _ in 0..3 {
            let deadline = clock.now() + Duration::from_millis(30);
            timer.sleep_until(deadline).await.unwrap();
            let late = clock.now().duration_since(deadline).expect("not before its time");
            assert!(late < Duration::from_secs(5), "{late:?} late");
        }
        timer.sleep_until(SystemTime::UNIX_EPOCH).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_that_never_comes_makes_a_sleeper_late_but_not_forever() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        clock.0.is_ticking.store(true, Ordering::Relaxed);
        clock.sleep(SLICE * 2).await;
        assert!(clock.monotonic() <= BACKSTOP + Duration::from_millis(50));
    }

    #[tokio::test]
    async fn what_need_not_be_exact_waits_for_a_tick() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        let tick = clock.tick_after(SLICE);
        assert_eq!(tick, SystemTime::UNIX_EPOCH + SLICE * 2);
    }

    #[tokio::test]
    async fn a_tick_wakes_every_sleeper() {
        let clock = Clock::system();
        let mut sleep = std::pin::pin!(clock.sleep(Duration::from_hours(1)));
        let mut polls = 0;
        let woken = std::future::poll_fn(|context| {
            polls += 1;
            if polls > 1 {
                return std::task::Poll::Ready(());
            }
            assert!(sleep.as_mut().poll(context).is_pending());
            clock.0.ticks.send_replace(());
            std::task::Poll::Pending
        });
        tokio::time::timeout(Duration::from_secs(5), woken).await.unwrap();
    }
}
