//! What we wrote, remembered outside of the files that belong to docker: so that
//! `logout` removes that and nothing else, and a daemon that starts again goes on
//! with tokens that are still young.
//!
//! It holds no secret. An entry is known again by its fingerprint; the token itself
//! is only where it has to be, in the target.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::file::{self, FileError};
use super::replace::{self, Attributes, Outcome};
use crate::clock::Clock;
use crate::credential::{LONGEST_LIFE, Lifetime};

/// Where it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    folder: Option<PathBuf>,
}

impl Memory {
    /// In this folder; without one nothing is remembered.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Where something is remembered, if it is.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Whether there is a folder to remember something in.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.folder.is_some()
    }

    /// What stands there. Without a file, and without a folder, that is nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not what we wrote.
    pub fn load(&self) -> Result<Remembered, MemoryError> {
        match self.path() {
            Some(path) => parse(&path, &file::read(&path, Attributes::default())?.content),
            None => Ok(Remembered::default()),
        }
    }

    /// Changes what is remembered of the target at `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be read or written; then it is as it was.
    pub(super) fn update(
        &self,
        path: &Path,
        change: impl Fn(&mut Traces),
    ) -> Result<(), MemoryError> {
        let Some(memory) = self.path() else { return Ok(()) };
        // Others of us may remember something at the same moment.
        for _ in 0..MOST_ROUNDS {
            let old = file::read(&memory, Attributes::default())?;
            let mut remembered = parse(&memory, &old.content)?;
            let before = remembered.clone();
            let traces = remembered.targets.entry(path.to_owned()).or_default();
            change(traces);
            if traces.is_empty() {
                remembered.targets.remove(path);
            }
            if remembered == before {
                return Ok(());
            }
            let json = serde_json::to_string_pretty(&remembered).unwrap_or_default();
            let json = SecretString::from(json);
            let outcome = replace::replace(
                &old,
                &[json.expose_secret().as_bytes()],
                &|_| None,
                &Attributes::default(),
            )?;
            if matches!(outcome, Outcome::Replaced { .. }) {
                return Ok(());
            }
        }
        Err(MemoryError::Contended { path: memory })
    }

    /// A file in the same folder.
    pub(super) fn file(&self, name: impl AsRef<Path>) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(name))
    }

    fn path(&self) -> Option<PathBuf> {
        self.file(FILE_NAME)
    }
}

/// What was written, in which target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Of this form.
    version: u32,
    /// By the path that the settings name.
    targets: BTreeMap<PathBuf, Traces>,
}

impl Remembered {
    /// Every target that something was written to.
    pub fn targets(&self) -> impl Iterator<Item = (&Path, &Traces)> {
        self.targets.iter().map(|(path, traces)| (path.as_path(), traces))
    }

    /// What was written to the target at `path`.
    #[must_use]
    pub fn target(&self, path: &Path) -> Traces {
        self.targets.get(path).cloned().unwrap_or_default()
    }
}

/// What was written to one target, by host.
pub type Traces = BTreeMap<String, Trace>;

/// What was written for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The last tokens, the newest first: another program can bring an older one back.
    pub tokens: Vec<Token>,
    /// What became of its `credHelpers`, if that was taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<TakenOver>,
    /// The helper that has the token, if it was given to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_with: Option<String>,
}

/// A `credHelpers` entry that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TakenOver {
    /// The JSON that stood there before, if there was one.
    pub before: Option<String>,
}

impl Trace {
    /// Adds a token as the newest.
    pub(super) fn add(&mut self, token: Token) {
        self.tokens.retain(|other| other.fingerprint != token.fingerprint);
        self.tokens.insert(0, token);
        self.tokens.truncate(MOST_TOKENS);
    }

    /// The token whose `auth` this is, if it is one of ours.
    #[must_use]
    pub fn token(&self, auth: &SecretString) -> Option<&Token> {
        let fingerprint = fingerprint(auth.expose_secret().as_bytes());
        self.tokens.iter().find(|token| token.fingerprint == fingerprint)
    }
}

/// A token that was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// By which its `auth` is known again.
    pub fingerprint: String,
    /// Who gave it.
    pub origin: String,
    /// When it was issued, by the wall clock.
    #[serde(with = "moment")]
    pub issued: SystemTime,
    /// When it expires, by the wall clock.
    #[serde(with = "moment")]
    pub expires: SystemTime,
}

impl Token {
    /// From its issue to its expiry.
    #[must_use]
    pub fn lifetime(&self, clock: &Clock) -> Lifetime {
        let issued = clock.from_wall(self.issued);
        // What was believed to live longer than anything does has no end.
        if self.expires.duration_since(self.issued).is_ok_and(|length| length > LONGEST_LIFE) {
            return Lifetime::endless(issued);
        }
        Lifetime::new(issued, clock.from_wall(self.expires))
    }
}

/// Why something could not be remembered.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The file could not be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what we wrote.
    #[error("{} is not what freshcreds wrote there: move it away", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
    },
    /// Others write it all the time.
    #[error("{} is rewritten by other programs all the time", path.display())]
    Contended {
        /// Which.
        path: PathBuf,
    },
}

/// A short text by which the same bytes are known again.
#[must_use]
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const FILE_NAME: &str = "state.json";
const FORM_VERSION: u32 = 1;
const MOST_TOKENS: usize = 3;
const MOST_ROUNDS: u32 = 50;

fn parse(path: &Path, content: &[u8]) -> Result<Remembered, MemoryError> {
    if content.is_empty() {
        return Ok(Remembered { version: FORM_VERSION, ..Remembered::default() });
    }
    serde_json::from_slice(content)
        .ok()
        .filter(|remembered: &Remembered| remembered.version == FORM_VERSION)
        .ok_or_else(|| MemoryError::Invalid { path: path.to_owned() })
}

/// Seconds since 1970, with what is behind the point.
mod moment {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Duration, SystemTime};

    pub(super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_f64(since.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
            .ok_or_else(|| serde::de::Error::custom("no moment in time"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_had_no_end_has_none_after_a_restart() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
        let token = |life: Lifetime| Token {
            fingerprint: String::new(),
            origin: String::new(),
            issued: clock.to_wall(life.issued()),
            expires: clock.to_wall(life.expires()),
        };
        let now = clock.now();
        assert!(token(Lifetime::endless(now)).lifetime(&clock).is_endless());
        let longest = Lifetime::new(now, now + Duration::from_hours(1000));
        assert_eq!(token(longest).lifetime(&clock), longest);
    }
}
