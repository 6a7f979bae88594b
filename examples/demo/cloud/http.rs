//! Serves HTTP, and can be rude about it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What all the servers answer.
pub(super) type Response = hyper::Response<Either<Full<Bytes>, CutShort>>;

/// Answers requests.
pub(super) trait Service: Send + Sync + 'static {
    /// The answer to a request; the connection is closed without one on an error.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Result<Response>> + Send;
}

/// Serves until it is dropped, which ends its connections too.
pub(super) async fn serve(listener: TcpListener, service: Arc<impl Service>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { continue };
        let service = Arc::clone(&service);
        let answer = service_fn(move |request| {
            let service = Arc::clone(&service);
            async move { service.answer(request).await }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        connections.spawn(async {
            // It fails where the client does, and where it was told to.
            drop(connection.await);
        });
    }
}

/// The body of a request.
pub(super) async fn body(request: Incoming) -> Result<Bytes> {
    let limited = Limited::new(request, LARGEST_REQUEST);
    let collected = limited.collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok(collected.to_bytes())
}

/// An answer of this type.
pub(super) fn bytes(
    status: u16,
    content_type: &str,
    content: impl Into<Bytes>,
) -> Result<Response> {
    let content = content.into();
    let answer = hyper::Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header(CONTENT_LENGTH, content.len());
    Ok(answer.body(Either::Left(Full::new(content)))?)
}

/// An answer in words.
pub(super) fn text(status: u16, words: &str) -> Result<Response> {
    bytes(status, "text/html; charset=utf-8", words.to_owned())
}

/// An answer in JSON.
pub(super) fn json(status: u16, value: &Value) -> Result<Response> {
    bytes(status, "application/json; charset=utf-8", value.to_string())
}

/// The answer of a gateway that has had enough.
pub(super) fn too_many_requests(retry_after: Duration) -> Result<Response> {
    let mut answer = text(StatusCode::TOO_MANY_REQUESTS.as_u16(), "Too Many Requests\n")?;
    answer.headers_mut().insert(RETRY_AFTER, retry_after.as_secs().into());
    Ok(answer)
}

/// The same answer, of which only the first half is ever sent.
pub(super) async fn truncated(answer: Response) -> Result<Response> {
    half(answer, true).await
}

/// The same answer, of which the second half never comes, though the connection stays.
pub(super) async fn stalled(answer: Response) -> Result<Response> {
    half(answer, false).await
}

/// An answer that sends its reader somewhere else.
pub(super) fn redirect(to: SocketAddr) -> Result<Response> {
    let mut answer = text(StatusCode::TEMPORARY_REDIRECT.as_u16(), "Temporary Redirect\n")?;
    answer.headers_mut().insert(LOCATION, format!("http://{to}/").parse()?);
    Ok(answer)
}

async fn half(answer: Response, hangs_up: bool) -> Result<Response> {
    let (head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    let half = whole.slice(..whole.len() / 2);
    Ok(Response::from_parts(
        head,
        Either::Right(CutShort { half: Some(half), has_waited: false, hangs_up }),
    ))
}

/// A body that is less than its head promised.
pub(super) struct CutShort {
    half: Option<Bytes>,
    has_waited: bool,
    hangs_up: bool,
}

impl Body for CutShort {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.hangs_up {
            return Poll::Pending;
        }
        if !self.has_waited {
            // What was given is sent when there is nothing more to be had at once;
            // an error right after it would keep it back.
            self.has_waited = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into())))
    }
}

const LARGEST_REQUEST: usize = 64 * 1024;
