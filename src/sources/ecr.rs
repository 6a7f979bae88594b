//! Amazon ECR, private registries.
//!
//! `GetAuthorizationToken` gives one token for every registry of a region that
//! the identity may use, good for 12 hours
//! (<https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html>).
//! A new one can be had at any time, within 20 calls a second for an account and
//! region (<https://docs.aws.amazon.com/AmazonECR/latest/userguide/common-errors.html>).

use std::fmt;
use std::sync::Arc;

use super::aws::{Asking, AwsIdentity, Door, Session, bad_answer, explain, whose};
use super::{Fetch, FetchError, Minted, Naming, Source};
use crate::clock::Clock;
use crate::network::Network;

/// A region's issuer of ECR tokens, as a registry's host name tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EcrOrigin {
    region: Box<str>,
    fips: bool,
    dual_stack: bool,
    door: Door,
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
        Self { region: region.into(), fips: false, dual_stack: false, door: Door::default() }
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
    pub fn at(mut self, endpoint: Option<&str>) -> Self {
        self.door.endpoint = endpoint.map(Into::into);
        self
    }

    /// The same, asked by somebody else.
    #[must_use]
    pub fn asked_by(mut self, identity: Option<Arc<AwsIdentity>>) -> Self {
        self.door.identity = identity;
        self
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
        write!(formatter, "{}", self.door)
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
        let Door { endpoint, identity } = &self.origin.door;
        let (region, fips, dual_stack) = self.origin.endpoint_rules();
        let client = self.network.client();
        let session = Session::open(identity.as_deref(), region, fips, &client).await?;
        let asking = Asking::begin(SERVICE, &self.clock);
        let mut config = aws_sdk_ecr::config::Builder::from(&session.config)
            .credentials_provider(session.credentials)
            .use_dual_stack(dual_stack)
            .interceptor(asking.answered.clone());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(&**endpoint);
        }
        let question = aws_sdk_ecr::Client::from_conf(config.build()).get_authorization_token();
        let answer = question.send().await.map_err(|error| explain(SERVICE, &error))?;
        let data = answer
            .authorization_data
            .and_then(|data| data.into_iter().next())
            .ok_or_else(|| bad_answer(SERVICE, "it has no token in it"))?;
        asking.end(data.authorization_token, data.expires_at, session.identity)
    }
}

impl Source for Ecr {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }

    fn whose(&self) -> Naming<'_> {
        let identity = self.origin.door.identity.as_deref();
        let (region, fips, _) = self.origin.endpoint_rules();
        Box::pin(async move { Some(whose(identity, region, fips, &self.network).await) })
    }
}

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

#[cfg(test)]
mod tests;
