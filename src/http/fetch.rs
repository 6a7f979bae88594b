//! Asks a daemon's endpoint, for `freshcreds check` and `freshcreds status`:
//! in an image without a shell there is no curl.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Address;
use crate::status::Report;

/// The status of the daemon that listens on `address`.
///
/// # Errors
///
/// If nobody answers there, or something that is not a daemon of this version.
pub async fn fetch(address: &Address) -> Result<Report, FetchStatusError> {
    let body = match tokio::time::timeout(LIMIT, get_status(address)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(FetchStatusError::TimedOut { address: address.clone() }),
    };
    serde_json::from_slice(&body)
        .map_err(|_| FetchStatusError::NotOurs { address: address.clone() })
}

async fn get_status(address: &Address) -> Result<Bytes, FetchStatusError> {
    let unreachable = |source| FetchStatusError::Unreachable { address: address.clone(), source };
    let answer = match address {
        Address::Network(to) => {
            // Without the zone that an address of this machine may have.
            let host = SocketAddr::new(to.ip(), to.port()).to_string();
            ask(TcpStream::connect(to).await.map_err(unreachable)?, &host).await
        }
        Address::Unix(path) => {
            ask(UnixStream::connect(path).await.map_err(unreachable)?, "localhost").await
        }
    };
    answer.ok_or_else(|| FetchStatusError::NotOurs { address: address.clone() })
}

/// What is answered; nothing if it is not what we would answer.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
) -> Option<Bytes> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request =
        Request::get("/status").header(header::HOST, host).body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    if !matches!(response.status(), StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.ok()?;
    connection.abort();
    Some(body.to_bytes())
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
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens and says nothing.
    #[error("no answer from {address} within {}", humantime::format_duration(LIMIT))]
    TimedOut {
        /// Where.
        address: Address,
    },
    /// Somebody else listens.
    #[error("what answers on {address} is no freshcreds of this version")]
    NotOurs {
        /// Where.
        address: Address,
    },
}

const LIMIT: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
