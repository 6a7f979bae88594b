//! A stand-in for two clouds, on this machine only: ECR's API, Google's token
//! endpoint, and for each a registry that takes nothing but tokens which its
//! issuer gave and which have not expired.
//!
//! It looks at a request as closely as the real ones where a client can go
//! wrong, and it fails on demand: see [`Fault`]. Everything that it did is on
//! record, in the [`Issuer`]s and the [`Registry`]s.
//!
//! It has a clock of its own, since it must not believe the program that it
//! judges. The demo and the end-to-end tests share this file; these include it
//! with `#[path = "../examples/demo/cloud.rs"] mod cloud;`.

// With their paths, since a file that was itself included by its path would
// have its modules looked for beside it.
#[path = "cloud/ecr.rs"]
mod ecr;
#[path = "cloud/google.rs"]
mod google;
#[path = "cloud/http.rs"]
mod http;
#[path = "cloud/issuer.rs"]
mod issuer;
#[path = "cloud/registry.rs"]
mod registry;

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::ecr::Ecr;
use self::google::Google;
pub(crate) use self::issuer::Issuer;
pub(crate) use self::registry::Registry;

/// Both clouds; dropping it ends them and their connections.
pub(crate) struct Cloud {
    ecr: Arc<Ecr>,
    ecr_endpoint: String,
    ecr_registry: Arc<Registry>,
    google: Arc<Google>,
    google_registry: Arc<Registry>,
    _listeners: JoinSet<()>,
}

/// How the clouds behave while nothing is wrong with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long one of ECR's tokens lives.
    pub(crate) ecr_life: Duration,
    /// How long one of Google's tokens lives, in whole seconds.
    pub(crate) google_life: Duration,
    /// How much of its life a token of Google's must have left to be given again
    /// to whoever asks for one. Without it, every call mints a new token.
    pub(crate) google_caches_until: Option<Duration>,
    /// Tokens of a few dozen bytes, for registries that keep a bcrypt hash of
    /// them: bcrypt does not look beyond 72. The real ones are much longer.
    pub(crate) short_tokens: bool,
}

/// What can be wrong with an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It has been asked too often, and says so in its own words.
    Throttled,
    /// Something in front of it answers 429, and when to come again.
    TooManyRequests {
        /// What it says in `Retry-After`, in whole seconds.
        retry_after: Duration,
    },
    /// It answers 500.
    ServerError,
    /// The identity is known, and may not.
    Denied,
    /// It takes the request, and never answers.
    Hang,
    /// It closes the connection without an answer.
    HangUp,
    /// It answers 200 and something that is not JSON, with a secret in it.
    Garbage,
    /// It answers 200 and a JSON text where an object should be; the text is a secret.
    WrongShape,
    /// It closes the connection in the middle of a good answer.
    Truncated,
    /// It says nothing more in the middle of a good answer.
    Stalled,
    /// It sends whoever asks to another server.
    Redirect {
        /// Which.
        to: SocketAddr,
    },
    /// Its token had expired before it was given: in 2015 by ECR; by Google, who
    /// cannot say so in a number of seconds, at the moment of the answer.
    Expired,
    /// It answers well, but without a token.
    NoToken,
    /// ECR's token is not base64. Google's never is; it has a line break in it.
    NotBase64,
    /// ECR's token has no colon between user name and password. Google's is empty.
    NoColon,
}

/// A token that an issuer gave.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The user name that goes with it.
    pub(crate) username: &'static str,
    /// The password.
    pub(crate) password: String,
    /// When it was given first.
    pub(crate) at: SystemTime,
    /// From when on the registry refuses it.
    pub(crate) expires: SystemTime,
}

impl Issued {
    /// Both in the form that `auth` has in docker's `config.json`.
    pub(crate) fn auth(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.username, self.password))
    }

    /// Whether its registry refuses it by now.
    pub(crate) fn is_over(&self) -> bool {
        self.expires <= now()
    }
}

/// A request with credentials that came to a registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// When.
    pub(crate) at: SystemTime,
    /// What came of it.
    pub(crate) verdict: Verdict,
}

/// What a registry thinks of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are good.
    Authorised,
    /// They were, once.
    Expired,
    /// Its issuer never gave them.
    Unknown,
}

impl Cloud {
    /// The only access key that ECR knows at first.
    pub(crate) const ACCESS_KEY_ID: &str = "demo-access-key";
    /// What signs for it. Signatures are not verified, so any other would do.
    pub(crate) const SECRET_ACCESS_KEY: &str = "demo-secret-access-key";
    /// The only image in the registries, to be had by its digest too.
    pub(crate) const IMAGE: &str = "demo:latest";

    /// Starts both on free ports of the loopback address.
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (for_ecr, for_google) = (listen().await?, listen().await?);
        let (for_ecr_registry, for_google_registry) = (listen().await?, listen().await?);

        let ecr = Arc::new(Ecr::new(options));
        let ecr_port = for_ecr_registry.local_addr()?.port();
        let ecr_registry = Registry::new(format!("127.0.0.1:{ecr_port}"), ecr.issuer());
        let token_uri = format!("http://{}{}", for_google.local_addr()?, Google::TOKEN_PATH);
        let google = Arc::new(Google::new(options, token_uri)?);
        let google_port = for_google_registry.local_addr()?.port();
        let google_registry = Registry::new(format!("localhost:{google_port}"), google.issuer());
        let (ecr_registry, google_registry) = (Arc::new(ecr_registry), Arc::new(google_registry));

        let ecr_endpoint = format!("http://{}", for_ecr.local_addr()?);
        let mut listeners = JoinSet::new();
        listeners.spawn(http::serve(for_ecr, Arc::clone(&ecr)));
        listeners.spawn(http::serve(for_google, Arc::clone(&google)));
        listeners.spawn(http::serve(for_ecr_registry, Arc::clone(&ecr_registry)));
        listeners.spawn(http::serve(for_google_registry, Arc::clone(&google_registry)));
        Ok(Self { ecr, ecr_endpoint, ecr_registry, google, google_registry, _listeners: listeners })
    }

    /// ECR's side that gives tokens.
    pub(crate) fn ecr(&self) -> &Issuer {
        self.ecr.issuer()
    }

    /// Google's side that gives tokens.
    pub(crate) fn google(&self) -> &Issuer {
        self.google.issuer()
    }

    /// The registry that takes ECR's tokens.
    pub(crate) fn ecr_registry(&self) -> &Registry {
        &self.ecr_registry
    }

    /// The registry that takes Google's tokens.
    pub(crate) fn google_registry(&self) -> &Registry {
        &self.google_registry
    }

    /// Where ECR's API is, for `AWS_ENDPOINT_URL_ECR`.
    pub(crate) fn ecr_endpoint(&self) -> &str {
        &self.ecr_endpoint
    }

    /// Makes ECR know an access key.
    pub(crate) fn trust_access_key(&self, id: &str) {
        self.ecr.trust(id);
    }

    /// Makes ECR forget an access key.
    pub(crate) fn revoke_access_key(&self, id: &str) {
        self.ecr.revoke(id);
    }

    /// Where a key is exchanged for Google's tokens.
    pub(crate) fn token_uri(&self) -> &str {
        self.google.token_uri()
    }

    /// Writes the service account's key, for `GOOGLE_APPLICATION_CREDENTIALS`.
    /// Only the owner may read it. A file that is there is replaced.
    pub(crate) fn write_service_account_key(&self, path: &Path) -> Result<()> {
        self.google.write_key(path)
    }

    /// Gives the service account a new key; the one before it is worth nothing
    /// from now on.
    pub(crate) fn rotate_service_account_key(&self) -> Result<()> {
        self.google.rotate_key()
    }

    /// The variables with which a client finds these clouds and its identity.
    pub(crate) fn environment(&self, service_account_key: &Path) -> [(&'static str, OsString); 5] {
        [
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY_ID.into()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_ACCESS_KEY.into()),
            ("AWS_ENDPOINT_URL_ECR", self.ecr_endpoint().into()),
            // Or a client without an access key would ask the machine's cloud.
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("GOOGLE_APPLICATION_CREDENTIALS", service_account_key.into()),
        ]
    }

    /// All that must not be seen anywhere: every token in each of its forms, what
    /// was given instead of one, the service account's keys and what they signed.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets = self.ecr().secrets();
        secrets.extend(self.google().secrets());
        secrets.push(Self::SECRET_ACCESS_KEY.to_owned());
        secrets
    }

    /// A part of a secret that stands in `text`, if one does. Some bytes in a row
    /// are enough, since a text may have been cut short before it was shown.
    pub(crate) fn leak_in(&self, text: &[u8]) -> Option<String> {
        let secrets: Vec<String> = self.secrets().iter().flat_map(|one| forms(one)).collect();
        let parts: HashSet<&[u8]> =
            secrets.iter().flat_map(|secret| secret.as_bytes().windows(LEAK)).collect();
        let leak = text.windows(LEAK).find(|part| parts.contains(part))?;
        Some(String::from_utf8_lossy(leak).into_owned())
    }
}

impl Default for Options {
    /// Lives as the real ones give them.
    fn default() -> Self {
        Self {
            ecr_life: Duration::from_hours(12),
            google_life: Duration::from_secs(3599),
            google_caches_until: None,
            short_tokens: false,
        }
    }
}

/// A secret as it is, and as it looks in a URL, as base64 of whatever it stands in, and in
/// hexadecimal digits.
fn forms(secret: &str) -> Vec<String> {
    let digit = |half: u8| char::from_digit(half.into(), 16);
    let hex = secret.bytes().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect();
    let url = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forms = vec![secret.to_owned(), hex, url];
    // Three bytes make four digits, so it depends on how many bytes stand before it.
    for before in 0..3 {
        let padded = [&b"   "[..before], secret.as_bytes()].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let digits = engine.encode(&padded);
            // The first and the last digits are made of what stands beside it, too.
            let own = digits.get(4..digits.len().saturating_sub(4)).unwrap_or_default();
            forms.push(own.to_owned());
        }
    }
    forms
}

/// So many bytes in a row do not stand in a text by chance.
const LEAK: usize = 16;

#[expect(clippy::disallowed_methods, reason = "the judge does not ask the judged for the time")]
fn now() -> SystemTime {
    SystemTime::now()
}
