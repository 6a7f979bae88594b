//! The endpoint: `/livez`, `/readyz`, `/healthz`, `/status` and `/metrics`.
//!
//! It reads the status and nothing else, and takes only GET and HEAD. A slow or
//! hostile client gets its connection closed: heads have a time and a size
//! limit, and there is a number of connections beyond which the next one waits.

mod fetch;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

pub use self::fetch::{FetchStatusError, fetch};
use crate::clock::Clock;
use crate::credential::{BadHost, RegistryHost};
use crate::metrics;
use crate::status::{Report, Status};

/// An endpoint that is bound and does not answer yet.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Takes the address, so that a daemon that cannot have it does not start.
    ///
    /// # Errors
    ///
    /// If the system does not give it.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens; the port is the one that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn serve(self, status: Arc<Status>, clock: Clock, stop: CancellationToken) {
        let routes = routes(status);
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            // A place is taken before a connection is, so that the waiting ones
            // wait in the kernel and cost nothing here.
            let connection = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                connection = connection => connection,
            };
            match (place, accepted) {
                (Ok(place), Ok((stream, _))) => {
                    tokio::spawn(answer(stream, routes.clone(), stop.clone(), place));
                }
                (_, Err(error)) => {
                    // Out of file descriptors, most likely: give them time to come back.
                    debug!(%error, "connection not accepted");
                    clock.sleep(ACCEPT_PAUSE).await;
                }
                (Err(_), _) => return,
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    routes: Router,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(into_ok(routes.call(request).await)) }
    });
    let connection = http1::Builder::new()
        // Without a timer the limit is not kept: https://github.com/tokio-rs/axum/issues/2741
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Its error would be the client's.
            drop(connection.await);
        }
    }
}

fn into_ok<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn routes(status: Arc<Status>) -> Router {
    // What a probe gets must be of this moment.
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .route("/status", get(full_status))
        .route("/metrics", get(all_metrics))
        .with_state(status)
}

async fn livez(State(status): State<Arc<Status>>) -> Response {
    if status.is_live() {
        text(StatusCode::OK, "live\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not live: a loop hangs\n".to_owned())
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
            Ok(question) => judge(&*status.fresh_report().await, &question),
            Err(words) => text(StatusCode::BAD_REQUEST, words + "\n"),
        };
    }
    let report = status.fresh_report().await;
    let mut words = if report.is_ready() { "ready\n" } else { "not ready\n" }.to_owned();
    for line in &report.output {
        words.push_str(line);
        words.push('\n');
    }
    text(code(&report), words)
}

fn judge(report: &Report, question: &Question) -> Response {
    match report.why_not(&question.hosts, question.min_life) {
        Ok(why) if why.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
        Ok(why) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", why.join("\n")))
        }
        Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

async fn full_status(State(status): State<Arc<Status>>) -> Response {
    let report = status.fresh_report().await;
    let mut response = (code(&report), Json(&*report)).into_response();
    set(&mut response, header::CONTENT_TYPE, "application/health+json");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

async fn all_metrics(State(status): State<Arc<Status>>) -> Response {
    let report = status.fresh_report().await;
    let mut response = text(StatusCode::OK, status.metrics_text(&report));
    set(&mut response, header::CONTENT_TYPE, metrics::OPEN_METRICS);
    response
}

fn code(report: &Report) -> StatusCode {
    if report.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn text(code: StatusCode, words: String) -> Response {
    let mut response = (code, words).into_response();
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take for a request's head, and how long an idle
/// connection is kept.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

const LARGEST_HEAD: usize = 8 * 1024;

/// Probes and scrapers need a handful.
const MOST_CONNECTIONS: usize = 128;

#[cfg(test)]
mod tests;
