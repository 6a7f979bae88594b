//! Another program that takes away what is put back.

use std::time::{Duration, SystemTime};

use crate::schedule;

/// How often it has pulled, and when it is to be put back next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tug {
    pub(super) times: u32,
    last: Option<SystemTime>,
    /// Nothing is put back before then.
    pub(super) until: Option<SystemTime>,
}

impl Tug {
    /// Counts one more, and says how long to wait before the next.
    pub(super) fn pulled(&mut self, now: SystemTime) -> Duration {
        if self.is_over(now) {
            self.times = 0;
        }
        self.times = self.times.saturating_add(1);
        self.last = Some(now);
        let pause = schedule::after_overwrite(self.times);
        self.until = (!pause.is_zero()).then(|| now + pause);
        pause
    }

    /// Whether nobody has pulled for long enough; the pause that is made because of it does not
    /// end it.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        let pause = schedule::after_overwrite(self.times);
        self.last.is_none_or(|last| now >= last + pause + schedule::TUG_ENDS)
    }
}
