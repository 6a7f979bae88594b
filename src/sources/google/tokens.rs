//! The questions by which Google gives a token.

use std::time::{Duration, SystemTime};

use hyper::header::{AUTHORIZATION, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{Impersonation, SCOPE, SERVICE};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::network::{Answer, Client, Network, Unanswered};
use crate::schedule::Issuer;
use crate::sources::answers::{AccessToken, document, end};
use crate::sources::skew::Asked;
use crate::sources::{FetchError, Skew};

/// A token, and whose it is.
pub(super) struct Token {
    pub(super) secret: SecretString,
    pub(super) life: Lifetime,
    pub(super) issuer: Issuer,
    pub(super) identity: String,
    pub(super) skew: Option<Skew>,
}

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) client: Client,
    pub(super) network: &'a Network,
    pub(super) clock: &'a Clock,
}

impl Asker<'_> {
    /// Asks for a token by a form.
    pub(super) async fn by_form(
        &self,
        url: &str,
        fields: &[(&str, &str)],
        basic: Option<&SecretString>,
    ) -> Result<Token, FetchError> {
        let asked = self.clock.now();
        let mut question = self.client.post(url).form(fields);
        if let Some(basic) = basic {
            question = question.secret_header(AUTHORIZATION, basic);
        }
        given(SERVICE, asked, question.ask().await, Issuer::Minting)
    }

    /// A token of a service account, for the one of somebody who may act in its name.
    pub(super) async fn impersonate(
        &self,
        token: &Token,
        impersonation: &Impersonation,
    ) -> Result<Token, FetchError> {
        let Impersonation { account, delegates } = impersonation;
        let url =
            format!("{}/v1/projects/-/serviceAccounts/{account}:generateAccessToken", endpoint());
        let delegates: Vec<_> = delegates.iter().map(|delegate| full_name(delegate)).collect();
        self.impersonate_at(token, &url, &delegates, HOUR).await
    }

    /// The same, at an address of which the account is a part
    /// (<https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>).
    pub(super) async fn impersonate_at(
        &self,
        token: &Token,
        url: &str,
        delegates: &[String],
        life: Duration,
    ) -> Result<Token, FetchError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Generated {
            access_token: SecretString,
            expire_time: String,
        }
        let bearer = SecretString::from(format!("Bearer {}", token.secret.expose_secret()));
        let wish = json!({
            "scope": [SCOPE],
            "delegates": delegates,
            "lifetime": format!("{}s", life.as_secs()),
        });
        let asked = Asked::now(self.clock);
        let question = self.client.post(url).secret_header(AUTHORIZATION, &bearer).json(&wish);
        let (generated, answer) = document::<Generated>(IAM, question.ask().await)?;
        let (life, skew) = asked.life(answer.date(), end(IAM, &generated.expire_time)?);
        let identity = account_in(url).unwrap_or("a service account").to_owned();
        Ok(Token { secret: generated.access_token, life, issuer: Issuer::Minting, identity, skew })
    }
}

/// The token in an answer that tells how long it lives. Whose it is, is still to be said.
pub(super) fn given(
    service: &'static str,
    asked: SystemTime,
    answer: Result<Answer, Unanswered>,
    issuer: Issuer,
) -> Result<Token, FetchError> {
    let (token, _) = document::<AccessToken>(service, answer)?;
    let life = token.life().ok_or_else(|| FetchError::BadAnswer {
        service,
        detail: "it does not say how long the token lives".to_owned(),
    })?;
    Ok(Token { issuer, ..fresh(token.access_token, asked, life, "") })
}

/// A token that lives for so long from when it was asked for.
pub(super) fn fresh(
    secret: SecretString,
    asked: SystemTime,
    life: Duration,
    identity: &str,
) -> Token {
    let life = Lifetime::new(asked, asked + life.min(crate::credential::LONGEST_LIFE));
    let identity = identity.to_owned();
    Token { secret, life, issuer: Issuer::Minting, identity, skew: None }
}

/// The account in an address of `.../serviceAccounts/ACCOUNT:generateAccessToken`.
pub(super) fn account_in(url: &str) -> Option<&str> {
    url.rsplit_once('/')?.1.strip_suffix(":generateAccessToken")
}

/// How a delegate is named in a chain; people write the address alone.
fn full_name(account: &str) -> String {
    if account.contains('/') {
        account.to_owned()
    } else {
        format!("projects/-/serviceAccounts/{account}")
    }
}

/// Where service accounts give tokens. Google's command line has a variable of this name for another address
/// (<https://cloud.google.com/sdk/docs/properties>, `api_endpoint_overrides/iamcredentials`).
fn endpoint() -> String {
    let other = std::env::var("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS");
    let other = other.ok().filter(|url| !url.is_empty());
    other.map_or_else(
        || "https://iamcredentials.googleapis.com".to_owned(),
        |url| url.trim_end_matches('/').to_owned(),
    )
}

const IAM: &str = "Google's IAM Credentials API";
const HOUR: Duration = Duration::from_hours(1);

/// For questions that name it.
pub(super) fn header_name(name: &str) -> Option<HeaderName> {
    name.parse().ok()
}
