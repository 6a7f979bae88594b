//! The only source of time.
//!
//! A credential expires by the wall clock, and a machine that was suspended, or
//! whose clock was set, must notice at once; but tokio's timers stand still in a
//! suspended machine (<https://github.com/tokio-rs/tokio/issues/3185>). So there is
//! a tick: it comes at every whole minute, and whenever the wall clock jumps, and
//! at each tick every sleeper asks for the time again. It is the only thing
//! that wakes an idle daemon. Where nothing ticks, a sleep is cut into slices
//! that end at whole minutes, to the same effect.
//!
//! # Which time it is
//!
//! Neither of the machine's clocks can be trusted alone. The wall clock can be set
//! back, and a token would look younger than it is; the one that counts since boot
//! stands still while a virtual machine is paused. So [`Clock::now`] goes forward
//! with whichever of the two went further: it jumps ahead with the wall clock, and
//! never goes back with it. An error of either clock can then only make a renewal
//! early. What is shown to people and kept on disk is in [wall time](Clock::wall).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

/// Tells the wall time and sleeps by it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    face: Face,
    pace: Mutex<Pace>,
    ticks: watch::Sender<()>,
    is_ticking: AtomicBool,
}

/// Where the two clocks are read.
#[derive(Debug)]
enum Face {
    Machine,
    /// Time that moves with tokio's, from this wall time on, and what a test has put
    /// forward or back since.
    Simulated {
        epoch: SystemTime,
        moved: Mutex<Moved>,
        /// Whether a sleep is one piece, since nothing moves unseen.
        leaps: bool,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    /// What the clock that counts since boot is ahead of tokio's.
    boot: Duration,
    /// What the wall clock was put forward, and back.
    wall: (Duration, Duration),
}

/// What the two clocks show at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: SystemTime,
    /// Goes on while the machine is suspended, and cannot be set.
    boot: Duration,
}

/// How our time goes: as the clock since boot does, with a jump ahead whenever the wall
/// clock jumps ahead of it.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Our time when the machine was started.
    ours_at_boot: SystemTime,
    /// The wall time then, by what the wall clock shows now.
    wall_at_boot: SystemTime,
}

impl Pace {
    fn new(reading: Reading) -> Self {
        let wall_at_boot = reading.wall.checked_sub(reading.boot).unwrap_or(reading.wall);
        Self { ours_at_boot: wall_at_boot, wall_at_boot }
    }

    /// Goes by what the clocks show now.
    fn follow(&mut self, reading: Reading) {
        let now = Self::new(reading).wall_at_boot;
        match now.duration_since(self.wall_at_boot) {
            Ok(ahead) if ahead >= STEP => {
                self.ours_at_boot += ahead;
                self.wall_at_boot = now;
            }
            Err(back) if back.duration() >= STEP => self.wall_at_boot = now,
            // The two are not read in the same moment.
            _ => {}
        }
    }

    /// How far our time is ahead of the wall clock, which was set back by so much.
    fn ahead(&self) -> Duration {
        self.ours_at_boot.duration_since(self.wall_at_boot).unwrap_or_default()
    }
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with(Face::Machine)
    }

    /// A clock that starts at `epoch` and moves with tokio's, which a test can pause.
    #[must_use]
    pub fn simulated(epoch: SystemTime) -> Self {
        Self::with(Face::Simulated { epoch, moved: Mutex::default(), leaps: false })
    }

    /// The same, where a sleep is not cut into slices: for a simulation of years.
    #[must_use]
    pub fn simulated_in_leaps(epoch: SystemTime) -> Self {
        Self::with(Face::Simulated { epoch, moved: Mutex::default(), leaps: true })
    }

    fn with(face: Face) -> Self {
        let started = Instant::now();
        let pace = Mutex::new(Pace::new(face.read(started)));
        let (ticks, is_ticking) = (watch::Sender::new(()), AtomicBool::new(false));
        Self(Arc::new(Inner { started, face, pace, ticks, is_ticking }))
    }

    /// The time by which tokens age. It never goes back.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let (reading, pace) = self.paced();
        pace.ours_at_boot + reading.boot
    }

    /// What the wall clock shows.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.paced().0.wall
    }

    /// When, by the wall clock, our time is `ours`: for people, and for the disk.
    #[must_use]
    pub fn to_wall(&self, ours: SystemTime) -> SystemTime {
        ours.checked_sub(self.paced().1.ahead()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Our time when the wall clock shows `wall`.
    #[must_use]
    pub fn from_wall(&self, wall: SystemTime) -> SystemTime {
        wall.checked_add(self.paced().1.ahead()).unwrap_or(wall)
    }

    fn paced(&self) -> (Reading, Pace) {
        let reading = self.0.face.read(self.0.started);
        let mut pace = self.0.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.follow(reading);
        (reading, *pace)
    }

    /// In a simulation: sets the wall clock forward.
    pub fn set_forward(&self, by: Duration) {
        self.shift(|moved| moved.wall.0 += by);
    }

    /// In a simulation: sets the wall clock back.
    pub fn set_back(&self, by: Duration) {
        self.shift(|moved| moved.wall.1 += by);
    }

    /// In a simulation: the machine was suspended, and wakes up.
    pub fn resume_after(&self, pause: Duration) {
        self.shift(|moved| moved.boot += pause);
    }

    fn shift(&self, change: impl FnOnce(&mut Moved)) {
        if let Face::Simulated { moved, .. } = &self.0.face {
            change(&mut moved.lock().unwrap_or_else(PoisonError::into_inner));
            // As the timer does that is cancelled when the clock is set, or is late.
            self.0.ticks.send_replace(());
        }
    }

    /// For how long the program has run; stands still while the machine is
    /// suspended, and is not moved by whoever sets the wall clock.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Sleeps until it is `deadline`, however time got there.
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
            let slice = until_slice_ends(self.wall());
            let is_ticking = self.0.is_ticking.load(Ordering::Relaxed);
            let pause = match self.0.face {
                Face::Simulated { leaps: true, .. } => left,
                _ if is_ticking && left >= slice => BACKSTOP,
                _ => left.min(slice),
            };
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
        earliest + until_slice_ends(self.to_wall(earliest))
    }

    /// Sleeps for `pause`.
    pub async fn sleep(&self, pause: Duration) {
        self.sleep_until(self.now() + pause).await;
    }

    /// Waits for something that takes its own time, a cloud or a disk, and is woken at least
    /// once in each slice meanwhile, as a sleeper is: so that who waits is seen to turn.
    pub async fn attend<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                output = &mut work => return output,
                () = self.sleep_until(self.tick_after(Duration::ZERO)) => {}
            }
        }
    }

    /// Ticks, for ever. Without it everything goes on, with more wake-ups and a
    /// minute late after the machine was suspended.
    #[expect(clippy::disallowed_methods, reason = "one of the two places that may sleep")]
    pub async fn tick(self) {
        let mut timer = WallTimer::new().ok();
        loop {
            let started = self.monotonic();
            let wall = self.wall();
            let pause = until_slice_ends(wall);
            let is_exact = match &mut timer {
                Some(timer) => timer.sleep_until(wall + pause).await.is_ok(),
                None => false,
            };
            self.0.is_ticking.store(is_exact, Ordering::Relaxed);
            if !is_exact {
                timer = None;
                self.sleep(pause).await;
            }
            self.0.ticks.send_replace(());
            // Where the timer goes by another clock than the one that is shown (a program's
            // view of the time can be made up for it), it could end at once, again and again.
            let took = self.monotonic().saturating_sub(started);
            tokio::time::sleep(SHORTEST_TICK.saturating_sub(took)).await;
        }
    }
}

const SHORTEST_TICK: Duration = Duration::from_millis(100);

impl Face {
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    fn read(&self, started: Instant) -> Reading {
        match self {
            Self::Machine => loop {
                let before = since_boot(started);
                let wall = SystemTime::now();
                let boot = since_boot(started);
                // A thread can be held up between two looks at two clocks.
                if boot.saturating_sub(before) < STEP / 10 {
                    return Reading { wall, boot };
                }
            },
            Self::Simulated { epoch, moved, .. } => {
                let moved = *moved.lock().unwrap_or_else(PoisonError::into_inner);
                let boot = started.elapsed() + moved.boot;
                let (forward, back) = moved.wall;
                Reading { wall: *epoch + boot + forward - back, boot }
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn since_boot(_: Instant) -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// Elsewhere the clock that tokio goes by has to do.
#[cfg(not(target_os = "linux"))]
fn since_boot(started: Instant) -> Duration {
    started.elapsed()
}

/// Two clocks that drift apart by less are taken for well.
const STEP: Duration = Duration::from_millis(500);

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

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_with_whichever_clock_went_further_and_never_back() {
        let (start, hour) = (SystemTime::UNIX_EPOCH + SLICE, Duration::from_hours(1));
        let clock = Clock::simulated(start);
        clock.set_back(hour);
        assert_eq!((clock.now(), clock.wall()), (start, start - hour));
        clock.sleep(SLICE).await;
        let elapsed = clock.now().duration_since(start).unwrap();
        assert!(elapsed >= SLICE && elapsed < SLICE + Duration::from_secs(1), "{elapsed:?}");
        // Put right again: that counts, since nobody knows which of the two was wrong.
        let before = clock.now();
        clock.set_forward(hour);
        assert_eq!(clock.now(), before + hour);
        clock.resume_after(hour);
        assert_eq!(clock.now(), before + 2 * hour);
        assert_eq!(clock.wall(), clock.to_wall(clock.now()));
        assert_eq!(clock.from_wall(clock.wall()), clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_by_either_clock() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let started = clock.monotonic();
        let day = Duration::from_hours(24);
        tokio::join!(clock.sleep(day), async {
            clock.sleep(Duration::from_secs(5)).await;
            clock.resume_after(day);
        });
        assert!(clock.monotonic() - started < Duration::from_secs(6));
        tokio::join!(clock.sleep(day), async {
            clock.sleep(Duration::from_secs(5)).await;
            clock.set_back(Duration::from_hours(400));
        });
        let late = clock.monotonic() - started;
        assert!(late >= day && late < day + Duration::from_secs(10), "{late:?}");
    }

    #[test]
    fn two_looks_that_are_not_of_the_same_moment_do_not_add_up() {
        let wall = SystemTime::UNIX_EPOCH + SLICE;
        let mut pace = Pace::new(Reading { wall, boot: SLICE });
        for round in 0..1000_u32 {
            let late = Duration::from_millis(if round % 2 == 0 { 400 } else { 0 });
            let passed = Duration::from_secs(round.into());
            pace.follow(Reading { wall: wall + passed + late, boot: SLICE + passed });
        }
        assert_eq!(pace.ours_at_boot, wall - SLICE);
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
