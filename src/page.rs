//! The page at `/`: a report for people who look at a browser.
//!
//! It is one document that asks for nothing else. It is whole without JavaScript; with it,
//! it keeps itself new and says so when nobody answers any more: an old answer must never
//! look like a new one.

mod pictures;
mod troubles;
mod words;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use self::pictures::{SHAPES, day, icon, life, tab_icon, what_happened};
use self::words::{add, count, escape, hour, length, prose, readable, relative, slug, when};
use crate::status::{CredentialReport, HookReport, Report, TargetReport, Verdict, parse_time};

/// The whole page about a report.
#[must_use]
pub fn page(report: &Report) -> String {
    let moment = Moment::of(report);
    let verdict = Saying::of(report, moment.now);
    let state = report.status.as_str();
    let title = escape(&verdict.title);
    let [icon, silent] = [Some(report.status), None].map(|verdict| {
        format!("data:image/svg+xml;base64,{}", BASE64_STANDARD.encode(tab_icon(verdict)))
    });
    let time = escape(&report.time);
    let main = [
        verdict.section(report),
        troubles::section(report, moment.now),
        registries(report, &moment),
        targets(report, &moment),
        secrets(report, &moment),
        hooks(report, &moment),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\" data-state=\"{state}\">\n<head>\n\
         <meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <link rel=\"icon\" href=\"{icon}\" data-silent=\"{silent}\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n\
         <style>{CSS}</style>\n</head>\n<body>\n{SHAPES}\n\
         <header><p class=\"name\">{MARK}freshcreds</p>\
         <p id=\"moment\"><span class=\"beat\" aria-hidden=\"true\"></span>\
         <span id=\"pace\">as of</span> <time datetime=\"{time}\">{}</time></p>\
         <p id=\"news\" class=\"quiet\" role=\"status\"></p>\
         <div id=\"silence\" role=\"alert\"></div></header>\n\
         <main data-time=\"{time}\">{main}</main>\n{}\n<script>{JS}</script>\n</body>\n</html>\n",
        escape(&clock(&report.time)),
        footer(report, &moment),
    )
}

/// What a browser may do with the page: use its own style and script, ask its own address
/// again, and nothing else.
#[must_use]
pub fn content_security_policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let [style, script] =
            [CSS, JS].map(|text| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())));
        format!(
            "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        )
    });
    &POLICY
}

/// The moment that the page is about.
struct Moment<'a> {
    text: &'a str,
    now: SystemTime,
    started: Option<SystemTime>,
}

impl<'a> Moment<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            text: &report.time,
            // A report always says when it was made; without that all of it would be long ago.
            now: parse_time(&report.time).unwrap_or(SystemTime::UNIX_EPOCH),
            started: parse_time(&report.started),
        }
    }

    /// How far away a time is, and which hour that is.
    fn show(&self, time: Option<&String>) -> String {
        let Some(time) = time else { return "never".to_owned() };
        format!("{} <small>{}</small>", when(time, self.now), hour(time, self.text))
    }

    /// The same of what is planned; what should have begun is about to.
    fn show_next(&self, time: Option<&String>) -> String {
        match time {
            None => "not planned".to_owned(),
            Some(time) if parse_time(time).is_some_and(|time| time <= self.now) => {
                "due now".to_owned()
            }
            time => self.show(time),
        }
    }
}

/// What is said first, and largest.
struct Saying {
    title: String,
    headline: String,
    detail: String,
}

impl Saying {
    fn of(report: &Report, now: SystemTime) -> Self {
        let credentials = &report.checks.credentials;
        let all = credentials.len();
        let number = |verdict| credentials.iter().filter(|check| check.status == verdict).count();
        let (failed, degraded) = (number(Verdict::Fail), number(Verdict::Warn));
        let everyone = match all {
            1 => "The registry is ready".to_owned(),
            2 => "Both registries are ready".to_owned(),
            _ => format!("All {all} registries are ready"),
        };
        let (title, headline) = match report.status {
            _ if all == 0 => {
                ("nothing to keep fresh".to_owned(), "No registry is kept fresh here".to_owned())
            }
            Verdict::Pass => (format!("{all} ready"), everyone),
            Verdict::Warn if degraded > 0 => (
                format!("{degraded} of {all} degraded"),
                if degraded == all {
                    format!("{everyone}, but renewals fail")
                } else {
                    format!("{everyone}, but renewals of {degraded} fail")
                },
            ),
            Verdict::Warn => {
                ("needs attention".to_owned(), format!("{everyone}, but {}", rest(report)))
            }
            Verdict::Fail if failed > 0 => {
                let headline = match (failed, all) {
                    (1, 1) => "The registry is not ready".to_owned(),
                    (2, 2) => "Neither registry is ready".to_owned(),
                    (failed, all) if failed == all => {
                        format!("None of the {all} registries is ready")
                    }
                    (1, all) => format!("1 of {all} registries is not ready"),
                    (failed, all) => format!("{failed} of {all} registries are not ready"),
                };
                (format!("{failed} of {all} NOT ready"), headline)
            }
            Verdict::Fail => ("not in order".to_owned(), capital(&rest(report))),
        };
        let mark = match report.status {
            Verdict::Pass => "✓",
            Verdict::Warn => "⚠",
            Verdict::Fail => "✗",
        };
        let title = format!("{mark} {title} – freshcreds");
        Self { title, headline, detail: detail(report, failed, now) }
    }

    fn section(&self, report: &Report) -> String {
        let state = report.status.as_str();
        let credentials = &report.checks.credentials;
        let counts: String = [Verdict::Fail, Verdict::Warn, Verdict::Pass]
            .into_iter()
            .filter_map(|verdict| {
                let number = credentials.iter().filter(|check| check.status == verdict).count();
                let word = registry_word(verdict);
                (number > 0).then(|| {
                    format!(
                        "<li class=\"{}\">{}<b>{number}</b> {word}</li>",
                        verdict.as_str(),
                        icon(verdict)
                    )
                })
            })
            .collect();
        format!(
            "<section id=\"section-verdict\" class=\"verdict {state}\" aria-labelledby=\"verdict\">\
             <svg class=\"icon\" aria-hidden=\"true\"><use href=\"#shape-{state}\"/></svg>\
             <svg class=\"icon then\" aria-hidden=\"true\"><use href=\"#shape-unknown\"/></svg>\
             <div><h1 id=\"verdict\"><span class=\"then\">Last known: </span>{}</h1>\
             <p>{}</p></div><ul class=\"counts\">{counts}</ul></section>",
            escape(&self.headline),
            self.detail,
        )
    }
}

/// What matters most after the verdict.
fn detail(report: &Report, failed: usize, now: SystemTime) -> String {
    let credentials = &report.checks.credentials;
    let first = |of: fn(&CredentialReport) -> Option<&String>| {
        credentials
            .iter()
            .filter(|check| report.status != Verdict::Warn || check.status == Verdict::Warn)
            .filter_map(|check| Some((parse_time(of(check)?)?, check)))
            .min_by_key(|(time, _)| *time)
    };
    let up = parse_time(&report.started).and_then(|started| now.duration_since(started).ok());
    if credentials.is_empty() {
        return "The settings name none.".to_owned();
    }
    match report.status {
        Verdict::Fail if failed > 0 => {
            let is_first = |check: &CredentialReport| {
                check.last_success.is_none() && check.consecutive_failures == 0
            };
            match up {
                Some(up) if credentials.iter().all(is_first) => format!(
                    "freshcreds was started {} ago. The first credentials are being fetched.",
                    length(up)
                ),
                _ => format!(
                    "Pulls from {} may fail now.",
                    escape(&some_of(credentials, Verdict::Fail))
                ),
            }
        }
        Verdict::Fail => "See below what keeps it from being so.".to_owned(),
        Verdict::Warn => {
            match first(|check| check.usable_until.as_ref().or(check.expires.as_ref())) {
                Some((time, check)) => format!(
                    "Every credential still works. Without a renewal the first one ends {}: {}.",
                    relative(time, now),
                    escape(&check.component_id)
                ),
                None => "Every credential works. See below what needs attention.".to_owned(),
            }
        }
        Verdict::Pass => match first(|check| check.next_refresh.as_ref()) {
            Some((time, check)) if time > now => format!(
                "The next refresh is {}: {}.",
                relative(time, now),
                escape(&check.component_id)
            ),
            Some((_, check)) => format!("{} is being refreshed.", escape(&check.component_id)),
            None => "Nothing needs attention.".to_owned(),
        },
    }
}

/// What else is not well: files, hooks, settings.
fn rest(report: &Report) -> String {
    let checks = &report.checks;
    let targets = checks.targets.iter().filter(|check| check.status != Verdict::Pass).count();
    let hooks = checks.hooks.iter().filter(|check| check.status != Verdict::Pass).count();
    let secrets = checks.secrets.iter().filter(|check| check.status != Verdict::Pass).count();
    let leases = checks.elections.iter().filter(|check| check.status != Verdict::Pass).count();
    let is_many = targets + secrets + leases + hooks + checks.settings.len() > 1;
    let mut parts = Vec::new();
    if targets > 0 {
        parts.push(count(targets, "file"));
    }
    if secrets > 0 {
        parts.push(count(secrets, "secret"));
    }
    if leases > 0 {
        parts.push("the lease".to_owned());
    }
    if hooks > 0 {
        parts.push(count(hooks, "hook"));
    }
    if !checks.settings.is_empty() {
        parts.push("the new settings".to_owned());
    }
    let is_many = is_many || parts == ["the new settings"];
    let needs = if is_many { "need attention" } else { "needs attention" };
    format!("{} {needs}", parts.join(" and "))
}

/// The hosts in this state, as many as one reads.
fn some_of(credentials: &[CredentialReport], verdict: Verdict) -> String {
    let hosts: Vec<&str> = credentials
        .iter()
        .filter(|check| check.status == verdict)
        .map(|check| check.component_id.as_str())
        .collect();
    match &hosts[..] {
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} and {other}"),
        [one, other, rest @ ..] => format!("{one}, {other} and {}", count(rest.len(), "other")),
        [] => "none".to_owned(),
    }
}

fn capital(words: &str) -> String {
    let mut characters = words.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

// --- Registries --------------------------------------------------------------------------------

fn registries(report: &Report, at: &Moment<'_>) -> String {
    let mut checks: Vec<&CredentialReport> = report.checks.credentials.iter().collect();
    if checks.is_empty() {
        return String::new();
    }
    checks.sort_by_key(|check| std::cmp::Reverse(check.status));
    let is_fleet = checks.len() > MOST_CARDS;
    let is_card = |check: &&CredentialReport| !is_fleet || check.status != Verdict::Pass;
    let cards: Vec<_> = checks.iter().copied().filter(is_card).take(MOST_CARDS).collect();
    let rows = &checks[cards.len()..];
    let mut shown = String::new();
    if !cards.is_empty() {
        let cards: String = cards.iter().map(|check| card(check, at)).collect();
        add(&mut shown, format_args!("<div class=\"cards\">{cards}</div>"));
    }
    if !rows.is_empty() {
        let rows: String = rows.iter().map(|check| row(check, at)).collect();
        add(&mut shown, format_args!("<ul class=\"rows\">{rows}</ul>"));
    }
    format!(
        "<section id=\"section-registries\" aria-labelledby=\"registries\"><div class=\"head\">\
         <h2 id=\"registries\">Registries</h2>{LEGEND}</div>{shown}</section>"
    )
}

fn card(check: &CredentialReport, at: &Moment<'_>) -> String {
    let id = format!("registry-{}", slug(&check.component_id));
    let host = escape(&check.component_id);
    let state = check.status.as_str();
    let why = troubles::of_registry(check)
        .map_or_else(String::new, |why| format!("<p class=\"why\">{why}</p>"));
    format!(
        "<article class=\"card {state}\" id=\"{id}\" aria-labelledby=\"{id}-host\">\
         <div class=\"about\"><div class=\"top\"><h3 id=\"{id}-host\">{host}</h3>{}</div>\
         <p class=\"source\">{}</p>{why}</div><div class=\"body\">\
         <p class=\"remains\">{}</p>{}\
         <dl class=\"times\"><div><dt>Issued</dt><dd>{}</dd></div>\
         <div><dt>Next refresh</dt><dd>{}</dd></div>\
         <div><dt>Expires</dt><dd>{}</dd></div></dl>{}\
         <p class=\"axis\"><span>24 h ago</span><span>{}</span><span>now</span></p></div>{}</article>",
        badge(check.status, registry_word(check.status)),
        source(check),
        left(check),
        life(check, at.now, true),
        at.show(check.issued.as_ref()),
        at.show_next(check.next_refresh.as_ref()),
        at.show(check.expires.as_ref()),
        day(&check.history, at.now, at.started),
        what_happened(&check.history),
        more(check, &id, at),
    )
}

fn row(check: &CredentialReport, at: &Moment<'_>) -> String {
    let next = match check.next_refresh.as_deref() {
        None => "no refresh planned".to_owned(),
        Some(next) if parse_time(next).is_some_and(|next| next <= at.now) => {
            "next due now".to_owned()
        }
        Some(next) => format!("next {}", when(next, at.now)),
    };
    let why = troubles::of_registry(check)
        .map_or_else(String::new, |why| format!("<p class=\"why\">{why}</p>"));
    format!(
        "<li class=\"{}\" id=\"registry-{}\">{}<p class=\"who\"><b>{}</b> <small>{}</small></p>{}{}\
         <p class=\"when\"><span>{}</span> <small>{next}</small></p>{why}</li>",
        check.status.as_str(),
        slug(&check.component_id),
        badge(check.status, registry_word(check.status)),
        escape(&check.component_id),
        source(check),
        life(check, at.now, false),
        day(&check.history, at.now, at.started),
        left(check),
    )
}

/// Where a credential comes from, and whose it is.
fn source(check: &CredentialReport) -> String {
    let kind = match check.kind.as_str() {
        "ecr" => "Amazon ECR".to_owned(),
        "google" => "Google".to_owned(),
        other => escape(other),
    };
    let identity = check.identity.as_deref().map_or_else(
        || {
            if check.issued.is_some() { "from an earlier run" } else { "no identity yet" }
                .to_owned()
        },
        |identity| format!("<bdi>{}</bdi>", prose(identity)),
    );
    format!("<span class=\"kind\">{kind}</span> <span>{identity}</span>")
}

fn left(check: &CredentialReport) -> String {
    match check.observed_value {
        None if check.never_expires => "no end".to_owned(),
        None => "none yet".to_owned(),
        Some(0) => "expired".to_owned(),
        Some(seconds) => {
            format!("{} <small>left</small>", length(Duration::from_secs(seconds)))
        }
    }
}

/// What one wants to know about a registry now and then.
fn more(check: &CredentialReport, id: &str, at: &Moment<'_>) -> String {
    let mut facts = vec![
        ("Issuer", escape(&check.origin)),
        ("Last asked", at.show(check.last_attempt.as_ref())),
        ("Last answer", at.show(check.last_success.as_ref())),
    ];
    if check.consecutive_failures > 0 {
        facts.push(("Failures in a row", check.consecutive_failures.to_string()));
    }
    if let Some(reason) = &check.next_refresh_reason {
        facts.push(("Why then", prose(reason)));
    }
    if check.usable_until.is_some() && check.usable_until != check.expires {
        facts.push(("In all files good until", at.show(check.usable_until.as_ref())));
    }
    if let Some(answer) = &check.verification {
        let asked = at.show(check.verified.as_ref());
        facts.push(("The registry said", format!("{}, {asked}", escape(answer))));
    }
    if let Some(skew) = check.clock_skew_seconds {
        let way = if skew < 0 { "behind" } else { "ahead" };
        facts.push(("Issuer's clock", format!("{} s {way}", skew.unsigned_abs())));
    }
    let facts = facts.iter().fold(String::new(), |mut text, (name, value)| {
        add(&mut text, format_args!("<dt>{name}</dt><dd>{value}</dd>"));
        text
    });
    format!(
        "<details id=\"{id}-more\"><summary>More<span class=\"quiet\"> about {}</span></summary>\
         <dl class=\"more\">{facts}</dl></details>",
        escape(&check.component_id)
    )
}

// --- Files and hooks ---------------------------------------------------------------------------

fn targets(report: &Report, at: &Moment<'_>) -> String {
    let mut targets: Vec<&TargetReport> = report.checks.targets.iter().collect();
    targets.sort_by_key(|target| std::cmp::Reverse(target.status));
    if targets.is_empty() {
        return String::new();
    }
    let cards: String = targets.iter().map(|target| file(target, at)).collect();
    format!(
        "<section id=\"section-files\" aria-labelledby=\"files\"><h2 id=\"files\">Files</h2>\
         <div class=\"cards wide\">{cards}</div></section>"
    )
}

/// The Secrets of a cluster, and who of several replicas keeps them.
fn secrets(report: &Report, at: &Moment<'_>) -> String {
    let mut secrets: Vec<&TargetReport> = report.checks.secrets.iter().collect();
    secrets.sort_by_key(|target| std::cmp::Reverse(target.status));
    if secrets.is_empty() {
        return String::new();
    }
    let cards: String = secrets.iter().map(|target| secret(target, at)).collect();
    let replica = report.checks.elections.first().map_or_else(String::new, |election| {
        let words = match (&election.holder, election.leading) {
            (_, true) => "This replica fetches and writes".to_owned(),
            (Some(holder), false) => {
                format!("This replica stands by; {} fetches and writes", escape(holder))
            }
            (None, false) => "This replica stands by; nobody has the lease".to_owned(),
        };
        format!("<p class=\"concerned\">{words} ({}).</p>", escape(&election.component_id))
    });
    format!(
        "<section id=\"section-secrets\" aria-labelledby=\"secrets\"><h2 id=\"secrets\">Image pull \
         secrets</h2>{replica}<div class=\"cards wide\">{cards}</div></section>"
    )
}

fn secret(target: &TargetReport, at: &Moment<'_>) -> String {
    let id = slug(&target.component_id);
    let why = troubles::of_target(target)
        .map_or_else(String::new, |why| format!("<p class=\"why\">{why}</p>"));
    let counts = target.namespaces.map_or_else(String::new, |counts| {
        [
            ("Namespaces", counts.wanted),
            ("Fresh there", counts.fresh),
            ("Older there", counts.older),
            ("Missing there", counts.missing),
            ("Another's there", counts.foreign),
            ("Failing there", counts.failing),
        ]
        .iter()
        .fold(String::new(), |all, (what, count)| {
            all + &format!("<div><dt>{what}</dt><dd>{count}</dd></div>")
        })
    });
    format!(
        "<article class=\"card {}\" id=\"{id}\" aria-labelledby=\"{id}-path\">\
                 <div class=\"top\"><h3 id=\"{id}-path\" class=\"path\">{}</h3>{}</div>{why}\
                 <dl class=\"times\">{counts}<div><dt>Found in order</dt><dd>{}</dd></div>\
                 <div><dt>Last written</dt><dd>{}</dd></div></dl></article>",
        target.status.as_str(),
        escape(&target.component_id),
        badge(target.status, in_order(target.status)),
        at.show(target.verified.as_ref()),
        at.show(target.last_write.as_ref()),
    )
}

fn in_order(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "in order",
        Verdict::Warn => "needs attention",
        Verdict::Fail => "not in order",
    }
}

fn file(target: &TargetReport, at: &Moment<'_>) -> String {
    let id = format!("file-{}", slug(&target.component_id));
    let word = in_order(target.status);
    let why = troubles::of_target(target)
        .map_or_else(String::new, |why| format!("<p class=\"why\">{why}</p>"));
    let protection = target.protection.as_deref().unwrap_or("not written yet");
    let watched = match target.watched_by.as_str() {
        "events" => "at once".to_owned(),
        "poll" => "every ten seconds".to_owned(),
        other => escape(other),
    };
    format!(
        "<article class=\"card {}\" id=\"{id}\" aria-labelledby=\"{id}-path\">\
                 <div class=\"top\"><h3 id=\"{id}-path\" class=\"path\">{}</h3>{}</div>{why}\
                 <dl class=\"times\"><div><dt>Found in order</dt><dd>{}</dd></div>\
                 <div><dt>Last written</dt><dd>{}</dd></div>\
                 <div><dt>Read by</dt><dd>{}</dd></div>\
                 <div><dt>Protection</dt><dd>{}</dd></div>\
                 <div><dt>Changes seen</dt><dd>{watched}</dd></div></dl></article>",
        target.status.as_str(),
        escape(&target.component_id),
        badge(target.status, word),
        at.show(target.verified.as_ref()),
        at.show(target.last_write.as_ref()),
        escape(&target.reader),
        escape(protection),
    )
}

fn hooks(report: &Report, at: &Moment<'_>) -> String {
    if report.checks.hooks.is_empty() {
        return String::new();
    }
    let rows: String = report.checks.hooks.iter().map(|one| hook(one, at)).collect();
    format!(
        "<section id=\"section-hooks\" aria-labelledby=\"hooks\"><h2 id=\"hooks\">Hooks</h2>\
         <ul class=\"rows\">{rows}</ul></section>"
    )
}

fn hook(hook: &HookReport, at: &Moment<'_>) -> String {
    let HookReport { component_id, status, last_run, .. } = hook;
    let word = if *status == Verdict::Pass { "in order" } else { "failed" };
    format!(
        "<li class=\"{}\" id=\"hook-{}\">{}<p class=\"who\"><b>{}</b></p>\
                 <p class=\"when\"><small>last run</small> {}</p></li>",
        status.as_str(),
        slug(component_id),
        badge(*status, word),
        escape(component_id),
        at.show(last_run.as_ref()),
    )
}

fn footer(report: &Report, at: &Moment<'_>) -> String {
    format!(
        "<footer><p>{} {}, running since {} UTC. This answer is of {}. All times are UTC.</p>\
         <nav aria-label=\"For programs\"><a href=\"status\">/status</a> \
         <a href=\"metrics\">/metrics</a> <a href=\"readyz\">/readyz</a></nav></footer>",
        escape(&report.service_id),
        escape(&report.release_id),
        hour(&report.started, at.text),
        readable(&report.time),
    )
}

fn badge(verdict: Verdict, word: &str) -> String {
    format!("<p class=\"badge {}\">{}{word}</p>", verdict.as_str(), icon(verdict))
}

fn registry_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "ready",
        Verdict::Warn => "degraded",
        Verdict::Fail => "not ready",
    }
}

/// The time of day in a time of the report.
fn clock(time: &str) -> String {
    time.get(11..19).map_or_else(|| time.to_owned(), |clock| format!("{clock} UTC"))
}

/// With more registries than this, those that are well take a line each.
const MOST_CARDS: usize = 12;

const CSS: &str = include_str!("page/page.css");
const JS: &str = include_str!("page/page.js");

const MARK: &str = "<svg class=\"mark\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">\
    <path d=\"M13.5 6A6 6 0 1 0 14 8.5M14 2v4h-4\"/></svg>";

const LEGEND: &str = "<ul class=\"legend\" aria-label=\"What the day's picture shows\">\
    <li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><path class=\"renewed\" d=\"M5 8V1\"/></svg>renewal</li>\
    <li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><path class=\"failed\" d=\"M5 2v8\"/></svg>failure</li>\
    <li><svg width=\"16\" height=\"10\" aria-hidden=\"true\"><rect class=\"hatched\" width=\"16\" height=\"10\"/></svg>not known</li>\
    </ul>";

#[cfg(test)]
mod tests;
