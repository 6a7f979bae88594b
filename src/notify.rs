//! Tells systemd how the daemon is, where systemd asked for it (`Type=notify`).

use sd_notify::NotifyState;
use tracing::warn;

/// The first pass is over: each registry was asked, each target was looked at.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing, which is no error.
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd was not notified");
    }
}
