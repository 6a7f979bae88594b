//! Asks a daemon's endpoint, for `freshcreds check` and `freshcreds status`:
//! in an image without a shell there is no curl.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::status::Report;

/// The status of the daemon that listens on `address`.
///
/// # Errors
///
/// If nobody answers there, or something that is not a daemon of this version.
pub async fn fetch(address: SocketAddr) -> Result<Report, FetchStatusError> {
    let body = match tokio::time::timeout(LIMIT, get_status(address)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(FetchStatusError::TimedOut { address }),
    };
    serde_json::from_slice(&body).map_err(|_| FetchStatusError::NotOurs { address })
}

async fn get_status(address: SocketAddr) -> Result<Bytes, FetchStatusError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| FetchStatusError::Unreachable { address, source })?;
    let not_ours = |_| FetchStatusError::NotOurs { address };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(not_ours)?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/status")
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchStatusError::NotOurs { address })?;
    let response = sender.send_request(request).await.map_err(not_ours)?;
    if !matches!(response.status(), StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) {
        return Err(FetchStatusError::NotOurs { address });
    }
    let body = Limited::new(response.into_body(), LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|_| FetchStatusError::NotOurs { address })?;
    connection.abort();
    Ok(body.to_bytes())
}

/// Why there is no status to be had.
#[derive(Debug, Error)]
pub enum FetchStatusError {
    /// Nobody listens.
    #[error(
        "no freshcreds answers on {address}: {source}; is `freshcreds run` up, \
         and does it `--listen` there?"
    )]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens and says nothing.
    #[error("no answer from {address} within {}", humantime::format_duration(LIMIT))]
    TimedOut {
        /// Where.
        address: SocketAddr,
    },
    /// Somebody else listens.
    #[error("what answers on {address} is no freshcreds of this version")]
    NotOurs {
        /// Where.
        address: SocketAddr,
    },
}

const LIMIT: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
