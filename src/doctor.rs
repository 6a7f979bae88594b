//! `freshcreds doctor`: goes the whole way of each registry once, and says of each step whether it can be gone, and
//! what to do where it cannot. Nothing is written but two files that are gone again, by which a folder is tried.

use std::fs::OpenOptions;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::Settings;
use crate::credential::{Credential, RegistryHost};
#[cfg(feature = "kubernetes")]
use crate::kubernetes::Link;
use crate::registry::{Answer, Registries, Verifier};
use crate::sources::{FetchError, Kind, Origin};
use crate::status::Verdict;
use crate::targets::document::Document;
use crate::targets::obstacles::obstacles;
#[cfg(feature = "kubernetes")]
use crate::targets::secrets;
use crate::targets::{Options, Write, file, replace};

/// What is so with one step.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The registry, or the file.
    pub subject: String,
    /// Which step.
    pub check: &'static str,
    /// Whether it can be gone.
    pub status: Verdict,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Everything that was looked at; the form of `--json`.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// Of this form. A change that could break a reader raises it.
    pub version: u32,
    /// The worst of all.
    pub status: Verdict,
    /// One for each step.
    pub checks: Vec<Finding>,
}

/// Looks at all registries and targets of the settings.
pub async fn examine(settings: &Settings, clock: &Clock) -> Findings {
    let mut checks = Vec::new();
    let verifier = Registries::new(settings.network.clone());
    for (origin, hosts) in settings.sources() {
        let asked = ask(&origin, settings, clock).await;
        for host in &hosts {
            checks.push(recognised(host, &origin));
            checks.extend(
                asked
                    .findings
                    .iter()
                    .map(|finding| Finding { subject: host.to_string(), ..finding.clone() }),
            );
            if let Some(credential) = &asked.credential {
                checks.push(taken(&verifier, host, credential).await);
            }
        }
    }
    let hosts: Arc<[RegistryHost]> =
        settings.registries.iter().map(|registry| registry.host.clone()).collect();
    for target in &settings.targets {
        let (options, hosts) = (target.clone(), Arc::clone(&hosts));
        // The disk may take its time.
        let looking = tokio::task::spawn_blocking(move || look(&options, &hosts));
        // Only a panic gets here, which ends the program where it is released.
        checks.extend(looking.await.unwrap_or_default());
    }
    #[cfg(feature = "kubernetes")]
    for secret in &settings.secrets {
        checks.push(rights(secret, settings, clock).await);
    }
    let worst = checks.iter().map(|finding| finding.status).max();
    Findings { version: 1, status: worst.unwrap_or(Verdict::Pass), checks }
}

/// Whether a Secret could be kept in the cluster.
#[cfg(feature = "kubernetes")]
async fn rights(secret: &secrets::Options, settings: &Settings, clock: &Clock) -> Finding {
    let link = Link::new(settings.cluster.access.clone(), clock.clone(), Arc::new(|_, _| {}));
    let finding = |status, message, hint| Finding {
        subject: format!("secret/{}", secret.name),
        check: "rights",
        status,
        message,
        hint,
    };
    match secrets::rights::missing(&link, secret, settings.cluster.lease.as_ref()).await {
        Ok(missing) if missing.is_empty() => {
            let message = "the API server allows all that it takes".to_owned();
            finding(Verdict::Pass, message, None)
        }
        Ok(missing) => {
            let message = format!("the API server does not allow to {}", missing.join(", nor to "));
            let hint = "allow it to this identity by a Role or ClusterRole; the chart has the least that it takes";
            finding(Verdict::Fail, message, Some(hint.to_owned()))
        }
        Err(refusal) => {
            finding(Verdict::Fail, refusal.to_string(), Some(refusal.kind().remedy().to_owned()))
        }
    }
}

impl Findings {
    /// As a text for people: what it is about, and below it a line for each step, and what to do.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut subject = "";
        for finding in &self.checks {
            if finding.subject != subject {
                subject = &finding.subject;
                lines.push(harmless(subject));
            }
            let mark = match finding.status {
                Verdict::Pass => "ok  ",
                Verdict::Warn => "?   ",
                Verdict::Fail => "FAIL",
            };
            lines.push(format!("  {mark}  {:<11} {}", finding.check, harmless(&finding.message)));
            if let Some(hint) = &finding.hint {
                lines.push(format!("        {:<11} do: {}", "", harmless(hint)));
            }
        }
        lines.join("\n")
    }
}

/// On one line, and no order to a terminal.
fn harmless(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").replace(char::is_control, "\u{fffd}")
}

fn recognised(host: &RegistryHost, origin: &Origin) -> Finding {
    let by_name = Origin::of(host).is_ok_and(|named| named.kind() == origin.kind());
    let rule = if by_name { "its name" } else { "its [[registry]] table" };
    Finding {
        subject: host.to_string(),
        check: "recognised",
        status: Verdict::Pass,
        message: format!("{} ({origin}), by {rule}", origin.kind().as_str()),
        hint: None,
    }
}

/// What an issuer said to a question.
struct Asked {
    /// Of no registry yet.
    findings: Vec<Finding>,
    credential: Option<Credential>,
}

async fn ask(origin: &Origin, settings: &Settings, clock: &Clock) -> Asked {
    let source = origin.source(clock, &settings.network);
    let limit = settings.fetch_timeout;
    let finding = |check, status, message, hint| Finding {
        subject: String::new(),
        check,
        status,
        message,
        hint,
    };
    let failed = |check, error: &FetchError| {
        finding(check, Verdict::Fail, error.to_string(), Some(remedy(origin.kind(), error)))
    };
    let timed_out = || FetchError::TimedOut { limit };
    let mut findings = Vec::new();
    let who = tokio::time::timeout(limit, source.whose()).await;
    match who.unwrap_or_else(|_| Some(Err(timed_out()))) {
        None => {}
        Some(Ok(who)) => findings.push(finding("identity", Verdict::Pass, who, None)),
        // The daemon itself need not ask it: there may be no way to STS from a closed network.
        Some(Err(error @ (FetchError::Unreachable { .. } | FetchError::TimedOut { .. }))) => {
            let hint = Some(remedy(origin.kind(), &error));
            findings.push(finding("identity", Verdict::Warn, error.to_string(), hint));
        }
        Some(Err(error)) => {
            findings.push(failed("identity", &error));
            return Asked { findings, credential: None };
        }
    }
    let minted = tokio::time::timeout(limit, source.fetch()).await;
    match minted.unwrap_or_else(|_| Err(timed_out())) {
        Err(error) => {
            findings.push(failed("token", &error));
            Asked { findings, credential: None }
        }
        Ok(minted) => {
            if !findings.iter().any(|finding| finding.status == Verdict::Pass) {
                findings.push(finding("identity", Verdict::Pass, minted.identity, None));
            }
            let life = minted.credential.lifetime();
            let message = if life.is_endless() {
                "it does not expire".to_owned()
            } else {
                let left = std::time::Duration::from_secs(life.left(clock.now()).as_secs());
                let until = humantime::format_rfc3339_seconds(clock.to_wall(life.expires()));
                format!("good for {}, until {until}", humantime::format_duration(left))
            };
            findings.push(finding("token", Verdict::Pass, message, None));
            if let Some(skew) = minted.skew {
                let (seconds, way) = match skew.seconds() {
                    ahead @ 0.. => (ahead, "ahead of"),
                    behind => (-behind, "behind"),
                };
                let message = format!("the issuer's is {seconds} seconds {way} this machine's");
                let hint = "set this machine's clock".to_owned();
                findings.push(finding("clock", Verdict::Warn, message, Some(hint)));
            }
            Asked { findings, credential: Some(minted.credential) }
        }
    }
}

/// What to do about a failure; which permission is missing, with the statement that gives it.
fn remedy(kind: Kind, error: &FetchError) -> String {
    let FetchError::Denied { detail, .. } = error else { return error.kind().remedy().to_owned() };
    let statement = |actions: &str| {
        format!(
            "add to a policy of this identity: \
             {{\"Effect\": \"Allow\", \"Action\": {actions}, \"Resource\": \"*\"}}"
        )
    };
    if detail.contains("sts:AssumeRole") {
        return "allow the identity `sts:AssumeRole` on the role, and name the identity (and the `external_id`) in \
                the role's trust policy"
            .to_owned();
    }
    match kind {
        Kind::Ecr => statement("\"ecr:GetAuthorizationToken\""),
        Kind::EcrPublic => {
            statement("[\"ecr-public:GetAuthorizationToken\", \"sts:GetServiceBearerToken\"]")
        }
        Kind::Google if detail.contains("getAccessToken") => {
            "give the identity `roles/iam.serviceAccountTokenCreator` on the service account that it acts for".to_owned()
        }
        Kind::Google => "give the account `roles/artifactregistry.reader` on the project or the repository".to_owned(),
        Kind::Azure if detail.contains("AcrPull") => {
            "az role assignment create --assignee CLIENT --role AcrPull --scope REGISTRY_ID".to_owned()
        }
        _ => error.kind().remedy().to_owned(),
    }
}

async fn taken(verifier: &Registries, host: &RegistryHost, credential: &Credential) -> Finding {
    let (status, message, hint) = match verifier.ask(host, credential).await {
        Answer::Taken => (Verdict::Pass, "it takes the token".to_owned(), None),
        Answer::Refused { detail } => (
            Verdict::Fail,
            format!("it refuses the token ({detail})"),
            Some(crate::trouble::Kind::Rejected.remedy().to_owned()),
        ),
        Answer::Unknown { detail } => (
            Verdict::Warn,
            format!("it could not be asked ({detail})"),
            Some("see whether this machine reaches it, as whoever pulls has to".to_owned()),
        ),
    };
    Finding { subject: host.to_string(), check: "registry", status, message, hint }
}

/// Whether a file can be written, who reads it, and what they pass our entries by for.
fn look(options: &Options, hosts: &[RegistryHost]) -> Vec<Finding> {
    let finding = |check, status, message, hint| Finding {
        subject: options.path.display().to_string(),
        check,
        status,
        message,
        hint,
    };
    let reader = options.reader;
    let found = match file::read(&options.path, options.attributes) {
        Ok(found) => found,
        Err(error) => {
            let hint = Some(error.kind().remedy().to_owned());
            return vec![finding("file", Verdict::Fail, error.to_string(), hint)];
        }
    };
    let mut findings = Vec::new();
    let is_there = found.owner().is_some();
    let what = match (is_there, found.owner_and_mode()) {
        (true, Some((owner, mode))) => format!("of user {owner}, mode {mode:04o}"),
        _ => "not there yet".to_owned(),
    };
    match replace::probe(&found) {
        Ok(protection) => {
            let how = protection.map_or("its folder will be made", replace::Protection::as_str);
            let message = format!("{what}, read by {}, can be replaced ({how})", reader.as_str());
            findings.push(finding("file", Verdict::Pass, message, None));
        }
        // It need not be replaced, but opened for writing.
        Err(error) if options.write == Write::InPlace => {
            match OpenOptions::new().write(true).open(&options.path) {
                Ok(_) => {
                    let message =
                        format!("{what}, read by {}, written in place ({error})", reader.as_str());
                    findings.push(finding("file", Verdict::Pass, message, None));
                }
                Err(error) => {
                    let hint = Some(crate::trouble::Kind::PermissionDenied.remedy().to_owned());
                    findings.push(finding("file", Verdict::Fail, error.to_string(), hint));
                }
            }
        }
        Err(error) => {
            let hint = Some(error.kind().remedy().to_owned());
            findings.push(finding("file", Verdict::Fail, error.to_string(), hint));
        }
    }
    if !is_there {
        return findings;
    }
    match Document::parse(&found.content) {
        Err(error) => {
            let hint = crate::trouble::Kind::Invalid.remedy().to_owned();
            findings.push(finding("content", Verdict::Fail, error.to_string(), Some(hint)));
        }
        Ok(document) => {
            for obstacle in obstacles(&document, hosts, reader) {
                let hides = hosts.iter().any(|host| obstacle.hides(host, reader));
                let status = if hides { Verdict::Fail } else { Verdict::Warn };
                let hint = Some(obstacle.kind().remedy().to_owned());
                findings.push(finding("in the way", status, obstacle.to_string(), hint));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_is_named_with_the_statement_that_gives_it() {
        let denied = |detail: &str| FetchError::Denied { service: "it", detail: detail.to_owned() };
        let said = remedy(Kind::Ecr, &denied("AccessDeniedException: no"));
        assert!(
            said.contains("{\"Effect\": \"Allow\", \"Action\": \"ecr:GetAuthorizationToken\""),
            "{said}"
        );
        let said = remedy(Kind::EcrPublic, &denied("no"));
        assert!(said.contains("sts:GetServiceBearerToken"), "{said}");
        let said = remedy(Kind::Ecr, &denied("not authorized to perform: sts:AssumeRole on x"));
        assert!(said.contains("trust policy"), "{said}");
        let said =
            remedy(Kind::Google, &denied("Permission 'iam.serviceAccounts.getAccessToken' denied"));
        assert!(said.contains("serviceAccountTokenCreator"), "{said}");
    }

    #[test]
    fn a_text_has_a_line_for_each_step_and_no_orders_to_a_terminal() {
        let finding = |check, status, message: &str, hint: Option<&str>| Finding {
            subject: "gcr.io".to_owned(),
            check,
            status,
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let findings = Findings {
            version: 1,
            status: Verdict::Fail,
            checks: vec![
                finding("recognised", Verdict::Pass, "google", None),
                finding("token", Verdict::Fail, "no\n\u{1b}[31mgood", Some("mend it")),
            ],
        };
        assert_eq!(
            findings.text(),
            "gcr.io\n  ok    recognised  google\n  FAIL  token       no \u{fffd}[31mgood\n                    do: mend it"
        );
    }
}
