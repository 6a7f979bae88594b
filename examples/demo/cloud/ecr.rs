//! ECR's API, as far as `GetAuthorizationToken`
//! (<https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html>).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use serde_json::{Value, json};

use super::http::{self, Response, Service};
use super::issuer::{Issuer, random_text};
use super::{Cloud, Fault, Options};

/// ECR, which gives a token to every access key that it knows.
pub(super) struct Ecr {
    issuer: Arc<Issuer>,
    life: Duration,
    short_tokens: bool,
    access_keys: Mutex<BTreeSet<String>>,
}

impl Ecr {
    pub(super) fn new(options: Options) -> Self {
        Self {
            issuer: Arc::new(Issuer::new()),
            life: options.ecr_life,
            short_tokens: options.short_tokens,
            access_keys: Mutex::new(BTreeSet::from([Cloud::ACCESS_KEY_ID.to_owned()])),
        }
    }

    pub(super) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    pub(super) fn trust(&self, access_key: &str) {
        self.change_access_keys(|keys| keys.insert(access_key.to_owned()));
    }

    pub(super) fn revoke(&self, access_key: &str) {
        self.change_access_keys(|keys| keys.remove(access_key));
    }

    fn change_access_keys<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.access_keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks a request as ECR would, and gives a token.
    fn give(&self, request: &Parts) -> Result<Response> {
        if request.method != Method::POST || request.uri.path() != "/" {
            return refuse("UnknownOperationException", "there is only POST /");
        }
        if !is(request, "x-amz-target", TARGET) {
            return refuse("UnknownOperationException", "there is only GetAuthorizationToken");
        }
        if !is(request, CONTENT_TYPE.as_str(), AMAZON_JSON) {
            return refuse("SerializationException", "the content type is not that of JSON 1.1");
        }
        let Some(scope) = header(request, AUTHORIZATION.as_str()).and_then(Scope::read) else {
            return refuse("MissingAuthenticationTokenException", "the request is not signed");
        };
        if scope.service != "ecr" {
            return refuse(
                "InvalidSignatureException",
                "the credential is scoped to another service",
            );
        }
        if !self.change_access_keys(|keys| keys.contains(scope.access_key)) {
            return refuse("UnrecognizedClientException", "the security token is invalid");
        }
        let issued = self.issuer.issue(USERNAME, self.password()?, self.life);
        self.answer_with(&format!("{USERNAME}:{}", issued.password), issued.expires, scope.region)
    }

    /// A password of the length of the real ones, or of one that bcrypt can take.
    fn password(&self) -> Result<String> {
        random_text(if self.short_tokens { SHORT_BYTES } else { REAL_BYTES })
    }

    fn answer_with(&self, pair: &str, expires: SystemTime, region: &str) -> Result<Response> {
        let token = STANDARD.encode(pair);
        self.issuer.keep_secret(&token);
        authorise(&token, expires, region)
    }

    fn fail(&self, fault: Fault) -> Result<Response> {
        match fault {
            Fault::Throttled => refuse("ThrottlingException", "Rate exceeded"),
            Fault::Denied => refuse(
                "AccessDeniedException",
                "User: arn:aws:iam::123456789012:user/demo is not authorized to perform: \
                 ecr:GetAuthorizationToken on resource: *",
            ),
            Fault::Expired => {
                let pair = format!("{USERNAME}:{}", self.password()?);
                self.answer_with(&pair, SystemTime::UNIX_EPOCH + IN_2015, REGION)
            }
            Fault::NotBase64 => {
                let token = format!("*{}", self.password()?);
                self.issuer.keep_secret(&token);
                authorise(&token, super::now() + self.life, REGION)
            }
            Fault::NoColon => self.answer_with(&self.password()?, super::now() + self.life, REGION),
            _ => answer(200, &json!({ "authorizationData": [] })),
        }
    }
}

impl Service for Ecr {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response> {
        let (request, body) = request.into_parts();
        // Nothing in it matters, but it is to be read.
        http::body(body).await?;
        self.issuer.answer(|| self.give(&request), |fault| self.fail(fault)).await
    }
}

/// What a request is signed for: `ACCESS_KEY/DATE/REGION/SERVICE/aws4_request`
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>).
struct Scope<'a> {
    access_key: &'a str,
    region: &'a str,
    service: &'a str,
}

impl<'a> Scope<'a> {
    fn read(authorization: &'a str) -> Option<Self> {
        let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let signature = field("Signature")?;
        let is_signed =
            signature.len() == 64 && signature.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut scope = field("Credential")?.split('/');
        let (access_key, date) = (scope.next()?, scope.next()?);
        let (region, service) = (scope.next()?, scope.next()?);
        let is_whole = scope.eq(["aws4_request"]) && date.len() == 8;
        let signs_host = field("SignedHeaders")?.split(';').any(|header| header == "host");
        (is_signed && is_whole && signs_host).then_some(Self { access_key, region, service })
    }
}

fn header<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

fn is(request: &Parts, name: &str, value: &str) -> bool {
    header(request, name) == Some(value)
}

fn authorise(token: &str, expires: SystemTime, region: &str) -> Result<Response> {
    let since_epoch = expires.duration_since(SystemTime::UNIX_EPOCH)?;
    answer(
        200,
        &json!({
            "authorizationData": [{
                "authorizationToken": token,
                "expiresAt": since_epoch.as_secs_f64(),
                "proxyEndpoint": format!("https://123456789012.dkr.ecr.{region}.amazonaws.com"),
            }],
        }),
    )
}

fn refuse(kind: &str, message: &str) -> Result<Response> {
    answer(400, &json!({ "__type": kind, "message": message }))
}

fn answer(status: u16, value: &Value) -> Result<Response> {
    let mut answer = http::json(status, value)?;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AMAZON_JSON));
    Ok(answer)
}

const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const AMAZON_JSON: &str = "application/x-amz-json-1.1";
const USERNAME: &str = "AWS";

/// Where no request says it.
const REGION: &str = "eu-west-1";

const SHORT_BYTES: usize = 24;
const REAL_BYTES: usize = 2_100;

/// 2015-01-01, as some emulators of ECR have it.
const IN_2015: Duration = Duration::from_hours(24 * 16_436);
