//! Reads credentials and uses them, the way docker's client does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The credentials for a registry. The file is read anew each time: docker's
/// client is started anew for each command.
pub(crate) fn read_auth(config: &Path, host: &str) -> Result<Option<String>> {
    let text = fs::read(config).with_context(|| format!("cannot read {}", config.display()))?;
    let document: Value = serde_json::from_slice(&text).context("config.json is no JSON")?;
    let auth = document.get("auths").and_then(|auths| auths.get(host)?.get("auth")?.as_str());
    Ok(auth.map(str::to_owned))
}

/// Asks a registry for an image's manifest, which is how a pull begins.
pub(crate) async fn pull(host: &str, image: &str, auth: &str) -> Result<StatusCode> {
    timeout(LIMIT, fetch_manifest(host, image, auth)).await.context("the registry hangs")?
}

async fn fetch_manifest(host: &str, image: &str, auth: &str) -> Result<StatusCode> {
    let (repository, tag) = image.split_once(':').context("the image has no tag")?;
    let stream = TokioIo::new(TcpStream::connect(host).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::get(format!("/v2/{repository}/manifests/{tag}"))
        .header(HOST, host)
        .header(ACCEPT, "application/vnd.oci.image.manifest.v1+json")
        .header(AUTHORIZATION, format!("Basic {auth}"))
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    Ok(status)
}

const LIMIT: Duration = Duration::from_secs(5);
