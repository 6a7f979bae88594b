//! What is wrong, and what to do about it.

use std::time::SystemTime;

use super::ago;
use super::page::{Line, Look, Page, look};
use crate::status::{Wrong, parse_time};

/// One trouble in lines: whose it is and what, and what to do about it.
pub(super) fn lines(wrong: &Wrong<'_>, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
    let Wrong { verdict, trouble, .. } = wrong;
    let sentence = format!("{}: {}", named(&wrong.places, page), page.harmless(&trouble.message));
    let symbol = format!("{} ", page.symbol(*verdict));
    let mut lines = page.words(Line::new(look(*verdict), &symbol), INDENT, Look::Bold, &sentence);
    let since = match &trouble.since {
        None => "an unknown time".to_owned(),
        Some(since) if parse_time(since).is_some() && now.is_some() => {
            format!("{} ({})", page.harmless(since), ago(Some(since), now))
        }
        Some(since) => page.harmless(since),
    };
    let times = match trouble.count {
        1 => "once".to_owned(),
        count => format!("{count} times in a row"),
    };
    let mut facts = vec![("kind", page.harmless(&trouble.kind))];
    if !wrong.hosts.is_empty() {
        facts.push(("hides", named(&wrong.hosts, page)));
    }
    facts.extend([("since", format!("{since}, {times}")), ("do", page.harmless(&trouble.remedy))]);
    for (title, words) in facts {
        let mut first = Line::new(Look::Plain, &" ".repeat(INDENT));
        first.push(Look::Dim, title);
        first.pad_to(TITLE_END);
        lines.extend(page.words(first, TITLE_END, Look::Plain, &words));
    }
    lines
}

/// Who has it. Where there is an end to the page, the table has the names.
fn named(places: &[&str], page: &Page) -> String {
    let mut names: Vec<String> = places.iter().map(|one| page.harmless(one)).collect();
    names.dedup();
    if page.width.is_some() && names.len() > MOST_NAMED {
        let more = names.len() - MOST_NAMED;
        names.truncate(MOST_NAMED);
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

/// Under the words, not under the sign.
const INDENT: usize = 2;
/// After the longest title and two blanks.
const TITLE_END: usize = INDENT + 7;

const MOST_NAMED: usize = 3;
