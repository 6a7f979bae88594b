//! A report as people read it: whether all is well, each credential's life, and
//! what to do about what is not well.

use std::time::{Duration, SystemTime};

use crate::status::{
    CredentialReport, ElectionReport, HookReport, Report, TargetReport, Verdict, parse_time,
};

mod columns;
mod page;
mod text;
mod troubles;

pub use self::page::Page;

use self::columns::Columns;
use self::page::{Line, Look};
use self::text::harmless;

/// The report, worst first: a headline, a row for each credential, the files, the
/// hooks, and what is wrong.
#[must_use]
pub fn table(report: &Report, page: &Page) -> String {
    page.draw(fit(sheet(report, page), page))
}

/// That nobody answers, and what was said last.
#[must_use]
pub fn without_answer(why: &str, last: Option<&Report>, page: &Page) -> String {
    let mut lines = page.words(
        Line::new(Look::Bad, &format!("{} no answer: ", page.symbol(Verdict::Fail))),
        2,
        Look::Bold,
        &page.harmless(why),
    );
    lines.push(Line::default());
    let Some(last) = last else { return page.draw(fit(Sheet::of(lines), page)) };
    let time = page.harmless(&last.time);
    lines.extend(page.words(Line::default(), 0, Look::Dim, &format!("The last one, of {time}:")));
    let mut sheet = sheet(last, page);
    lines.append(&mut sheet.head);
    sheet.head = lines;
    page.draw(fit(sheet, page))
}

/// What is drawn, in three parts: where there is no room for all, rows are left out.
struct Sheet {
    head: Vec<Line>,
    rows: Vec<Line>,
    rest: Vec<Line>,
}

impl Sheet {
    fn of(head: Vec<Line>) -> Self {
        Self { head, rows: Vec::new(), rest: Vec::new() }
    }
}

fn sheet(report: &Report, page: &Page) -> Sheet {
    let now = parse_time(&report.time);
    let mut head = headline(report, page);
    let mut rows = Vec::new();
    let mut rest = Vec::new();
    let mut credentials: Vec<&CredentialReport> = report.checks.credentials.iter().collect();
    credentials.sort_by_key(|check| std::cmp::Reverse(check.status));
    if !credentials.is_empty() {
        head.push(Line::default());
        let columns = Columns::new(&credentials, now, page);
        head.push(columns.header());
        rows = credentials.iter().map(|check| columns.row(check)).collect();
        rest.extend(columns.reasons());
    }
    let mut targets: Vec<&TargetReport> = report.checks.targets.iter().collect();
    targets.sort_by_key(|check| std::cmp::Reverse(check.status));
    section(&mut rest, "FILES", targets.iter().flat_map(|check| target(check, now, page)));
    let mut secrets: Vec<&TargetReport> = report.checks.secrets.iter().collect();
    secrets.sort_by_key(|check| std::cmp::Reverse(check.status));
    section(&mut rest, "SECRETS", secrets.iter().flat_map(|check| secret(check, now, page)));
    let elections = report.checks.elections.iter();
    section(&mut rest, "REPLICAS", elections.flat_map(|check| election(check, now, page)));
    let mut hooks: Vec<&HookReport> = report.checks.hooks.iter().collect();
    hooks.sort_by_key(|check| std::cmp::Reverse(check.status));
    section(&mut rest, "HOOKS", hooks.iter().flat_map(|check| hook(check, now, page)));
    let troubles = report.troubles();
    let lines = troubles.iter().flat_map(|one| troubles::lines(one, now, page));
    section(&mut rest, "TROUBLES", lines);
    Sheet { head, rows, rest }
}

/// Whether all is well, in words that take a second to read, and when it was so.
fn headline(report: &Report, page: &Page) -> Vec<Line> {
    let checks = &report.checks;
    let ready = checks.credentials.iter().filter(|check| check.status != Verdict::Fail).count();
    let all = checks.credentials.len();
    let states = || {
        let files = checks.targets.iter().map(|check| check.status);
        let secrets = checks.secrets.iter().map(|check| check.status);
        let elections = checks.elections.iter().map(|check| check.status);
        let hooks = checks.hooks.iter().map(|check| check.status);
        let settings = checks.settings.iter().map(|check| check.status);
        checks
            .credentials
            .iter()
            .map(|check| check.status)
            .chain(files)
            .chain(secrets)
            .chain(elections)
            .chain(hooks)
            .chain(settings)
    };
    let mut words = match (ready, all) {
        (_, 0) => "no registry is kept fresh".to_owned(),
        (1, 1) => "1 of 1 registry is ready".to_owned(),
        (1, all) => format!("1 of {all} registries is ready"),
        (ready, 1) => format!("{ready} of 1 registry is ready"),
        (ready, all) => format!("{ready} of {all} registries are ready"),
    };
    let counts: Vec<String> = [Verdict::Fail, Verdict::Warn]
        .iter()
        .map(|verdict| (states().filter(|state| state == verdict).count(), verdict.as_str()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if !counts.is_empty() {
        words = format!("{words} ({})", counts.join(", "));
    }
    let symbol = format!("{} ", page.symbol(report.status));
    let mut lines =
        page.words(Line::new(page::look(report.status), &symbol), 2, Look::Bold, &words);
    let mut when = format!(
        "{} {} at {}",
        page.harmless(&report.service_id),
        page.harmless(&report.release_id),
        page.harmless(&report.time)
    );
    if let (Some(now), Some(started)) = (parse_time(&report.time), parse_time(&report.started)) {
        let up = now.duration_since(started).unwrap_or_default();
        when = format!("{when}, up {}", short(up));
    }
    lines.extend(page.words(Line::new(Look::Plain, "  "), 2, Look::Dim, &when));
    lines
}

fn target(check: &TargetReport, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
    let watched = if check.watched_by == "poll" { "polled" } else { "watched" };
    let mut facts = vec![format!("{} reads it", page.harmless(&check.reader)), watched.to_owned()];
    facts.extend(check.protection.as_ref().map(|words| page.harmless(words)));
    facts.push(format!("in order {}", ago(check.verified.as_ref(), now)));
    facts.push(format!("written {}", ago(check.last_write.as_ref(), now)));
    item(check.status, &check.component_id, &facts, page)
}

fn secret(check: &TargetReport, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
    let mut facts = Vec::new();
    if let Some(counts) = check.namespaces {
        facts.push(format!("fresh in {} of {} namespaces", counts.fresh, counts.wanted));
        let others = [
            (counts.older, "older"),
            (counts.missing, "missing"),
            (counts.foreign, "another's"),
            (counts.failing, "failing"),
        ];
        let others = others.iter().filter(|(count, _)| *count > 0);
        facts.extend(others.map(|(count, word)| format!("{count} {word}")));
    }
    facts.push(format!("in order {}", ago(check.verified.as_ref(), now)));
    facts.push(format!("written {}", ago(check.last_write.as_ref(), now)));
    item(check.status, &check.component_id, &facts, page)
}

fn election(check: &ElectionReport, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
    let who = match (&check.holder, check.leading) {
        (_, true) => "this one fetches and writes".to_owned(),
        (Some(holder), false) => {
            format!("this one stands by, {} fetches and writes", page.harmless(holder))
        }
        (None, false) => "this one stands by, nobody has the lease".to_owned(),
    };
    let facts = [who, format!("since {}", ago(check.since.as_ref(), now))];
    item(check.status, &check.component_id, &facts, page)
}

fn hook(check: &HookReport, now: Option<SystemTime>, page: &Page) -> Vec<Line> {
    let facts = [format!("last run {}", ago(check.last_run.as_ref(), now))];
    item(check.status, &check.component_id, &facts, page)
}

fn item(status: Verdict, name: &str, facts: &[String], page: &Page) -> Vec<Line> {
    let mut state = page.state(status);
    let indent = columns::STATE_WIDTH + columns::GAP;
    state.pad_to(indent);
    let mut lines = page.words(state, indent, Look::Plain, &page.harmless(name));
    let blank = Line::new(Look::Plain, &" ".repeat(indent));
    lines.extend(page.words(blank, indent, Look::Dim, &facts.join(", ")));
    lines
}

fn section(rest: &mut Vec<Line>, title: &str, lines: impl Iterator<Item = Line>) {
    let before = rest.len();
    rest.extend(lines);
    if rest.len() > before {
        rest.splice(before..before, [Line::default(), Line::new(Look::Dim, title)]);
    }
}

/// As many lines as there is room for: rows of what is well give way first.
fn fit(mut sheet: Sheet, page: &Page) -> Vec<Line> {
    let height = page.height.unwrap_or(usize::MAX);
    let total = sheet.head.len() + sheet.rows.len() + sheet.rest.len();
    let keep = sheet.rows.len().saturating_sub((total + 1).saturating_sub(height)).max(FEWEST_ROWS);
    if total > height && keep < sheet.rows.len() {
        let more = sheet.rows.len() - keep;
        sheet.rows.truncate(keep);
        sheet.rows.push(Line::new(Look::Dim, &format!("{} and {more} more", page.ellipsis())));
    }
    let mut lines = sheet.head;
    lines.append(&mut sheet.rows);
    lines.append(&mut sheet.rest);
    if lines.len() > height {
        let keep = height.saturating_sub(1);
        let more = lines.len() - keep;
        lines.truncate(keep);
        lines.push(Line::new(Look::Dim, &format!("{} {more} more lines", page.ellipsis())));
    }
    lines
}

/// How long ago something was, in words.
fn ago(time: Option<&String>, now: Option<SystemTime>) -> String {
    let Some(time) = time else { return "never".to_owned() };
    match (parse_time(time), now) {
        (Some(then), Some(now)) => {
            format!("{} ago", short(now.duration_since(then).unwrap_or_default()))
        }
        // Who sends another form of time sees it again.
        _ => harmless(time, false),
    }
}

/// The two largest units of a duration.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (0..4, hours, minutes, _) => format!("{hours}h {minutes:02}m"),
        (days, hours, ..) => format!("{days}d {:02}h", hours % 24),
    }
}

/// However much there is to say below, the worst are to be seen.
const FEWEST_ROWS: usize = 3;

#[cfg(test)]
mod tests;
