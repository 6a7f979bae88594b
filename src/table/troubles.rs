//! What is wrong, worst first, and what to do about it.

use std::cmp::Reverse;
use std::time::SystemTime;

use super::page::{Line, Look, Page, look};
use super::{ago, parse};
use crate::status::{Report, Trouble, Verdict};

/// Something that is wrong, with everything that has it.
pub(super) struct Entry<'a> {
    verdict: Verdict,
    whose: Vec<&'a str>,
    trouble: &'a Trouble,
    since: Option<&'a String>,
    count: u32,
}

/// All that a report tells of. A cloud that is away is one trouble, however many
/// registries it has.
pub(super) fn of(report: &Report) -> Vec<Entry<'_>> {
    let checks = &report.checks;
    let mut found: Vec<(Verdict, &str, &Trouble)> = Vec::new();
    for check in &checks.credentials {
        let troubles = check.not_ready.iter().chain(&check.last_error);
        found.extend(troubles.map(|one| (check.status, check.component_id.as_str(), one)));
    }
    for check in &checks.targets {
        let troubles = check.last_error.iter().chain(&check.in_the_way);
        found.extend(troubles.map(|one| (check.status, check.component_id.as_str(), one)));
    }
    for check in &checks.hooks {
        let troubles = check.last_error.iter();
        found.extend(troubles.map(|one| (check.status, check.component_id.as_str(), one)));
    }
    for check in &checks.settings {
        found.push((check.status, "the settings", &check.last_error));
    }
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (verdict, whose, trouble) in found {
        let same = entries.iter_mut().find(|entry| {
            (entry.verdict, &entry.trouble.kind) == (verdict, &trouble.kind)
                && entry.trouble.message == trouble.message
                && entry.trouble.remedy == trouble.remedy
        });
        if let Some(entry) = same {
            entry.whose.push(whose);
            // RFC 3339 in UTC sorts as time does.
            entry.since = match (entry.since, trouble.since.as_ref()) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            entry.count = entry.count.max(trouble.count);
        } else {
            let (since, count) = (trouble.since.as_ref(), trouble.count);
            entries.push(Entry { verdict, whose: vec![whose], trouble, since, count });
        }
    }
    entries.sort_by_key(|entry| Reverse(entry.verdict));
    entries
}

impl Entry<'_> {
    pub(super) fn lines(&self, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
        let mut whose: Vec<String> = self.whose.iter().map(|one| page.harmless(one)).collect();
        whose.dedup();
        // Where there is an end to the page, the table has the names.
        if page.width.is_some() && whose.len() > MOST_NAMED {
            let more = whose.len() - MOST_NAMED;
            whose.truncate(MOST_NAMED);
            whose.push(format!("and {more} more"));
        }
        let sentence = format!("{}: {}", whose.join(", "), page.harmless(&self.trouble.message));
        let symbol = format!("{} ", page.symbol(self.verdict));
        let mut lines =
            page.words(Line::new(look(self.verdict), &symbol), INDENT, Look::Bold, &sentence);
        let since = match self.since {
            None => "an unknown time".to_owned(),
            Some(since) if parse(since).is_some() && now.is_some() => {
                format!("{} ({})", page.harmless(since), ago(Some(since), now))
            }
            Some(since) => page.harmless(since),
        };
        let times = match self.count {
            1 => "once".to_owned(),
            count => format!("{count} times in a row"),
        };
        for (title, words) in [
            ("kind", self.trouble.kind.as_str()),
            ("since", &format!("{since}, {times}")),
            ("do", &self.trouble.remedy),
        ] {
            let mut first = Line::new(Look::Plain, &" ".repeat(INDENT));
            first.push(Look::Dim, title);
            first.pad_to(TITLE_END);
            let words = page.harmless(words);
            lines.extend(page.words(first, TITLE_END, Look::Plain, &words));
        }
        lines
    }
}

/// Under the words, not under the sign.
const INDENT: usize = 2;
/// After the longest title and two blanks.
const TITLE_END: usize = INDENT + 7;

const MOST_NAMED: usize = 3;
