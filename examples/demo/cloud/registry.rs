//! A registry with one image in it, for whoever comes with a token that is good
//! now (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>).

use std::sync::Arc;

use anyhow::Result;
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde_json::json;
use tokio::sync::watch;

use super::http::{self, Response, Service};
use super::issuer::Issuer;
use super::{Attempt, Cloud, Verdict, now};

/// A registry, and a record of who came.
pub(crate) struct Registry {
    host: String,
    issuer: Arc<Issuer>,
    image: Image,
    attempts: watch::Sender<Vec<Attempt>>,
}

impl Registry {
    pub(super) fn new(host: String, issuer: &Arc<Issuer>) -> Self {
        let (issuer, attempts) = (Arc::clone(issuer), watch::Sender::default());
        Self { host, issuer, image: Image::new(), attempts }
    }

    /// Its name and port, as in `config.json`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The image, as a client names it.
    pub(crate) fn image(&self) -> String {
        format!("{}/{}", self.host, Cloud::IMAGE)
    }

    /// Every request that had credentials, the oldest first. Those without are
    /// how a client asks what it needs, and not on record.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.borrow().clone()
    }

    /// How many requests ended in this way.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.attempts.borrow().iter().filter(|attempt| attempt.verdict == verdict).count()
    }

    /// Judges the credentials of a request, if it has any.
    fn judge(&self, request: &Parts) -> Option<Verdict> {
        let authorization = request.headers.get(AUTHORIZATION)?;
        let verdict = match credentials(authorization) {
            Some((username, password)) => self.issuer.judge(&username, &password),
            None => Verdict::Unknown,
        };
        let at = now();
        self.attempts.send_modify(|attempts| attempts.push(Attempt { at, verdict }));
        Some(verdict)
    }

    fn find(&self, path: &str) -> Result<Response> {
        let (repository, tag) = Cloud::IMAGE.split_once(':').unwrap_or((Cloud::IMAGE, "latest"));
        let Some(rest) = path.strip_prefix("/v2/") else {
            return refuse(404, "NOT_FOUND", "there is nothing but /v2/");
        };
        if rest.is_empty() {
            return http::json(200, &json!({}));
        }
        let Some(rest) = rest.strip_prefix(repository) else {
            return refuse(404, "NAME_UNKNOWN", "there is no such repository");
        };
        if rest == "/tags/list" {
            return http::json(200, &json!({ "name": repository, "tags": [tag] }));
        }
        if let Some(reference) = rest.strip_prefix("/manifests/") {
            let manifest = &self.image.manifest;
            return if reference == tag || reference == manifest.digest {
                manifest.answer()
            } else {
                refuse(404, "MANIFEST_UNKNOWN", "there is no such image")
            };
        }
        let blobs = [&self.image.config, &self.image.layer];
        match blobs.into_iter().find(|blob| rest.strip_prefix("/blobs/") == Some(&blob.digest)) {
            Some(blob) => blob.answer(),
            None => refuse(404, "BLOB_UNKNOWN", "there is no such blob"),
        }
    }
}

impl Service for Registry {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response> {
        let (request, _) = request.into_parts();
        let mut answer = match self.judge(&request) {
            Some(Verdict::Authorised) => self.find(request.uri.path()),
            Some(Verdict::Expired) => refuse(
                401,
                "DENIED",
                "Your authorization token has expired. Reauthenticate and try again.",
            ),
            Some(Verdict::Unknown) => refuse(401, "UNAUTHORIZED", "the credentials are unknown"),
            None => refuse(401, "UNAUTHORIZED", "no basic auth credentials"),
        }?;
        let version = HeaderValue::from_static("registry/2.0");
        answer.headers_mut().insert("docker-distribution-api-version", version);
        Ok(answer)
    }
}

/// An image that weighs next to nothing: one layer, an archive without files.
struct Image {
    manifest: Blob,
    config: Blob,
    layer: Blob,
}

impl Image {
    fn new() -> Self {
        // Two empty blocks are the end of an archive.
        let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", vec![0; 1024]);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            // The layer is not compressed, so it is its own content.
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "demo" }],
        });
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string());
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        });
        let manifest = Blob::new(manifest_type, manifest.to_string());
        Self { manifest, config, layer }
    }
}

/// Content, and what it is called after it.
struct Blob {
    content_type: &'static str,
    content: Bytes,
    digest: String,
}

impl Blob {
    fn new(content_type: &'static str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let digest = digest::digest(&SHA256, &content);
        let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        let digest = format!("sha256:{}", digits.collect::<String>());
        Self { content_type, content, digest }
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({
            "mediaType": self.content_type,
            "digest": self.digest,
            "size": self.content.len(),
        })
    }

    fn answer(&self) -> Result<Response> {
        let mut answer = http::bytes(200, self.content_type, self.content.clone())?;
        let digest = HeaderValue::from_str(&self.digest)?;
        answer.headers_mut().insert("docker-content-digest", digest);
        Ok(answer)
    }
}

/// User name and password out of a header of basic authentication.
fn credentials(authorization: &HeaderValue) -> Option<(String, String)> {
    let pair = authorization.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(STANDARD.decode(pair).ok()?).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

fn refuse(status: u16, code: &str, message: &str) -> Result<Response> {
    let mut answer =
        http::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))?;
    if status == 401 {
        let challenge = HeaderValue::from_static("Basic realm=\"demo\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    Ok(answer)
}
