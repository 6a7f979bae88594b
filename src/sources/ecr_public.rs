//! Amazon ECR Public, whose pulls are free and, with a token, many more
//! (<https://docs.aws.amazon.com/AmazonECR/latest/public/public-service-quotas.html>).
//!
//! There is one registry for everybody, and its tokens are given in one region, of the public partition only
//! (<https://docs.aws.amazon.com/general/latest/gr/ecr-public.html>). The identity needs
//! `ecr-public:GetAuthorizationToken` and `sts:GetServiceBearerToken`
//! (<https://docs.aws.amazon.com/AmazonECRPublic/latest/APIReference/API_GetAuthorizationToken.html>).

use std::fmt;
use std::sync::Arc;

use super::aws::{Asking, AwsIdentity, Door, Session, bad_answer, explain, whose};
use super::{Fetch, FetchError, Minted, Naming, Source};
use crate::clock::Clock;
use crate::network::Network;

/// The issuer of ECR Public's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EcrPublicOrigin(Door);

impl EcrPublicOrigin {
    /// Whether this is the host of ECR Public, or its other one, which has addresses of both kinds.
    pub(super) fn is(name: &str) -> bool {
        matches!(name, "public.ecr.aws" | "ecr-public.aws.com")
    }

    /// The same, asked at another address.
    #[must_use]
    pub fn at(mut self, endpoint: Option<&str>) -> Self {
        self.0.endpoint = endpoint.map(Into::into);
        self
    }

    /// The same, asked by somebody else.
    #[must_use]
    pub fn asked_by(mut self, identity: Option<Arc<AwsIdentity>>) -> Self {
        self.0.identity = identity;
        self
    }
}

impl fmt::Display for EcrPublicOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ecr public{}", self.0)
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
        let Door { endpoint, identity } = &self.origin.0;
        let client = self.network.client();
        let session = Session::open(identity.as_deref(), REGION, false, &client).await?;
        let asking = Asking::begin(SERVICE, &self.clock);
        let mut config = aws_sdk_ecrpublic::config::Builder::from(&session.config)
            .credentials_provider(session.credentials)
            .interceptor(asking.answered.clone());
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(&**endpoint);
        }
        let question =
            aws_sdk_ecrpublic::Client::from_conf(config.build()).get_authorization_token();
        let answer = question.send().await.map_err(|error| explain(SERVICE, &error))?;
        let data = answer
            .authorization_data
            .ok_or_else(|| bad_answer(SERVICE, "it has no token in it"))?;
        asking.end(data.authorization_token, data.expires_at, session.identity)
    }
}

impl Source for EcrPublic {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }

    fn whose(&self) -> Naming<'_> {
        let identity = self.origin.0.identity.as_deref();
        Box::pin(async move { Some(whose(identity, REGION, false, &self.network).await) })
    }
}

const SERVICE: &str = "ECR Public";

/// Where the clients of others ask, too.
pub(super) const REGION: &str = "us-east-1";
