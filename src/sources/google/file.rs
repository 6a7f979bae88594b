//! Files of credentials, in the forms that Google's tools write and read
//! (<https://google.aip.dev/auth/4110>).

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;

use super::federation::{self, Source};
use super::tokens::{Asker, Token, account_in, given};
use super::{CLOUD, HOUR, SCOPE, SERVICE, well_known_file};
use crate::network::{Answer, NoDocument, Unanswered};
use crate::schedule::Issuer;
use crate::sources::skew::Asked;
use crate::sources::{FetchError, files, jwt};

/// A key of a service account.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: SecretString,
    private_key_id: Option<String>,
    #[serde(default = "usual_token_uri")]
    token_uri: String,
}

/// What `gcloud auth application-default login` leaves.
#[derive(Deserialize)]
struct AuthorizedUser {
    client_id: String,
    client_secret: SecretString,
    refresh_token: SecretString,
    #[serde(default = "usual_token_uri")]
    token_uri: String,
}

/// Another account, in whose name one may act.
#[derive(Deserialize)]
struct ImpersonatedServiceAccount {
    service_account_impersonation_url: String,
    #[serde(default)]
    delegates: Vec<String>,
    source_credentials: Box<RawValue>,
}

/// Somebody whom another issuer knows (<https://google.aip.dev/auth/4117>).
#[derive(Deserialize)]
struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: Source,
    service_account_impersonation_url: Option<String>,
    service_account_impersonation: Option<ImpersonationOptions>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    workforce_pool_user_project: Option<String>,
}

#[derive(Deserialize)]
struct ImpersonationOptions {
    token_lifetime_seconds: Option<u64>,
}

fn usual_token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

/// A file, and who named it.
struct Place<'a> {
    path: &'a Path,
    found_by: &'a str,
}

impl Place<'_> {
    fn unusable(&self, detail: &str) -> FetchError {
        let Self { path, found_by } = self;
        FetchError::BadCredentials {
            cloud: CLOUD,
            detail: format!("{} ({found_by}): {detail}", path.display()),
        }
    }

    /// What serde says of a document can have a part of the key in it.
    fn parse<T: DeserializeOwned>(&self, text: &[u8], what: &str) -> Result<T, FetchError> {
        serde_json::from_slice(text)
            .map_err(|error| self.unusable(&format!("{what}: {}", NoDocument::at(&error))))
    }
}

/// A token by the file at `path`, which is read anew each time.
pub(super) async fn token(
    asker: &Asker<'_>,
    path: &Path,
    found_by: &str,
) -> Result<Token, FetchError> {
    let place = Place { path, found_by };
    let text = files::read(path).await.map_err(|error| match error.kind() {
        // It may be about to be put there, by whoever rotates it.
        io::ErrorKind::NotFound => FetchError::NoCredentials {
            cloud: CLOUD,
            detail: format!("{} ({found_by}) does not exist", path.display()),
        },
        _ => place.unusable(&error.to_string()),
    })?;
    by_document(asker, &place, text.expose_secret().as_bytes()).await
}

async fn by_document(
    asker: &Asker<'_>,
    place: &Place<'_>,
    text: &[u8],
) -> Result<Token, FetchError> {
    #[derive(Deserialize)]
    struct Kind {
        r#type: String,
    }
    let kind: Kind = place.parse(text, "no JSON with a `type`")?;
    match kind.r#type.as_str() {
        "service_account" => {
            let account = place.parse(text, "a part of the key is missing")?;
            by_key(asker, place, &account).await
        }
        "authorized_user" => {
            let user: AuthorizedUser = place.parse(text, "a part of it is missing")?;
            let fields = [
                ("grant_type", "refresh_token"),
                ("client_id", &user.client_id),
                ("client_secret", user.client_secret.expose_secret()),
                ("refresh_token", user.refresh_token.expose_secret()),
            ];
            let token = asker.by_form(&user.token_uri, &fields, None).await?;
            let is_well_known = Some(place.path) == well_known_file().as_deref();
            let identity = if is_well_known {
                "the user of `gcloud auth application-default login`".to_owned()
            } else {
                format!("the user in {}", place.path.display())
            };
            Ok(Token { identity, ..token })
        }
        "impersonated_service_account" => {
            let file: ImpersonatedServiceAccount = place.parse(text, "a part of it is missing")?;
            let source = file.source_credentials.get().as_bytes();
            let from = Box::pin(by_document(asker, place, source)).await?;
            let url = &file.service_account_impersonation_url;
            asker.impersonate_at(&from, url, &file.delegates, HOUR).await
        }
        "external_account" => {
            let account = place.parse(text, "a part of it is missing")?;
            by_another_issuer(asker, place, &account).await
        }
        other => Err(place.unusable(&format!(
            "credentials of type `{}` are not supported by this version",
            other.escape_default()
        ))),
    }
}

/// <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>
async fn by_key(
    asker: &Asker<'_>,
    place: &Place<'_>,
    account: &ServiceAccount,
) -> Result<Token, FetchError> {
    let moment = Asked::now(asker.clock);
    let mut answer = ask_with_key(asker, place, account, moment.wall).await?;
    let skew = moment.blames(&answer);
    if let Some(skew) = skew {
        let now = skew.to_theirs(asker.clock.wall());
        answer = ask_with_key(asker, place, account, now).await?;
    }
    let token = given(SERVICE, moment.ours, answer, Issuer::Minting)?;
    Ok(Token { identity: account.client_email.clone(), skew, ..token })
}

/// Asks with an assertion that is dated `now`.
async fn ask_with_key(
    asker: &Asker<'_>,
    place: &Place<'_>,
    account: &ServiceAccount,
    now: SystemTime,
) -> Result<Result<Answer, Unanswered>, FetchError> {
    let ServiceAccount { client_email, private_key, private_key_id, token_uri } = account;
    let now = jwt::seconds(now);
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": private_key_id });
    let claims = json!({
        "iss": client_email,
        "scope": SCOPE,
        "aud": token_uri,
        // A clock that is a little ahead must not make it a token of the future.
        "iat": now.saturating_sub(CLOCKS_MAY_DIFFER),
        "exp": now + HOUR.as_secs() - CLOCKS_MAY_DIFFER,
    });
    let assertion = jwt::sign(&header, &claims, private_key).map_err(|why| place.unusable(why))?;
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion.expose_secret()),
    ];
    Ok(asker.client.post(token_uri).form(&fields).ask().await)
}

/// Changes a token of another issuer for one of Google's
/// (<https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>).
async fn by_another_issuer(
    asker: &Asker<'_>,
    place: &Place<'_>,
    account: &ExternalAccount,
) -> Result<Token, FetchError> {
    let impersonated = account.service_account_impersonation_url.as_deref();
    let wanted = federation::Wanted {
        audience: &account.audience,
        token_type: &account.subject_token_type,
        account: impersonated.and_then(account_in),
    };
    let subject = federation::subject_token(asker, &account.credential_source, &wanted)
        .await
        .map_err(|error| match error {
            federation::Unobtained::Unusable(detail) => place.unusable(&detail),
            federation::Unobtained::Failed(error) => error,
        })?;
    let scope = if impersonated.is_some() { IAM_SCOPE } else { SCOPE };
    let mut fields = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", &account.audience),
        ("scope", scope),
        ("subject_token_type", &account.subject_token_type),
        ("subject_token", subject.expose_secret()),
    ];
    let basic = account.client_id.as_ref().map(|id| {
        let secret = account.client_secret.as_ref().map_or("", |secret| secret.expose_secret());
        SecretString::from(format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))))
    });
    // Whose quota it is, where no client says it.
    let options = account.workforce_pool_user_project.as_ref().filter(|_| basic.is_none());
    let options = options.map(|project| json!({ "userProject": project }).to_string());
    if let Some(options) = &options {
        fields.push(("options", options));
    }
    let token = asker.by_form(&account.token_url, &fields, basic.as_ref()).await?;
    let Some(url) = impersonated else {
        return Ok(Token { identity: account.audience.clone(), ..token });
    };
    let wish = account.service_account_impersonation.as_ref();
    let life = wish.and_then(|wish| wish.token_lifetime_seconds).map_or(HOUR, Duration::from_secs);
    asker.impersonate_at(&token, url, &[], life).await
}

/// For a token that is only good for acting in somebody's name.
const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";

/// Seconds.
const CLOCKS_MAY_DIFFER: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_quotes_the_file() {
        let place = Place { path: Path::new("/key.json"), found_by: "of the settings" };
        let text = br#""a-key-that-must-not-be-shown""#;
        let message = place.parse::<ServiceAccount>(text, "no key").err().unwrap().to_string();
        assert!(message.contains("/key.json") && message.contains("line 1"), "{message}");
        assert!(!message.contains("must-not-be-shown"), "{message}");
    }
}
