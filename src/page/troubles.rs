//! Everything that is wrong, each thing once: what a hundred registries of one issuer meet
//! with is one trouble, and what hides an entry is the trouble of its file.

use std::time::SystemTime;

use super::pictures::icon;
use super::words::{count, escape, hour, lasting, prose, slug};
use crate::status::{CredentialReport, Report, TargetReport, Trouble, Verdict};

/// One thing that is wrong, and where.
struct Wrong<'a> {
    verdict: Verdict,
    trouble: &'a Trouble,
    noun: &'static str,
    /// The registries, or the one file or hook.
    places: Vec<&'a str>,
    /// The registries that a file's trouble concerns.
    hosts: Vec<&'a str>,
}

/// All of it, the worst first.
fn all(report: &Report) -> Vec<Wrong<'_>> {
    let checks = &report.checks;
    let mut all: Vec<Wrong<'_>> = Vec::new();
    for target in &checks.targets {
        for trouble in target.last_error.iter().chain(&target.in_the_way) {
            all.push(Wrong::of(target.status, trouble, "file", &target.component_id));
        }
    }
    for check in &checks.credentials {
        if let Some(trouble) = &check.not_ready {
            match all.iter_mut().find(|wrong| wrong.explains(trouble)) {
                Some(wrong) => {
                    wrong.verdict = Verdict::Fail;
                    wrong.hosts.push(&check.component_id);
                }
                None => add(&mut all, check, trouble),
            }
        }
        if let Some(trouble) = &check.last_error {
            add(&mut all, check, trouble);
        }
    }
    for hook in &checks.hooks {
        if let Some(trouble) = &hook.last_error {
            all.push(Wrong::of(hook.status, trouble, "hook", &hook.component_id));
        }
    }
    for settings in &checks.settings {
        all.push(Wrong::of(settings.status, &settings.last_error, "settings", "The new settings"));
    }
    all.sort_by_key(|wrong| std::cmp::Reverse(wrong.verdict));
    all
}

fn add<'a>(all: &mut Vec<Wrong<'a>>, check: &'a CredentialReport, trouble: &'a Trouble) {
    let same = |wrong: &&mut Wrong<'_>| {
        let other = wrong.trouble;
        wrong.noun == "registry" && other.kind == trouble.kind && other.message == trouble.message
    };
    match all.iter_mut().find(same) {
        Some(wrong) => {
            wrong.verdict = wrong.verdict.max(check.status);
            wrong.places.push(&check.component_id);
            // Of many, the one that has lasted the longest tells the most.
            if trouble.since < wrong.trouble.since {
                wrong.trouble = trouble;
            }
        }
        None => all.push(Wrong::of(check.status, trouble, "registry", &check.component_id)),
    }
}

impl<'a> Wrong<'a> {
    fn of(verdict: Verdict, trouble: &'a Trouble, noun: &'static str, place: &'a str) -> Self {
        Self { verdict, trouble, noun, places: vec![place], hosts: Vec::new() }
    }

    /// Whether a registry is not ready because of this trouble of a file.
    fn explains(&self, trouble: &Trouble) -> bool {
        self.noun == "file"
            && self.trouble.kind == trouble.kind
            && trouble.message.ends_with(&self.trouble.message)
            && trouble.message.contains(self.places[0])
    }
}

/// A section about all of it; nothing if nothing is wrong.
pub(super) fn section(report: &Report, now: SystemTime) -> String {
    let all = all(report);
    if all.is_empty() {
        return String::new();
    }
    // What several things are wrong with is named once.
    let mut groups: Vec<Vec<&Wrong<'_>>> = Vec::new();
    for wrong in &all {
        let same = |group: &&mut Vec<&Wrong<'_>>| {
            group[0].noun == wrong.noun && group[0].places == wrong.places
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
    let Some(Wrong { verdict, noun, places, .. }) = group.first() else { return String::new() };
    // The same registries can be in several groups, but never the same kinds of trouble.
    let kinds: Vec<&str> = group.iter().map(|wrong| wrong.trouble.kind.as_str()).collect();
    let first = places.first().copied().unwrap_or_default();
    let id = format!("trouble-{}-{}", slug(&kinds.join("-")), slug(first));
    let heading = match (&places[..], *noun) {
        ([one], "hook") => format!("The hook {}", escape(one)),
        ([one], _) => escape(one),
        (many, noun) => count(many.len(), noun),
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
