//! Amazon ECR, private registries.
//!
//! `GetAuthorizationToken` gives one token for every registry of a region that
//! the identity may use, good for 12 hours
//! (<https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html>).
//! A new one can be had at any time, within 20 calls a second for an account and
//! region (<https://docs.aws.amazon.com/AmazonECR/latest/userguide/common-errors.html>).

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ecr::config::{Credentials, ProvideCredentials};
use aws_sdk_ecr::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecr::operation::get_authorization_token::GetAuthorizationTokenError;
use aws_sdk_ecr::types::AuthorizationData;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::skew::{DateOfAnswer, Skew};
use super::{Fetch, FetchError, Minted, Source, accept, chain};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::schedule::Issuer;

/// A region's issuer of ECR tokens, as a registry's host name tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EcrOrigin {
    region: Box<str>,
    fips: bool,
    dual_stack: bool,
}

impl EcrOrigin {
    /// The usual issuer of a region.
    ///
    /// # Errors
    ///
    /// If it does not look like a region's name.
    pub fn of_region(region: &str) -> Result<Self, BadRegion> {
        if is_region(region) {
            Ok(Self { region: region.into(), fips: false, dual_stack: false })
        } else {
            Err(BadRegion(region.to_owned()))
        }
    }

    /// Reads a host name: `ACCOUNT.dkr.ecr[-fips].REGION.SUFFIX`, and with
    /// `dkr-ecr` for `dkr.ecr` where it has addresses of both kinds.
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
        (is_account && is_region(region) && SUFFIXES.contains(&suffix)).then(|| Self {
            region: region.into(),
            fips,
            dual_stack,
        })
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
}

impl Ecr {
    pub(super) fn new(origin: EcrOrigin, clock: Clock) -> Self {
        Self { origin, clock }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        // The chain is built anew each time, since the SDK reads profiles and
        // rotated key files once and keeps what it has read.
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.origin.region.to_string()))
            .use_fips(self.origin.fips)
            .use_dual_stack(self.origin.dual_stack)
            // Two, not one: the second is how the SDK corrects a wrong clock.
            // The pause between attempts is ours.
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build())
            .load()
            .await;
        let credentials = find_credentials(&config).await?;
        let identity = describe(&credentials);
        let answered = DateOfAnswer::default();
        let client = aws_sdk_ecr::Client::from_conf(
            aws_sdk_ecr::config::Builder::from(&config)
                .credentials_provider(credentials)
                .interceptor(answered.clone())
                .build(),
        );

        let (asked, asked_at) = (self.clock.now(), self.clock.wall());
        let answer =
            client.get_authorization_token().send().await.map_err(|error| explain(&error))?;
        let data = answer
            .authorization_data
            .and_then(|data| data.into_iter().next())
            .ok_or_else(|| bad_answer("it has no token in it"))?;
        let (secret, expires) = read_token(data)?;
        let skew =
            answered.last().and_then(|date| Skew::between(date, asked_at, self.clock.wall()));
        let expires = skew.map_or(expires, |skew| skew.to_ours(expires));
        let life = Lifetime::new(asked, self.clock.from_wall(expires));
        let credential = accept(SERVICE, USERNAME, secret, life, &self.clock)?;
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew })
    }
}

impl Source for Ecr {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

/// The documented user name of every ECR token.
const USERNAME: &str = "AWS";
const SERVICE: &str = "ECR";
const CLOUD: &str = "AWS";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The partitions' domains
/// (<https://docs.aws.amazon.com/general/latest/gr/ecr.html>; the isolated ones
/// as the public clients know them).
const SUFFIXES: [&str; 9] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "on.aws",
    "on.amazonwebservices.com.cn",
    "sc2s.sgov.gov",
    "c2s.ic.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];

fn is_region(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

async fn find_credentials(config: &aws_config::SdkConfig) -> Result<Credentials, FetchError> {
    use aws_credential_types::provider::error::CredentialsError;

    let Some(provider) = config.credentials_provider() else {
        return Err(FetchError::NoCredentials { cloud: CLOUD, detail: NOWHERE.to_owned() });
    };
    provider.provide_credentials().await.map_err(|error| match &error {
        CredentialsError::CredentialsNotLoaded(_) => {
            FetchError::NoCredentials { cloud: CLOUD, detail: NOWHERE.to_owned() }
        }
        CredentialsError::InvalidConfiguration(_) => {
            FetchError::BadCredentials { cloud: CLOUD, detail: chain(&error) }
        }
        _ => FetchError::NoCredentials { cloud: CLOUD, detail: chain(&error) },
    })
}

const NOWHERE: &str = "neither in the environment, a profile, SSO, a web identity token, \
     the container's nor the instance's metadata (which a container reaches with a hop limit of 2 \
     or the host's network); \
     `aws sts get-caller-identity` as the same user shows whether the AWS CLI finds any";

fn describe(credentials: &Credentials) -> String {
    if let Some(account) = credentials.account_id() {
        return format!("account {}", account.as_str());
    }
    // The end of an access key's id is what AWS's own consoles show of it.
    let id = credentials.access_key_id();
    let tail = id.len().saturating_sub(4);
    format!("access key …{}", id.get(tail..).unwrap_or_default())
}

/// Takes the token apart: base64 of `AWS:password`, split at the first colon.
fn read_token(data: AuthorizationData) -> Result<(SecretString, SystemTime), FetchError> {
    let token = data.authorization_token.map(SecretString::from);
    let token = token.filter(|token| !token.expose_secret().is_empty());
    let token = token.ok_or_else(|| bad_answer("it has no token in it"))?;
    let expires = data
        .expires_at
        .and_then(|at| SystemTime::try_from(at).ok())
        .ok_or_else(|| bad_answer("it does not say when the token expires"))?;
    let pair = STANDARD
        .decode(token.expose_secret())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(SecretString::from)
        .ok_or_else(|| bad_answer("the token is not base64 of a text"))?;
    let (username, password) = pair
        .expose_secret()
        .split_once(':')
        .ok_or_else(|| bad_answer("the token does not decode to `user:password`"))?;
    if username != USERNAME {
        return Err(bad_answer("the token's user name is not `AWS`"));
    }
    Ok((SecretString::from(password), expires))
}

fn bad_answer(detail: &str) -> FetchError {
    FetchError::BadAnswer { service: SERVICE, detail: detail.to_owned() }
}

fn explain(error: &SdkError<GetAuthorizationTokenError>) -> FetchError {
    let service = SERVICE;
    match error {
        SdkError::TimeoutError(_) => {
            FetchError::Unreachable { service, detail: "no connection in time".to_owned() }
        }
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            FetchError::Unreachable { service, detail: "no connection in time".to_owned() }
        }
        SdkError::DispatchFailure(failure) => FetchError::Unreachable {
            service,
            detail: failure.as_connector_error().map_or_else(String::new, |error| {
                // The SDK's own word for what it has no word for.
                let words = chain(error);
                words.strip_prefix("other: ").map_or_else(|| words.clone(), str::to_owned)
            }),
        },
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let header = |name| answer.raw().headers().get(name)?.parse().ok();
            // The second one is AWS's own, which its SDKs heed.
            let retry_after = header("retry-after")
                .map(Duration::from_secs)
                .or_else(|| header("x-amz-retry-after").map(Duration::from_millis));
            let code = answer.err().code().unwrap_or("no error code");
            let message = answer.err().message().unwrap_or("no message");
            classify(status, code, message, retry_after)
        }
        SdkError::ResponseError(_) => bad_answer("it is not an answer of ECR's API"),
        _ => bad_answer("the request could not be made"),
    }
}

/// <https://docs.aws.amazon.com/AmazonECR/latest/APIReference/CommonErrors.html>
fn classify(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> FetchError {
    let service = SERVICE;
    let detail = format!("{code}: {message} (HTTP {status})");
    match code {
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded" => FetchError::Throttled { service, detail, retry_after },
        _ if status == 429 => FetchError::Throttled { service, detail, retry_after },
        _ if status >= 500 => FetchError::Server { service, detail, retry_after },
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "NotAuthorized" => FetchError::Denied { service, detail },
        // Expired or wrongly signed may be the clock's fault, or a key file's
        // that is about to be rotated; so these pass.
        // Followed, it would take a signed request to whoever stands in between.
        _ if (300..400).contains(&status) => bad_answer(
            "it sends us elsewhere, which ECR never does: check the endpoint and any proxy",
        ),
        _ if status == 200 => bad_answer("it is not an answer of ECR's API"),
        _ => FetchError::Refused { service, detail },
    }
}

#[cfg(test)]
mod tests;
