//! A docker engine of the tests' own, which takes nothing from the machine's and leaves nothing there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::machine::{LIMIT, Machine, run, turn, wait_until};

/// It runs until it is told to stop.
pub(crate) struct Engine {
    socket: String,
    child: Child,
    /// Where it mounts the machine's network for its containers.
    network: PathBuf,
    /// Held while it runs, if others may want the same one.
    _turn: Option<File>,
}

impl Engine {
    /// One for this test alone, which knows no image.
    pub(crate) async fn start(machine: &Machine) -> Result<Self> {
        Self::start_in(&machine.home().join("engine"), "vfs", None).await
    }

    /// One that keeps its images and what it built from one test to the next. They take turns.
    pub(crate) async fn with_images() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/engine");
        Self::start_in(&folder, "overlay2", Some(turn(&folder).await?)).await
    }

    async fn start_in(folder: &Path, storage: &str, turn: Option<File>) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let socket = format!("unix://{}/docker.sock", folder.display());
        let log = File::create(folder.join("log"))?;
        let child = Command::new("dockerd")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .args(["--host", &socket, "--storage-driver", storage, "--bridge", "none"])
            .args(["--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("dockerd is missing: run `make setup`")?;
        let network = folder.join("exec/netns/default");
        let engine = Self { socket, child, network, _turn: turn };
        let answers = wait_until(async || {
            run(engine.docker().arg("version")).await.is_ok_and(|done| done.code == Some(0))
        });
        answers.await.with_context(|| {
            std::fs::read_to_string(folder.join("log")).unwrap_or_else(|error| error.to_string())
        })?;
        Ok(engine)
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// Its client, in no particular folder and with nobody's settings.
    pub(crate) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", &self.socket).env("DOCKER_CONFIG", "/nowhere");
        command
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.ask_to_end().context("the engine ended by itself")?;
        timeout(LIMIT, self.child.wait()).await.context("the engine does not end")??;
        Ok(())
    }

    fn ask_to_end(&self) -> Option<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?;
        kill_process(id, Signal::TERM).ok()
    }
}

impl Drop for Engine {
    /// A test that fails has not stopped it: one that is killed would leave mounts and programs behind.
    fn drop(&mut self) {
        if self.ask_to_end().is_some() {
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        // The one mount that it leaves even if it ends in order, once a container had the machine's network.
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("--quiet").arg(&self.network).output();
    }
}
