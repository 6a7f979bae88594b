//! Lets no call through while the API server wants to be left alone, and counts the calls.
//!
//! The priority and fairness of an API server answers 429 with a `Retry-After`, which is for all
//! calls of ours and not for the one that got it:
//! <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::http;
use kube::client::Body;
use tower::{Layer, Service};

use crate::clock::Clock;

/// Told of each call: its method, and the status or why there was none.
pub type Count = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What all calls to one cluster go through.
#[derive(Clone)]
pub(super) struct Gate {
    clock: Clock,
    count: Count,
    /// No call before then, by the monotonic clock.
    shut_until: Arc<Mutex<Duration>>,
}

impl Gate {
    pub(super) fn new(clock: Clock, count: Count) -> Self {
        Self { clock, count, shut_until: Arc::default() }
    }

    fn shut(&self, pause: Duration) {
        let until = self.clock.monotonic() + pause.min(LONGEST_PAUSE);
        let mut shut = self.shut_until.lock().unwrap_or_else(PoisonError::into_inner);
        *shut = until.max(*shut);
    }

    /// For how long it is still shut.
    fn left(&self) -> Duration {
        let until = *self.shut_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_sub(self.clock.monotonic())
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone(), pause: None }
    }
}

/// A service behind a [`Gate`].
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S, B> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let left = self.gate.left();
            if left.is_zero() {
                return self.inner.poll_ready(context);
            }
            let clock = self.gate.clock.clone();
            self.pause = Some(Box::pin(async move { clock.sleep(left).await }));
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (gate, method) = (self.gate.clone(), request.method().clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await;
            match &answer {
                Ok(answer) => {
                    (gate.count)(method.as_str(), answer.status().as_str());
                    if answer.status() == http::StatusCode::TOO_MANY_REQUESTS {
                        let header = answer.headers().get(http::header::RETRY_AFTER);
                        let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
                        gate.shut(seconds.map_or(DEFAULT_PAUSE, Duration::from_secs));
                    }
                }
                Err(_) => (gate.count)(method.as_str(), "error"),
            }
            answer
        })
    }
}

/// What an API server asks for when it says nothing else.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// More than this is a mistake of somebody's.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
