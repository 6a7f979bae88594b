//! Google's token endpoint, where a service account's signature is exchanged for
//! an access token
//! (<https://developers.google.com/identity/protocols/oauth2/service-account#httprest>).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{self, KeyPair as _, UnparsedPublicKey};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use serde::Deserialize;
use serde_json::json;
use tempfile::NamedTempFile;

use super::http::{self, Response, Service};
use super::issuer::{Issuer, random_text};
use super::{Fault, Issued, Options, now};

/// Google, which knows one service account.
pub(super) struct Google {
    issuer: Arc<Issuer>,
    options: Options,
    token_uri: String,
    key: Mutex<Key>,
}

impl Google {
    /// The path of its address at which tokens are given.
    pub(super) const TOKEN_PATH: &str = "/token";

    pub(super) fn new(options: Options, token_uri: String) -> Result<Self> {
        let issuer = Arc::new(Issuer::new());
        let key = Mutex::new(Key::generate(&issuer)?);
        Ok(Self { issuer, options, token_uri, key })
    }

    pub(super) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    pub(super) fn token_uri(&self) -> &str {
        &self.token_uri
    }

    pub(super) fn write_key(&self, path: &Path) -> Result<()> {
        let key = self.key();
        let file = json!({
            "type": "service_account",
            "project_id": "demo",
            "private_key_id": key.id,
            "private_key": key.pem,
            "client_email": CLIENT_EMAIL,
            "client_id": "100000000000000000000",
            "token_uri": self.token_uri,
        });
        // It is private from the start, and nobody finds half of it.
        let mut temporary = NamedTempFile::new_in(path.parent().context("a file has a folder")?)?;
        temporary.write_all(format!("{file:#}\n").as_bytes())?;
        temporary.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    pub(super) fn rotate_key(&self) -> Result<()> {
        *self.key() = Key::generate(&self.issuer)?;
        Ok(())
    }

    fn key(&self) -> MutexGuard<'_, Key> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a request as Google would, and gives a token.
    fn give(&self, request: &Parts, body: &[u8]) -> Result<Response> {
        if request.method != Method::POST || request.uri.path() != Self::TOKEN_PATH {
            return http::text(404, "Not Found\n");
        }
        let content_type = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type != Some(b"application/x-www-form-urlencoded") {
            return refuse("invalid_request", "The request is not a form.");
        }
        if field(body, "grant_type").as_deref() != Some(GRANT_TYPE) {
            return refuse("unsupported_grant_type", "Invalid grant_type.");
        }
        let Some(assertion) = field(body, "assertion") else {
            return refuse("invalid_request", "Missing parameter: assertion");
        };
        self.issuer.keep_secret(&assertion);
        if let Err(error) = self.verify(&assertion) {
            return refuse("invalid_grant", &error.to_string());
        }
        if let Some(cached) = self.cached() {
            let left = cached.expires.duration_since(now())?;
            return give(&cached.password, left);
        }
        let issued = self.issuer.issue(USERNAME, self.password()?, self.options.google_life);
        give(&issued.password, self.options.google_life)
    }

    /// Looks whether the service account signed it, for us, and lately.
    fn verify(&self, assertion: &str) -> Result<()> {
        const MALFORMED: &str = "Invalid JWT: it has not three parts of base64.";
        let (signed, signature) = assertion.rsplit_once('.').context(MALFORMED)?;
        let (head, claims) = signed.split_once('.').context(MALFORMED)?;
        let [head, claims, signature] =
            [head, claims, signature].map(|part| ANY_PADDING.decode(part));
        let (head, claims, signature) =
            (head.context(MALFORMED)?, claims.context(MALFORMED)?, signature.context(MALFORMED)?);
        let head: Head = serde_json::from_slice(&head).context("Invalid JWT: bad header.")?;
        let claims: Claims = serde_json::from_slice(&claims).context("Invalid JWT: bad claims.")?;
        ensure!(head.alg == "RS256", "Invalid JWT: the algorithm is not RS256.");
        ensure!(claims.iss == CLIENT_EMAIL, "Invalid grant: account not found");
        ensure!(claims.aud == self.token_uri, "Invalid JWT: the audience is another.");
        ensure!(!claims.scope.is_empty(), "Invalid OAuth scope or ID token audience provided.");
        let public = UnparsedPublicKey::new(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            self.key().pair.public_key().as_ref().to_vec(),
        );
        let is_signed = public.verify(signed.as_bytes(), &signature).is_ok();
        ensure!(is_signed, "Invalid JWT Signature.");
        let now = now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let is_of_now = claims.iat <= now + SKEW && now <= claims.exp + SKEW;
        ensure!(
            is_of_now && claims.exp <= claims.iat + LONGEST_CLAIM,
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable \
             timeframe. Check your iat and exp values in the JWT claim."
        );
        Ok(())
    }

    /// The newest token, if there are caches that would give it again.
    fn cached(&self) -> Option<Issued> {
        let until = self.options.google_caches_until?;
        self.issuer.issued().pop().filter(|newest| now() + until < newest.expires)
    }

    /// A token of a usual length, or one that bcrypt can take.
    fn password(&self) -> Result<String> {
        random_text(if self.options.short_tokens { SHORT_BYTES } else { REAL_BYTES })
    }

    fn fail(&self, fault: Fault) -> Result<Response> {
        let life = self.options.google_life;
        match fault {
            Fault::Throttled => http::json(
                429,
                &json!({ "error": "rate_limit_exceeded", "error_description": "Try again later." }),
            ),
            Fault::Denied => refuse("invalid_grant", "Invalid JWT Signature."),
            Fault::Expired => {
                let password = self.password()?;
                self.issuer.keep_secret(&password);
                give(&password, Duration::ZERO)
            }
            Fault::NotBase64 => {
                let password = self.password()?;
                self.issuer.keep_secret(&password);
                give(&format!("{password}\nX-Header: value"), life)
            }
            Fault::NoColon => give("", life),
            _ => http::json(200, &json!({ "expires_in": life.as_secs(), "token_type": "Bearer" })),
        }
    }
}

impl Service for Google {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response> {
        let (request, body) = request.into_parts();
        let body = http::body(body).await?;
        self.issuer.answer(|| self.give(&request, &body), |fault| self.fail(fault)).await
    }
}

/// What the service account signs with.
struct Key {
    id: String,
    pair: KeyPair,
    pem: String,
}

impl Key {
    /// A new key, whose text is put on record as a secret.
    fn generate(issuer: &Issuer) -> Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let der: Pkcs8V1Der<'_> = pair.as_der()?;
        let text = STANDARD.encode(der.as_ref());
        let mut pem = format!("-----BEGIN {PEM_LABEL}-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(PEM_WIDTH));
            // Line by line, since nobody prints the line ends of a PEM as they are.
            issuer.keep_secret(line);
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        writeln!(pem, "-----END {PEM_LABEL}-----")?;
        Ok(Self { id: random_text(SHORT_BYTES)?, pair, pem })
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    scope: String,
    iat: u64,
    exp: u64,
}

/// The value of a field of a form.
fn field(form: &[u8], name: &str) -> Option<String> {
    form.split(|&byte| byte == b'&').find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(unescape(value)?).ok()
    })
}

/// Undoes the escapes of a form
/// (<https://url.spec.whatwg.org/#application/x-www-form-urlencoded>).
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'+' => (b' ', after),
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, after)
            }
            other => (other, after),
        };
        plain.push(byte);
        rest = after;
    }
    Some(plain)
}

/// `expires_in` is in whole seconds, and never promises more than there is.
fn give(token: &str, left: Duration) -> Result<Response> {
    http::json(
        200,
        &json!({ "access_token": token, "expires_in": left.as_secs(), "token_type": "Bearer" }),
    )
}

fn refuse(error: &str, description: &str) -> Result<Response> {
    http::json(400, &json!({ "error": error, "error_description": description }))
}

/// Some clients write the padding that RFC 7515 leaves out.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_EMAIL: &str = "demo@demo.iam.gserviceaccount.com";
const USERNAME: &str = "oauth2accesstoken";

/// Apart from its dashes, or whoever looks for keys in source code would find one.
const PEM_LABEL: &str = "PRIVATE KEY";
const PEM_WIDTH: usize = 64;

const SHORT_BYTES: usize = 24;
const REAL_BYTES: usize = 160;

/// The most that a clock may be wrong, and the longest life of a claim, in seconds.
const SKEW: u64 = 300;
const LONGEST_CLAIM: u64 = 3_600;
