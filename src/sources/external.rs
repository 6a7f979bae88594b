//! Any other registry: a credential that a program gives.
//!
//! That is one of docker's credential helpers (<https://github.com/docker/docker-credential-helpers#development>), or a
//! command that speaks as the kubelet's plugins do
//! (<https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/>) or prints what a helper prints.

mod plugin;

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tracing::warn;

use super::{Fetch, FetchError, Minted, Source, accept, jwt};
use crate::clock::Clock;
use crate::credential::{LONGEST_LIFE, Lifetime, RegistryHost};
use crate::network::NoDocument;
use crate::program::{Program, ProgramError, Said, ended};
use crate::schedule::Issuer;

/// A registry, and the program that gives its credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalOrigin {
    host: RegistryHost,
    program: External,
    /// How long a credential lives, where nothing else says it.
    life: Option<Duration>,
}

/// A program that gives a credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum External {
    /// `docker-credential-NAME`.
    Helper(Box<str>),
    /// A program and its arguments, and what it finds in its environment: `NAME`, as it is in ours, or `NAME=VALUE`.
    Command(Vec<String>, Vec<String>),
}

impl ExternalOrigin {
    /// Of a registry.
    #[must_use]
    pub fn of(host: &RegistryHost, program: External, life: Option<Duration>) -> Self {
        Self { host: host.clone(), program, life }
    }

    /// Whether it is one of docker's helpers.
    pub(super) fn is_helper(&self) -> bool {
        matches!(self.program, External::Helper(_))
    }

    fn name(&self) -> String {
        match &self.program {
            External::Helper(name) => format!("docker-credential-{name}"),
            External::Command(command, _) => command.first().cloned().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ExternalOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        let name = name.rsplit('/').next().unwrap_or_default();
        write!(formatter, "{name} for {}", self.host)
    }
}

pub(super) struct Programs {
    origin: ExternalOrigin,
    clock: Clock,
}

/// A user name and a secret, and what is said of their life.
struct Given {
    username: String,
    secret: SecretString,
    /// For how long it may be kept.
    cached: Option<Duration>,
}

impl Programs {
    pub(super) fn new(origin: ExternalOrigin, clock: Clock) -> Self {
        Self { origin, clock }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        let name = self.origin.name();
        let asked = self.clock.now();
        let given = match &self.origin.program {
            External::Helper(_) => self.ask_helper(&name).await,
            External::Command(command, environment) => self.ask_command(command, environment).await,
        };
        let Given { username, secret, cached } = given?;
        if username == "<token>" {
            let what = "it gives an identity token, which only its own clients can use";
            return Err(self.failed(what));
        }
        // What the token says of itself is so; how long it may be kept is less; the settings know least.
        let life = if let Some(expires) = own_expiry(&secret) {
            Lifetime::new(asked, self.clock.from_wall(expires))
        } else {
            let life = cached.filter(|life| !life.is_zero()).or(self.origin.life);
            let life = life.ok_or_else(|| {
                self.failed(
                    "nothing says how long its credential lives: set `life` for the registry",
                )
            })?;
            Lifetime::new(asked, asked + life.min(LONGEST_LIFE))
        };
        let credential = accept(SERVICE, &username, secret, life, &self.clock)?;
        let identity = format!("{username}, by {name}");
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew: None })
    }

    async fn ask_helper(&self, name: &str) -> Result<Given, FetchError> {
        let arguments = ["get".to_owned()];
        let program = Program {
            name,
            arguments: &arguments,
            environment: Vec::new(),
            input: SecretString::from(self.origin.host.as_str()),
        };
        let said = self.run(&program).await?;
        if !said.status.success() {
            // The protocol has the message where else the credential is.
            let words = said.output.expose_secret().trim();
            let words =
                if words.len() < LONGEST_MESSAGE && !words.contains('{') { words } else { "" };
            let detail = format!("{}: {words} {}", ended(said.status), said.complaints);
            return Err(self.failed(detail.trim_end()));
        }
        self.as_helper(&said)
    }

    async fn ask_command(
        &self,
        command: &[String],
        environment: &[String],
    ) -> Result<Given, FetchError> {
        let Some((name, arguments)) = command.split_first() else {
            return Err(self.failed("there is no command"));
        };
        let environment = environment.iter().filter_map(|entry| match entry.split_once('=') {
            Some((name, value)) => Some((name.into(), value.into())),
            None => Some((entry.into(), std::env::var_os(entry)?)),
        });
        let input = plugin::request(&self.origin.host);
        let program = Program { name, arguments, environment: environment.collect(), input };
        let said = self.run(&program).await?;
        if !said.status.success() {
            return Err(self.failed(&format!("{}: {}", ended(said.status), said.complaints)));
        }
        match plugin::read(said.output.expose_secret(), &self.origin.host) {
            Ok(Some(given)) => Ok(given),
            Ok(None) => self.as_helper(&said),
            Err(why) => Err(self.failed(&why)),
        }
    }

    async fn run(&self, program: &Program<'_>) -> Result<Said, FetchError> {
        let said = program.run(LIMIT).await.map_err(|error| match error {
            ProgramError::CannotRun { source, .. } => {
                self.failed(&format!("it cannot be run: {source}"))
            }
            ProgramError::Hangs { limit, .. } => FetchError::TimedOut { limit },
            ProgramError::TooMuch { .. } => self.failed("it prints without end"),
        })?;
        if !said.complaints.is_empty() {
            warn!(program = program.name, host = %self.origin.host, said = said.complaints, "a program that gives a credential says something");
        }
        Ok(said)
    }

    fn as_helper(&self, said: &Said) -> Result<Given, FetchError> {
        #[derive(Deserialize)]
        struct Got {
            #[serde(rename = "Username")]
            username: String,
            #[serde(rename = "Secret")]
            secret: SecretString,
        }
        let got: Got = serde_json::from_str(said.output.expose_secret())
            .map_err(|error| self.failed(&NoDocument::at(&error).to_string()))?;
        Ok(Given { username: got.username, secret: got.secret, cached: None })
    }

    fn failed(&self, detail: &str) -> FetchError {
        FetchError::Program { name: self.origin.name(), detail: detail.to_owned() }
    }
}

impl Source for Programs {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

/// When a secret expires by its own word: one of ECR's has it in itself
/// (<https://github.com/CircleCI-Public/aws-ecr-orb/issues/265>), and so has a JSON Web Token.
fn own_expiry(secret: &SecretString) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Password {
        expiration: u64,
    }
    jwt::expiry(secret).or_else(|| {
        let decoded = STANDARD.decode(secret.expose_secret()).ok()?;
        let password: Password = serde_json::from_slice(&decoded).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(password.expiration))
    })
}

const SERVICE: &str = "the program";

/// The limit for a whole fetch may be shorter.
const LIMIT: Duration = Duration::from_mins(1);

const LONGEST_MESSAGE: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_says_when_it_expires_is_believed() {
        let of_ecr =
            STANDARD.encode("{\"payload\":\"x\",\"datakey\":\"y\",\"expiration\":1700000000}");
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(own_expiry(&of_ecr.into()), Some(expires));
        for text in ["word", "", "e30=", "glpat-not-a-token"] {
            assert_eq!(own_expiry(&text.into()), None, "{text}");
        }
    }
}
