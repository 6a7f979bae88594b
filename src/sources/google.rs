//! Google's Container Registry and Artifact Registry.
//!
//! Any access token will do, under the user name `oauth2accesstoken`
//! (<https://cloud.google.com/artifact-registry/docs/docker/authentication#token>).
//! A key's token is minted anew at each call and lives for an hour; the metadata server of a
//! machine hands one token to everybody, and a new one only in that one's last minutes
//! (<https://cloud.google.com/compute/docs/access/authenticate-workloads#applications>).

mod federation;
mod file;
mod tokens;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};

use self::tokens::{Asker, Token, fresh, given};
use super::answers::{good, text_of};
use super::{Fetch, FetchError, Minted, Source, accept};
use crate::clock::Clock;
use crate::network::Network;
use crate::program::{Program, ProgramError, ended};
use crate::schedule::Issuer;

/// An identity that the settings name, where the machine's own is not the right one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoogleIdentity {
    /// What the settings call it.
    pub name: Box<str>,
    /// What it begins with.
    pub start: Start,
    /// The service account in whose name it acts.
    pub impersonation: Option<Impersonation>,
    /// The e-mail address that it has to have in the end.
    pub expected: Option<Box<str>>,
}

/// Where an identity comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Where Google's own clients look, in their order.
    Chain,
    /// A file of credentials, of any kind.
    File(PathBuf),
    /// An account of the machine's metadata server, by its address or as `default`.
    Metadata(Box<str>),
}

/// Acting in the name of a service account
/// (<https://cloud.google.com/iam/docs/service-account-impersonation>).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Impersonation {
    /// Whose name.
    pub account: Box<str>,
    /// Through whom, the first one first.
    pub delegates: Vec<Box<str>>,
}

/// Whether the name is one of Google's for registries of container images
/// (<https://cloud.google.com/artifact-registry/docs/repositories/repo-locations>).
pub(super) fn is_google(name: &str) -> bool {
    let is_location = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name == "gcr.io"
        || name.strip_suffix(".gcr.io").is_some_and(is_location)
        || name.strip_suffix("-docker.pkg.dev").is_some_and(is_location)
        || name
            .strip_prefix("docker.")
            .and_then(|rest| rest.strip_suffix(".rep.pkg.dev"))
            .is_some_and(is_location)
}

pub(super) struct Google {
    identity: Option<Arc<GoogleIdentity>>,
    clock: Clock,
    network: Network,
}

impl Google {
    pub(super) fn new(
        identity: Option<Arc<GoogleIdentity>>,
        clock: Clock,
        network: Network,
    ) -> Self {
        Self { identity, clock, network }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        let asker =
            Asker { client: self.network.client(), network: &self.network, clock: &self.clock };
        let token = match &self.identity {
            None => from_chain(&asker, false).await?,
            Some(identity) => as_identity(&asker, identity).await?,
        };
        let Token { secret, life, issuer, identity, skew } = token;
        let credential = accept(SERVICE, USERNAME, secret, life, &self.clock)?;
        Ok(Minted { credential, issuer, identity, skew })
    }
}

impl Source for Google {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

async fn as_identity(asker: &Asker<'_>, identity: &GoogleIdentity) -> Result<Token, FetchError> {
    let mut token = match &identity.start {
        Start::Chain => from_chain(asker, identity.expected.is_some()).await?,
        Start::File(path) => file::token(asker, path, "of the settings").await?,
        Start::Metadata(account) => {
            from_metadata(asker, account, identity.expected.is_some()).await?
        }
    };
    if let Some(impersonation) = &identity.impersonation {
        token = asker.impersonate(&token, impersonation).await?;
    }
    if let Some(expected) = &identity.expected
        && **expected != *token.identity
    {
        return Err(FetchError::WrongPrincipal {
            name: identity.name.to_string(),
            expected: expected.to_string(),
            found: token.identity,
        });
    }
    token.identity = format!("{} ({})", token.identity, identity.name);
    Ok(token)
}

const CLOUD: &str = "Google";
const SERVICE: &str = "Google";
const USERNAME: &str = "oauth2accesstoken";

/// What registries ask for; the roles of the account decide what it may do.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

const KEY_FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Looks where Google's own clients look, in their order
/// (<https://cloud.google.com/docs/authentication/application-default-credentials>).
async fn from_chain(asker: &Asker<'_>, is_expected: bool) -> Result<Token, FetchError> {
    if let Some(path) = env::var_os(KEY_FILE_VARIABLE).filter(|path| !path.is_empty()) {
        return file::token(asker, Path::new(&path), KEY_FILE_VARIABLE).await;
    }
    let well_known = well_known_file();
    if let Some(path) = well_known.as_deref().filter(|path| path.exists()) {
        return file::token(asker, path, "application default credentials").await;
    }
    let unanswered = match from_metadata(asker, "default", is_expected).await {
        Err(error @ (FetchError::Unreachable { .. } | FetchError::NoCredentials { .. })) => error,
        result => return result,
    };
    if !is_on_path("gcloud") {
        return Err(FetchError::NoCredentials {
            cloud: CLOUD,
            detail: format!(
                "{KEY_FILE_VARIABLE} is not set, {} does not exist, the metadata server did not \
                 answer ({unanswered}), and there is no `gcloud` on the PATH",
                well_known
                    .map_or_else(|| "a home folder".to_owned(), |path| path.display().to_string()),
            ),
        });
    }
    from_gcloud(asker).await
}

/// <https://cloud.google.com/compute/docs/metadata/overview>
/// Who it is has to be known if somebody is `expected`: without an answer nobody is taken for anybody.
async fn from_metadata(
    asker: &Asker<'_>,
    account: &str,
    is_expected: bool,
) -> Result<Token, FetchError> {
    let host = env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
    let host = host.as_deref().unwrap_or("metadata.google.internal");
    let ask = |what: &str| {
        let url =
            format!("http://{host}/computeMetadata/v1/instance/service-accounts/{account}/{what}");
        asker.client.get(url).near().header(FLAVOR, "Google").ask()
    };
    let began = asker.clock.now();
    let answer = ask("token").await;
    if answer.as_ref().is_ok_and(|answer| answer.status == hyper::StatusCode::NOT_FOUND) {
        return Err(FetchError::NoCredentials {
            cloud: CLOUD,
            detail: format!("the metadata server knows no service account `{account}`"),
        });
    }
    let mut token = given(METADATA, began, answer, Issuer::Caching)?;
    let name = match good(METADATA, ask("email").await) {
        Ok(name) => Some(name),
        Err(error) if is_expected => return Err(error),
        Err(_) => None,
    };
    token.identity = name.as_ref().and_then(text_of).map_or_else(
        || format!("the machine's service account {account}"),
        |name| name.expose_secret().to_owned(),
    );
    Ok(token)
}

/// The token of whoever is logged in to Google's command line.
async fn from_gcloud(asker: &Asker<'_>) -> Result<Token, FetchError> {
    let arguments = ["auth", "print-access-token", "--quiet"].map(str::to_owned);
    let environment = env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("CLOUDSDK_")));
    let gcloud = Program {
        name: "gcloud",
        arguments: &arguments,
        environment: environment.collect(),
        input: SecretString::from(""),
    };
    let unusable = |detail: String| FetchError::BadCredentials { cloud: CLOUD, detail };
    let began = asker.clock.now();
    let said = gcloud.run(GCLOUD_LIMIT).await.map_err(|error| match error {
        ProgramError::Hangs { .. } => {
            FetchError::Unreachable { service: "`gcloud`", detail: error.to_string() }
        }
        error => unusable(error.to_string()),
    })?;
    let text = said.output.expose_secret().trim();
    if !said.status.success() || text.is_empty() {
        let how = ended(said.status);
        return Err(unusable(format!(
            "`gcloud auth print-access-token` ({how}): {}",
            said.complaints
        )));
    }
    // gcloud mints a new token unless its last one is good for another hour, which is all that a
    // token lives; so an hour it is.
    Ok(fresh(SecretString::from(text), began, HOUR, "the user of `gcloud auth login`"))
}

fn well_known_file() -> Option<PathBuf> {
    Some(dirs::home_dir()?.join(".config/gcloud/application_default_credentials.json"))
}

fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|paths| env::split_paths(&paths).any(|folder| folder.join(program).is_file()))
}

const METADATA: &str = "Google's metadata server";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const HOUR: Duration = Duration::from_hours(1);

/// It starts slowly; the limit for a whole fetch may be shorter.
const GCLOUD_LIMIT: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn googles_container_registries_are_known_by_name() {
        for name in [
            "gcr.io",
            "us.gcr.io",
            "eu.gcr.io",
            "asia.gcr.io",
            "marketplace.gcr.io",
            "europe-west1-docker.pkg.dev",
            "us-docker.pkg.dev",
            "docker.europe-west1.rep.pkg.dev",
        ] {
            assert!(is_google(name), "{name}");
        }
        for name in [
            "notgcr.io",
            ".gcr.io",
            "gcr.io.example.com",
            "europe-python.pkg.dev",
            "docker.pkg.dev",
            "-docker.pkg.dev",
            "docker..rep.pkg.dev",
            "a.b.gcr.io",
            "pkg.dev",
        ] {
            assert!(!is_google(name), "{name}");
        }
    }
}
