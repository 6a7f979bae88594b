//! AWS: whose credentials sign a request, and what an answer of an AWS service means.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_sdk_sts::primitives::DateTime;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::skew::{Asked, DateOfAnswer};
use super::{FetchError, Minted, accept};
use crate::clock::Clock;
use crate::network::{CONNECT_LIMIT, Client, Network, chain, words};
use crate::schedule::Issuer;

/// An identity that the settings name, where the machine's own is not the right one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AwsIdentity {
    /// What the settings call it.
    pub name: Box<str>,
    /// What it begins with.
    pub start: Start,
    /// The role that it takes on.
    pub role: Option<Role>,
    /// Who it has to be in the end.
    pub expected: Option<Principal>,
}

/// Where credentials come from. The names are those of AWS's own settings
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-assume-role-credentials.html>).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Wherever the AWS SDK finds them first.
    Chain,
    /// A profile, and nothing else: one that is missing is an error.
    Profile(Box<str>),
    /// Variables, whose names begin with this: `AWS_ACCESS_KEY_ID` and so on.
    Environment(Box<str>),
    /// The container's endpoint: ECS, EKS Pod Identity.
    Container,
    /// The instance's metadata.
    Instance,
    /// A token in a file, as Kubernetes puts it there, which is changed for the role.
    WebIdentity(PathBuf),
    /// Another identity of the settings.
    Identity(Arc<AwsIdentity>),
}

/// A role to take on (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Role {
    /// Its ARN.
    pub arn: Box<str>,
    /// What its owner wants to be told.
    pub external_id: Option<Box<str>>,
    /// What the audit log calls the session.
    pub session_name: Box<str>,
}

/// Who somebody has to be: an ARN, in which `*` stands for anything, or an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Principal(Box<str>);

impl Principal {
    /// Of an ARN or an account's twelve digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_account = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        // A session does not tell the path of its role, so that a pattern of names below a path would mean all names.
        let is_vague = text.split_once(":role/").is_some_and(|(_, path)| {
            path.rsplit_once('/').is_some_and(|(_, name)| name.contains('*'))
        });
        (is_account || text.starts_with("arn:") && !is_vague).then(|| Self(text.into()))
    }

    /// Whether it is this one. Who has taken on a role is a session of it
    /// (`arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION`); the role's own ARN means all of them.
    fn is(&self, arn: &str, account: &str) -> bool {
        let wanted = &*self.0;
        if wanted == account || is_like(wanted, arn) {
            return true;
        }
        let [_, partition, service, _, owner, what] = &*arn.splitn(6, ':').collect::<Vec<_>>()
        else {
            return false;
        };
        let Some(session) = what.strip_prefix("assumed-role/").filter(|_| *service == "sts") else {
            return false;
        };
        let role = session.split('/').next().unwrap_or_default();
        // A role's ARN has its path in it, and a session's has not.
        let [_, wanted_partition, "iam", "", wanted_owner, wanted] =
            *wanted.splitn(6, ':').collect::<Vec<_>>()
        else {
            return false;
        };
        let wanted = wanted.strip_prefix("role/").and_then(|path| path.rsplit('/').next());
        is_like(wanted_partition, partition)
            && is_like(wanted_owner, owner)
            && wanted.is_some_and(|wanted| is_like(wanted, role))
    }
}

/// Whether a text is what the pattern says, in which `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// At which address an API is asked, and by whom, where the settings say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Door {
    /// Another address: of a VPC endpoint, of an emulator.
    pub(super) endpoint: Option<Box<str>>,
    pub(super) identity: Option<Arc<AwsIdentity>>,
}

impl fmt::Display for Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(formatter, " at {endpoint}")?;
        }
        if let Some(identity) = &self.identity {
            write!(formatter, " as {}", identity.name)?;
        }
        Ok(())
    }
}

/// The user name of every token of ECR's.
const USERNAME: &str = "AWS";

/// A question for a token that is under way.
pub(super) struct Asking<'a> {
    service: &'static str,
    clock: &'a Clock,
    asked: Asked<'a>,
    /// For the client that asks.
    pub(super) answered: DateOfAnswer,
}

impl<'a> Asking<'a> {
    pub(super) fn begin(service: &'static str, clock: &'a Clock) -> Self {
        Self { service, clock, asked: Asked::now(clock), answered: DateOfAnswer::default() }
    }

    /// What an answer gave: its token taken apart, and its life by our clock.
    pub(super) fn end(
        self,
        token: Option<String>,
        expires_at: Option<DateTime>,
        identity: String,
    ) -> Result<Minted, FetchError> {
        let Self { service, clock, asked, answered } = self;
        let (secret, expires) = read_token(service, token, expires_at)?;
        let (life, skew) = asked.life(answered.last(), expires);
        let credential = accept(service, USERNAME, secret, life, clock)?;
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew })
    }
}

/// What a service of AWS is asked with.
pub(super) struct Session {
    pub(super) config: SdkConfig,
    pub(super) credentials: Credentials,
    /// Who that is, in words that are no secret.
    pub(super) identity: String,
}

impl Session {
    /// As this identity, or the machine's own. All of it is looked up anew, since the SDK reads profiles and rotated
    /// key files once and keeps what it has read.
    pub(super) async fn open(
        identity: Option<&AwsIdentity>,
        region: &str,
        fips: bool,
        client: &Client,
    ) -> Result<Self, FetchError> {
        no_empty_endpoint(std::env::vars_os())?;
        let retries =
            RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(LONGEST_PAUSE);
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build();
        let region = Region::new(region.to_owned());
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(region.clone())
            .use_fips(fips)
            .http_client(client.clone())
            .retry_config(retries.clone())
            .timeout_config(timeouts.clone())
            .load()
            .await;
        let providers = ProviderConfig::without_region()
            .with_region(Some(region))
            .with_use_fips(Some(fips))
            .with_http_client(client.clone())
            .with_retry_config(retries)
            .with_timeout_config(timeouts);
        let finder = Finder { config: &config, providers: &providers };
        let (credentials, identity) = match identity {
            None => {
                let credentials = finder.search_chain().await?;
                let words = describe(&credentials);
                (credentials, words)
            }
            Some(identity) => finder.find(identity).await?,
        };
        Ok(Self { config, credentials, identity })
    }
}

/// Who an identity is, by AWS's own word, and where it was found.
pub(super) async fn whose(
    identity: Option<&AwsIdentity>,
    region: &str,
    fips: bool,
    network: &Network,
) -> Result<String, FetchError> {
    let session = Session::open(identity, region, fips, &network.client()).await?;
    let (arn, _) = who_is(&session.config, &session.credentials).await?;
    let by = found_by(&session.credentials);
    Ok(by.map_or_else(|| arn.clone(), |by| format!("{arn}, by {by}")))
}

struct Finder<'a> {
    config: &'a SdkConfig,
    providers: &'a ProviderConfig,
}

impl Finder<'_> {
    async fn find(&self, identity: &AwsIdentity) -> Result<(Credentials, String), FetchError> {
        let name = &identity.name;
        let credentials = match (&identity.start, &identity.role) {
            (Start::WebIdentity(token_file), role) => {
                let role = role.as_ref().ok_or_else(|| unusable("a web identity needs a role"))?;
                self.by_token(token_file.clone(), role).await?
            }
            (start, role) => {
                let credentials = self.start(start).await?;
                match role {
                    None => credentials,
                    Some(role) => self.take_on(role, credentials).await?,
                }
            }
        };
        let mut words = describe(&credentials);
        if let Some(expected) = &identity.expected {
            let (arn, account) = who_is(self.config, &credentials).await?;
            if !expected.is(&arn, &account) {
                let expected = expected.0.to_string();
                return Err(FetchError::WrongPrincipal {
                    name: name.to_string(),
                    expected,
                    found: arn,
                });
            }
            words = arn;
        }
        Ok((credentials, format!("{words} ({name})")))
    }

    async fn start(&self, start: &Start) -> Result<Credentials, FetchError> {
        let providers = self.providers;
        match start {
            Start::Chain => self.search_chain().await,
            Start::Profile(profile) => {
                let builder = ProfileFileCredentialsProvider::builder().configure(providers);
                let provider = builder.profile_name(&**profile).build();
                provide(&provider, "").await.map_err(|error| match error {
                    FetchError::NoCredentials { detail, .. } if detail.is_empty() => {
                        let clues = clues(&|name| std::env::var(name).ok()).join("; ");
                        unusable(&format!(
                            "the profile `{profile}` is not there, or has none in it; {FILES}{clues}"
                        ))
                    }
                    error => error,
                })
            }
            Start::Environment(prefix) => from_environment(prefix),
            Start::Container => {
                let provider = EcsCredentialsProvider::builder().configure(providers).build();
                let place = "from the container's endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI)";
                provide(&provider, place).await
            }
            Start::Instance => {
                let provider = ImdsCredentialsProvider::builder().configure(providers).build();
                provide(&provider, "from the instance's metadata").await
            }
            Start::WebIdentity(_) => Err(unusable("a web identity needs a role")),
            Start::Identity(other) => Ok(Box::pin(self.find(other)).await?.0),
        }
    }

    async fn search_chain(&self) -> Result<Credentials, FetchError> {
        let clues = clues(&|name| std::env::var(name).ok()).join("; ");
        let place =
            if clues.is_empty() { NOWHERE.to_owned() } else { format!("{clues}; {NOWHERE}") };
        match self.config.credentials_provider() {
            Some(provider) => provide(&provider, &place).await,
            None => Err(nothing_found(&place)),
        }
    }

    async fn by_token(&self, file: PathBuf, role: &Role) -> Result<Credentials, FetchError> {
        let place = format!("in {}", file.display());
        if !file.exists() {
            // It may be about to be put there.
            return Err(nothing_found(&place));
        }
        let provider = WebIdentityTokenCredentialsProvider::builder()
            .configure(self.providers)
            .static_configuration(StaticConfiguration {
                web_identity_token_file: file,
                role_arn: role.arn.to_string(),
                session_name: role.session_name.to_string(),
            })
            .build();
        provide(&provider, &place).await
    }

    async fn take_on(&self, role: &Role, from: Credentials) -> Result<Credentials, FetchError> {
        let mut builder = AssumeRoleProvider::builder(&*role.arn)
            .configure(self.config)
            .session_name(&*role.session_name);
        if let Some(id) = &role.external_id {
            builder = builder.external_id(&**id);
        }
        let provider = builder.build_from_provider(from).await;
        provide(&provider, &format!("for the role {}", role.arn)).await
    }
}

/// Who somebody is: their ARN, and their account
/// (<https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>, which needs no permission).
async fn who_is(
    config: &SdkConfig,
    credentials: &Credentials,
) -> Result<(String, String), FetchError> {
    let config = aws_sdk_sts::config::Builder::from(config)
        .credentials_provider(credentials.clone())
        .build();
    let answer = aws_sdk_sts::Client::from_conf(config)
        .get_caller_identity()
        .send()
        .await
        .map_err(|error| explain(STS, &error))?;
    match (answer.arn, answer.account) {
        (Some(arn), Some(account)) => Ok((arn, account)),
        _ => Err(bad_answer(STS, "it does not say who we are")),
    }
}

/// By which element of the chain it was found, in words, if the SDK says so.
fn found_by(credentials: &Credentials) -> Option<&'static str> {
    use AwsCredentialFeature as Feature;
    let features = credentials.get_property::<Vec<Feature>>()?;
    features.iter().rev().find_map(|feature| {
        Some(match feature {
            Feature::CredentialsEnvVars => "variables of the environment",
            Feature::CredentialsEnvVarsStsWebIdToken | Feature::CredentialsStsAssumeRoleWebId => {
                "a web identity token"
            }
            Feature::CredentialsProfile
            | Feature::CredentialsProfileSourceProfile
            | Feature::CredentialsProfileNamedProvider => "a profile",
            Feature::CredentialsProfileStsWebIdToken => "a profile with a web identity token",
            Feature::CredentialsProfileSso | Feature::CredentialsSso => "SSO",
            Feature::CredentialsProfileProcess | Feature::CredentialsProcess => {
                "a program (credential_process)"
            }
            Feature::CredentialsHttp => "the container's endpoint",
            Feature::CredentialsImds => "the instance's metadata",
            Feature::CredentialsStsAssumeRole => "a role that was taken on",
            _ => return None,
        })
    })
}

async fn provide(
    provider: &impl ProvideCredentials,
    place: &str,
) -> Result<Credentials, FetchError> {
    provider.provide_credentials().await.map_err(|error| explain_provider(&error, place))
}

/// The SDK takes a variable of this kind that is set to nothing, as compose files have it, for an address, and ends the
/// program because it is none.
fn no_empty_endpoint(
    mut variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), FetchError> {
    let is_empty = |(name, value): &(OsString, OsString)| {
        value.is_empty() && name.to_str().is_some_and(|name| name.starts_with("AWS_ENDPOINT_URL"))
    };
    match variables.find(is_empty) {
        None => Ok(()),
        Some((name, _)) => Err(unusable(&format!(
            "{} is set to nothing: unset it, or name an address",
            name.display()
        ))),
    }
}

/// What in the environment leads nowhere, and so most likely is why nothing is found.
fn clues(variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut clues = Vec::new();
    if let Some(profile) = variable("AWS_PROFILE") {
        clues.push(format!(
            "AWS_PROFILE is `{profile}`, and there are no credentials in that profile"
        ));
    }
    let (id, key) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    match (variable(id), variable(key)) {
        (Some(_), None) => clues.push(format!("{id} is set, and {key} is not")),
        (None, Some(_)) => clues.push(format!("{key} is set, and {id} is not")),
        _ => {}
    }
    let home = dirs::home_dir().unwrap_or_default();
    for (name, usual) in
        [("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")]
    {
        let said = variable(name).map(PathBuf::from);
        let is_said = said.is_some();
        let path = said.unwrap_or_else(|| home.join(".aws").join(usual));
        match std::fs::File::open(&path) {
            Err(error) if is_said => clues.push(format!("{name} is {}: {error}", path.display())),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                clues.push(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }
    clues
}

fn from_environment(prefix: &str) -> Result<Credentials, FetchError> {
    let read = |name: &str| {
        let name = format!("{prefix}{name}");
        std::env::var(&name).ok().filter(|value| !value.is_empty()).ok_or(name)
    };
    let missing = |name: String| nothing_found(&format!("in the environment: {name} is not set"));
    let id = read("AWS_ACCESS_KEY_ID").map_err(missing)?;
    let key = read("AWS_SECRET_ACCESS_KEY").map_err(missing)?;
    Ok(Credentials::new(id, key, read("AWS_SESSION_TOKEN").ok(), None, "environment"))
}

fn explain_provider(error: &CredentialsError, place: &str) -> FetchError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<SdkError<AssumeRoleError, HttpResponse>>() {
            return explain(STS, error);
        }
        if let Some(error) =
            error.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>()
        {
            return explain(STS, error);
        }
        cause = error.source();
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => nothing_found(place),
        CredentialsError::InvalidConfiguration(_) => unusable(&chain(error)),
        _ => nothing_found(&format!("{place} ({})", chain(error))),
    }
}

fn nothing_found(place: &str) -> FetchError {
    FetchError::NoCredentials { cloud: CLOUD, detail: place.to_owned() }
}

fn unusable(detail: &str) -> FetchError {
    FetchError::BadCredentials { cloud: CLOUD, detail: detail.to_owned() }
}

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

/// What an error of an AWS service means.
pub(super) fn explain<E: ProvideErrorMetadata>(
    service: &'static str,
    error: &SdkError<E, HttpResponse>,
) -> FetchError {
    match error {
        SdkError::TimeoutError(_) => {
            FetchError::Unreachable { service, detail: "no connection in time".to_owned() }
        }
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            FetchError::Unreachable { service, detail: "no connection in time".to_owned() }
        }
        SdkError::DispatchFailure(failure) => FetchError::Unreachable {
            service,
            detail: failure.as_connector_error().map_or_else(String::new, words),
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
            classify(service, status, code, message, retry_after)
        }
        SdkError::ResponseError(_) => bad_answer(service, "it is not an answer of its API"),
        _ => bad_answer(service, "the request could not be made"),
    }
}

/// <https://docs.aws.amazon.com/AmazonECR/latest/APIReference/CommonErrors.html>
pub(super) fn classify(
    service: &'static str,
    status: u16,
    code: &str,
    message: &str,
    retry_after: Option<Duration>,
) -> FetchError {
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
            service,
            "it sends us elsewhere, which it never does: check the endpoint and any proxy",
        ),
        _ if status == 200 => bad_answer(service, "it is not an answer of its API"),
        _ => FetchError::Refused { service, detail },
    }
}

pub(super) fn bad_answer(service: &'static str, detail: &str) -> FetchError {
    FetchError::BadAnswer { service, detail: detail.to_owned() }
}

pub(super) const CLOUD: &str = "AWS";
const STS: &str = "STS";

/// Two, not one: the second is how the SDK corrects a wrong clock. The pause between attempts is ours.
const ATTEMPTS: u32 = 2;
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

const FILES: &str = "profiles are in ~/.aws/config and ~/.aws/credentials, or where AWS_CONFIG_FILE and \
     AWS_SHARED_CREDENTIALS_FILE say. ";

const NOWHERE: &str = "neither in the environment, a profile, SSO, a web identity token, \
     the container's nor the instance's metadata (which a container reaches with a hop limit of 2 \
     or the host's network); \
     `aws sts get-caller-identity` as the same user shows whether the AWS CLI finds any";

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/pull/freshcreds";

    fn is(expected: &str, arn: &str) -> bool {
        Principal::parse(expected).unwrap().is(arn, "123456789012")
    }

    #[test]
    fn a_principal_is_an_account_a_pattern_or_a_role() {
        for expected in [
            "123456789012",
            SESSION,
            "arn:aws:sts::123456789012:assumed-role/pull/*",
            "arn:*:assumed-role/pull/*",
            "arn:aws:iam::123456789012:role/pull",
            "arn:aws:iam::123456789012:role/a/path/pull",
            "arn:aws:iam::*:role/pu*",
        ] {
            assert!(is(expected, SESSION), "{expected}");
        }
        for expected in [
            "210987654321",
            "arn:aws:sts::123456789012:assumed-role/pull",
            "arn:aws:sts::123456789012:assumed-role/pull/other",
            "arn:aws:sts::210987654321:assumed-role/pull/*",
            "arn:aws:iam::123456789012:role/push",
            "arn:aws:iam::123456789012:role/pull/freshcreds",
            "arn:aws:iam::123456789012:user/pull",
            "arn:aws-cn:iam::123456789012:role/pull",
        ] {
            assert!(!is(expected, SESSION), "{expected}");
        }
        let user = "arn:aws:iam::123456789012:user/pull";
        assert!(is(user, user));
        assert!(!is("arn:aws:iam::123456789012:role/pull", user));
        for text in [
            "arn:aws:iam::123456789012:role/team/*",
            "",
            "*",
            "pull",
            "1234567890123",
            "12345678901x",
        ] {
            assert_eq!(Principal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_is_set_to_nothing_is_an_error_and_not_the_end() {
        let set =
            |name: &str, value: &str| no_empty_endpoint([(name.into(), value.into())].into_iter());
        assert!(
            set("AWS_ENDPOINT_URL_ECR", "")
                .unwrap_err()
                .to_string()
                .contains("AWS_ENDPOINT_URL_ECR is set")
        );
        assert!(set("AWS_ENDPOINT_URL_ECR", "http://localhost").is_ok());
        assert!(set("AWS_REGION", "").is_ok());
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let clues = |set: &[(&str, &str)]| {
            clues(&|name| {
                set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            })
            .join("; ")
        };
        assert!(clues(&[("AWS_PROFILE", "nobody")]).contains("AWS_PROFILE is `nobody`"));
        assert!(clues(&[("AWS_ACCESS_KEY_ID", "x")]).contains("AWS_SECRET_ACCESS_KEY is not"));
        let missing = clues(&[("AWS_SHARED_CREDENTIALS_FILE", "/no/where")]);
        assert!(
            missing.contains("AWS_SHARED_CREDENTIALS_FILE is /no/where: No such file"),
            "{missing}"
        );
        assert!(!clues(&[("AWS_CONFIG_FILE", "/dev/null")]).contains("AWS_CONFIG_FILE"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("a*", "a"),
            ("*c", "abc"),
            ("a*c", "abbc"),
            ("a*b*c", "axbxc"),
        ] {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", "ab"), ("a*c", "ab"), ("a*b*c", "ac"), ("ab*ba", "aba")]
        {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn only_the_end_of_an_access_keys_id_is_shown() {
        let shown = |id| describe(&Credentials::new(id, "canary", None, None, "test"));
        assert_eq!(shown("some-access-key-WXYZ"), "access key …WXYZ");
        assert_eq!(shown("abc"), "access key …abc");
        let with_account = Credentials::builder()
            .access_key_id("id")
            .secret_access_key("canary")
            .account_id("123456789012")
            .provider_name("test")
            .build();
        assert_eq!(describe(&with_account), "account 123456789012");
    }
}
