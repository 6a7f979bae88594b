//! The way out: one HTTP client for all clouds and registries, so that proxies, certificates and limits are the
//! same for each of them.
//!
//! It is the AWS SDK's, which is in the program anyway. It goes by `HTTPS_PROXY` and `NO_PROXY`, and trusts whom
//! the machine trusts (`SSL_CERT_FILE` too). What is on the machine itself, as a metadata server is, is never
//! asked through a proxy.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use http_body_util::{BodyExt, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// How this machine reaches the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Certificates of authorities, in PEM, that are trusted beside the machine's.
    further: Option<Arc<[u8]>>,
}

impl Network {
    /// One that also trusts the authorities in a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has no certificate in it.
    pub fn trusting(path: &Path) -> Result<Self, BadAuthorities> {
        let bad = |detail: String| BadAuthorities { path: path.display().to_string(), detail };
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        let mut count = 0_u32;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(format!("it is no PEM: {error}")))?;
            count += 1;
            // Whoever is given one that cannot be used ends the program.
            RootCertStore::empty().add(certificate).map_err(|error| {
                bad(format!("certificate {count} in it cannot be used: {error}"))
            })?;
        }
        if count == 0 {
            return Err(bad("there is no certificate in it".to_owned()));
        }
        Ok(Self { further: Some(pem.into()) })
    }

    /// A client for a few questions. Its connections end with it, so that a daemon at rest has none.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut trusted = TrustStore::default();
        if let Some(pem) = &self.further {
            trusted.add_pem_certificate(pem.to_vec());
        }
        // It only puts the two together.
        let tls = TlsContext::builder().with_trust_store(trusted).build().unwrap_or_default();
        Client(Arc::new(Shared { tls, ways: Mutex::default() }))
    }
}

/// Certificates that cannot be used.
#[derive(Debug, Error)]
#[error("the authorities in {path} cannot be trusted: {detail}")]
pub struct BadAuthorities {
    path: String,
    detail: String,
}

/// Asks servers; the AWS SDK can be given it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tls: TlsContext,
    /// By how long each waits for a connection, and for an answer.
    ways: Mutex<Vec<(Limits, SharedHttpConnector)>>,
}

type Limits = (Option<Duration>, Option<Duration>);

impl Client {
    /// A question.
    #[must_use]
    pub fn get(&self, url: impl Into<String>) -> Question<'_> {
        Question::new(self, Method::GET, url.into())
    }

    /// A question with something to it.
    #[must_use]
    pub fn post(&self, url: impl Into<String>) -> Question<'_> {
        Question::new(self, Method::POST, url.into())
    }

    fn way(&self, settings: &HttpConnectorSettings) -> SharedHttpConnector {
        let limits = (settings.connect_timeout(), settings.read_timeout());
        let mut ways = self.0.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, way)) = ways.iter().find(|(known, _)| *known == limits) {
            return way.clone();
        }
        let way = SharedHttpConnector::new(Way {
            settings: settings.clone(),
            tls: self.0.tls.clone(),
            near: OnceLock::new(),
            far: OnceLock::new(),
        });
        ways.push((limits, way.clone()));
        way
    }
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.way(settings)
    }
}

/// Two ways: to what is near, and out.
#[derive(Debug)]
struct Way {
    settings: HttpConnectorSettings,
    tls: TlsContext,
    near: OnceLock<Connector>,
    far: OnceLock<Connector>,
}

impl Way {
    fn connector(&self, proxies: ProxyConfig) -> Connector {
        Connector::builder()
            .connector_settings(self.settings.clone())
            .sleep_impl(TokioSleep::new())
            .proxy_config(proxies)
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(self.tls.clone())
            .build()
    }
}

impl HttpConnector for Way {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let is_near = request.extension::<Near>().is_some() || is_near(request.uri());
        let connector = if is_near {
            self.near.get_or_init(|| self.connector(ProxyConfig::disabled()))
        } else {
            self.far.get_or_init(|| self.connector(ProxyConfig::from_env()))
        };
        connector.call(request)
    }
}

/// Marks a question to the machine's own surroundings.
#[derive(Clone, Copy, Debug)]
struct Near;

/// Whether an address is this machine's, or one that only its own surroundings answer at.
fn is_near(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let is_clear = uri.scheme_str() == Some("http");
    uri.host().is_some_and(|host| is_local(host) || is_clear && is_metadata(host))
}

/// Whether a host is this machine.
#[must_use]
pub fn is_local(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a host is a metadata server: of AWS and Azure, of EKS, of Google.
fn is_metadata(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => host == "metadata.google.internal",
    }
}

/// A question that is being made.
pub struct Question<'a> {
    client: &'a Client,
    method: Method,
    url: String,
    headers: HeaderMap,
    body: SdkBody,
    near: bool,
    /// Of a text that fits into no header.
    is_bad: bool,
}

/// Without its headers and what it sends, which may be secrets.
impl fmt::Debug for Question<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Question")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl<'a> Question<'a> {
    fn new(client: &'a Client, method: Method, url: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(OUR_NAME));
        Self { client, method, url, headers, body: SdkBody::empty(), near: false, is_bad: false }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => drop(self.headers.insert(name, value)),
            Err(_) => self.is_bad = true,
        }
        self
    }

    /// With a header that nobody may print.
    #[must_use]
    pub fn secret_header(mut self, name: HeaderName, value: &SecretString) -> Self {
        match HeaderValue::from_str(value.expose_secret()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.headers.insert(name, value);
            }
            Err(_) => self.is_bad = true,
        }
        self
    }

    /// With a form, in the order of its fields.
    #[must_use]
    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.body = SdkBody::from(form);
        self
    }

    /// With a document.
    #[must_use]
    pub fn json(mut self, document: &impl Serialize) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match serde_json::to_vec(document) {
            Ok(document) => self.body = SdkBody::from(document),
            Err(_) => self.is_bad = true,
        }
        self
    }

    /// To the machine's own surroundings: not through a proxy, and in the clear.
    #[must_use]
    pub fn near(mut self) -> Self {
        self.near = true;
        self
    }

    /// Asks, once. Nobody is followed who sends us elsewhere.
    ///
    /// # Errors
    ///
    /// If there is no whole answer.
    pub async fn ask(self) -> Result<Answer, Unanswered> {
        let uri: Uri = self.url.parse().map_err(|_| Unanswered::BadAddress(self.url.clone()))?;
        let is_here =
            self.near || uri.host().is_some_and(|host| is_local(host) || is_metadata(host));
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_here => {}
            Some("http") => return Err(Unanswered::InTheClear(self.url)),
            _ => return Err(Unanswered::BadAddress(self.url)),
        }
        if self.is_bad {
            return Err(Unanswered::BadQuestion);
        }
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        if self.near {
            request.extensions_mut().insert(Near);
        }
        let request = HttpRequest::try_from(request).map_err(|_| Unanswered::BadQuestion)?;
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_LIMIT).build();
        let answer =
            self.client.way(&settings).call(request).await.map_err(|error| explain(&error))?;
        let answer = answer.try_into_http1x().map_err(|_| Unanswered::CutShort)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Unanswered::TooLarge
            } else {
                Unanswered::CutShort
            }
        })?;
        let body = SecretSlice::from(body.to_bytes().to_vec());
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// What came back; what is in it may be a secret.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    headers: HeaderMap,
    body: SecretSlice<u8>,
}

impl Answer {
    /// The text of a header.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What time it was there.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        let text = self.header(&hyper::header::DATE)?;
        SystemTime::try_from(DateTime::from_str(text, Format::HttpDate).ok()?).ok()
    }

    /// When it wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.header(&hyper::header::RETRY_AFTER)?;
        text.parse().ok().map(Duration::from_secs)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &SecretSlice<u8> {
        &self.body
    }

    /// The body as a document.
    ///
    /// # Errors
    ///
    /// If it is none, or another one. The text says where, and never what stands there.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, NoDocument> {
        serde_json::from_slice(self.body.expose_secret()).map_err(|error| NoDocument::at(&error))
    }
}

/// An answer that is no document of the expected form.
#[derive(Debug, Error)]
#[error("it is not the JSON that was expected (line {line}, column {column})")]
pub struct NoDocument {
    line: usize,
    column: usize,
}

impl NoDocument {
    /// What serde found; its own words quote the document, in which a secret may stand.
    #[must_use]
    pub fn at(error: &serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Unanswered {
    /// No address at all.
    #[error("`{0}` is no address")]
    BadAddress(String),
    /// An address that would have secrets read by whoever is on the way.
    #[error("{0} is not encrypted")]
    InTheClear(String),
    /// A secret with a line break in it, most likely.
    #[error("what it was to be sent fits into no request")]
    BadQuestion,
    /// No connection, or none that can be trusted.
    #[error("{0}")]
    Unreachable(String),
    /// It ended too early.
    #[error("its answer ends early")]
    CutShort,
    /// Nobody has this much to say.
    #[error("its answer has no end")]
    TooLarge,
}

fn explain(error: &ConnectorError) -> Unanswered {
    if error.is_timeout() {
        return Unanswered::Unreachable("no connection in time".to_owned());
    }
    Unanswered::Unreachable(words(error))
}

/// What a connection met with. The SDK's own word for what it has no word for is left out.
#[must_use]
pub fn words(error: &ConnectorError) -> String {
    let text = chain(error);
    text.strip_prefix("other: ").map_or_else(|| text.clone(), str::to_owned)
}

/// The texts of an error and of its causes, without repeating what a cause says
/// that its effect has said already.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// How long a connection may take.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const OUR_NAME: &str = concat!("freshcreds/", env!("CARGO_PKG_VERSION"));
const LARGEST_ANSWER: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_stands_in_nobodys_way_to_what_is_near() {
        for near in [
            "http://169.254.169.254/latest/api/token",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://[fe80::1]/",
            "http://metadata.google.internal/computeMetadata/v1/",
            "http://127.0.0.1:40342/metadata",
            "http://localhost:4566",
            "http://[::1]:80/",
            "https://localhost:5000/v2/",
            "https://127.0.0.1:5000/v2/",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in [
            "https://api.ecr.eu-west-1.amazonaws.com/",
            "http://169.253.169.254/",
            "http://metadata.google.internal.example.com/",
            "http://metadata/",
            "https://169.254.169.254/",
            "http://localhost.example.com/",
            "http://[fd00:ec3::254]/",
            "http://10.0.0.1/",
            "no address",
        ] {
            assert!(!is_near(far), "{far}");
        }
    }

    #[tokio::test]
    async fn no_secret_goes_out_in_the_clear() {
        let client = Network::default().client();
        let asked = client.get("http://example.com/token").ask().await;
        assert!(matches!(asked, Err(Unanswered::InTheClear(_))), "{asked:?}");
        let asked = client.get("file:///etc/passwd").ask().await;
        assert!(matches!(asked, Err(Unanswered::BadAddress(_))), "{asked:?}");
        let broken = SecretString::from("two\nlines");
        let asked = client.get("https://localhost/").secret_header(USER_AGENT, &broken).ask().await;
        assert!(matches!(asked, Err(Unanswered::BadQuestion)), "{asked:?}");
    }

    #[test]
    fn a_file_without_a_certificate_is_no_file_of_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authorities.pem");
        let message = Network::trusting(&path).unwrap_err().to_string();
        assert!(message.contains("authorities.pem"), "{message}");
        std::fs::File::create(&path).unwrap();
        let message = Network::trusting(&path).unwrap_err().to_string();
        assert!(message.contains("no certificate"), "{message}");
        let junk = "-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n";
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), junk.as_bytes())
            .unwrap();
        let message = Network::trusting(&path).unwrap_err().to_string();
        assert!(message.contains("certificate 1 in it cannot be used"), "{message}");
    }
}
