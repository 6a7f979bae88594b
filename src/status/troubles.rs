//! Everything that a report says is wrong, each thing once and the worst first: what a hundred
//! registries of one issuer meet with is one trouble, and what hides an entry is the trouble of
//! its file.

use std::cmp::Reverse;

use super::report::{CredentialReport, Report, Trouble, Verdict};

/// One thing that is wrong, and where.
pub struct Wrong<'a> {
    /// How bad it is.
    pub verdict: Verdict,
    /// What it is. Of many that are the same, the one that has lasted the longest.
    pub trouble: &'a Trouble,
    /// What has it.
    pub thing: Thing,
    /// The registries, or the one file or hook.
    pub places: Vec<&'a str>,
    /// The registries that a file's trouble concerns.
    pub hosts: Vec<&'a str>,
}

/// What can have a trouble, in the order in which people care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// Registries.
    Registry,
    /// A target.
    File,
    /// A Secret in a cluster.
    Secret,
    /// The lease of several replicas.
    Lease,
    /// A hook.
    Hook,
    /// The settings.
    Settings,
}

impl Report {
    /// Everything that is wrong.
    #[must_use]
    pub fn troubles(&self) -> Vec<Wrong<'_>> {
        let checks = &self.checks;
        let mut all: Vec<Wrong<'_>> = Vec::new();
        let files = checks.targets.iter().map(|target| (target, Thing::File));
        let secrets = checks.secrets.iter().map(|target| (target, Thing::Secret));
        for (target, thing) in files.chain(secrets) {
            for trouble in target.last_error.iter().chain(&target.in_the_way) {
                all.push(Wrong::of(target.status, trouble, thing, &target.component_id));
            }
        }
        for election in &checks.elections {
            if let Some(trouble) = &election.last_error {
                all.push(Wrong::of(election.status, trouble, Thing::Lease, &election.component_id));
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
                all.push(Wrong::of(hook.status, trouble, Thing::Hook, &hook.component_id));
            }
        }
        for settings in &checks.settings {
            let (status, trouble) = (settings.status, &settings.last_error);
            all.push(Wrong::of(status, trouble, Thing::Settings, "the settings"));
        }
        all.sort_by_key(|wrong| (Reverse(wrong.verdict), wrong.thing));
        all
    }
}

fn add<'a>(all: &mut Vec<Wrong<'a>>, check: &'a CredentialReport, trouble: &'a Trouble) {
    let same = |wrong: &&mut Wrong<'_>| {
        let other = wrong.trouble;
        wrong.thing == Thing::Registry
            && other.kind == trouble.kind
            && other.message == trouble.message
    };
    match all.iter_mut().find(same) {
        Some(wrong) => {
            wrong.verdict = wrong.verdict.max(check.status);
            wrong.places.push(&check.component_id);
            // RFC 3339 in UTC sorts as time does.
            if trouble.since < wrong.trouble.since {
                wrong.trouble = trouble;
            }
        }
        None => all.push(Wrong::of(check.status, trouble, Thing::Registry, &check.component_id)),
    }
}

impl<'a> Wrong<'a> {
    fn of(verdict: Verdict, trouble: &'a Trouble, thing: Thing, place: &'a str) -> Self {
        Self { verdict, trouble, thing, places: vec![place], hosts: Vec::new() }
    }

    /// Whether a registry is not ready because of this trouble of a file: then its message is
    /// the file's, with the file's name before it.
    fn explains(&self, trouble: &Trouble) -> bool {
        matches!(self.thing, Thing::File | Thing::Secret)
            && self.trouble.kind == trouble.kind
            && trouble.message.ends_with(&self.trouble.message)
            && trouble.message.contains(self.places[0])
    }
}
