//! Google's Container Registry and Artifact Registry.
//!
//! Any access token will do, under the user name `oauth2accesstoken`
//! (<https://cloud.google.com/artifact-registry/docs/docker/authentication#token>).
//! A key file's token is minted anew at each call and lives for an hour; the
//! metadata server of a machine hands one token to everybody, and a new one only
//! in that one's last minutes
//! (<https://cloud.google.com/compute/docs/access/authenticate-workloads#applications>).

use std::env;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gcp_auth::{
    ConfigDefaultCredentials, CustomServiceAccount, GCloudAuthorizedUser, MetadataServiceAccount,
    Token, TokenProvider,
};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{Fetch, FetchError, Minted, Source, accept, chain};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::schedule::Issuer;

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
    clock: Clock,
    /// Held while `gcloud` runs. It cannot be ended from here, and one that hangs
    /// must not be joined by another at each attempt.
    gcloud: Arc<Semaphore>,
}

impl Google {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, gcloud: Arc::new(Semaphore::new(1)) }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        let asked = self.clock.now();
        let Found { token, issuer, identity } = find_token(&self.gcloud).await?;
        let life = Lifetime::new(asked, self.clock.from_wall(token.expires_at().into()));
        let secret = SecretString::from(token.as_str());
        let credential = accept(SERVICE, USERNAME, secret, life, &self.clock)?;
        // It says how long a token lives, not until when; and gcp_auth hides the `Date`.
        Ok(Minted { credential, issuer, identity, skew: None })
    }
}

impl Source for Google {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

/// A token, and whose it is.
struct Found {
    token: Arc<Token>,
    issuer: Issuer,
    identity: String,
}

/// The part of a credentials file that is no secret.
#[derive(Deserialize)]
struct CredentialsFile {
    r#type: String,
    client_email: Option<String>,
}

const CLOUD: &str = "Google";
const SERVICE: &str = "Google";
const USERNAME: &str = "oauth2accesstoken";

/// What registries ask for; the roles of the account decide what it may do.
const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/cloud-platform"];

const KEY_FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Looks where Google's own clients look, in their order
/// (<https://cloud.google.com/docs/authentication/application-default-credentials>).
///
/// Each provider of `gcp_auth` keeps its token until just before it expires, so
/// a new provider is made for every fetch.
async fn find_token(gcloud: &Arc<Semaphore>) -> Result<Found, FetchError> {
    if let Some(path) = env::var_os(KEY_FILE_VARIABLE).filter(|path| !path.is_empty()) {
        return from_file(Path::new(&path), KEY_FILE_VARIABLE).await;
    }
    let well_known = well_known_file();
    if let Some(path) = well_known.as_deref().filter(|path| path.exists()) {
        return from_file(path, "application default credentials").await;
    }
    let metadata = match MetadataServiceAccount::new().await {
        Ok(provider) => {
            let token = token_of(&provider).await?;
            let identity = "the machine's service account (metadata server)".to_owned();
            return Ok(Found { token, issuer: Issuer::Caching, identity });
        }
        Err(error) => error,
    };
    if !is_on_path("gcloud") {
        return Err(FetchError::NoCredentials {
            cloud: CLOUD,
            detail: format!(
                "{KEY_FILE_VARIABLE} is not set, {} does not exist, the metadata server did not \
                 answer ({}), and there is no `gcloud` on the PATH",
                well_known
                    .map_or_else(|| "a home folder".to_owned(), |path| path.display().to_string()),
                explain(metadata),
            ),
        });
    }
    from_gcloud(gcloud).await
}

async fn from_file(path: &Path, found_by: &str) -> Result<Found, FetchError> {
    let unusable = |detail: String| FetchError::BadCredentials {
        cloud: CLOUD,
        detail: format!("{} ({found_by}): {detail}", path.display()),
    };
    // What serde says of a malformed file can have a part of the key in it.
    let file: CredentialsFile = File::open(path)
        .map_err(|error| match error.kind() {
            // It may be about to be put there, by whoever rotates it.
            io::ErrorKind::NotFound => FetchError::NoCredentials {
                cloud: CLOUD,
                detail: format!("{} ({found_by}) does not exist", path.display()),
            },
            _ => unusable(error.to_string()),
        })
        .and_then(|file| {
            serde_json::from_reader(io::BufReader::new(file)).map_err(|error| {
                unusable(format!(
                    "no JSON with a `type` (line {}, column {})",
                    error.line(),
                    error.column()
                ))
            })
        })?;
    match file.r#type.as_str() {
        "service_account" => {
            let provider = CustomServiceAccount::from_file(path).map_err(|error| match error {
                gcp_auth::Error::Json(..) => unusable("a part of the key is missing".to_owned()),
                error => unusable(error.to_string()),
            })?;
            Ok(Found {
                token: token_of(&provider).await?,
                issuer: Issuer::Minting,
                identity: file.client_email.unwrap_or_else(|| "service account".to_owned()),
            })
        }
        "authorized_user" if Some(path) == well_known_file().as_deref() => {
            let provider = ConfigDefaultCredentials::new().await.map_err(refusal)?;
            Ok(Found {
                token: token_of(&provider).await?,
                issuer: Issuer::Minting,
                identity: "the user of `gcloud auth application-default login`".to_owned(),
            })
        }
        "authorized_user" => Err(unusable(format!(
            "a user's credentials are only read from {}",
            well_known_file().unwrap_or_default().display()
        ))),
        other => Err(unusable(format!(
            "credentials of type `{}` are not supported by this version",
            other.escape_default()
        ))),
    }
}

/// `gcp_auth` runs the program in a way that blocks its thread.
async fn from_gcloud(gcloud: &Arc<Semaphore>) -> Result<Found, FetchError> {
    let Ok(turn) = Arc::clone(gcloud).try_acquire_owned() else {
        let detail = "it hangs since it was last run; end it".to_owned();
        return Err(FetchError::Unreachable { service: "`gcloud`", detail });
    };
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        runtime.block_on(async {
            let provider =
                GCloudAuthorizedUser::new().await.map_err(|error| FetchError::BadCredentials {
                    cloud: CLOUD,
                    detail: format!("`gcloud auth print-access-token`: {}", explain(error)),
                })?;
            let token = token_of(&provider).await;
            drop(turn);
            token
        })
    };
    let token = tokio::task::spawn_blocking(run).await.map_err(|_| FetchError::BadAnswer {
        service: SERVICE,
        detail: "`gcloud` could not be run".to_owned(),
    })??;
    let identity = "the user of `gcloud auth login`".to_owned();
    // gcloud mints a new token unless its last one is good for another hour, which
    // is all that a token lives; so the hour that `gcp_auth` takes for granted holds.
    Ok(Found { token, issuer: Issuer::Minting, identity })
}

async fn token_of(provider: &impl TokenProvider) -> Result<Arc<Token>, FetchError> {
    provider.token(&SCOPES).await.map_err(refusal)
}

/// Sorts an error of `gcp_auth`, which keeps neither status nor body of a refusal
/// (<https://github.com/djc/gcp_auth/blob/main/src/types.rs>).
fn refusal(error: gcp_auth::Error) -> FetchError {
    let service = SERVICE;
    match error {
        gcp_auth::Error::Other(..) => FetchError::Unreachable { service, detail: explain(error) },
        gcp_auth::Error::Http(..) | gcp_auth::Error::Json(..) => {
            FetchError::BadAnswer { service, detail: explain(error) }
        }
        gcp_auth::Error::Str("token request failed") => FetchError::Refused {
            service,
            detail: "the token endpoint answered with an error; check that the account and its \
                     key are enabled, and this machine's clock"
                .to_owned(),
        },
        error => FetchError::BadCredentials { cloud: CLOUD, detail: explain(error) },
    }
}

/// The texts of an error, but never serde's, which quote the answer.
fn explain(error: gcp_auth::Error) -> String {
    match error {
        gcp_auth::Error::Json(what, error) => {
            format!("{what} (line {}, column {})", error.line(), error.column())
        }
        error => chain(&error),
    }
}

fn well_known_file() -> Option<PathBuf> {
    Some(dirs::home_dir()?.join(".config/gcloud/application_default_credentials.json"))
}

fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|paths| env::split_paths(&paths).any(|folder| folder.join(program).is_file()))
}

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

    #[test]
    fn an_error_never_quotes_the_answer() {
        let answer = r#""a-token-that-must-not-be-shown""#;
        let error = serde_json::from_str::<CredentialsFile>(answer).err().unwrap();
        assert!(error.to_string().contains("must-not-be-shown"), "serde quotes: {error}");
        let message = refusal(gcp_auth::Error::Json("no token", error)).to_string();
        assert!(!message.contains("must-not-be-shown"), "{message}");
    }
}
