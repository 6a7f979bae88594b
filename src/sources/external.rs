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
use crate::program::{Program, ProgramError, Said, ended, harmless};
use crate::schedule::Issuer;

/// A registry, and the program that gives its credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalOrigin {
    host: RegistryHost,
    program: External,
    /// What it finds in its environment: `NAME`, as it is in ours, or `NAME=VALUE`.
    environment: Vec<String>,
    /// How long a credential lives, where nothing else says it.
    life: Option<Duration>,
}

/// A program that gives a credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum External {
    /// `docker-credential-NAME`.
    Helper(Box<str>),
    /// A program and its arguments.
    Command(Vec<String>),
}

impl ExternalOrigin {
    /// Of a registry.
    #[must_use]
    pub fn of(
        host: &RegistryHost,
        program: External,
        environment: Vec<String>,
        life: Option<Duration>,
    ) -> Self {
        Self { host: host.clone(), program, environment, life }
    }

    /// Whether it is one of docker's helpers.
    pub(super) fn is_helper(&self) -> bool {
        matches!(self.program, External::Helper(_))
    }

    fn name(&self) -> String {
        match &self.program {
            External::Helper(name) => format!("docker-credential-{name}"),
            External::Command(command) => command.first().cloned().unwrap_or_default(),
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
            External::Command(command) => self.ask_command(command).await,
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
        let input = SecretString::from(self.origin.host.as_str());
        let said = self.run(name, &arguments, input).await?;
        if !said.status.success() {
            // The protocol has the message where else the credential is.
            let words = harmless(said.output.expose_secret(), std::iter::empty());
            let detail = format!("{}: {words} {}", ended(said.status), said.complaints);
            return Err(self.failed(detail.trim_end()));
        }
        self.as_helper(&said)
    }

    async fn ask_command(&self, command: &[String]) -> Result<Given, FetchError> {
        let Some((name, arguments)) = command.split_first() else {
            return Err(self.failed("there is no command"));
        };
        let said = self.run(name, arguments, plugin::request(&self.origin.host)).await?;
        if !said.status.success() {
            return Err(self.failed(&format!("{}: {}", ended(said.status), said.complaints)));
        }
        match plugin::read(said.output.expose_secret(), &self.origin.host) {
            Ok(Some(given)) => {
                self.tell_complaints(name, &said, &given);
                Ok(given)
            }
            Ok(None) => self.as_helper(&said),
            Err(why) => Err(self.failed(&format!("{why} {}", said.complaints))),
        }
    }

    async fn run(
        &self,
        name: &str,
        arguments: &[String],
        input: SecretString,
    ) -> Result<Said, FetchError> {
        let environment = self.origin.environment.iter();
        let environment = environment.filter_map(|entry| match entry.split_once('=') {
            Some((name, value)) => Some((name.into(), value.into())),
            None => Some((entry.into(), std::env::var_os(entry)?)),
        });
        let program = Program { name, arguments, environment: environment.collect(), input };
        program.run(LIMIT).await.map_err(|error| match error {
            ProgramError::CannotRun { source, .. } => {
                self.failed(&format!("it cannot be run: {source}"))
            }
            ProgramError::Hangs { limit, .. } => FetchError::TimedOut { limit },
            ProgramError::TooMuch { .. } => self.failed("it prints without end"),
        })
    }

    fn as_helper(&self, said: &Said) -> Result<Given, FetchError> {
        #[derive(Deserialize)]
        struct Got {
            #[serde(rename = "Username")]
            username: String,
            #[serde(rename = "Secret")]
            secret: SecretString,
        }
        let got: Got = serde_json::from_str(said.output.expose_secret()).map_err(|error| {
            self.failed(&format!("{} {}", NoDocument::at(&error), said.complaints))
        })?;
        let given = Given { username: got.username, secret: got.secret, cached: None };
        self.tell_complaints(&self.origin.name(), said, &given);
        Ok(given)
    }

    /// What a program said that gave a credential, without that, in each form that it has on the way.
    fn tell_complaints(&self, name: &str, said: &Said, given: &Given) {
        if said.complaints.is_empty() {
            return;
        }
        let secret = given.secret.expose_secret();
        let pair = SecretString::from(format!("{}:{secret}", given.username));
        let forms = [
            SecretString::from(STANDARD.encode(secret)),
            SecretString::from(STANDARD.encode(pair.expose_secret())),
        ];
        let forms = forms.iter().map(ExposeSecret::expose_secret).chain([secret]);
        let words = harmless(&said.complaints, forms);
        warn!(program = name, host = %self.origin.host, said = words, "a program that gives a credential says something");
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
