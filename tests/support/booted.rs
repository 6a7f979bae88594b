//! A Debian machine whose first process is systemd, in a container of systemd-nspawn: the network is this
//! machine's, so the stand-ins of a test are on its loopback; the rest is its own, and gone when it ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::machine::{Done, LIMIT, Machine, ended_with, pause, run, turn, until};

/// It runs until it is dropped.
pub(crate) struct Booted {
    container: Child,
    /// Its first process, as this machine counts.
    first: u32,
    /// Of what happens on it there is nothing but this.
    log: PathBuf,
    /// They take turns.
    _turn: File,
}

impl Booted {
    /// One on which our package is installed, and the users `ci` and `deploy` and `jenkins` are, whose home
    /// is where Debian's package of that name has it. Everybody else's files of `machine` are in /host.
    pub(crate) async fn start(machine: &Machine) -> Result<Self> {
        let booted = Self::bare(machine).await?;
        booted.sh("dpkg -i /packages/freshcreds_*-1_*.deb").await?;
        booted
            .sh("for user in ci deploy; do useradd --create-home --shell /bin/sh $user; done
                 useradd --create-home --home-dir /var/lib/jenkins --shell /bin/sh jenkins")
            .await?;
        Ok(booted)
    }

    /// One on which nothing is installed yet; the package lies in /packages.
    pub(crate) async fn bare(machine: &Machine) -> Result<Self> {
        let (root, turn) = debian().await?;
        let package = package().await?;
        let packages = package.parent().context("no folder")?;
        let log = machine.home().join("console");
        let mut container = Command::new("systemd-nspawn")
            .arg("--directory")
            .arg(root)
            // What it writes is in memory, and nobody's when it ends; no mount of it is seen out here.
            .arg("--volatile=overlay")
            .args(["--boot", "--register=no", "--keep-unit", "--console=pipe", "--quiet"])
            .arg(format!("--bind-ro={}:/packages", packages.display()))
            .arg(format!("--bind-ro={}:/host", machine.home().display()))
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("systemd-nspawn is missing: run `make setup`")?;
        let id = container.id().context("it ended at once")?;
        let mut first = None;
        let is_there = until(LIMIT, || {
            ensure!(container.try_wait()?.is_none(), "it ended at once; is this root?");
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
            // Others come and go before it.
            let name = |id: &&str| std::fs::read_to_string(format!("/proc/{id}/comm"));
            let mut children = children.split_whitespace();
            let found = children.find(|id| name(id).is_ok_and(|name| name == "systemd\n"));
            first = found.map(str::parse).transpose()?;
            Ok(first.is_some())
        });
        is_there.await?;
        let first = first.context("no first process")?;
        let booted = Self { container, first, log, _turn: turn };
        // A socket of systemd's is the first sign of it.
        booted.until("systemctl is-system-running --wait").await?;
        Ok(booted)
    }

    /// What a script prints that must succeed.
    pub(crate) async fn sh(&self, script: &str) -> Result<String> {
        let done = self.try_sh(script).await?;
        ended_with(&done, 0).with_context(|| script.to_owned())?;
        Ok(done.stdout + &done.stderr)
    }

    /// What a script prints that must fail.
    pub(crate) async fn fails(&self, script: &str) -> Result<String> {
        let done = self.try_sh(script).await?;
        ensure!(done.code != Some(0), "succeeds: {script}\n{}\n{}", done.stdout, done.stderr);
        Ok(done.stdout + &done.stderr)
    }

    /// Waits until a script succeeds, and gives what it prints then.
    pub(crate) async fn until(&self, script: &str) -> Result<String> {
        let waiting = async {
            loop {
                let done = self.try_sh(script).await?;
                if done.code == Some(0) {
                    return anyhow::Ok(done.stdout);
                }
                pause(Duration::from_millis(100)).await;
            }
        };
        let found = timeout(LIMIT, waiting).await;
        let console = || std::fs::read_to_string(&self.log).unwrap_or_default();
        match found {
            Ok(found) => found,
            Err(late) => {
                let journal = self.try_sh("journalctl --no-pager --lines 40 --unit 'freshcreds*'");
                let journal = journal.await.map(|done| done.stdout).unwrap_or_default();
                Err(late).with_context(|| format!("never: {script}\n{}\n{journal}", console()))
            }
        }
    }

    /// Writes a file, for everybody to read; its folder is made.
    pub(crate) async fn put(&self, path: &str, text: &str) -> Result<()> {
        let script = format!("mkdir -p $(dirname {path}) && cat > {path}");
        let mut command = self.inside(&script);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        child.stdin.take().context("no input")?.write_all(text.as_bytes()).await?;
        ensure!(child.wait().await?.success(), "cannot write {path}");
        Ok(())
    }

    async fn try_sh(&self, script: &str) -> Result<Done> {
        run(&mut self.inside(script)).await
    }

    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.first.to_string())
            .args(["--mount", "--uts", "--ipc", "--pid", "--cgroup"])
            .args(["env", "-i", "-C", "/", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER="])
            .arg("FRESHCREDS_CONFIG=/etc/freshcreds/config.toml")
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["sh", "-euc", script])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.pull_the_plug();
        timeout(LIMIT, self.container.wait()).await.context("it does not end")??;
        Ok(())
    }

    /// Without its first process nothing of it is left, and the container's own program ends in order:
    /// the other way round, systemd would go on without it.
    fn pull_the_plug(&self) {
        let first = i32::try_from(self.first).ok().and_then(Pid::from_raw);
        if let Some(first) = first
            && self.container.id().is_some()
        {
            let _ = kill_process(first, Signal::KILL);
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.pull_the_plug();
    }
}

/// A Debian with what our users have on a build machine, made once; and the turn of who uses it.
pub(crate) async fn debian() -> Result<(PathBuf, File)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/booted");
    let turn = turn(&folder).await?;
    let (root, made) = (folder.join("root"), folder.join("made"));
    if std::fs::read_to_string(&made).is_ok_and(|text| text == DEBIAN) {
        return Ok((root, turn));
    }
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--quiet", &format!("--include={DEBIAN}")])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        // Their clients are wanted, not their daemons.
        .arg("--customize-hook=systemctl --root=\"$1\" mask docker.service docker.socket containerd.service")
        .arg("bookworm")
        .arg(&root)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LONG, command.output()).await.context("Debian is not there in time")?;
    let done = Done::from(output.context("mmdebstrap is missing: run `make setup`")?);
    ended_with(&done, 0)?;
    // Last, so that one that was cut short is made anew.
    crate::machine::put(&made, DEBIAN)?;
    Ok((root, turn))
}

/// The Debian package, of the program that `FRESHCREDS_BINARY` names, else of a release build.
pub(crate) async fn package() -> Result<&'static Path> {
    static PACKAGE: OnceCell<PathBuf> = OnceCell::const_new();
    let made = PACKAGE.get_or_try_init(async || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("make");
        command.current_dir(folder).arg("package").stdin(Stdio::null()).kill_on_drop(true);
        if let Some(binary) = std::env::var_os("FRESHCREDS_BINARY") {
            command.arg(format!("BINARY={}", Path::new(&binary).display()));
        }
        let output = timeout(LONG, command.output()).await.context("no package in time")??;
        ended_with(&output.into(), 0)?;
        let version = env!("CARGO_PKG_VERSION");
        for entry in std::fs::read_dir(folder.join("target/debian"))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&format!("freshcreds_{version}-1_")) {
                return Ok(path);
            }
        }
        anyhow::bail!("`make package` made no package of version {version}")
    });
    Ok(made.await?)
}

/// systemd, and what reads or writes `config.json`.
const DEBIAN: &str =
    "systemd,systemd-sysv,dbus,procps,cron,docker.io,skopeo,ca-certificates,jq,man-db";

/// A release build, or a Debian from a mirror far away.
const LONG: Duration = Duration::from_mins(30);
