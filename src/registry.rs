//! Asks a registry itself whether it takes a credential, as a client's login does:
//! `GET /v2/`, with the exchange for a bearer token where it asks for one
//! (<https://distribution.github.io/distribution/spec/auth/token/>).
//!
//! This is what catches a token that died before its stated end, as one did after 11:38
//! of twelve hours (<https://github.com/kubernetes/kubernetes/pull/69141>), an identity
//! that lost its rights, and a registry that is another account's.

use std::pin::Pin;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::{StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::credential::{Credential, RegistryHost};
use crate::network::{self, Client, Network, is_local};

/// What a registry says to a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes it.
    Taken,
    /// It does not, whatever the issuer said.
    Refused {
        /// In the words of HTTP.
        detail: String,
    },
    /// It could not be asked, which says nothing about the credential.
    Unknown {
        /// What came instead of an answer.
        detail: String,
    },
}

/// Somebody who can ask a registry.
pub trait Verifier: Send + Sync {
    /// Asks the registry whether it takes the credential.
    fn ask<'a>(&'a self, host: &'a RegistryHost, credential: &'a Credential) -> Asking<'a>;
}

/// A question under way.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Asks registries by HTTPS; one on this machine by HTTP too, as docker does.
#[derive(Debug, Default)]
pub struct Registries {
    network: Network,
}

impl Registries {
    /// By this way out.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network }
    }

    async fn answer(&self, host: &RegistryHost, credential: &Credential) -> Answer {
        // Its connections end with it: a daemon that asks a few times an hour holds none meanwhile.
        let client = self.network.client();
        let schemes: &[&str] = if is_local(host.name()) { &["https", "http"] } else { &["https"] };
        let mut last = Answer::Unknown { detail: String::new() };
        for scheme in schemes {
            let url = format!("{scheme}://{}/v2/", host.address());
            last = match ask_at(&client, &url, host, credential).await {
                Ok(answer) => return answer,
                Err(detail) => Answer::Unknown { detail },
            };
        }
        last
    }
}

/// An error is one of the network, or of a server that is no registry.
async fn ask_at(
    client: &Client,
    url: &str,
    host: &RegistryHost,
    credential: &Credential,
) -> Result<Answer, String> {
    let basic = basic(credential);
    let first = get(client, url, &basic).await?;
    let challenge = first.header(&WWW_AUTHENTICATE).and_then(Challenge::parse);
    let (StatusCode::UNAUTHORIZED, Some(challenge)) = (first.status, challenge) else {
        return judge(first.status);
    };
    // A credential goes to nobody in the clear, unless both are this machine.
    let realm = challenge.url();
    let uri: Uri = realm.parse().map_err(|_| format!("`{realm}` is no address"))?;
    let is_encrypted = uri.scheme_str() == Some("https");
    let stays_here = is_local(host.name()) && uri.host().is_some_and(is_local);
    if !(is_encrypted || stays_here) {
        return Err(format!("it sends us to {realm}, which is not encrypted"));
    }
    let answer = get(client, &realm, &basic).await?;
    if answer.status != StatusCode::OK {
        return judge(answer.status);
    }
    let token: TokenAnswer = answer
        .json()
        .map_err(|_| "its token server's answer is no JSON with a token".to_owned())?;
    let token = token.token.or(token.access_token);
    let token = token.ok_or("its token server gave no token")?;
    let bearer = SecretString::from(format!("Bearer {}", token.expose_secret()));
    judge(get(client, url, &bearer).await?.status)
}

async fn get(
    client: &Client,
    url: &str,
    authorization: &SecretString,
) -> Result<network::Answer, String> {
    let question = client.get(url).secret_header(AUTHORIZATION, authorization);
    question.ask().await.map_err(|error| error.to_string())
}

impl Verifier for Registries {
    fn ask<'a>(&'a self, host: &'a RegistryHost, credential: &'a Credential) -> Asking<'a> {
        Box::pin(async move {
            let answer = tokio::time::timeout(LIMIT, self.answer(host, credential)).await;
            answer.unwrap_or_else(|_| Answer::Unknown {
                detail: format!("no answer within {}", humantime::format_duration(LIMIT)),
            })
        })
    }
}

/// What the status of the last answer means.
fn judge(status: StatusCode) -> Result<Answer, String> {
    match status {
        StatusCode::OK => Ok(Answer::Taken),
        // ECR says "your authorization token has expired" with 403.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Ok(Answer::Refused { detail: format!("HTTP {status}") })
        }
        status => Err(format!("HTTP {status}")),
    }
}

fn basic(credential: &Credential) -> SecretString {
    SecretString::from(format!("Basic {}", credential.auth().expose_secret()))
}

/// What a registry wants, in place of a user name and a password.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// Of `Bearer realm="…",service="…"`, in any order.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((name, value)) = rest.split_once("=\"") {
            let (value, after) = value.split_once('"')?;
            match name.trim_matches([',', ' ']) {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Self { realm: realm?, service })
    }

    fn url(&self) -> String {
        let Self { realm, service } = self;
        let Some(service) = service else { return realm.clone() };
        let sign = if realm.contains('?') { '&' } else { '?' };
        let mut url = format!("{realm}{sign}service=");
        for byte in service.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
                url.push(char::from(byte));
            } else {
                use std::fmt::Write;
                // Writing into a string does not fail.
                let _ = write!(url, "%{byte:02X}");
            }
        }
        url
    }
}

/// Whichever of the two names it has.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
}

const LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hyper::HeaderMap;

    use super::*;

    #[test]
    fn a_challenge_is_read_in_any_order() {
        for text in [
            r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io""#,
            r#"bearer service="gcr.io", scope="x", realm="https://gcr.io/v2/token""#,
        ] {
            let challenge = Challenge::parse(text).unwrap();
            assert_eq!(challenge.url(), "https://gcr.io/v2/token?service=gcr.io");
        }
        let odd = Challenge::parse(r#"Bearer realm="https://a.io/t?x=1",service="a b&c""#).unwrap();
        assert_eq!(odd.url(), "https://a.io/t?x=1&service=a%20b%26c");
        for text in ["", "Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x"]
        {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_refusal_counts_as_one() {
        for (status, is_refused) in
            [(401, true), (403, true), (404, false), (429, false), (503, false)]
        {
            let judged = judge(StatusCode::from_u16(status).unwrap());
            assert_eq!(matches!(judged, Ok(Answer::Refused { .. })), is_refused, "{status}");
        }
        assert_eq!(judge(StatusCode::OK), Ok(Answer::Taken));
    }

    /// A registry on this machine that wants `user:word`, at once or by way of a bearer
    /// token.
    async fn registry(wants_bearer: bool) -> RegistryHost {
        use axum::Router;
        use axum::response::IntoResponse;
        use axum::routing::get;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let good = format!("Basic {}", STANDARD.encode("user:word"));
        let is = |headers: &HeaderMap, wanted: &str| {
            headers.get(AUTHORIZATION).is_some_and(|value| value == wanted)
        };
        let (of_door, of_tokens) = (good.clone(), good);
        let door = move |headers: HeaderMap| async move {
            let wanted = if wants_bearer { "Bearer let-me-in" } else { of_door.as_str() };
            if is(&headers, wanted) {
                return StatusCode::OK.into_response();
            }
            let challenge = if wants_bearer {
                format!("Bearer realm=\"http://{address}/token\",service=\"here\"")
            } else {
                "Basic realm=\"here\"".to_owned()
            };
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response()
        };
        let tokens = move |headers: HeaderMap| async move {
            if is(&headers, &of_tokens) {
                (StatusCode::OK, "{\"token\":\"let-me-in\"}").into_response()
            } else {
                StatusCode::UNAUTHORIZED.into_response()
            }
        };
        let router = Router::new().route("/v2/", get(door)).route("/token", get(tokens));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address.to_string().parse().unwrap()
    }

    fn credential(word: &str) -> Credential {
        use crate::credential::Lifetime;
        let life = Lifetime::new(std::time::UNIX_EPOCH, std::time::UNIX_EPOCH + LIMIT);
        Credential::new("user", word.to_owned().into(), life).unwrap()
    }

    #[tokio::test]
    async fn a_registry_says_itself_what_it_takes() {
        // The first to be installed wins, and they are all the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let registries = Registries::default();
        for wants_bearer in [false, true] {
            let host = registry(wants_bearer).await;
            assert_eq!(registries.ask(&host, &credential("word")).await, Answer::Taken);
            let answer = registries.ask(&host, &credential("wrong")).await;
            assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_says_nothing() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        let answer = Registries::default().ask(&host, &credential("word")).await;
        let Answer::Unknown { detail } = answer else { panic!("{answer:?}") };
        assert!(detail.contains("refused"), "{detail}");
        assert!(!detail.contains("word"));
    }
}
