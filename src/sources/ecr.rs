//! Amazon ECR, private registries.
//!
//! `GetAuthorizationToken` gives one token for every registry of a region that
//! the identity may use, good for 12 hours
//! (<https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html>).
//! A new one can be had at any time, within 20 calls a second for an account and
//! region (<https://docs.aws.amazon.com/AmazonECR/latest/userguide/common-errors.html>).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_ecr::primitives::DateTime;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::aws::{AwsIdentity, Session, bad_answer, explain};
use super::skew::{DateOfAnswer, Skew};
use super::{Fetch, FetchError, Minted, Naming, Source, accept};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::network::Network;
use crate::schedule::Issuer;

/// A region's issuer of ECR tokens, as a registry's host name tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EcrOrigin {
    region: Box<str>,
    fips: bool,
    dual_stack: bool,
    /// Another address of the API: of a VPC endpoint, of an emulator.
    endpoint: Option<Box<str>>,
    identity: Option<Arc<AwsIdentity>>,
}

impl EcrOrigin {
    /// The usual issuer of a region.
    ///
    /// # Errors
    ///
    /// If it does not look like a region's name.
    pub fn of_region(region: &str) -> Result<Self, BadRegion> {
        if is_region(region) { Ok(Self::plain(region)) } else { Err(BadRegion(region.to_owned())) }
    }

    fn plain(region: &str) -> Self {
        Self {
            region: region.into(),
            fips: false,
            dual_stack: false,
            endpoint: None,
            identity: None,
        }
    }

    /// Reads a host name: `ACCOUNT.dkr.ecr[-fips].REGION.SUFFIX`, and with
    /// `dkr-ecr` for `dkr.ecr` where it has addresses of both kinds. A region is
    /// one of its partition's, and the suffix is that partition's.
    pub(super) fn of(name: &str) -> Option<Self> {
        let (account, rest) = name.split_once('.')?;
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let (dual_stack, rest) = match rest.strip_prefix("dkr.ecr") {
            Some(rest) => (false, rest),
            None => (true, rest.strip_prefix("dkr-ecr")?),
        };
        let (fips, rest) = match rest.strip_prefix("-fips") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
        let partition = PARTITIONS.iter().find(|partition| partition.has(region))?;
        let wanted = if dual_stack { partition.dual_stack? } else { partition.suffix };
        (is_account && is_region(region) && suffix == wanted).then(|| Self {
            fips,
            dual_stack,
            ..Self::plain(region)
        })
    }

    /// Region, FIPS and dual stack, which are what AWS's own rules make an address of.
    pub(super) fn endpoint_rules(&self) -> (&str, bool, bool) {
        (&self.region, self.fips, self.dual_stack)
    }

    /// The same, asked at another address.
    #[must_use]
    pub fn at(self, endpoint: Option<&str>) -> Self {
        Self { endpoint: endpoint.map(Into::into), ..self }
    }

    /// The same, asked by somebody else.
    #[must_use]
    pub fn asked_by(self, identity: Option<Arc<AwsIdentity>>) -> Self {
        Self { identity, ..self }
    }
}

impl fmt::Display for EcrOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ecr {}", self.region)?;
        if self.fips {
            formatter.write_str(" (FIPS)")?;
        }
        if self.dual_stack {
            formatter.write_str(" (dual stack)")?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(formatter, " at {endpoint}")?;
        }
        if let Some(identity) = &self.identity {
            write!(formatter, " as {}", identity.name)?;
        }
        Ok(())
    }
}

/// A text that names no region of AWS.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of an AWS region, which looks like `eu-west-1`")]
pub struct BadRegion(String);

pub(super) struct Ecr {
    origin: EcrOrigin,
    clock: Clock,
    network: Network,
}

impl Ecr {
    pub(super) fn new(origin: EcrOrigin, clock: Clock, network: Network) -> Self {
        Self { origin, clock, network }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        let EcrOrigin { endpoint, identity, .. } = &self.origin;
        let (region, fips, dual_stack) = self.origin.endpoint_rules();
        let client = self.network.client();
        let session = Session::open(identity.as_deref(), region, fips, &client).await?;
        let answered = DateOfAnswer::default();
        let mut config = aws_sdk_ecr::config::Builder::from(&session.config)
            .credentials_provider(session.credentials)
            .use_dual_stack(dual_stack)
            .interceptor(answered.clone());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(&**endpoint);
        }
        let client = aws_sdk_ecr::Client::from_conf(config.build());

        let (asked, asked_at) = (self.clock.now(), self.clock.wall());
        let answer = client
            .get_authorization_token()
            .send()
            .await
            .map_err(|error| explain(SERVICE, &error))?;
        let data = answer
            .authorization_data
            .and_then(|data| data.into_iter().next())
            .ok_or_else(|| bad_answer(SERVICE, "it has no token in it"))?;
        let (secret, expires) = read_token(SERVICE, data.authorization_token, data.expires_at)?;
        let skew =
            answered.last().and_then(|date| Skew::between(date, asked_at, self.clock.wall()));
        let expires = skew.map_or(expires, |skew| skew.to_ours(expires));
        let life = Lifetime::new(asked, self.clock.from_wall(expires));
        let credential = accept(SERVICE, USERNAME, secret, life, &self.clock)?;
        Ok(Minted { credential, issuer: Issuer::Minting, identity: session.identity, skew })
    }
}

impl Source for Ecr {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }

    fn whose(&self) -> Naming<'_> {
        Box::pin(async {
            let client = self.network.client();
            let identity = self.origin.identity.as_deref();
            let session =
                Session::open(identity, &self.origin.region, self.origin.fips, &client).await;
            Some(match session {
                Ok(session) => session.whose().await,
                Err(error) => Err(error),
            })
        })
    }
}

/// The documented user name of every ECR token.
pub(super) const USERNAME: &str = "AWS";
const SERVICE: &str = "ECR";

/// A part of AWS that knows nothing of the others
/// (<https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html>).
struct Partition {
    /// What the names of its regions begin with; the first one that fits is the one.
    regions: &'static [&'static str],
    suffix: &'static str,
    dual_stack: Option<&'static str>,
}

impl Partition {
    fn has(&self, region: &str) -> bool {
        self.regions.iter().any(|prefix| region.starts_with(prefix))
    }
}

/// The partitions' domains (<https://docs.aws.amazon.com/general/latest/gr/ecr.html>; the
/// isolated ones as the public clients know them). The last one is everybody else's.
const PARTITIONS: [Partition; 8] = [
    Partition {
        regions: &["cn-"],
        suffix: "amazonaws.com.cn",
        dual_stack: Some("on.amazonwebservices.com.cn"),
    },
    Partition { regions: &["eusc-"], suffix: "amazonaws.eu", dual_stack: None },
    Partition { regions: &["us-isob-"], suffix: "sc2s.sgov.gov", dual_stack: None },
    Partition { regions: &["us-isof-", "eu-isof-"], suffix: "csp.hci.ic.gov", dual_stack: None },
    Partition { regions: &["eu-isoe-"], suffix: "cloud.adc-e.uk", dual_stack: None },
    Partition { regions: &["us-iso-"], suffix: "c2s.ic.gov", dual_stack: None },
    Partition { regions: &["us-gov-"], suffix: "amazonaws.com", dual_stack: Some("on.aws") },
    Partition { regions: &[""], suffix: "amazonaws.com", dual_stack: Some("on.aws") },
];

fn is_region(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Takes the token apart: base64 of `AWS:password`, split at the first colon.
pub(super) fn read_token(
    service: &'static str,
    token: Option<String>,
    expires_at: Option<DateTime>,
) -> Result<(SecretString, SystemTime), FetchError> {
    let bad = |detail| bad_answer(service, detail);
    let token = token.map(SecretString::from);
    let token = token.filter(|token| !token.expose_secret().is_empty());
    let token = token.ok_or_else(|| bad("it has no token in it"))?;
    let expires = expires_at
        .and_then(|at| SystemTime::try_from(at).ok())
        .ok_or_else(|| bad("it does not say when the token expires"))?;
    let pair = STANDARD
        .decode(token.expose_secret())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(SecretString::from)
        .ok_or_else(|| bad("the token is not base64 of a text"))?;
    let (username, password) = pair
        .expose_secret()
        .split_once(':')
        .ok_or_else(|| bad("the token does not decode to `user:password`"))?;
    if username != USERNAME {
        return Err(bad("the token's user name is not `AWS`"));
    }
    Ok((SecretString::from(password), expires))
}

#[cfg(test)]
mod tests;
