//! What is answered to whom.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tower::{Service, service_fn};
use tower_http::compression::predicate::SizeAbove;
use tower_http::compression::{Compression, CompressionBody};

use super::guard::{Guard, Refusal};
use crate::credential::{BadHost, RegistryHost};
use crate::metrics;
use crate::page;
use crate::status::{Report, Status};

/// The way from a request to its answer.
#[derive(Clone)]
pub(super) struct Routes {
    status: Arc<Status>,
    guard: Arc<Guard>,
}

/// Whole as it is, or compressed as it is sent; that is large, and would make every answer so.
pub(super) type Answer = Response<Either<Full<Bytes>, Pin<Box<CompressionBody<Full<Bytes>>>>>>;

impl Routes {
    pub(super) fn new(status: Arc<Status>, guard: Guard) -> Self {
        Self { status, guard: Arc::new(guard) }
    }

    /// Answers a request, if it is for us.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let Self { status, guard } = self;
        let path = request.uri().path();
        let is_long = matches!(path, "/" | "/status" | "/metrics");
        let is_known = is_long || matches!(path, "/livez" | "/readyz" | "/healthz");
        let is_for_us = guard.check(request.version(), request.uri(), request.headers());
        let mut answer = if let Err(refusal) = is_for_us {
            refuse(refusal)
        } else if !is_known {
            nothing_here()
        } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
            only_reads()
        } else if is_long {
            let mut answer = Box::pin(compressed(status, request)).await?;
            set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            return Ok(answer.map(|body| Either::Right(Box::pin(body))));
        } else if path == "/livez" {
            livez(&status)
        } else {
            readyz(&status, request.uri().query()).await
        };
        set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        Ok(answer.map(Either::Left))
    }
}

async fn compressed(
    status: Arc<Status>,
    request: Request<Incoming>,
) -> Result<Response<CompressionBody<Full<Bytes>>>, Infallible> {
    let work = |request| {
        let status = Arc::clone(&status);
        async move { Ok(long(&status, &request).await) }
    };
    let worth_it = SizeAbove::new(WORTH_COMPRESSING);
    Compression::new(service_fn(work)).compress_when(worth_it).call(request).await
}

/// What is compressed for who wants it.
async fn long(status: &Status, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/status" => full_status(status, request.headers()).await,
        "/metrics" => all_metrics(status, request.headers()).await,
        _ => people(status).await,
    }
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    match refusal {
        Refusal::NoHost => text(StatusCode::BAD_REQUEST, "say once, in `Host`, whom you ask\n"),
        // Not which name it was: that is the stranger's text.
        Refusal::Stranger => text(
            StatusCode::MISDIRECTED_REQUEST,
            "this endpoint is asked by address or as localhost; other names are set by \
             `allowed_hosts`\n",
        ),
    }
}

fn nothing_here() -> Response<Full<Bytes>> {
    text(
        StatusCode::NOT_FOUND,
        "not found; there are /, /livez, /readyz, /healthz, /status and /metrics\n",
    )
}

fn only_reads() -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    set(&mut answer, header::ALLOW, "GET,HEAD");
    answer
}

fn livez(status: &Status) -> Response<Full<Bytes>> {
    if status.is_live() {
        text(StatusCode::OK, "live\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not live: a loop hangs\n")
    }
}

/// What `?registry=HOST&min_life=2h` asks.
#[derive(Default)]
struct Question {
    hosts: Vec<RegistryHost>,
    min_life: Duration,
}

impl Question {
    fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "registry" => {
                    question.hosts.push(value.parse().map_err(|error: BadHost| error.to_string())?);
                }
                "min_life" => {
                    question.min_life = humantime::parse_duration(&value)
                        .map_err(|_| format!("`{value}` is no duration: write it as in 2h"))?;
                }
                key => {
                    return Err(format!("`{key}` means nothing: ask for `registry`, `min_life`"));
                }
            }
        }
        Ok(question)
    }
}

async fn readyz(status: &Status, query: Option<&str>) -> Response<Full<Bytes>> {
    if let Some(query) = query {
        return match Question::parse(query) {
            Ok(question) => judge(status.fresh_report().await.as_ref(), &question),
            Err(words) => text(StatusCode::BAD_REQUEST, words + "\n"),
        };
    }
    if status.fresh_judgement().await.is_spotless {
        return text(StatusCode::OK, "ready\n");
    }
    let report = status.last_report();
    let mut words = if report.is_ready() { "ready\n" } else { "not ready\n" }.to_owned();
    for line in &report.output {
        words.push_str(line);
        words.push('\n');
    }
    text(code(&report), words)
}

fn judge(report: &Report, question: &Question) -> Response<Full<Bytes>> {
    match report.why_not(&question.hosts, question.min_life) {
        Ok(why) if why.is_empty() => text(StatusCode::OK, "ready\n"),
        Ok(why) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", why.join("\n")))
        }
        Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

async fn full_status(status: &Status, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let report = status.fresh_report().await;
    // What only counts seconds is no news: times are told as well.
    let mut news = Report::clone(&report);
    news.time.clear();
    for check in &mut news.checks.credentials {
        (check.observed_value, check.usable_seconds) = (None, None);
    }
    for check in news.checks.targets.iter_mut().chain(&mut news.checks.secrets) {
        check.verified = None;
    }
    let tag = tag(&json(&news));
    if report.is_ready() && has(headers, &tag) {
        return not_modified(&tag);
    }
    let mut response = text(code(&report), json(&report));
    set(&mut response, header::CONTENT_TYPE, "application/health+json");
    tagged(response, &tag)
}

fn json(report: &Report) -> String {
    // Nothing in it can fail.
    serde_json::to_string(report).unwrap_or_default()
}

async fn all_metrics(status: &Status, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let judgement = status.fresh_judgement().await;
    let open = status.metrics_text(judgement);
    let mut response = if wants_open_metrics(headers) {
        let mut response = text(StatusCode::OK, open);
        set(&mut response, header::CONTENT_TYPE, metrics::OPEN_METRICS);
        response
    } else {
        let mut response = text(StatusCode::OK, metrics::classic(&open));
        set(&mut response, header::CONTENT_TYPE, metrics::CLASSIC);
        response
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Prometheus asks for it by name; who does not gets the form that everything reads.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let is_it = parts.next() == Some("application/openmetrics-text");
        let is_none = |part: &str| {
            let weight = part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            weight.is_some_and(|weight| weight <= 0.0)
        };
        is_it && !parts.any(is_none)
    })
}

async fn people(status: &Status) -> Response<Full<Bytes>> {
    let report = status.fresh_report().await;
    let mut response = text(StatusCode::OK, page::page(&report));
    set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    set(&mut response, header::CONTENT_SECURITY_POLICY, page::content_security_policy());
    set(&mut response, header::REFERRER_POLICY, "no-referrer");
    set(&mut response, CROSS_ORIGIN_RESOURCE_POLICY, "same-origin");
    response
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// By what a client can tell that it has this already. It is weak, since what is compressed
/// has the same.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("W/\"{:016x}\"", hasher.finish())
}

fn has(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|it| it.to_str().ok());
    let strong = tag.trim_start_matches("W/");
    known
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == strong)
}

fn not_modified(tag: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tagged(response, tag)
}

fn tagged(mut response: Response<Full<Bytes>>, tag: &str) -> Response<Full<Bytes>> {
    set(&mut response, header::CACHE_CONTROL, ASK_AGAIN);
    if let Ok(value) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

fn code(report: &Report) -> StatusCode {
    if report.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// What a probe gets must be of this moment.
fn text(code: StatusCode, words: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = code;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

fn set<B>(response: &mut Response<B>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

/// It may be kept, and is never used without asking whether it still holds.
const ASK_AGAIN: &str = "no-cache";

/// Less than half a packet is not worth the time.
const WORTH_COMPRESSING: u64 = 512;
