//! What the status says at one moment, as `/status` answers it: the shape of
//! <https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06>.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::history::Quarter;
use super::readiness::{Moment, lack, lacks_any};
use super::state::{
    Counts, Election, Failing, Hook, InTheWay, Registry, State, Target, TargetName,
};
use crate::credential::{Lifetime, RegistryHost};
use crate::registry::Answer;
use crate::sources::Skew;
use crate::trouble;

/// Everything that is known at one moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The whole: the worst of all registries and targets.
    pub status: Verdict,
    /// What is reported.
    #[serde(rename = "serviceId")]
    pub service_id: String,
    /// Of this answer's form.
    pub version: String,
    /// Of the program.
    #[serde(rename = "releaseId")]
    pub release_id: String,
    /// When it was so, in RFC 3339.
    pub time: String,
    /// When the program started.
    pub started: String,
    /// What is wrong, a sentence each; empty if nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// Each registry's credential and each target.
    pub checks: Checks,
}

/// The parts of a [`Report`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Checks {
    /// By host.
    #[serde(rename = "registry:credential")]
    pub credentials: Vec<CredentialReport>,
    /// In the order of the settings.
    #[serde(rename = "target:file")]
    pub targets: Vec<TargetReport>,
    /// In the order of the settings.
    #[serde(rename = "target:secret", default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<TargetReport>,
    /// Who of several replicas works, if this is one of them.
    #[serde(rename = "election:lease", default, skip_serializing_if = "Vec::is_empty")]
    pub elections: Vec<ElectionReport>,
    /// In the order of the settings.
    #[serde(rename = "hook:run", default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookReport>,
    /// The settings, if the newest cannot be gone by.
    #[serde(rename = "settings", default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<SettingsReport>,
}

/// What is wrong with the settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsReport {
    /// Always `settings`.
    pub component_type: String,
    /// Always warn: it goes on with those that it had before.
    pub status: Verdict,
    /// What is wrong.
    pub last_error: Trouble,
}

/// In how many namespaces a Secret is how.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct NamespacesReport {
    /// In so many it is to be.
    pub wanted: usize,
    /// In so many it has the newest credentials.
    pub fresh: usize,
    /// In so many it has older ones.
    pub older: usize,
    /// In so many there is none.
    pub missing: usize,
    /// In so many somebody else's is in its place.
    pub foreign: usize,
    /// Of all these, so many failed when they were tried last.
    pub failing: usize,
}

/// Who of several replicas works, as this one knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ElectionReport {
    /// By which Lease: `NAMESPACE/NAME`.
    pub component_id: String,
    /// Always `election`.
    pub component_type: String,
    /// Warn if the Lease cannot be had or looked at.
    pub status: Verdict,
    /// Whether it is this replica that fetches and writes.
    pub leading: bool,
    /// Who has the Lease, if anybody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why nobody knows, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Trouble>,
}

/// What is known about a hook.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookReport {
    /// What it runs, or whom it signals.
    pub component_id: String,
    /// Always `hook`.
    pub component_type: String,
    /// Warn if its last run failed.
    pub status: Verdict,
    /// When it ran last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    /// The last failure, until it succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Trouble>,
}

/// What came of the fetches of a quarter of an hour.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarterReport {
    /// When it began.
    pub start: String,
    /// How many new credentials came.
    pub renewals: u32,
    /// How many fetches failed.
    pub failures: u32,
}

/// What is known about a registry's credential.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialReport {
    /// The registry's host.
    pub component_id: String,
    /// Always `registry`.
    pub component_type: String,
    /// Fail without a valid credential in every target, warn if a renewal failed.
    pub status: Verdict,
    /// Seconds that the credential has left; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_value: Option<u64>,
    /// Always `s`.
    pub observed_unit: String,
    /// Seconds for which a client finds a good one in every target; less than the above
    /// while a target has an older one, and absent if one has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_seconds: Option<u64>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_until: Option<String>,
    /// Which source.
    pub kind: String,
    /// Which issuer, as settings and host name say it.
    pub origin: String,
    /// How many seconds the issuer's clock is ahead of this machine's; absent if the two
    /// agree, or if the issuer does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// Whose credential it is, in words that are no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When it was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued: Option<String>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Whether nobody has set an end to it, so that there are no times of one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
    /// When the issuer last gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// When the issuer was last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<String>,
    /// How many fetches have failed since then.
    pub consecutive_failures: u32,
    /// The last failure, until a fetch succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Trouble>,
    /// When the issuer will be asked next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh: Option<String>,
    /// Why then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh_reason: Option<String>,
    /// What the registry itself said to the credential, if it was asked: `taken`, `refused`
    /// or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<String>,
    /// When it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// Why it is not ready, in a sentence; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The same, with all that is known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<Trouble>,
    /// The last day, by the quarter of an hour, oldest first; without those in which
    /// nothing happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<QuarterReport>,
}

/// What is known about a target.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// The file's path, or `secret/NAME`.
    pub component_id: String,
    /// Always `target`.
    pub component_type: String,
    /// Fail if a credential is not where its reader will find it.
    pub status: Verdict,
    /// When the file was last found to be as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// When it was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_write: Option<String>,
    /// Who reads it: `docker`, `podman` or `kubelet`.
    pub reader: String,
    /// Of a Secret, in how many namespaces it is how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespacesReport>,
    /// What keeps other programs' updates safe while it is written: `leased exchange`,
    /// `exchange`, `rename` or `in place`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<String>,
    /// How it is noticed that another program writes it: `events` or `poll`.
    pub watched_by: String,
    /// The last failure, until a write or a look succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Trouble>,
    /// What makes a reader pass by what is in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_the_way: Vec<Trouble>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// A short fixed word, which `docs/operations.md` has an entry for.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when it has been so, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How often in a row.
    pub count: u32,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, and needs attention.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Report {
    /// Whether every registry has a valid credential where its readers find it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status != Verdict::Fail
    }

    /// Why these registries do not have a credential that is good for so long; of all
    /// registries if none is named. Nothing if they have.
    ///
    /// # Errors
    ///
    /// If one is named that is not kept fresh here.
    pub fn why_not(
        &self,
        hosts: &[RegistryHost],
        min_life: Duration,
    ) -> Result<Vec<String>, NotKept> {
        let named =
            |host: &RegistryHost, check: &CredentialReport| check.component_id == host.as_str();
        for host in hosts {
            if !self.checks.credentials.iter().any(|check| named(host, check)) {
                return Err(NotKept(host.clone()));
            }
        }
        let asked = self
            .checks
            .credentials
            .iter()
            .filter(|check| hosts.is_empty() || hosts.iter().any(|host| named(host, check)));
        let mut why = Vec::new();
        for check in asked {
            let id = &check.component_id;
            match (&check.output, check.usable_seconds) {
                (Some(output), _) => {
                    let cause = check.last_error.as_ref().map(|error| &error.message);
                    let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
                    why.push(format!("{id}: {output}{cause}"));
                }
                (None, Some(seconds)) if seconds >= min_life.as_secs() => {}
                (None, None) if check.never_expires => {}
                (None, seconds) => {
                    let [is, wanted] = [Duration::from_secs(seconds.unwrap_or(0)), min_life]
                        .map(|duration| humantime::format_duration(duration).to_string());
                    let next = check.next_refresh.as_deref().unwrap_or("an unknown time");
                    why.push(format!(
                        "{id}: the credential is good for {is}, and {wanted} are wanted; the \
                         next one is fetched at {next}"
                    ));
                }
            }
        }
        Ok(why)
    }

    pub(super) fn of(state: &State, started: SystemTime, at: &Moment<'_>) -> Self {
        let credentials: Vec<_> = state
            .registries
            .iter()
            .map(|(host, registry)| credential(host, registry, &state.targets, at))
            .collect();
        let (secrets, targets): (Vec<_>, Vec<_>) =
            state.targets.iter().partition(|one| matches!(one.name, TargetName::Secret(_)));
        let [targets, secrets]: [Vec<_>; 2] = [targets, secrets]
            .map(|some| some.into_iter().map(|one| target(one, state, at)).collect());
        let elections: Vec<_> = state.election.iter().map(|one| election(one, at)).collect();
        let hooks: Vec<_> = state.hooks.iter().map(|one| hook(one, at)).collect();
        let settings: Vec<_> = state
            .bad_settings
            .iter()
            .map(|failing| SettingsReport {
                component_type: "settings".to_owned(),
                status: Verdict::Warn,
                last_error: failed(failing, at),
            })
            .collect();
        let worst = credentials
            .iter()
            .map(|check| check.status)
            .chain(targets.iter().map(|check| check.status))
            .chain(secrets.iter().map(|check| check.status))
            .chain(elections.iter().map(|check| check.status))
            .chain(hooks.iter().map(|check| check.status))
            .chain(settings.iter().map(|check| check.status))
            .max();
        let output = credentials
            .iter()
            .filter_map(|check| {
                let trouble = check.last_error.as_ref().map(|error| error.message.as_str());
                let sentence = match (check.output.as_deref(), trouble) {
                    (None, None) => return None,
                    (Some(output), None) => output.to_owned(),
                    (None, Some(trouble)) => format!("renewals fail: {trouble}"),
                    (Some(output), Some(trouble)) => format!("{output} ({trouble})"),
                };
                Some(format!("{}: {sentence}", check.component_id))
            })
            .chain(targets.iter().chain(&secrets).flat_map(|check| {
                check
                    .last_error
                    .iter()
                    .chain(&check.in_the_way)
                    .map(|trouble| format!("{}: {}", check.component_id, trouble.message))
            }))
            .chain(elections.iter().filter_map(|check| {
                let trouble = check.last_error.as_ref()?;
                Some(format!("the lease {}: {}", check.component_id, trouble.message))
            }))
            .chain(hooks.iter().filter_map(|check| {
                let trouble = check.last_error.as_ref()?;
                Some(format!("the hook {}: {}", check.component_id, trouble.message))
            }))
            .chain(settings.iter().map(|check| {
                format!(
                    "the new settings mean nothing, so the old ones stay: {}",
                    check.last_error.message
                )
            }))
            .collect();
        Self {
            status: worst.unwrap_or(Verdict::Fail),
            service_id: env!("CARGO_PKG_NAME").to_owned(),
            version: FORM_VERSION.to_owned(),
            release_id: env!("CARGO_PKG_VERSION").to_owned(),
            time: at.show(at.now),
            started: at.show(started),
            output,
            checks: Checks { credentials, targets, secrets, elections, hooks, settings },
        }
    }
}

/// A question about a registry that is not kept fresh here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no registry that is kept fresh here")]
pub struct NotKept(RegistryHost);

/// Of the form of `/status`; a change that could break a reader raises it.
const FORM_VERSION: &str = "1";

fn credential(
    host: &RegistryHost,
    registry: &Registry,
    targets: &[Target],
    at: &Moment<'_>,
) -> CredentialReport {
    let lack = lack(host, registry, targets, at);
    let status = match (&lack, &registry.failing) {
        (Some(_), _) => Verdict::Fail,
        (None, Some(_)) => Verdict::Warn,
        (None, None) => Verdict::Pass,
    };
    let life = registry.lifetime;
    let never_expires = life.is_some_and(Lifetime::is_endless);
    let usable = if lack.is_some() { None } else { usable_until(host, registry, targets) };
    let usable = usable.filter(|_| !never_expires);
    let ending = life.filter(|_| !never_expires);
    let next = registry.next.filter(|_| !never_expires || registry.failing.is_some());
    CredentialReport {
        component_id: host.to_string(),
        component_type: "registry".to_owned(),
        status,
        observed_value: ending.map(|life| life.left(at.now).as_secs()),
        observed_unit: "s".to_owned(),
        usable_seconds: usable
            .map(|until| until.duration_since(at.now).unwrap_or_default().as_secs()),
        usable_until: usable.map(|until| at.show(until)),
        kind: registry.origin.kind().as_str().to_owned(),
        origin: registry.origin.to_string(),
        clock_skew_seconds: registry.skew.map(Skew::seconds),
        identity: registry.identity.clone(),
        issued: life.map(|life| at.show(life.issued())),
        expires: ending.map(|life| at.show(life.expires())),
        never_expires,
        last_success: registry.last_success.map(|time| at.show(time)),
        last_attempt: registry.last_attempt.map(|time| at.show(time)),
        consecutive_failures: registry.failing.as_ref().map_or(0, |failing| failing.count),
        last_error: registry.failing.as_ref().map(|failing| failed(failing, at)),
        next_refresh: next.map(|next| at.show(next.at)),
        next_refresh_reason: next.map(|next| next.reason.to_string()),
        verification: registry.verified.as_ref().map(|verified| {
            match verified.answer {
                Answer::Taken => "taken",
                Answer::Refused { .. } => "refused",
                Answer::Unknown { .. } => "unknown",
            }
            .to_owned()
        }),
        verified: registry.verified.as_ref().map(|verified| at.show(verified.at)),
        output: lack.as_ref().map(ToString::to_string),
        not_ready: lack.map(|lack| {
            trouble(lack.kind(), lack.to_string(), lack.since().map(|since| at.show(since)), 1)
        }),
        history: registry.history.of_last_day(at.now).map(|one| quarter(one, at)).collect(),
    }
}

/// Until when every target has a good credential of `host`; nothing if one has none.
pub(super) fn usable_until(
    host: &RegistryHost,
    registry: &Registry,
    targets: &[Target],
) -> Option<SystemTime> {
    let fetched = registry.lifetime?.expires();
    let mut targets = targets.iter().filter(|target| target.is_for(host));
    targets.try_fold(fetched, |until, target| Some(until.min(*target.found.get(host)?)))
}

fn target(target: &Target, state: &State, at: &Moment<'_>) -> TargetReport {
    let status = if lacks_any(target, state, at) || target.looked.is_none() {
        Verdict::Fail
    } else if target.failing.is_some() || !target.in_the_way.is_empty() {
        Verdict::Warn
    } else {
        Verdict::Pass
    };
    TargetReport {
        component_id: target.name.to_string(),
        component_type: "target".to_owned(),
        status,
        verified: target.verified.map(|time| at.show(time)),
        last_write: target.last_write.map(|time| at.show(time)),
        reader: target.reader.to_owned(),
        namespaces: target.counts.map(namespaces),
        protection: target.protection.map(str::to_owned),
        watched_by: if target.is_polled { "poll" } else { "events" }.to_owned(),
        last_error: target.failing.as_ref().map(|failing| failed(failing, at)),
        in_the_way: target.in_the_way.iter().map(|obstacle| in_the_way(obstacle, at)).collect(),
    }
}

fn namespaces(counts: Counts) -> NamespacesReport {
    let Counts { wanted, fresh, older, missing, foreign, failing } = counts;
    NamespacesReport { wanted, fresh, older, missing, foreign, failing }
}

fn election(election: &Election, at: &Moment<'_>) -> ElectionReport {
    ElectionReport {
        component_id: election.lease.clone(),
        component_type: "election".to_owned(),
        status: if election.failing.is_some() { Verdict::Warn } else { Verdict::Pass },
        leading: election.is_leading,
        holder: election.holder.clone(),
        since: election.since.map(|time| at.show(time)),
        last_error: election.failing.as_ref().map(|failing| failed(failing, at)),
    }
}

fn hook(hook: &Hook, at: &Moment<'_>) -> HookReport {
    HookReport {
        component_id: hook.name.clone(),
        component_type: "hook".to_owned(),
        status: if hook.failing.is_some() { Verdict::Warn } else { Verdict::Pass },
        last_run: hook.last_run.map(|time| at.show(time)),
        last_error: hook.failing.as_ref().map(|failing| failed(failing, at)),
    }
}

fn quarter(quarter: &Quarter, at: &Moment<'_>) -> QuarterReport {
    QuarterReport {
        start: at.show(quarter.start()),
        renewals: quarter.renewals,
        failures: quarter.failures,
    }
}

fn failed(failing: &Failing, at: &Moment<'_>) -> Trouble {
    trouble(failing.kind, failing.message.clone(), Some(at.show(failing.since)), failing.count)
}

fn in_the_way(obstacle: &InTheWay, at: &Moment<'_>) -> Trouble {
    trouble(obstacle.kind, obstacle.message.clone(), Some(at.show(obstacle.since)), 1)
}

fn trouble(kind: trouble::Kind, message: String, since: Option<String>, count: u32) -> Trouble {
    let (kind, remedy) = (kind.as_str().to_owned(), kind.remedy().to_owned());
    Trouble { kind, message, remedy, since, count }
}

/// A time of a report; nothing if it is not written as it should be.
#[must_use]
pub fn parse_time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

impl Moment<'_> {
    /// One of our times, as people write it.
    fn show(&self, time: SystemTime) -> String {
        humantime::format_rfc3339_seconds(self.clock.to_wall(time)).to_string()
    }
}
