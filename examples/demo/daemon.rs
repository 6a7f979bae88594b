//! The real program, run as a user would run it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{interval, timeout};

/// A daemon under way; it is killed when this is dropped.
pub(crate) struct Daemon {
    program: PathBuf,
    child: Child,
    log: PathBuf,
    address: String,
}

impl Daemon {
    /// Starts `program`, with nothing from this environment but the `PATH`, and
    /// waits until its endpoint listens.
    pub(crate) async fn start(
        program: PathBuf,
        settings: &Path,
        home: &Path,
        environment: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Result<Self> {
        let log = home.join("daemon.log");
        let child = Command::new(&program)
            .args(["run", "--config"])
            .arg(settings)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", home)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create_new(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut daemon = Self { program, child, log, address: String::new() };
        daemon.address = match timeout(START_LIMIT, daemon.listening()).await {
            Ok(address) => address?,
            Err(_) => bail!("the daemon does not listen; it logged:\n{}", daemon.log()?),
        };
        Ok(daemon)
    }

    /// Where its endpoint is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// What `freshcreds status` prints, as its exit code may be.
    pub(crate) async fn status(&self) -> Result<String> {
        let asked = Command::new(&self.program)
            .args(["status", "--listen", &self.address])
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(STATUS_LIMIT, asked).await.context("no answer from `status`")??;
        if output.stdout.is_empty() {
            bail!("`status` failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Asks it to end with SIGTERM, and waits until it has.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        kill_process(id.context("the daemon had ended by itself")?, Signal::TERM)?;
        let ended = timeout(STOP_LIMIT, self.child.wait()).await;
        Ok(ended.context("the daemon does not end")??)
    }

    async fn listening(&mut self) -> Result<String> {
        let mut pause = interval(Duration::from_millis(50));
        loop {
            pause.tick().await;
            let log = self.log()?;
            if let Some(address) = log.lines().find_map(listening_address) {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended at once, with {status}; it logged:\n{log}");
            }
        }
    }
}

fn listening_address(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields")?;
    let address = (fields.get("message")? == "listening").then(|| fields.get("address"))?;
    Some(address?.as_str()?.to_owned())
}

const START_LIMIT: Duration = Duration::from_secs(20);
const STATUS_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);
