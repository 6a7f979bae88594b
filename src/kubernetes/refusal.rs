//! Why the API server did not do what it was asked, in words that have no secret in them.

use std::time::Duration;

use kube::core::Status;
use thiserror::Error;

use crate::trouble;

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no telling how the cluster is reached.
    #[error("{0}")]
    Access(String),
    /// Nobody answered.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// Nobody answered in time.
    #[error("the API server has not answered for {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// An answer that is none of an API server's.
    #[error("what answers is no API server of Kubernetes: {0}")]
    Garbage(String),
    /// It does not know who asks.
    #[error("the API server does not know this identity: {0}")]
    Unknown(String),
    /// Who asks may not.
    #[error("{0}")]
    Forbidden(String),
    /// The namespace is being deleted.
    #[error("the namespace is being deleted")]
    Terminating,
    /// It is not there, or its namespace is not.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else was there first, or has it.
    #[error("{0}")]
    Conflict(String),
    /// Somebody has said that it is not to be changed.
    #[error("somebody has set `immutable` on it")]
    Immutable,
    /// What was seen before is too long ago.
    #[error("{0}")]
    Gone(String),
    /// It has too much to do.
    #[error("the API server is busy ({0})")]
    Busy(u16),
    /// It failed.
    #[error("the API server failed with {code}: {message}")]
    Failed {
        /// Its status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// It does not take what it was given.
    #[error("the API server refuses with {code}: {message}")]
    Refused {
        /// Its status.
        code: u16,
        /// What it said.
        message: String,
    },
}

impl Refusal {
    /// What is wrong, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::Access(_) => trouble::Kind::ClusterAccess,
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Garbage(_) => {
                trouble::Kind::ClusterUnreachable
            }
            Self::Unknown(_) | Self::Forbidden(_) => trouble::Kind::ClusterDenied,
            Self::Terminating | Self::NotFound(_) => trouble::Kind::NoNamespace,
            Self::Immutable => trouble::Kind::ImmutableSecret,
            Self::Conflict(_) | Self::Refused { .. } => trouble::Kind::ClusterRefused,
            Self::Gone(_) | Self::Busy(_) | Self::Failed { .. } => trouble::Kind::ClusterBusy,
        }
    }

    /// Whether it is about the cluster as a whole, and so the same for all namespaces.
    #[must_use]
    pub fn is_of_the_cluster(&self) -> bool {
        matches!(
            self,
            Self::Access(_)
                | Self::Unreachable(_)
                | Self::TimedOut(_)
                | Self::Garbage(_)
                | Self::Unknown(_)
                | Self::Busy(_)
        )
    }

    /// Whether it needs somebody to do something.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Access(_)
                | Self::Unknown(_)
                | Self::Forbidden(_)
                | Self::Immutable
                | Self::Refused { .. }
        )
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let message: String = status.message.chars().take(LONGEST_MESSAGE).collect();
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
        let is_terminating = || causes.iter().any(|cause| cause.reason == "NamespaceTerminating");
        // One of this name that is another object.
        let is_of_another = || causes.iter().any(|cause| cause.field == "metadata.uid");
        let is_immutable =
            || causes.iter().any(|cause| cause.message.contains("when `immutable` is set"));
        match status.code {
            // Of something in front of it.
            0 => Self::Garbage("an error that says nothing".to_owned()),
            401 => Self::Unknown(message),
            403 if is_terminating() => Self::Terminating,
            403 => Self::Forbidden(message),
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            410 => Self::Gone(message),
            422 if is_of_another() => Self::Conflict(message),
            422 if is_immutable() => Self::Immutable,
            429 | 503 | 504 => Self::Busy(status.code),
            code if code >= 500 => Self::Failed { code, message },
            code => Self::Refused { code, message },
        }
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            // What a program printed can be a token.
            kube::Error::Auth(kube::client::AuthError::AuthExecRun { cmd, out }) => {
                Self::Access(format!("`{cmd}`, which the kubeconfig names, failed: {}", out.status))
            }
            kube::Error::Auth(kube::client::AuthError::AuthExecParse(_)) => {
                Self::Access("the program that the kubeconfig names gave no credential".to_owned())
            }
            kube::Error::Auth(error) => Self::Access(format!("no way to sign in: {error}")),
            // What was quoted can be anything.
            kube::Error::SerdeError(error) => {
                Self::Garbage(format!("{:?} at line {}", error.classify(), error.line()))
            }
            kube::Error::FromUtf8(_) => Self::Garbage("not UTF-8".to_owned()),
            error => Self::Unreachable(causes(&error)),
        }
    }
}

/// The innermost reason is the one that helps.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut all = vec![error.to_string()];
    let mut inner = error.source();
    while let Some(error) = inner {
        let text = error.to_string();
        // Most repeat their source.
        if !all.iter().any(|known| known.contains(&text)) {
            all.push(text);
        }
        inner = error.source();
    }
    all.join(": ").chars().take(LONGEST_MESSAGE).collect()
}

const LONGEST_MESSAGE: usize = 400;
