//! Tells systemd how the daemon is, where systemd asked for it (`Type=notify`,
//! `WatchdogSec=`): <https://www.freedesktop.org/software/systemd/man/sd_notify.html>.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::{Clock, SLICE};
use crate::status::{Report, Status, Verdict};

/// The first pass is over, or new settings are gone by: each registry was asked, each
/// target was looked at.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// New settings are being read.
pub fn reloading() {
    // systemd wants to know when it began.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Says in a line how it is whenever that changes, and feeds the watchdog while every loop
/// turns, until `stop`.
///
/// One that hangs takes the food away, as it makes `/livez` say so; nothing about a cloud or
/// a disk does. So what systemd restarts is a program that cannot go on by itself.
pub async fn keep_telling(status: Arc<Status>, clock: Clock, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return stop.cancelled().await;
    }
    keep_telling_to(send, sd_notify::watchdog_enabled(), status, clock, stop).await;
}

async fn keep_telling_to(
    tell: impl Fn(&[NotifyState<'_>]),
    watchdog: Option<Duration>,
    status: Arc<Status>,
    clock: Clock,
    stop: CancellationToken,
) {
    // systemd advises half of the time. What is not urgent waits for the tick that wakes
    // everybody.
    let pause = watchdog.map_or(SLICE, |limit| limit / 2);
    let mut told = String::new();
    loop {
        let mut news = Vec::new();
        if watchdog.is_some() && status.is_live() {
            news.push(NotifyState::Watchdog);
        }
        let now = summary(&status.report());
        if now != told {
            news.push(NotifyState::Status(&now));
        }
        if !news.is_empty() {
            tell(&news);
        }
        told = now;
        let next =
            if pause > SLICE { clock.tick_after(Duration::ZERO) } else { clock.now() + pause };
        // Nothing but time makes a credential expire.
        let next = status.next_expiry().map_or(next, |expiry| next.min(expiry));
        let judged = status.judgement();
        let is_changed = async {
            // No more often than people read.
            clock.sleep(SHORTEST_PAUSE).await;
            status.changed_from(judged).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = clock.sleep_until(next) => {}
            () = is_changed => {}
        }
    }
}

/// A line for `systemctl status`.
fn summary(report: &Report) -> String {
    let checks = &report.checks.credentials;
    let ready = checks.iter().filter(|check| check.status != Verdict::Fail).count();
    let mut text = format!("{ready} of {} registries are ready", checks.len());
    // The first that is worst.
    if let Some(first) = report.output.first() {
        text.push_str(": ");
        text.extend(first.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST));
        if report.output.len() > 1 {
            text.push_str(", and more");
        }
    }
    text
}

fn send(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing, which is no error.
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd was not notified");
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;
    use crate::sources::Origin;

    const MINUTE: Duration = Duration::from_mins(1);

    /// What is told within `pause`, while a loop turns or hangs.
    async fn told(watchdog: Option<Duration>, pause: Duration, is_well: bool) -> Vec<String> {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let known = [("gcr.io".parse().unwrap(), Origin::Google(None))];
        let targets = Vec::<(std::path::PathBuf, &str)>::new();
        let status = Arc::new(Status::new(clock.clone(), known, targets));
        let pulse = status.pulse();
        if is_well {
            let clock = clock.clone();
            tokio::spawn(pulse.watch(async move { clock.sleep(MINUTE * 1000).await }));
        }
        let (stop, told) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let tell = {
            let told = Arc::clone(&told);
            move |news: &[NotifyState<'_>]| {
                told.lock().unwrap().extend(news.iter().map(ToString::to_string));
            }
        };
        let telling = keep_telling_to(tell, watchdog, status, clock.clone(), stop.clone());
        let telling = tokio::spawn(telling);
        clock.sleep(pause).await;
        stop.cancel();
        telling.await.unwrap();
        let told = told.lock().unwrap();
        told.clone()
    }

    fn fed(told: &[String]) -> usize {
        told.iter().filter(|one| *one == "WATCHDOG=1").count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_the_loops_turn_and_starves_when_one_hangs() {
        let limit = 3 * MINUTE;
        let well = told(Some(limit), MINUTE * 30, true).await;
        assert!((20..=32).contains(&fed(&well)), "{well:?}");
        let hanging = told(Some(limit), MINUTE * 30, false).await;
        assert!(fed(&hanging) <= 4, "{hanging:?}");
        // As often as a shorter limit needs it.
        let short = told(Some(Duration::from_secs(20)), MINUTE * 2, true).await;
        assert!((12..=14).contains(&fed(&short)), "{short:?}");
        assert_eq!(fed(&told(None, MINUTE * 30, true).await), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn how_it_is_is_told_once() {
        let told = told(None, MINUTE * 30, true).await;
        assert_eq!(
            told,
            ["STATUS=0 of 1 registries are ready: gcr.io: there is no credential yet"]
        );
    }
}
