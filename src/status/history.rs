//! What came of the fetches of the last day, by the quarter of an hour: enough to see
//! when it went wrong and for how long, in a few bytes.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// One registry's day. Quarters in which nothing happened take no place.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(VecDeque<Quarter>);

/// What happened in a quarter of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quarter {
    /// Its number since the epoch.
    number: u64,
    /// How many new credentials came.
    pub(crate) renewals: u32,
    /// How many fetches failed.
    pub(crate) failures: u32,
}

impl History {
    /// A new credential came.
    pub(crate) fn renewed(&mut self, now: SystemTime) {
        let quarter = self.at(now);
        quarter.renewals = quarter.renewals.saturating_add(1);
    }

    /// A fetch failed.
    pub(crate) fn failed(&mut self, now: SystemTime) {
        let quarter = self.at(now);
        quarter.failures = quarter.failures.saturating_add(1);
    }

    /// The quarters of the day that ends `now`, oldest first.
    pub(crate) fn of_last_day(&self, now: SystemTime) -> impl Iterator<Item = &Quarter> {
        let oldest = oldest(now);
        self.0.iter().filter(move |quarter| quarter.number >= oldest)
    }

    fn at(&mut self, now: SystemTime) -> &mut Quarter {
        let oldest = oldest(now);
        while self.0.front().is_some_and(|quarter| quarter.number < oldest) {
            self.0.pop_front();
        }
        let number = number(now);
        // Our time never goes back, so what is there is not newer.
        if self.0.back().is_none_or(|quarter| quarter.number < number) {
            self.0.push_back(Quarter { number, renewals: 0, failures: 0 });
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

impl Quarter {
    /// When it began.
    pub(crate) fn start(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.number * QUARTER.as_secs())
    }
}

fn number(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / QUARTER.as_secs()
}

fn oldest(now: SystemTime) -> u64 {
    (number(now) + 1).saturating_sub(QUARTERS)
}

/// How long a quarter is.
pub const QUARTER: Duration = Duration::from_mins(15);

/// A day's.
pub const QUARTERS: u64 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_and_no_more() {
        let start = SystemTime::UNIX_EPOCH + QUARTER * 1_000_000;
        let mut history = History::default();
        for quarter in 0..500 {
            let now = start + QUARTER * quarter;
            history.renewed(now);
            history.failed(now + QUARTER / 2);
            history.failed(now + QUARTER / 2);
            assert!(history.0.len() <= 96);
        }
        let now = start + QUARTER * 499;
        let day: Vec<_> = history.of_last_day(now).collect();
        assert_eq!(day.len(), 96);
        assert!(day.iter().all(|quarter| (quarter.renewals, quarter.failures) == (1, 2)));
        assert_eq!(day[0].start(), start + QUARTER * 404);
        // Nothing happened since.
        assert_eq!(history.of_last_day(now + QUARTER * 50).count(), 46);
        assert_eq!(history.of_last_day(now + QUARTER * 96).count(), 0);
    }
}
