//! What is answered to whom.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use tower::Service;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use super::guard::{Guard, Refusal};
use crate::credential::{BadHost, RegistryHost};
use crate::metrics;
use crate::page;
use crate::status::{Report, Status};

/// The way from a request to its answer.
#[derive(Clone)]
pub(super) struct Routes {
    router: Router,
    guard: Arc<Guard>,
}

impl Routes {
    pub(super) fn new(status: Arc<Status>, guard: Guard) -> Self {
        let long = Router::new()
            .route("/", get(people))
            .route("/status", get(full_status))
            .route("/metrics", get(all_metrics))
            .layer(CompressionLayer::new().compress_when(SizeAbove::new(WORTH_COMPRESSING)));
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(readyz))
            .merge(long)
            .fallback(nothing_here)
            .with_state(status);
        Self { router, guard: Arc::new(guard) }
    }

    /// Answers a request, if it is for us.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let checked = self.guard.check(request.version(), request.uri(), request.headers());
        let mut router = self.router.clone();
        async move {
            let mut response = match checked {
                Ok(()) => router.call(request).await?,
                Err(refusal) => refuse(&refusal),
            };
            set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            Ok(response)
        }
    }
}

fn refuse(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::NoHost => text(StatusCode::BAD_REQUEST, "say once, in `Host`, whom you ask\n"),
        // Not which name it was: it is the stranger's text.
        Refusal::Stranger(_) => text(
            StatusCode::MISDIRECTED_REQUEST,
            "this endpoint is asked by address or as localhost; other names are set by \
             `allowed_hosts`\n",
        ),
    }
}

async fn nothing_here() -> Response {
    text(
        StatusCode::NOT_FOUND,
        "not found; there are /, /livez, /readyz, /healthz, /status and /metrics\n",
    )
}

async fn livez(State(status): State<Arc<Status>>) -> Response {
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

async fn readyz(State(status): State<Arc<Status>>, RawQuery(query): RawQuery) -> Response {
    if let Some(query) = query {
        return match Question::parse(&query) {
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

fn judge(report: &Report, question: &Question) -> Response {
    match report.why_not(&question.hosts, question.min_life) {
        Ok(why) if why.is_empty() => text(StatusCode::OK, "ready\n"),
        Ok(why) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", why.join("\n")))
        }
        Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

async fn full_status(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let report = status.fresh_report().await;
    // What only counts seconds is no news: times are told as well.
    let mut news = Report::clone(&report);
    news.time.clear();
    for check in &mut news.checks.credentials {
        (check.observed_value, check.usable_seconds) = (None, None);
    }
    let tag = tag(&json(&news));
    if report.is_ready() && has(&headers, &tag) {
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

async fn all_metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let report = status.fresh_report().await;
    let open = status.metrics_text(&report);
    let mut response = if wants_open_metrics(&headers) {
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

async fn people(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let report = status.fresh_report().await;
    let page = page::page(&report);
    let tag = tag(&page);
    if has(&headers, &tag) {
        return not_modified(&tag);
    }
    let mut response = text(StatusCode::OK, page);
    set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    set(&mut response, header::CONTENT_SECURITY_POLICY, page::content_security_policy());
    set(&mut response, header::REFERRER_POLICY, "no-referrer");
    set(&mut response, CROSS_ORIGIN_RESOURCE_POLICY, "same-origin");
    tagged(response, &tag)
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

fn not_modified(tag: &str) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    set(&mut response, header::CACHE_CONTROL, ASK_AGAIN);
    tagged(response, tag)
}

fn tagged(mut response: Response, tag: &str) -> Response {
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
fn text(code: StatusCode, words: impl Into<Body>) -> Response {
    let mut response = Response::new(words.into());
    *response.status_mut() = code;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

fn set(response: &mut Response, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

/// It may be kept, and is never used without asking whether it still holds.
const ASK_AGAIN: &str = "no-cache";

/// Less than half a packet is not worth the time.
const WORTH_COMPRESSING: u64 = 512;
