//! A user name and a secret that do not expire: Docker Hub, Quay, a registry of one's own. The secret is read from a
//! file or a variable, and a file is read again when it changes.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Fetch, FetchError, Minted, Source, Waiting, accept, files};
use crate::clock::Clock;
use crate::credential::Lifetime;
use crate::schedule::Issuer;

/// A user name, and where the secret is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedOrigin {
    /// The user name.
    pub username: Box<str>,
    /// Where the secret is.
    pub secret: Place,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file; a line end at its end is not part of it.
    File(PathBuf),
    /// In a variable.
    Variable(Box<str>),
}

impl fmt::Display for FixedOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secret {
            Place::File(path) => write!(formatter, "{} by {}", self.username, path.display()),
            Place::Variable(name) => write!(formatter, "{} by {name}", self.username),
        }
    }
}

pub(super) struct Fixed {
    origin: FixedOrigin,
    clock: Clock,
    /// How the file was when it was read last.
    known: Mutex<Look>,
}

impl Fixed {
    pub(super) fn new(origin: FixedOrigin, clock: Clock) -> Self {
        Self { origin, clock, known: Mutex::new(Look(None)) }
    }

    async fn read(&self) -> Result<Minted, FetchError> {
        let FixedOrigin { username, secret } = &self.origin;
        let missing = |detail: String| FetchError::NoCredentials { cloud: SERVICE, detail };
        if let Place::File(path) = secret {
            // Before it is read: what is written meanwhile is a change.
            let look = Look::at(path).await;
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = look;
        }
        let secret = match secret {
            Place::File(path) => files::read(path).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => missing(format!("{} does not exist", path.display())),
                _ => FetchError::BadCredentials {
                    cloud: SERVICE,
                    detail: format!("{}: {error}", path.display()),
                },
            })?,
            Place::Variable(name) => std::env::var(&**name)
                .map(SecretString::from)
                .map_err(|_| missing(format!("{name} is not set")))?,
        };
        if secret.expose_secret().is_empty() {
            return Err(missing(format!("{} is empty", self.origin)));
        }
        let life = Lifetime::endless(self.clock.now());
        let credential = accept(SERVICE, username, secret, life, &self.clock)?;
        let identity = username.to_string();
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew: None })
    }
}

impl Source for Fixed {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.read())
    }

    fn change(&self) -> Waiting<'_> {
        let Place::File(path) = &self.origin.secret else {
            return Box::pin(std::future::pending());
        };
        Box::pin(async move {
            loop {
                let look = Look::at(path).await;
                if look != *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
                    return;
                }
                self.clock.sleep(LOOK_EVERY).await;
            }
        })
    }
}

/// By what a file is known again.
#[derive(PartialEq, Eq)]
struct Look(Option<(u64, u64, u64, i64, i64)>);

impl Look {
    async fn at(path: &Path) -> Self {
        let path = path.to_owned();
        let looking = tokio::task::spawn_blocking(move || std::fs::metadata(path).ok());
        let found = looking.await.ok().flatten();
        Self(found.map(|it| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec())))
    }
}

const SERVICE: &str = "the settings'";

/// A look costs a system call, and who rotates a secret keeps the old one for longer than that.
const LOOK_EVERY: Duration = Duration::from_secs(10);
