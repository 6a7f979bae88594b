//! Where a file stands can be hard on whoever writes it: nothing is lost there, it is
//! said what is wrong, and when it is mended all is well again without a restart.

use std::fmt::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::{Report, Verdict as Health};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::cloud::{Cloud, Options};
use crate::machine::{
    Daemon, Done, LIMIT, Machine, PROGRAM, ecr_registry, ended_with, google_registry, now, pause,
    put, run, until,
};

const BEFORE: &str = r#"{"auths":{"example.com":{"auth":"c29tZW9uZTplbHNl"}},"x":1}"#;

/// A daemon whose `.docker` is made by a script, with mounts that nobody else sees.
/// Each of `cures` is a script that runs once it is asked for.
struct Ward {
    machine: Machine,
    cloud: Cloud,
    daemon: Daemon,
}

impl Ward {
    async fn new(illness: &str, cures: &[&str]) -> Result<Self> {
        let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
        std::fs::create_dir(machine.home().join(".docker"))?;
        put(&machine.home().join("before.json"), BEFORE)?;
        let mut script = format!("set -e; cd \"$HOME\"; {illness}\n\"$1\" run & daemon=$!\n");
        for (index, cure) in cures.iter().enumerate() {
            let _ = writeln!(
                script,
                "until [ -e cure-{index} ]; do sleep 0.05; done; {cure}; touch cured-{index}"
            );
        }
        script += "wait $daemon\n";
        let mut command = machine.command("unshare");
        command
            .args(["--map-root-user", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &script, "sh", PROGRAM]);
        let daemon = Daemon::start(&mut command).await?;
        Ok(Self { machine, cloud, daemon })
    }

    async fn cure(&self, index: usize) -> Result<()> {
        put(&self.machine.home().join(format!("cure-{index}")), "")?;
        let cured = self.machine.home().join(format!("cured-{index}"));
        let cured = until(LIMIT, || Ok(cured.exists())).await;
        cured.with_context(|| format!("no cure: {}", self.daemon.log()))
    }

    async fn fails_with(&self, kind: &str, words: &str) -> Result<()> {
        let report = self.daemon.wait_for(|report| kind_of(report) == Some(kind)).await?;
        let message = trouble(&report).unwrap_or_default();
        ensure!(message.contains(words), "{message}");
        ensure!(self.daemon.get("/livez").await?.starts_with("HTTP/1.1 200"));
        Ok(())
    }

    async fn is_well(&self) -> Result<()> {
        let report = self.daemon.wait_for(|report| report.status == Health::Pass).await?;
        ensure!(trouble(&report).is_none(), "{report:?}");
        Ok(())
    }

    /// What stands in the folder that only the daemon sees.
    fn seen(&self, name: &str) -> Result<String> {
        let child = self.daemon.child()?.as_raw_nonzero();
        let home = self.machine.home().strip_prefix("/")?;
        let path = Path::new("/proc").join(child.to_string()).join("root").join(home);
        Ok(std::fs::read_to_string(path.join(name))?)
    }
}

fn kind_of(report: &Report) -> Option<&str> {
    Some(report.checks.targets[0].last_error.as_ref()?.kind.as_str())
}

fn trouble(report: &Report) -> Option<String> {
    Some(report.checks.targets[0].last_error.as_ref()?.message.clone())
}

#[tokio::test]
async fn inodes_that_are_used_up() -> Result<()> {
    let ward = Ward::new(
        "mount -t tmpfs -o nr_inodes=4 tmpfs .docker; cp before.json .docker/config.json; \
         touch .docker/one .docker/two",
        &["rm .docker/one .docker/two"],
    )
    .await?;
    ward.fails_with("disk_full", "the old file stays").await?;
    assert_eq!(ward.seen(".docker/config.json")?, BEFORE);
    ward.cure(0).await?;
    ward.is_well().await?;
    assert!(ward.seen(".docker/config.json")?.contains("c29tZW9uZTplbHNl"));
    Ok(())
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while() -> Result<()> {
    let ward = Ward::new(
        "mount -t tmpfs -o size=32k tmpfs .docker; cp before.json .docker/config.json; \
         head -c 28672 /dev/zero > .docker/filler",
        &["rm .docker/filler"],
    )
    .await?;
    ward.fails_with("disk_full", "the old file stays").await?;
    ward.cloud.ecr().wait_for_issued(1).await;
    let calls = ward.cloud.ecr().issued().len();
    ward.cure(0).await?;
    ward.is_well().await?;
    assert_eq!(ward.cloud.ecr().issued().len(), calls, "the token was kept, not fetched again");
    Ok(())
}

#[tokio::test]
async fn a_file_system_that_becomes_read_only_and_writable_again() -> Result<()> {
    let ward = Ward::new(
        "mount -t tmpfs tmpfs .docker; cp before.json .docker/config.json",
        &["mount -o remount,ro .docker; kill -USR1 $daemon", "mount -o remount,rw .docker"],
    )
    .await?;
    ward.is_well().await?;
    ward.cure(0).await?;
    ward.fails_with("read_only", "mount the folder writable").await?;
    // What stands there is still good, and said to be.
    ensure!(ward.daemon.get("/readyz").await?.starts_with("HTTP/1.1 200"));
    let calls = ward.cloud.ecr().issued().len();
    ward.cure(1).await?;
    ward.is_well().await?;
    assert_eq!(ward.cloud.ecr().issued().len(), calls, "the token was kept, not fetched again");
    Ok(())
}

/// `chattr` takes real power over the machine.
async fn as_root(machine: &Machine, program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = machine.command(if is_root { program } else { "sudo" });
    if !is_root {
        command.args(["-n", program]);
    }
    ended_with(&run(command.args(arguments).arg(path)).await?, 0)
}

async fn a_file_that_nobody_may_change(flag: &str) -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    as_root(&machine, "chattr", &[&format!("+{flag}")], &machine.docker_config()).await?;
    let tried = async {
        let daemon = machine.daemon().await?;
        daemon.wait_for(|report| kind_of(report) == Some("immutable")).await?;
        // Not tried again and again.
        pause(Duration::from_secs(2)).await;
        let report = daemon.report().await?;
        anyhow::Ok((daemon, report))
    };
    let tried = tried.await;
    as_root(&machine, "chattr", &[&format!("-{flag}")], &machine.docker_config()).await?;
    let (daemon, report) = tried?;
    let message = trouble(&report).unwrap_or_default();
    ensure!(message.contains("chattr -ia"), "{message}");
    assert_eq!(machine.docker_config_text()?, BEFORE);
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(names_beside(&machine)?, ["config.json"]);
    let log = daemon.log();
    ensure!(log.matches("\"kind\":\"immutable\"").count() == 1, "told again and again: {log}");
    Ok(())
}

fn names_beside(machine: &Machine) -> Result<Vec<String>> {
    let names = std::fs::read_dir(machine.home().join(".docker"))?;
    let mut names = names
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn a_file_that_is_immutable() -> Result<()> {
    a_file_that_nobody_may_change("i").await
}

#[tokio::test]
async fn a_file_that_may_only_be_added_to() -> Result<()> {
    a_file_that_nobody_may_change("a").await
}

#[tokio::test]
async fn a_system_without_watches_is_polled() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let mut command = machine.command("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=inotify_init1"]);
    command.args(["-e", "inject=inotify_init1:error=EMFILE", PROGRAM, "run"]);
    let mut daemon = Daemon::start(&mut command).await?;
    let report = daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(report.checks.targets[0].watched_by, "poll");
    machine.put_docker_config(BEFORE)?;
    // Without a question, which would make it look.
    let is_back = || Ok(machine.auth(cloud.ecr_registry().host())?.is_some());
    until(LIMIT, is_back).await.context("the entry does not come back")?;
    // Else the signal is lost with its tracer, and the program stays.
    daemon.signal_child(rustix::process::Signal::TERM)?;
    daemon.ended().await?;
    Ok(())
}

#[tokio::test]
async fn an_access_list_and_attributes_are_kept() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let path = machine.docker_config();
    let done = |program: &str, arguments: &[&str]| {
        let mut command = machine.command(program);
        command.args(arguments).arg(&path);
        async move { anyhow::Ok(run(&mut command).await?) }
    };
    ended_with(&done("setfacl", &["-m", "u:4711:r"]).await?, 0)?;
    ended_with(&done("setfattr", &["-n", "user.note", "-v", "kept"]).await?, 0)?;
    let list = ["--omit-header", "--absolute-names", "--numeric"];
    let attribute = ["--only-values", "--absolute-names", "-n", "user.note"];
    let before: Done = done("getfacl", &list).await?;
    ensure!(before.stdout.contains("user:4711:r--"), "{}", before.stdout);
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    assert_eq!(done("getfacl", &list).await?.stdout, before.stdout);
    assert_eq!(done("getfattr", &attribute).await?.stdout, "kept");
    Ok(())
}

#[tokio::test]
async fn no_more_open_files() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let mut command = machine.command("prlimit");
    let mut daemon = Daemon::start(command.args(["--nofile=24", PROGRAM, "run"])).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(daemon.address()).await?);
    }
    machine.put_docker_config(BEFORE)?;
    pause(Duration::from_secs(2)).await;
    assert!(machine.docker_config_text()?.contains("c29tZW9uZTplbHNl"));
    drop(held);
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    assert_eq!(names_beside(&machine)?, ["config.json"]);
    assert_eq!(daemon.stop().await?.0, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_disk_that_stalls_holds_up_no_answer() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let mut command = machine.command("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=fsync"]);
    command.args(["-e", "inject=fsync:delay_enter=3000000", PROGRAM, "run"]);
    let mut daemon = Daemon::start(&mut command).await?;
    cloud.ecr().wait_for_issued(1).await;
    let started = now();
    ensure!(daemon.get("/livez").await?.starts_with("HTTP/1.1 200"));
    let ready = daemon.get("/readyz").await?;
    let took = now().duration_since(started)?;
    ensure!(ready.starts_with("HTTP/1.1 503"), "nothing stands there yet: {ready}");
    ensure!(took < Duration::from_millis(2500), "it took {took:?}");
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    // Else the signal is lost with its tracer, and the program stays.
    daemon.signal_child(rustix::process::Signal::TERM)?;
    daemon.ended().await?;
    Ok(())
}

#[tokio::test]
async fn nobody_knows_a_home() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    // The system knows root's home folder even if HOME is not set.
    let mut command = machine.command("unshare");
    command.args(["--map-user=54321", PROGRAM, "once"]).env_remove("HOME");
    let done = run(&mut command).await?;
    ended_with(&done, 2)?;
    ensure!(done.stderr.contains("HOME") && done.stderr.contains("target"), "{}", done.stderr);
    Ok(())
}

/// A command of another user, who may read what the test made.
fn as_user(machine: &Machine, user: u32, group: u32) -> Result<Command> {
    std::fs::set_permissions(machine.home(), std::fs::Permissions::from_mode(0o755))?;
    let is_root = rustix::process::geteuid().is_root();
    let mut command = machine.command(if is_root { "setpriv" } else { "sudo" });
    if !is_root {
        command.args(["-n", "--preserve-env", "setpriv"]);
    }
    command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]);
    Ok(command)
}

#[tokio::test]
async fn a_folder_that_a_group_writes_to() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let folder = machine.home().join(".docker");
    std::fs::create_dir(&folder)?;
    as_root(&machine, "chown", &["1000:2000"], &folder).await?;
    as_root(&machine, "chmod", &["2770"], &folder).await?;
    as_root(&machine, "chmod", &["0644"], &machine.home().join("key.json")).await?;
    let program = machine.home().join("freshcreds");
    std::fs::copy(PROGRAM, &program)?;
    let once = || anyhow::Ok(as_user(&machine, 1001, 2000)?);
    // A new file belongs to who made it, and its group is the folder's. By itself it is for
    // its owner only, and that the folder's owner then cannot read it is not kept quiet.
    let done = run(once()?.arg(&program).arg("once")).await?;
    ended_with(&done, 1)?;
    ensure!(done.stderr.contains("user 1000, whose folder"), "{}", done.stderr);
    std::fs::remove_file(machine.docker_config())?;
    machine.target_settings(&machine.docker_config(), "mode = \"0640\"")?;
    ended_with(&run(once()?.arg(&program).arg("once")).await?, 0)?;
    let made = std::fs::metadata(machine.docker_config())?;
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (1001, 2000, 0o640));
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    // Another's file cannot be replaced without taking it from them.
    std::fs::remove_file(machine.docker_config())?;
    machine.put_docker_config(BEFORE)?;
    as_root(&machine, "chown", &["1000:2000"], &machine.docker_config()).await?;
    as_root(&machine, "chmod", &["0660"], &machine.docker_config()).await?;
    let done = run(once()?.arg(&program).arg("once")).await?;
    ended_with(&done, 1)?;
    ensure!(done.stderr.contains("run as the file's owner, or as root"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, BEFORE);
    assert_eq!(names_beside(&machine)?, ["config.json"]);
    Ok(())
}

#[tokio::test]
async fn another_name_of_the_file_keeps_the_old_text_and_that_is_said() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let other = machine.home().join("other.json");
    std::fs::hard_link(machine.docker_config(), &other)?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 0)?;
    ensure!(done.stderr.contains("the file has another name"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(other)?, BEFORE);
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_moved_away_and_made_again() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    std::fs::rename(machine.home().join(".docker"), machine.home().join("away"))?;
    std::fs::create_dir(machine.home().join(".docker"))?;
    let is_there = || Ok(machine.docker_config().exists());
    until(Duration::from_secs(5), is_there).await.context("it is not written again")?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    // The new one is watched as well as the first was.
    std::fs::remove_file(machine.docker_config())?;
    until(Duration::from_secs(5), is_there).await.context("the new folder is not watched")?;
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_emptied() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    put(&machine.docker_config(), "")?;
    // As any reader finds it: empty, or whole.
    let is_written = || Ok(!machine.docker_config_text()?.is_empty());
    until(Duration::from_secs(5), is_written).await.context("it stays empty")?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    assert!(machine.auth(cloud.google_registry().host())?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let path = machine.docker_config();
    std::fs::create_dir(machine.home().join(".docker"))?;
    for (make, words) in [
        ("mkdir", "is a folder"),
        ("mkfifo", "is a pipe"),
        ("device", "is a device"),
        ("circle", "the links lead in a circle"),
    ] {
        match make {
            "device" => symlink("/dev/full", &path)?,
            "circle" => symlink("config.json", &path)?,
            program => ended_with(&run(machine.command(program).arg(&path)).await?, 0)?,
        }
        let done = machine.freshcreds(&["once"]).await?;
        ended_with(&done, 1)?;
        ensure!(done.stderr.contains(words), "{make}: {}", done.stderr);
        match make {
            "mkdir" => std::fs::remove_dir(&path)?,
            _ => std::fs::remove_file(&path)?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_daemons_that_share_a_file_keep_each_others_entries() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(BEFORE)?;
    machine.settings(&ecr_registry(&cloud))?;
    let one = machine.daemon().await?;
    let other_home = Machine::new()?;
    machine.set("XDG_STATE_HOME", other_home.home().as_os_str().to_owned());
    machine.settings(&google_registry(&cloud))?;
    let other = machine.daemon().await?;
    for daemon in [&one, &other] {
        daemon.wait_for(|report| report.status == Health::Pass).await?;
    }
    for _ in 0..20 {
        one.signal(rustix::process::Signal::USR1)?;
        other.signal(rustix::process::Signal::USR1)?;
        pause(Duration::from_millis(50)).await;
    }
    for daemon in [&one, &other] {
        daemon.wait_for(|report| report.status == Health::Pass).await?;
    }
    for host in [cloud.ecr_registry().host(), cloud.google_registry().host(), "example.com"] {
        assert!(machine.auth(host)?.is_some(), "{host}");
    }
    assert_eq!(names_beside(&machine)?, ["config.json"]);
    Ok(())
}
