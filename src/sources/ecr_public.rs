//! Amazon ECR Public, whose pulls are free and, with a token, many more
//! (<https://docs.aws.amazon.com/AmazonECR/latest/public/public-service-quotas.html>).
//!
//! There is one registry for everybody, and its tokens are given in one region, of the public partition only
//! (<https://docs.aws.amazon.com/general/latest/gr/ecr-public.html>). The identity needs
//! `ecr-public:GetAuthorizationToken` and `sts:GetServiceBearerToken`
//! (<https://docs.aws.amazon.com/AmazonECRPublic/latest/APIReference/API_GetAuthorizationToken.html>).

use std::fmt;
use std::sync::Arc;

use super::aws::{AwsIdentity, Session, bad_answer, explain};
use super::ecr::{USERNAME, read_token};
use super::skew::{DateOfAnswer, Skew};
use super::{Fetch, FetchError, Minted, Naming, Source, accept};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::network::Network;
use crate::schedule::Issuer;

/// The issuer of ECR Public's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EcrPublicOrigin {
    endpoint: Option<Box<str>>,
    identity: Option<Arc<AwsIdentity>>,
}

impl EcrPublicOrigin {
    /// Whether this is the host of ECR Public, or its other one, which has addresses of both kinds.
    pub(super) fn is(name: &str) -> bool {
        matches!(name, "public.ecr.aws" | "ecr-public.aws.com")
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

impl fmt::Display for EcrPublicOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ecr public")?;
        if let Some(endpoint) = &self.endpoint {
            write!(formatter, " at {endpoint}")?;
        }
        if let Some(identity) = &self.identity {
            write!(formatter, " as {}", identity.name)?;
        }
        Ok(())
    }
}

pub(super) struct EcrPublic {
    origin: EcrPublicOrigin,
    clock: Clock,
    network: Network,
}

impl EcrPublic {
    pub(super) fn new(origin: EcrPublicOrigin, clock: Clock, network: Network) -> Self {
        Self { origin, clock, network }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        let client = self.network.client();
        let identity = self.origin.identity.as_deref();
        let session = Session::open(identity, REGION, false, &client).await?;
        let answered = DateOfAnswer::default();
        let mut config = aws_sdk_ecrpublic::config::Builder::from(&session.config)
            .credentials_provider(session.credentials)
            .interceptor(answered.clone());
        if let Some(endpoint) = &self.origin.endpoint {
            config = config.endpoint_url(&**endpoint);
        }
        let client = aws_sdk_ecrpublic::Client::from_conf(config.build());

        let (asked, asked_at) = (self.clock.now(), self.clock.wall());
        let answer = client
            .get_authorization_token()
            .send()
            .await
            .map_err(|error| explain(SERVICE, &error))?;
        let data = answer
            .authorization_data
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

impl Source for EcrPublic {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }

    fn whose(&self) -> Naming<'_> {
        Box::pin(async {
            let client = self.network.client();
            let identity = self.origin.identity.as_deref();
            let session = Session::open(identity, REGION, false, &client).await;
            Some(match session {
                Ok(session) => session.whose().await,
                Err(error) => Err(error),
            })
        })
    }
}

const SERVICE: &str = "ECR Public";

/// Where the clients of others ask, too.
pub(super) const REGION: &str = "us-east-1";
