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
    let watchdog = sd_notify::watchdog_enabled();
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
            send(&news);
        }
        told = now;
        let next =
            if pause > SLICE { clock.tick_after(Duration::ZERO) } else { clock.now() + pause };
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
