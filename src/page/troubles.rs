//! Everything that is wrong, each thing once: what a hundred registries of one issuer meet
//! with is one trouble, and what hides an entry is the trouble of its file.

use std::time::SystemTime;

use super::pictures::icon;
use super::words::{count, escape, hour, lasting, prose};
use crate::status::{CredentialReport, Report, TargetReport, Trouble, Verdict};

/// One thing that is wrong, and where.
pub(super) struct Wrong<'a> {
    verdict: Verdict,
    trouble: &'a Trouble,
    noun: &'static str,
    /// The registries, or the one file or hook.
    places: Vec<&'a str>,
    /// The registries that a file's trouble concerns.
    hosts: Vec<&'a str>,
}

/// All of it, the worst first.
pub(super) fn all(report: &Report) -> Vec<Wrong<'_>> {
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
    let items: String = all
        .iter()
        .enumerate()
        .map(|(index, wrong)| {
            let before =
                all[..index].iter().filter(|other| other.trouble.kind == wrong.trouble.kind);
            item(wrong, before.count(), report, now)
        })
        .collect();
    format!(
        "<section aria-labelledby=\"wrong\"><h2 id=\"wrong\">What is wrong</h2>\
         <ul class=\"troubles\">{items}</ul></section>"
    )
}

fn item(wrong: &Wrong<'_>, before: usize, report: &Report, now: SystemTime) -> String {
    let Wrong { verdict, trouble, noun, places, hosts } = wrong;
    let id = format!("trouble-{}-{before}", escape(&trouble.kind));
    let (heading, list) = match (&places[..], *noun) {
        ([one], "hook") => (format!("The hook {}", escape(one)), String::new()),
        ([one], _) => (escape(one), String::new()),
        (many, noun) => {
            let names = names(many);
            let heading = count(many.len(), noun);
            (
                heading,
                format!(
                    "<details id=\"{id}-where\"><summary>Which ones</summary><p>{names}</p></details>"
                ),
            )
        }
    };
    let hidden = match &hosts[..] {
        [] => String::new(),
        hosts if hosts.len() <= FEW => {
            format!("<p class=\"hidden-hosts\">It concerns {}.</p>", names(hosts))
        }
        hosts => format!(
            "<details id=\"{id}-hosts\"><summary>It concerns {}</summary><p>{}</p></details>",
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
    let state = if *verdict == Verdict::Fail { "not ready" } else { "degraded" };
    format!(
        "<li class=\"trouble {}\" id=\"{id}\"><h3>{}<span class=\"quiet\">{state}: </span>\
         <span>{heading}</span></h3>\
         <p class=\"message\">{}</p>{list}{hidden}\
         <p class=\"remedy\"><strong>What to do</strong> {}</p>\
         <ul class=\"facts\"><li><code>{}</code></li>{since}{often}</ul></li>",
        verdict.as_str(),
        icon(*verdict),
        prose(&trouble.message),
        prose(&trouble.remedy),
        escape(&trouble.kind),
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
