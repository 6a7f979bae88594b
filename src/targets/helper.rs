//! Docker's credential helpers: programs that keep credentials instead of the file
//! (<https://github.com/docker/docker-credential-helpers#development>).

use std::process::Stdio;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::credential::{Credential, RegistryHost};

/// Gives the credential of `host` to `docker-credential-NAME`, and asks for it again,
/// since that is what a reader will do.
///
/// # Errors
///
/// If the program cannot be run, fails, or gives something else back.
pub(super) async fn store(
    name: &str,
    host: &RegistryHost,
    credential: &Credential,
) -> Result<(), HelperError> {
    #[derive(Serialize)]
    struct Store<'a> {
        #[serde(rename = "ServerURL")]
        server: &'a str,
        #[serde(rename = "Username")]
        username: &'a str,
        #[serde(rename = "Secret")]
        secret: &'a str,
    }
    let store = Store {
        server: host.as_str(),
        username: credential.username(),
        secret: credential.secret().expose_secret(),
    };
    let input = SecretString::from(serde_json::to_string(&store).unwrap_or_default());
    run(name, Action::Store, &input).await?;
    if holds(name, host, credential).await? {
        Ok(())
    } else {
        Err(HelperError::Other { name: name.to_owned() })
    }
}

/// Whether the program gives this credential for `host`.
///
/// # Errors
///
/// If the program cannot be run.
pub(super) async fn holds(
    name: &str,
    host: &RegistryHost,
    credential: &Credential,
) -> Result<bool, HelperError> {
    #[derive(Deserialize)]
    struct Got {
        #[serde(rename = "Username")]
        username: String,
        #[serde(rename = "Secret")]
        secret: String,
    }
    let host = SecretString::from(host.as_str());
    let output = match run(name, Action::Get, &host).await {
        Ok(output) => output,
        Err(HelperError::Failed { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_str::<Got>(output.expose_secret()).is_ok_and(|got| {
        got.username == credential.username() && got.secret == credential.secret().expose_secret()
    }))
}

/// Takes the credential of `host` away from the program.
///
/// # Errors
///
/// If the program cannot be run, or fails.
pub(super) async fn erase(name: &str, host: &str) -> Result<(), HelperError> {
    run(name, Action::Erase, &SecretString::from(host)).await.map(drop)
}

/// Why a helper did not do what it should. What it printed is never shown: it could
/// have a secret in it.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It is not there, or is no program.
    #[error("docker-credential-{name} cannot be run: {source}")]
    CannotRun {
        /// Which.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with another code than 0.
    #[error("docker-credential-{name} {action} failed ({status}): try it by hand", action = action.as_str())]
    Failed {
        /// Which.
        name: String,
        /// What it was to do.
        action: Action,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// It did not end.
    #[error("docker-credential-{name} did not end within {}", humantime::format_duration(LIMIT))]
    Hangs {
        /// Which.
        name: String,
    },
    /// It took the credential, and gave another one back.
    #[error("docker-credential-{name} does not give back what it was given")]
    Other {
        /// Which.
        name: String,
    },
    /// A name that would lead to another program than a helper.
    #[error("`{name}` is no name of a credential helper")]
    BadName {
        /// Which.
        name: String,
    },
}

/// What a helper can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep a credential.
    Store,
    /// Tell one.
    Get,
    /// Forget one.
    Erase,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Get => "get",
            Self::Erase => "erase",
        }
    }
}

/// Some helpers ask a person for a password.
const LIMIT: Duration = Duration::from_secs(20);

async fn run(
    name: &str,
    action: Action,
    input: &SecretString,
) -> Result<SecretString, HelperError> {
    let owned = || name.to_owned();
    // The name comes out of a file that others write, and goes into messages.
    if name.contains('/') || name.chars().any(char::is_control) {
        return Err(HelperError::BadName { name: name.escape_default().to_string() });
    }
    let cannot_run = |source| HelperError::CannotRun { name: owned(), source };
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(action.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot_run)?;
    let mut stdin = child.stdin.take();
    let work = async {
        if let Some(stdin) = stdin.as_mut() {
            // One that does not read it says so by its code.
            let _ = stdin.write_all(input.expose_secret().as_bytes()).await;
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(LIMIT, work)
        .await
        .map_err(|_| HelperError::Hangs { name: owned() })?
        .map_err(cannot_run)?;
    if !output.status.success() {
        return Err(HelperError::Failed { name: owned(), action, status: output.status });
    }
    Ok(SecretString::from(String::from_utf8_lossy(&output.stdout).into_owned()))
}
