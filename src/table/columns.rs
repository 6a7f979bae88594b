//! The rows of the credentials, in as many columns as there is room for.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::page::{Line, Look, Page, look};
use super::{short, text};
use crate::status::{CredentialReport, Verdict, parse_time};

/// Which columns there are, and how wide.
pub(super) struct Columns<'a> {
    page: &'a Page,
    now: Option<SystemTime>,
    credentials: &'a [&'a CredentialReport],
    host: usize,
    kind: usize,
    life: usize,
    left: usize,
    next: usize,
    why: usize,
}

impl<'a> Columns<'a> {
    /// What fits. The reasons go first, as they are told below then, and the bar gets
    /// shorter; then the next refresh goes, which the bar shows; then the bar.
    pub(super) fn new(
        credentials: &'a [&'a CredentialReport],
        now: Option<SystemTime>,
        page: &'a Page,
    ) -> Self {
        let longest = |title: &str, cell: &dyn Fn(&CredentialReport) -> String| {
            let widths = credentials.iter().map(|check| text::width(&cell(check)));
            widths.max().unwrap_or(0).max(text::width(title))
        };
        let host = longest(HOST, &|check| page.harmless(&check.component_id));
        let kind = longest(KIND, &|check| page.harmless(&check.kind));
        let left = longest(LEFT, &left).min(LONGEST_TIME);
        let next = longest(NEXT, &|check| next(check, now)).min(LONGEST_TIME);
        let why = longest(WHY, &|check| why(check, page));
        let mut columns =
            Self { page, now, credentials, host, kind, life: USUAL_LIFE, left, next, why };
        let Some(width) = page.width else { return columns };
        // Kind, the least of the life, next, the least of why, the least of the host.
        let all = host.min(WHOLE_HOST);
        let choices = [
            (kind, LIFE, next, why.min(LEAST_WHY), all),
            (0, LIFE, next, why.min(LEAST_WHY), all),
            (0, LIFE, next, 0, host.min(HOST_WITH_SERVICE)),
            (0, LEAST_LIFE, next, 0, host.min(ACCOUNT_AND_REGION)),
            (0, LEAST_LIFE, 0, 0, host.min(ACCOUNT_AND_REGION)),
            (0, 0, 0, 0, 1),
        ];
        for (kind, life, next, why, least) in choices {
            (columns.kind, columns.life, columns.next, columns.why) = (kind, life, next, why);
            columns.host = least;
            if columns.width() <= width {
                break;
            }
        }
        let mut room = width.saturating_sub(columns.width());
        let mut give = |to: &mut usize, most: usize| {
            let more = most.saturating_sub(*to).min(room);
            *to += more;
            room -= more;
        };
        give(&mut columns.host, host);
        if columns.why > 0 {
            give(&mut columns.why, why);
        }
        if columns.life > 0 {
            give(&mut columns.life, LONGEST_LIFE);
        }
        columns
    }

    fn width(&self) -> usize {
        let others = [self.host, self.kind, self.life, self.left, self.next, self.why];
        let others = others.iter().filter(|width| **width > 0);
        STATE_WIDTH + others.map(|width| GAP + width).sum::<usize>()
    }

    /// The titles.
    pub(super) fn header(&self) -> Line {
        let titles =
            [HOST, KIND, LIFE_TITLE, LEFT, NEXT, WHY].map(|title| Line::new(Look::Dim, title));
        self.line(Line::new(Look::Dim, "STATE"), titles)
    }

    /// The row of one.
    pub(super) fn row(&self, check: &CredentialReport) -> Line {
        let ellipsis = self.page.ellipsis();
        let plain = |text: &str, limit| Line::new(Look::Plain, &text::cut(text, limit, ellipsis));
        let host = self.page.harmless(&check.component_id);
        let is_well = check.status == Verdict::Pass;
        let host = Line::new(
            if is_well { Look::Plain } else { Look::Bold },
            &text::shorten_host(&host, self.host, ellipsis),
        );
        let cells = [
            host,
            plain(&self.page.harmless(&check.kind), self.kind),
            self.bar(check),
            plain(&left(check), self.left),
            plain(&next(check, self.now), self.next),
            plain(&why(check, self.page), self.why),
        ];
        self.line(self.page.state(check.status), cells)
    }

    fn line(&self, state: Line, cells: [Line; 6]) -> Line {
        let widths = [self.host, self.kind, self.life, self.left, self.next, self.why];
        let mut line = state;
        let mut end = STATE_WIDTH;
        for (cell, width) in cells.into_iter().zip(widths).filter(|(_, width)| *width > 0) {
            line.pad_to(end + GAP);
            line.append(cell);
            end += GAP + width;
        }
        line
    }

    /// Why each is refreshed then, as far as no column has room for it.
    pub(super) fn reasons(&self) -> Vec<Line> {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for check in self.credentials.iter().filter(|check| check.next_refresh_reason.is_some()) {
            let reason = why(check, self.page);
            if text::width(&reason) > self.why {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let all = self.credentials.len();
        let sentences = reasons.iter().map(|(reason, count)| match *count {
            count if count == all => format!("next refresh: {reason}"),
            count => format!("next refresh of {count}: {reason}"),
        });
        let indent = STATE_WIDTH + GAP;
        let blank = Line::new(Look::Plain, &" ".repeat(indent));
        sentences
            .flat_map(|sentence| self.page.words(blank.clone(), indent, Look::Dim, &sentence))
            .collect()
    }

    /// A life from its start to its end: full is what is left, and a mark is where the
    /// next one is fetched.
    fn bar(&self, check: &CredentialReport) -> Line {
        if check.never_expires {
            let rest = if self.page.has_unicode { "█" } else { "#" };
            return Line::new(look(check.status), &rest.repeat(self.life));
        }
        let time = |text: &Option<String>| text.as_deref().and_then(parse_time);
        let (issued, expires) = (time(&check.issued), time(&check.expires));
        let (Some(issued), Some(expires), Some(now)) = (issued, expires, self.now) else {
            return Line::new(Look::Dim, "-");
        };
        let length = expires.duration_since(issued).unwrap_or_default();
        let left = cells(expires.duration_since(now).unwrap_or_default(), length, self.life);
        let mark = time(&check.next_refresh).filter(|next| *next < expires).map(|next| {
            cells(next.duration_since(issued).unwrap_or_default(), length, self.life).max(1) - 1
        });
        let (gone, rest, sign) =
            if self.page.has_unicode { ("░", "█", "│") } else { (".", "#", "|") };
        let mut bar = Line::default();
        for cell in 0..self.life {
            if mark == Some(cell) {
                bar.push(Look::Bold, sign);
            } else if cell < self.life - left {
                bar.push(Look::Dim, gone);
            } else {
                bar.push(look(check.status), rest);
            }
        }
        bar
    }
}

/// How many of `all` cells a part is; what is not nothing is one at least.
fn cells(part: Duration, whole: Duration, all: usize) -> usize {
    let (part, whole) = (part.as_millis(), whole.as_millis().max(1));
    let cells = (part.saturating_mul(all as u128)).div_ceil(whole);
    usize::try_from(cells).map_or(all, |cells| cells.min(all))
}

fn left(check: &CredentialReport) -> String {
    match check.observed_value {
        Some(0) => "expired".to_owned(),
        Some(seconds) => short(Duration::from_secs(seconds)),
        None if check.never_expires => "no end".to_owned(),
        None => "-".to_owned(),
    }
}

fn next(check: &CredentialReport, now: Option<SystemTime>) -> String {
    let next = check.next_refresh.as_deref().and_then(parse_time);
    let (Some(next), Some(now)) = (next, now) else { return "-".to_owned() };
    match next.duration_since(now) {
        Ok(pause) if !pause.is_zero() => format!("in {}", short(pause)),
        _ => "now".to_owned(),
    }
}

fn why(check: &CredentialReport, page: &Page) -> String {
    page.harmless(check.next_refresh_reason.as_deref().unwrap_or("-"))
}

const HOST: &str = "REGISTRY";
const KIND: &str = "KIND";
const LIFE_TITLE: &str = "LIFE";
const LEFT: &str = "LEFT";
const NEXT: &str = "NEXT";
const WHY: &str = "WHY THEN";

/// A sign, a blank, and a word of four letters.
pub(super) const STATE_WIDTH: usize = 6;
/// Between two columns.
pub(super) const GAP: usize = 2;

/// `in 11h 59m`.
const LONGEST_TIME: usize = 10;

const LEAST_LIFE: usize = 6;
const LIFE: usize = 10;
const USUAL_LIFE: usize = 20;
const LONGEST_LIFE: usize = 30;

/// Half of the usual reasons are no longer.
const LEAST_WHY: usize = 29;

/// `123456789012.dkr.ecr.eu-west-1.amazonaws.com`.
const WHOLE_HOST: usize = 44;
/// `123456789012.dkr.ecr.eu-west-1…`.
const HOST_WITH_SERVICE: usize = 31;
/// `123456789012…eu-west-1…`.
const ACCOUNT_AND_REGION: usize = 23;
