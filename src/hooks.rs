//! Tells other programs that credentials have changed: runs a command, or sends a signal.
//!
//! A hook is told nothing secret. It runs once for changes that come together, without a
//! shell, in an environment that has none of ours but what a program needs to find its way,
//! and for a limited time. One that fails is not run again before the next change: it may have
//! done half of its work.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::program::{Group, ended, kept_environment};
use crate::status::{Failing, State, Status, TargetName};
use crate::targets::file::{self, FileError};
use crate::targets::replace::Attributes;
use crate::trouble;

/// What is done after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What it is called in logs, metrics and reports.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// After a change of which files; of any if there is none.
    pub targets: Vec<PathBuf>,
    /// How long a command may take.
    pub limit: Duration,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a program with these arguments.
    Run {
        /// A path, or a name that `PATH` has.
        program: String,
        /// As they are: no shell has a part in it.
        arguments: Vec<String>,
    },
    /// Sends a signal to the process that a file names.
    Tell {
        /// Which signal.
        signal: Name,
        /// Where the number of the process stands.
        pid_file: PathBuf,
    },
}

/// A signal that programs take for "read your files again", by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(&'static str, Signal);

impl Name {
    /// All that can be sent.
    pub const ALL: [Self; 8] = [
        Self("HUP", Signal::HUP),
        Self("USR1", Signal::USR1),
        Self("USR2", Signal::USR2),
        Self("INT", Signal::INT),
        Self("QUIT", Signal::QUIT),
        Self("TERM", Signal::TERM),
        Self("WINCH", Signal::WINCH),
        Self("CONT", Signal::CONT),
    ];

    /// Without `SIG`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl FromStr for Name {
    type Err = UnknownSignal;

    /// With or without `SIG`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let bare = text.strip_prefix("SIG").unwrap_or(text);
        let known = Self::ALL.into_iter().find(|name| name.0 == bare);
        known.ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

/// Not the name of a signal that can be sent.
#[derive(Debug, Error)]
#[error(
    "`signal = \"{0}\"` means nothing: write one of `HUP`, `USR1`, `USR2`, `INT`, `QUIT`, `TERM`, \
     `WINCH`, `CONT`"
)]
pub struct UnknownSignal(String);

/// The loop of one hook.
pub struct Hook {
    options: Options,
    clock: Clock,
    status: Arc<Status>,
    /// How often each target had been written when it ran last.
    seen: Vec<(TargetName, u64)>,
}

impl Hook {
    /// A hook that knows of everything that was written before.
    #[must_use]
    pub fn new(options: Options, clock: Clock, status: Arc<Status>) -> Self {
        let seen = status.read(|state| writes(&options, state));
        Self { options, clock, status, seen }
    }

    /// Runs it after each change, until `stop`. What was changed by then is told before the
    /// end, and a command that is under way then has a moment left.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let changed = self.status.wait_for(|state| writes(&self.options, state) != self.seen);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = changed => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.clock.sleep(SETTLE) => {}
            }
            self.run_once(&stop).await;
        }
        self.run_once(&stop).await;
    }

    /// Runs it if something has changed since it ran last. After `stop` it has a moment
    /// left.
    pub async fn run_once(&mut self, stop: &CancellationToken) {
        let now = self.status.read(|state| writes(&self.options, state));
        let changed = now.iter().filter(|one| !self.seen.contains(one));
        let changed: Vec<_> = changed.map(|(path, _)| path.clone()).collect();
        self.seen = now;
        if changed.is_empty() {
            return;
        }
        let too_late = async {
            stop.cancelled().await;
            self.clock.sleep(LAST_RUN).await;
        };
        tokio::select! {
            biased;
            () = self.act(&changed) => {}
            () = too_late => {
                warn!(hook = self.options.name, because = "the end came", "hook cut short");
            }
        }
    }

    async fn act(&self, changed: &[TargetName]) {
        let started = self.clock.monotonic();
        let result = match &self.options.action {
            Action::Run { program, arguments } => {
                run(program, arguments, changed, self.options.limit).await
            }
            Action::Tell { signal, pid_file } => {
                let (signal, pid_file) = (*signal, pid_file.clone());
                // The disk may hang, and nobody else is to wait for it.
                let telling = tokio::task::spawn_blocking(move || tell(signal, &pid_file));
                // Only a panic gets here, which ends the program where it is released.
                telling.await.unwrap_or(Ok(()))
            }
        };
        let took = self.clock.monotonic().saturating_sub(started);
        let name = &self.options.name;
        let outcome = result.as_ref().map_or_else(|error| error.kind().as_str(), |()| "success");
        self.status.metrics.hook_ran(name, outcome);
        let now = self.clock.now();
        match &result {
            Ok(()) => info!(hook = name, ?changed, ?took, because = BECAUSE, "hook ran"),
            Err(error) => {
                warn!(hook = name, ?changed, kind = %error.kind(), %error, because = BECAUSE, "hook failed");
            }
        }
        self.status.set_hook(name, |hook| {
            hook.last_run = Some(now);
            hook.failing = result.err().map(|error| {
                Failing::after(hook.failing.as_ref(), now, error.kind(), error.to_string())
            });
        });
    }
}

/// How often each target of a hook has been written.
fn writes(options: &Options, state: &State) -> Vec<(TargetName, u64)> {
    let targets = state.targets.iter();
    let is_meant = |name: &TargetName| {
        options.targets.is_empty()
            || matches!(name, TargetName::File(path) if options.targets.contains(path))
    };
    targets
        .filter(|target| is_meant(&target.name) && target.writes > 0)
        .map(|target| (target.name.clone(), target.writes))
        .collect()
}

async fn run(
    program: &str,
    arguments: &[String],
    changed: &[TargetName],
    limit: Duration,
) -> Result<(), HookError> {
    let cannot_run = |source| HookError::CannotRun { program: program.to_owned(), source };
    let shown = |name: &TargetName| match name {
        TargetName::File(path) => path.clone().into_os_string(),
        TargetName::Secret(_) => name.to_string().into(),
    };
    let changed: Vec<_> = changed.iter().map(shown).collect();
    let changed = changed.join::<&std::ffi::OsStr>("\n".as_ref());
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(kept_environment())
        .env(CHANGED, OsString::from_vec(changed.into_vec()))
        .current_dir("/")
        // What it prints may have in it what it read.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(cannot_run)?;
    let mut group = Group::of(child.id());
    let ended = tokio::time::timeout(limit, child.wait()).await;
    if ended.is_ok() {
        // What it left running in the background is meant to run.
        group.leave();
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(HookError::Failed { program: program.to_owned(), status }),
        Ok(Err(source)) => Err(cannot_run(source)),
        Err(_) => {
            drop(group);
            // So that nothing is left of it, if the system lets it go.
            drop(tokio::time::timeout(LAST_RUN, child.wait()).await);
            Err(HookError::TimedOut { program: program.to_owned(), limit })
        }
    }
}

/// Sends a signal to the process that a file names: to somebody's own only if the file is
/// theirs, so that nobody can make us signal what is not theirs. Links on the way are
/// followed as carefully as those to a target.
fn tell(signal: Name, pid_file: &Path) -> Result<(), HookError> {
    let path = || pid_file.to_owned();
    let found = file::read(pid_file, Attributes::default())?;
    let writer = found.owner().ok_or_else(|| HookError::NoFile { path: path() })?;
    let text = str::from_utf8(&found.content).unwrap_or_default();
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 1);
    let pid = number.and_then(Pid::from_raw).ok_or_else(|| HookError::BadPid { path: path() })?;
    let number = pid.as_raw_nonzero().get();
    let gone = |source| HookError::NoProcess { path: path(), pid: number, source };
    // What is held open stays this process, even if another one gets its number.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| gone(errno.into()))?;
    let owner = fs::metadata(format!("/proc/{number}")).map_err(gone)?.uid();
    let ours = rustix::process::geteuid().as_raw();
    if ![ROOT, ours, owner].contains(&writer) {
        return Err(HookError::Foreign { path: path(), writer, owner });
    }
    pidfd_send_signal(process, signal.1).map_err(|errno| gone(errno.into()))
}

/// Why a hook failed.
#[derive(Debug, Error)]
pub enum HookError {
    /// There is no such program.
    #[error("{program} cannot be run: {source}")]
    CannotRun {
        /// Which.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with another code than 0.
    #[error("{program} failed ({})", ended(*status))]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It did not end.
    #[error("{program} did not end within {}, and was killed", humantime::format_duration(*limit))]
    TimedOut {
        /// Which.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No file that names a process.
    #[error("there is no {}, so nobody is told: does the program run?", path.display())]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// A file that names none.
    #[error("{} does not have the number of a process in it", path.display())]
    BadPid {
        /// Which.
        path: PathBuf,
    },
    /// Nobody, or not for us.
    #[error(
        "process {pid}, which {} names, cannot be told ({source}): the file may be left from one that \
         has ended",
        path.display()
    )]
    NoProcess {
        /// Who names it.
        path: PathBuf,
        /// Which.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody's file that names a process of somebody else's.
    #[error(
        "{} is user {writer}'s, and names a process of user {owner}'s, who is not told on their \
         behalf",
        path.display()
    )]
    Foreign {
        /// Who names it.
        path: PathBuf,
        /// Whose file.
        writer: u32,
        /// Whose process.
        owner: u32,
    },
}

impl HookError {
    /// What is wrong, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::TimedOut { .. } => trouble::Kind::HookTimeout,
            _ => trouble::Kind::HookFailed,
        }
    }
}

/// How long a command may take, if the settings do not say.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

const BECAUSE: &str = "credentials were written";

/// In the environment of a command: the files that have changed, a line each.
const CHANGED: &str = "FRESHCREDS_CHANGED";

/// Several files are written at the same moment.
const SETTLE: Duration = Duration::from_millis(200);

/// What the end waits for a command that is under way, and for the last one.
const LAST_RUN: Duration = Duration::from_millis(400);

const ROOT: u32 = 0;

#[cfg(test)]
mod tests;
