//! Where credentials come from: one file for each kind of issuer.
//!
//! To add a source: put a file beside `ecr.rs` that parses its host names and
//! implements [`Source`], give [`Origin`] a variant for what distinguishes two of
//! its issuers, and follow the compiler through the `match`es in this file.

mod answers;
mod aws;
mod azure;
#[cfg(test)]
mod conformance;
mod ecr;
mod ecr_public;
mod external;
mod files;
mod fixed;
mod github;
mod google;
mod jwt;
mod skew;

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use thiserror::Error;

pub use self::aws::{AwsIdentity, Principal, Role, Start as AwsStart};
pub use self::azure::{AzureIdentity, AzureOrigin, Proof};
pub use self::ecr::{BadRegion, EcrOrigin};
pub use self::ecr_public::EcrPublicOrigin;
pub use self::external::{External, ExternalOrigin};
pub use self::fixed::{FixedOrigin, Place};
pub use self::github::GitHubApp;
pub use self::google::{GoogleIdentity, Impersonation, Start as GoogleStart};
pub use self::skew::Skew;
use crate::clock::Clock;
use crate::credential::{BadCredential, Credential, Lifetime, RegistryHost};
use crate::network::Network;
use crate::schedule::Issuer;
use crate::trouble;

/// Mints credentials for every registry of one [`Origin`].
pub trait Source: Send + Sync {
    /// Asks for a credential, once, with the identity as it is now: key files
    /// and tokens of the identity may have been rotated since the last time.
    fn fetch(&self) -> Fetch<'_>;

    /// Who would be asked for, where that can be known without a credential; for `doctor`.
    fn whose(&self) -> Naming<'_> {
        Box::pin(std::future::ready(None))
    }

    /// Waits until there is something new to fetch, where that can be seen.
    fn change(&self) -> Waiting<'_> {
        Box::pin(std::future::pending())
    }
}

/// A fetch under way.
pub type Fetch<'a> = Pin<Box<dyn Future<Output = Result<Minted, FetchError>> + Send + 'a>>;

/// A question who somebody is; nothing where it cannot be asked.
pub type Naming<'a> = Pin<Box<dyn Future<Output = Option<Result<String, FetchError>>> + Send + 'a>>;

/// A wait for something that may never come.
pub type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What an issuer gave.
#[derive(Debug)]
pub struct Minted {
    /// For all registries of the origin.
    pub credential: Credential,
    /// How this issuer behaves, which decides when to ask it again.
    pub issuer: Issuer,
    /// Who it was given to, in words that are no secret.
    pub identity: String,
    /// How far its clock is from ours, where it can be told and is not nothing.
    pub skew: Option<Skew>,
}

/// Everything that two registries must have in common to share a credential:
/// one call is made for each origin, however many registries it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A region of ECR, which of its endpoints, and who asks.
    Ecr(EcrOrigin),
    /// ECR Public.
    EcrPublic(EcrPublicOrigin),
    /// Google's Container and Artifact Registry; one token of an identity is good everywhere.
    Google(Option<Arc<GoogleIdentity>>),
    /// A registry of Azure's.
    Azure(AzureOrigin),
    /// GitHub's registry, by an app.
    GitHub(Arc<GitHubApp>),
    /// A program that gives a credential.
    External(ExternalOrigin),
    /// A user name and a secret that do not expire.
    Fixed(FixedOrigin),
}

impl Origin {
    /// Reads off a host name what it is.
    ///
    /// # Errors
    ///
    /// If the name does not say it, or says something that needs more than a name.
    pub fn of(host: &RegistryHost) -> Result<Self, UnknownRegistry> {
        if let Some(ecr) = EcrOrigin::of(host.name()) {
            return Ok(Self::Ecr(ecr));
        }
        if EcrPublicOrigin::is(host.name()) {
            return Ok(Self::EcrPublic(EcrPublicOrigin::default()));
        }
        if google::is_google(host.name()) {
            return Ok(Self::Google(None));
        }
        if AzureOrigin::is(host.name()) {
            return Ok(Self::Azure(AzureOrigin::of(host)));
        }
        let known = NEED_MORE.iter().find(|(suffix, _)| {
            let name = host.name();
            name == *suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        });
        Err(match known {
            Some((_, what)) => UnknownRegistry::NeedsMore { host: host.clone(), what },
            None => UnknownRegistry::Unrecognised { host: host.clone() },
        })
    }

    /// What is asked for credentials.
    #[must_use]
    pub fn source(&self, clock: &Clock, network: &Network) -> Box<dyn Source> {
        let (clock, network) = (clock.clone(), network.clone());
        match self.clone() {
            Self::Ecr(origin) => Box::new(ecr::Ecr::new(origin, clock, network)),
            Self::EcrPublic(origin) => Box::new(ecr_public::EcrPublic::new(origin, clock, network)),
            Self::Google(identity) => Box::new(google::Google::new(identity, clock, network)),
            Self::Azure(origin) => Box::new(azure::Azure::new(origin, clock, network)),
            Self::GitHub(app) => Box::new(github::GitHub::new(app, clock, network)),
            Self::External(origin) => Box::new(external::Programs::new(origin, clock)),
            Self::Fixed(origin) => Box::new(fixed::Fixed::new(origin, clock)),
        }
    }

    /// The kind, as it is written in the settings file.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ecr(_) => Kind::Ecr,
            Self::EcrPublic(_) => Kind::EcrPublic,
            Self::Google(_) => Kind::Google,
            Self::Azure(_) => Kind::Azure,
            Self::GitHub(_) => Kind::GitHub,
            Self::External(origin) if origin.is_helper() => Kind::Helper,
            Self::External(_) => Kind::Command,
            Self::Fixed(_) => Kind::Static,
        }
    }

    /// By what a credential of an earlier run is known to be of the same origin: all that is in the settings about
    /// it, since another role under the same name is another identity.
    ///
    /// Nothing for programs, whose settings can have secrets in them, and for what does not expire: both are asked
    /// again.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let shown = self.to_string();
        let is_plain = match self {
            Self::Ecr(_) | Self::EcrPublic(_) | Self::Azure(_) => !shown.contains(" as "),
            Self::Google(identity) => identity.is_none(),
            Self::GitHub(_) => false,
            Self::External(_) | Self::Fixed(_) => return None,
        };
        if is_plain {
            return Some(shown);
        }
        let digest = digest(&SHA256, format!("{self:?}").as_bytes());
        let print = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]);
        Some(format!("{shown} {print}"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ecr(origin) => write!(formatter, "{origin}"),
            Self::EcrPublic(origin) => write!(formatter, "{origin}"),
            Self::Google(None) => formatter.write_str("google"),
            Self::Google(Some(identity)) => write!(formatter, "google as {}", identity.name),
            Self::Azure(origin) => write!(formatter, "{origin}"),
            Self::GitHub(app) => write!(formatter, "{app}"),
            Self::External(origin) => write!(formatter, "{origin}"),
            Self::Fixed(origin) => write!(formatter, "{origin}"),
        }
    }
}

/// The kinds of registry that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Amazon Elastic Container Registry, private.
    Ecr,
    /// Amazon ECR Public.
    EcrPublic,
    /// Google Container Registry and Artifact Registry.
    Google,
    /// Azure Container Registry.
    Azure,
    /// GitHub's registry.
    GitHub,
    /// Any other, by one of docker's credential helpers.
    Helper,
    /// Any other, by a command.
    Command,
    /// Any other, by a user name and a secret.
    Static,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ecr,
        Self::EcrPublic,
        Self::Google,
        Self::Azure,
        Self::GitHub,
        Self::Helper,
        Self::Command,
        Self::Static,
    ];

    /// The word for it in settings, metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ecr => "ecr",
            Self::EcrPublic => "ecr-public",
            Self::Google => "google",
            Self::Azure => "azure",
            Self::GitHub => "github",
            Self::Helper => "helper",
            Self::Command => "command",
            Self::Static => "static",
        }
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A text that names no [`Kind`].
#[derive(Debug, Error)]
#[error(
    "`{0}` is no kind of registry: write `ecr`, `ecr-public`, `google`, `azure`, `github`, `helper`, \
     `command` or `static`"
)]
pub struct UnknownKind(String);

/// Why a host name alone does not do.
#[derive(Debug, Error)]
pub enum UnknownRegistry {
    /// Nothing in the name says what it is.
    #[error(
        "the name `{host}` does not say what kind of registry it is: \
         give it a [[registry]] table with a `kind` in the settings file"
    )]
    Unrecognised {
        /// Which one.
        host: RegistryHost,
    },
    /// The name says it, and it takes more than that.
    #[error(
        "`{host}` is {what}: give it a [[registry]] table in the settings file, with its `username` and \
         `secret_file`, a `helper`, a `command`, or (GitHub) an `identity`"
    )]
    NeedsMore {
        /// Which one.
        host: RegistryHost,
        /// What it is.
        what: &'static str,
    },
}

/// Why a fetch brought no credential. No text has a part of a secret in it.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The machine has no identity that could be used.
    #[error("no {cloud} credentials found: {detail}")]
    NoCredentials {
        /// Whose.
        cloud: &'static str,
        /// Where was looked.
        detail: String,
    },
    /// The identity is set up in a way that cannot work.
    #[error("the {cloud} credentials cannot be used: {detail}")]
    BadCredentials {
        /// Whose.
        cloud: &'static str,
        /// What is wrong with them.
        detail: String,
    },
    /// Somebody else than the settings expect.
    #[error("the identity `{name}` turns out to be {found}, and the settings expect {expected}")]
    WrongPrincipal {
        /// What the settings call it.
        name: String,
        /// Who it should be.
        expected: String,
        /// Who it is.
        found: String,
    },
    /// A program that gives no credential.
    #[error("{name} gives no credential: {detail}")]
    Program {
        /// Which.
        name: String,
        /// Why, without anything that it printed where a credential is.
        detail: String,
    },
    /// The identity is known and may not.
    #[error("{service} denied it: {detail}")]
    Denied {
        /// Who said no.
        service: &'static str,
        /// In the service's own words.
        detail: String,
    },
    /// The service said no, and did not say whether for good.
    #[error("{service} refused it: {detail}")]
    Refused {
        /// Who said no.
        service: &'static str,
        /// What is known.
        detail: String,
    },
    /// Too many calls, from us or from others with the same account.
    #[error("{service} throttles: {detail}")]
    Throttled {
        /// Who has had enough.
        service: &'static str,
        /// In the service's own words.
        detail: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The service failed on its side.
    #[error("{service} failed: {detail}")]
    Server {
        /// Who.
        service: &'static str,
        /// In the service's own words.
        detail: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No connection.
    #[error("cannot reach {service}: {detail}")]
    Unreachable {
        /// Who.
        service: &'static str,
        /// What the network said.
        detail: String,
    },
    /// No answer within the limit.
    #[error("no answer within {}", humantime::format_duration(*limit))]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// An answer that cannot be used.
    #[error("{service} gave an answer that cannot be used: {detail}")]
    BadAnswer {
        /// Who.
        service: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A token that the registry itself does not take.
    #[error(
        "{host} refuses the token that its issuer has just given ({detail}): the identity may not \
         be allowed to use this registry, or it is another account's"
    )]
    Rejected {
        /// Who said no.
        host: RegistryHost,
        /// In the words of HTTP.
        detail: String,
        /// Whether a further token was refused as well.
        is_again: bool,
    },
    /// A token that no registry takes any more.
    #[error(
        "{service} gave a token that had expired already, at {}: \
         check this machine's clock, and that the endpoint is the right one",
        humantime::format_rfc3339_seconds(*expired)
    )]
    ExpiredAnswer {
        /// Who.
        service: &'static str,
        /// When it had.
        expired: SystemTime,
    },
}

impl FetchError {
    /// What is wrong, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::NoCredentials { .. } => trouble::Kind::NoCredentials,
            Self::BadCredentials { .. } => trouble::Kind::BadCredentials,
            Self::WrongPrincipal { .. } => trouble::Kind::WrongPrincipal,
            Self::Program { .. } => trouble::Kind::Program,
            Self::Denied { .. } => trouble::Kind::Denied,
            Self::Refused { .. } => trouble::Kind::Refused,
            Self::Throttled { .. } => trouble::Kind::Throttled,
            Self::Server { .. } => trouble::Kind::ServerError,
            Self::Unreachable { .. } => trouble::Kind::Unreachable,
            Self::TimedOut { .. } => trouble::Kind::Timeout,
            Self::BadAnswer { .. } => trouble::Kind::BadAnswer,
            Self::Rejected { .. } => trouble::Kind::Rejected,
            Self::ExpiredAnswer { .. } => trouble::Kind::ExpiredAnswer,
        }
    }

    /// Whether it will most likely be the same in a minute, unless a person does
    /// something about it. It is still asked again, only more slowly.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. }
                | Self::WrongPrincipal { .. }
                | Self::BadCredentials { .. }
                | Self::Rejected { is_again: true, .. }
        )
    }

    /// Whether it is as on a machine that has just been started: what is missing may
    /// come at any moment, and asking for it costs nobody anything.
    #[must_use]
    pub fn may_be_early(&self) -> bool {
        matches!(
            self,
            Self::NoCredentials { .. } | Self::Unreachable { .. } | Self::TimedOut { .. }
        )
    }

    /// When the service wants to be asked again, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Makes a credential out of an issuer's answer that has just come, unless it is of no
/// use.
fn accept(
    service: &'static str,
    username: &str,
    secret: SecretString,
    life: Lifetime,
    clock: &Clock,
) -> Result<Credential, FetchError> {
    if life.is_over(clock.now()) {
        let expired = clock.to_wall(life.expires());
        return Err(FetchError::ExpiredAnswer { service, expired });
    }
    Credential::new(username, secret, life).map_err(|reason: BadCredential| FetchError::BadAnswer {
        service,
        detail: format!("the token is no credential: {reason}"),
    })
}

/// What people will name, so that they are told rather than left guessing.
const NEED_MORE: [(&str, &str); 4] = [
    ("ghcr.io", "GitHub's registry"),
    ("docker.io", "Docker Hub"),
    ("quay.io", "Quay"),
    ("pkg.dev", "a Google Artifact Registry that is not for containers"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str) -> Result<Origin, UnknownRegistry> {
        Origin::of(&host.parse().unwrap())
    }

    #[test]
    fn registries_share_a_credential_where_kind_and_region_are_the_same() {
        let one = origin("123456789012.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
        let other_account = origin("210987654321.dkr.ecr.eu-west-1.amazonaws.com").unwrap();
        let other_region = origin("123456789012.dkr.ecr.eu-west-2.amazonaws.com").unwrap();
        assert_eq!(one, other_account);
        assert_ne!(one, other_region);
        assert_eq!(origin("gcr.io").unwrap(), origin("europe-docker.pkg.dev").unwrap());
    }

    #[test]
    fn what_takes_more_than_a_name_says_what() {
        for (host, what) in [
            ("ghcr.io", "GitHub"),
            ("docker.io", "Docker Hub"),
            ("quay.io", "Quay"),
            ("europe-python.pkg.dev", "not for containers"),
        ] {
            let message = origin(host).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
            assert!(message.contains("`secret_file`"), "{message}");
        }
        let message = origin("registry.example.com").unwrap_err().to_string();
        assert!(message.contains("[[registry]] table"), "{message}");
        assert!(origin("evilazurecr.io").unwrap_err().to_string().contains("does not say"));
    }

    #[test]
    fn a_kind_is_written_as_it_is_shown() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>().unwrap(), kind);
        }
        assert!("gcr".parse::<Kind>().unwrap_err().to_string().contains("`google`"));
    }
}
