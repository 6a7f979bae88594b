//! GitHub's registry, by tokens of a GitHub App's installation, which live for an hour
//! (<https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app>).
//!
//! GitHub documents its registry for classic personal access tokens and for the token of a workflow
//! (<https://docs.github.com/packages/working-with-a-github-packages-registry/working-with-the-container-registry>).
//! With an installation's token a login succeeds, and what can be pulled is for GitHub to say; `docs/limits.md` has
//! what others met with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::answers::{document, end};
use super::skew::Asked;
use super::{Fetch, FetchError, Minted, Source, accept, files, jwt};
use crate::clock::Clock;
use crate::network::{Answer, Network, Unanswered};
use crate::schedule::Issuer;

/// An installation of a GitHub App.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitHubApp {
    /// What the settings call it.
    pub name: Box<str>,
    /// The app's client id, or its number.
    pub app: Box<str>,
    /// The number of the installation.
    pub installation: u64,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Where the API is; an enterprise's server has one of its own.
    pub api: Box<str>,
    /// What it may do with packages: `read` or `write`.
    pub packages: Box<str>,
}

impl fmt::Display for GitHubApp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "github as {}", self.name)
    }
}

pub(super) struct GitHub {
    app: Arc<GitHubApp>,
    clock: Clock,
    network: Network,
}

impl GitHub {
    pub(super) fn new(app: Arc<GitHubApp>, clock: Clock, network: Network) -> Self {
        Self { app, clock, network }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        #[derive(Deserialize)]
        struct Given {
            token: SecretString,
            expires_at: String,
        }
        let GitHubApp { name, app, installation, .. } = &*self.app;
        let asked = Asked::now(&self.clock);
        let mut answer = self.ask(asked.wall).await?;
        if let Some(skew) = asked.blames(&answer) {
            answer = self.ask(skew.to_theirs(self.clock.wall())).await?;
        }
        let (given, answer) = document::<Given>(CLOUD, answer)?;
        let (life, skew) = asked.life(answer.date(), end(CLOUD, &given.expires_at)?);
        let credential = accept(CLOUD, USERNAME, given.token, life, &self.clock)?;
        let identity = format!("installation {installation} of app {app} ({name})");
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew })
    }

    /// Asks with an assertion that is dated `now`.
    async fn ask(&self, now: SystemTime) -> Result<Result<Answer, Unanswered>, FetchError> {
        let GitHubApp { app, installation, key, api, packages, .. } = &*self.app;
        let now = jwt::seconds(now);
        let claims = json!({
            "iss": app,
            "iat": now.saturating_sub(CLOCKS_MAY_DIFFER),
            "exp": now + LONGEST_ASSERTION - CLOCKS_MAY_DIFFER,
        });
        let assertion =
            jwt::sign(&json!({ "alg": "RS256", "typ": "JWT" }), &claims, &read(key).await?)
                .map_err(|why| FetchError::BadCredentials {
                    cloud: CLOUD,
                    detail: format!("{}: {why}", key.display()),
                })?;
        let bearer = SecretString::from(format!("Bearer {}", assertion.expose_secret()));
        let client = self.network.client();
        let question = client
            .post(format!("{api}/app/installations/{installation}/access_tokens"))
            .secret_header(AUTHORIZATION, &bearer)
            .header(ACCEPT, "application/vnd.github+json")
            .header(VERSION, "2022-11-28")
            .json(&json!({ "permissions": { "packages": packages } }));
        Ok(question.ask().await)
    }
}

impl Source for GitHub {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

async fn read(path: &Path) -> Result<SecretString, FetchError> {
    files::read(path).await.map_err(|error| {
        // It may be about to be put there, by whoever rotates it.
        FetchError::NoCredentials { cloud: CLOUD, detail: format!("{}: {error}", path.display()) }
    })
}

const CLOUD: &str = "GitHub";

/// What GitHub's documents use for installations' tokens.
const USERNAME: &str = "x-access-token";
const VERSION: HeaderName = HeaderName::from_static("x-github-api-version");

/// Seconds; GitHub takes none that lives longer.
const LONGEST_ASSERTION: u64 = 600;
const CLOCKS_MAY_DIFFER: u64 = 60;
