//! Everything that is wrong, and what to do about it.

use std::time::SystemTime;

use super::pictures::icon;
use super::words::{count, escape, hour, lasting, prose, slug};
use crate::status::{CredentialReport, Report, TargetReport, Thing, Verdict, Wrong};

/// A section about all of it; nothing if nothing is wrong.
pub(super) fn section(report: &Report, now: SystemTime) -> String {
    let all = report.troubles();
    if all.is_empty() {
        return String::new();
    }
    // What several things are wrong with is named once.
    let mut groups: Vec<Vec<&Wrong<'_>>> = Vec::new();
    for wrong in &all {
        let same = |group: &&mut Vec<&Wrong<'_>>| {
            group[0].thing == wrong.thing && group[0].places == wrong.places
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(wrong),
            None => groups.push(vec![wrong]),
        }
    }
    let items: String = groups.iter().map(|group| item(group, report, now)).collect();
    format!(
        "<section id=\"section-wrong\" aria-labelledby=\"wrong\"><h2 id=\"wrong\">What is wrong</h2>\
         <ul class=\"troubles\">{items}</ul></section>"
    )
}

/// What is wrong with the same registries, file or hook; the worst comes first.
fn item(group: &[&Wrong<'_>], report: &Report, now: SystemTime) -> String {
    let Some(Wrong { verdict, thing, places, .. }) = group.first() else { return String::new() };
    // The same registries can be in several groups, but never the same kinds of trouble.
    let kinds: Vec<&str> = group.iter().map(|wrong| wrong.trouble.kind.as_str()).collect();
    let first = places.first().copied().unwrap_or_default();
    let id = format!("trouble-{}-{}", slug(&kinds.join("-")), slug(first));
    let heading = match (&places[..], *thing) {
        ([one], Thing::Lease) => format!("The lease {}", escape(one)),
        ([one], Thing::Hook) => format!("The hook {}", escape(one)),
        (_, Thing::Settings) => "The new settings".to_owned(),
        ([one], _) => escape(one),
        // Only registries come in numbers.
        (many, _) => count(many.len(), "registry"),
    };
    let list = if places.len() > 1 {
        format!(
            "<details id=\"{id}-where\"><summary>Which ones</summary><p>{}</p></details>",
            names(places)
        )
    } else {
        String::new()
    };
    let state = if *verdict == Verdict::Fail { "not ready" } else { "degraded" };
    let parts: String = group.iter().map(|wrong| part(wrong, &id, report, now)).collect();
    format!(
        "<li class=\"trouble {}\" id=\"{id}\"><h3>{}<span class=\"quiet\">{state}: </span>\
         <span>{heading}</span></h3>{list}{parts}</li>",
        verdict.as_str(),
        icon(*verdict),
    )
}

fn part(wrong: &Wrong<'_>, id: &str, report: &Report, now: SystemTime) -> String {
    let Wrong { trouble, hosts, .. } = wrong;
    let kind = escape(&trouble.kind);
    let hidden = match &hosts[..] {
        [] => String::new(),
        hosts if hosts.len() <= FEW => {
            format!("<p class=\"concerned\">It concerns {}.</p>", names(hosts))
        }
        hosts => format!(
            "<details id=\"{id}-{}-hosts\"><summary>It concerns {}</summary><p>{}</p></details>",
            slug(&trouble.kind),
            count(hosts.len(), "registry"),
            names(hosts)
        ),
    };
    let since = trouble.since.as_deref().map_or_else(String::new, |since| {
        format!("<li>for {}, since {}</li>", lasting(since, now), hour(since, &report.time))
    });
    let often = if trouble.count > 1 {
        format!("<li>{} times in a row</li>", trouble.count)
    } else {
        String::new()
    };
    format!(
        "<div class=\"part\"><div><p class=\"message\">{}</p>{hidden}\
         <ul class=\"facts\"><li><code>{kind}</code></li>{since}{often}</ul></div>\
         <p class=\"remedy\"><strong>What to do</strong> {}</p></div>",
        prose(&trouble.message),
        prose(&trouble.remedy),
    )
}

fn names(hosts: &[&str]) -> String {
    hosts.iter().map(|host| escape(host)).collect::<Vec<_>>().join(", ")
}

/// What keeps a registry from being well, in a line.
pub(super) fn of_registry(check: &CredentialReport) -> Option<String> {
    let renewals = check.last_error.as_ref().map(|error| error.message.as_str());
    match (check.output.as_deref(), renewals) {
        (Some(output), _) => Some(prose(output)),
        (None, Some(error)) => Some(format!("Renewals fail: {}", prose(error))),
        (None, None) => None,
    }
}

/// What keeps a file from being well, in a line.
pub(super) fn of_target(target: &TargetReport) -> Option<String> {
    target.last_error.iter().chain(&target.in_the_way).next().map(|trouble| prose(&trouble.message))
}

/// So many names are read at a glance.
const FEW: usize = 4;
