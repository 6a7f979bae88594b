//! One file, many programs: nobody's entry is lost through us, nobody reads half a
//! file, and ours comes back.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use freshcreds::status::Verdict as Health;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cloud::Options;
use crate::machine::{Daemon, Machine, PROGRAM, campaign, ended_with, pause, put, run, tell};

/// Registries that let everybody in, one for each address.
struct Hosts {
    names: Vec<String>,
    _servers: JoinSet<()>,
}

impl Hosts {
    async fn start(count: u8) -> Result<Self> {
        let (mut names, mut servers) = (Vec::new(), JoinSet::new());
        for number in 0..count {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, number + 1), 0));
            let listener = TcpListener::bind(address).await?;
            names.push(listener.local_addr()?.to_string());
            servers.spawn(async move {
                // It ends with the test.
                let _ = axum::serve(listener, Router::new().fallback(let_in)).await;
            });
        }
        Ok(Self { names, _servers: servers })
    }
}

async fn let_in(headers: HeaderMap) -> impl IntoResponse {
    let version = ("docker-distribution-api-version", "registry/2.0");
    if headers.contains_key("authorization") {
        return (StatusCode::OK, [version, ("x-nothing", "-")], "{}");
    }
    (StatusCode::UNAUTHORIZED, [version, ("www-authenticate", "Basic realm=\"test\"")], "{}")
}

/// Makes the daemon fetch and write as fast as it can, until it is dropped.
struct Rush {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Rush {
    fn start(daemon: &Daemon) -> Result<Self> {
        let id = i32::try_from(daemon.id()?)?;
        let pid = rustix::process::Pid::from_raw(id).context("no process has the id 0")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let _ = rustix::process::kill_process(pid, Signal::USR1);
                pause(Duration::from_millis(3)).await;
            }
        });
        Ok(Self { stop, task })
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

#[tokio::test]
async fn logins_of_docker_and_skopeo_beside_a_rush_of_renewals_are_all_kept() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let hosts = Hosts::start(20).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let rush = Rush::start(&daemon)?;
    let rounds = campaign(5, 50);
    let mut latest = BTreeMap::new();
    for round in 0..rounds {
        for (index, host) in hosts.names.iter().enumerate() {
            let password = format!("word-{round}");
            let mut command = if (index + round) % 4 == 3 {
                let mut command = machine.command("skopeo");
                command.args(["login", "--tls-verify=false", "--authfile"]);
                command.arg(machine.docker_config());
                command
            } else {
                let mut command = machine.command("docker");
                // There is no engine, so the program logs in by itself.
                command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").arg("login");
                command
            };
            command.args(["--username", "someone", "--password", &password, host]);
            ended_with(&run(&mut command).await?, 0)?;
            latest.insert(host.clone(), password);
        }
    }
    let writes = cloud.ecr().issued().len() + cloud.google().issued().len();
    rush.end().await?;
    let mut lost = Vec::new();
    for (host, password) in &latest {
        let auth = machine.auth(host)?;
        let pair = format!("someone:{password}");
        let wanted = {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(pair)
        };
        if auth.as_deref() != Some(&wanted) {
            lost.push(host);
        }
    }
    println!(
        "{} logins at {} hosts beside {writes} renewals; {} lost",
        rounds * hosts.names.len(),
        hosts.names.len(),
        lost.len()
    );
    ensure!(lost.is_empty(), "lost: {lost:?}\n{}", machine.docker_config_text()?);
    ensure!(writes > rounds * 20, "only {writes} renewals");
    // And ours is there: what is new is written at once, whatever was before.
    daemon.signal(Signal::USR1)?;
    pause(Duration::from_millis(500)).await;
    let newest = cloud.ecr().issued().pop().context("nothing was issued")?;
    assert_eq!(machine.auth(cloud.ecr_registry().host())?, Some(newest.auth()));
    let names = std::fs::read_dir(machine.home().join(".docker"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(!names.iter().any(|name| name.starts_with(".freshcreds-")), "{names:?}");
    Ok(())
}

/// Reads a file so often, and counts the reads that found half of it.
fn read_on(path: &std::path::Path, wanted: usize) -> Result<usize> {
    let mut torn = 0;
    for _ in 0..wanted {
        let text = std::fs::read(path)?;
        let is_whole = serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|value| {
            value["auths"]["example.com"]["auth"] == "c29tZW9uZTplbHNl" && value["last"] == 1
        });
        torn += usize::from(!is_whole);
    }
    Ok(torn)
}

/// A file of several pages, with the entries before and behind what is foreign.
fn large_file() -> String {
    let filler = "x".repeat(20_000);
    format!(
        "{{\"auths\":{{\"example.com\":{{\"auth\":\"c29tZW9uZTplbHNl\"}}}},\"filler\":\"{filler}\",\"last\":1}}\n"
    )
}

async fn read_beside(daemon: &Daemon, path: std::path::PathBuf, wanted: usize) -> Result<()> {
    let rush = Rush::start(daemon)?;
    let torn = tokio::task::spawn_blocking(move || read_on(&path, wanted)).await??;
    rush.end().await?;
    ensure!(torn == 0, "{torn} of {wanted} reads were torn");
    Ok(())
}

#[tokio::test]
async fn no_reader_finds_half_a_file() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(&large_file())?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let reads = campaign(60_000, 1_000_000);
    read_beside(&daemon, machine.docker_config(), reads).await?;
    let renewals = cloud.ecr().issued().len();
    tell(&format!("{reads} reads beside {renewals} renewals; 0 torn"));
    ensure!(renewals > 20);
    Ok(())
}

#[tokio::test]
async fn a_single_file_that_is_mounted_is_written_in_place_and_nobody_reads_half_of_it()
-> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let outside = machine.home().join("outside.json");
    put(&outside, &large_file())?;
    machine.put_docker_config("")?;
    machine.target_settings(&machine.docker_config(), "write = \"in-place\"")?;
    let inode = std::fs::metadata(&outside)?.ino();
    let script = "mount --bind \"$1\" \"$2\" && exec \"$3\" run";
    let mut command = machine.command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(&outside).arg(machine.docker_config()).arg(PROGRAM);
    let daemon = Daemon::start(&mut command).await?;
    let report = daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(report.checks.targets[0].protection.as_deref(), Some("in place"));
    let reads = campaign(60_000, 1_000_000);
    read_beside(&daemon, outside.clone(), reads).await?;
    let renewals = cloud.ecr().issued().len();
    tell(&format!("{reads} reads of a mounted file beside {renewals} renewals; 0 torn"));
    ensure!(renewals > 20);
    assert_eq!(std::fs::metadata(&outside)?.ino(), inode);

    Ok(())
}

#[tokio::test]
async fn an_entry_that_is_logged_out_is_back_within_a_second_and_counted() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let host = cloud.ecr_registry().host();
    for _ in 0..3 {
        let mut command = machine.command("docker");
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").args(["logout", host]);
        ended_with(&run(&mut command).await?, 0)?;
        pause(Duration::from_secs(1)).await;
        assert!(machine.auth(host)?.is_some(), "{}", daemon.log());
    }
    let metrics = daemon.get("/metrics").await?;
    let counted = metrics.lines().find(|line| line.starts_with("freshcreds_overwritten_total{"));
    ensure!(counted.is_some_and(|line| line.ends_with(" 3")), "{metrics}");
    assert_eq!(cloud.ecr().calls(), 1, "nothing was fetched for it");
    Ok(())
}

#[tokio::test]
async fn a_restart_goes_on_with_the_token_and_logout_takes_it_away() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let before = "{\"auths\":{\"example.com\":{\"auth\":\"c29tZW9uZTplbHNl\"}}}\n";
    machine.put_docker_config(before)?;
    let mut daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.stop().await?;
    let calls = (cloud.ecr().calls(), cloud.google().calls());
    // Even without its cloud it is ready at once.
    cloud.ecr().break_with(crate::cloud::Fault::HangUp);
    cloud.google().break_with(crate::cloud::Fault::HangUp);
    let mut daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!((cloud.ecr().calls(), cloud.google().calls()), calls);
    assert!(daemon.log().contains("going on with the credential of an earlier run"));
    // While it runs, there is no point in a logout.
    let mut command = machine.command(PROGRAM);
    command.env("FRESHCREDS_LISTEN", daemon.address().to_string()).arg("logout");
    let done = run(&mut command).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("stop it first"), "{}", done.stderr);
    daemon.stop().await?;
    let done = machine.freshcreds(&["logout"]).await?;
    ended_with(&done, 0)?;
    assert!(done.stderr.contains("our entries are removed"), "{}", done.stderr);
    assert_eq!(machine.docker_config_text()?, before);
    let done = machine.freshcreds(&["logout"]).await?;
    ended_with(&done, 0)?;
    assert!(done.stderr.contains("nothing is known to have been written"), "{}", done.stderr);
    Ok(())
}

#[tokio::test]
async fn one_target_that_fails_does_not_hold_back_the_others() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let bad = machine.home().join("bad/config.json");
    std::fs::create_dir_all(&bad)?;
    let good = machine.home().join("good/auth.json");
    machine.target_settings(&bad, "")?;
    machine.target_settings(&good, "mode = \"0640\"")?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("is a folder, not a file"), "{}", done.stderr);
    assert!(std::fs::read_to_string(&good)?.contains(cloud.ecr_registry().host()));
    assert_eq!(std::fs::metadata(&good)?.mode() & 0o777, 0o640);
    Ok(())
}

#[tokio::test]
async fn a_helper_gets_the_credential_where_the_settings_say_so() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let programs = machine.home().join("programs");
    std::fs::create_dir_all(&programs)?;
    // Keeps what it is given in a file for each server, as docker's own do in a keyring.
    let helper = programs.join("docker-credential-box");
    put(
        &helper,
        "#!/bin/sh\nbox=\"$HOME/box\"; mkdir -p \"$box\"; input=$(cat)\n\
         case $1 in\n\
         store) server=$(printf %s \"$input\" | jq -r .ServerURL); printf %s \"$input\" > \"$box/$server\";;\n\
         get) cat \"$box/$input\" 2>/dev/null || { echo credentials not found in native keychain; exit 1; };;\n\
         erase) rm -f \"$box/$input\";;\nesac\n",
    )?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").unwrap_or_default();
    machine.set("PATH", format!("{}:{path}", programs.display()));
    machine.put_docker_config("{\"credsStore\":\"box\"}")?;
    machine.target_settings(&machine.docker_config(), "hidden = \"store\"")?;
    let host = cloud.ecr_registry().host().to_owned();
    let mut daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(machine.docker_config_text()?, "{\"credsStore\":\"box\"}", "no secret in the file");
    let kept = std::fs::read_to_string(machine.home().join("box").join(&host))?;
    assert!(kept.contains(&cloud.ecr().issued()[0].password));
    daemon.stop().await?;
    ended_with(&machine.freshcreds(&["logout"]).await?, 0)?;
    assert!(!machine.home().join("box").join(&host).exists());

    // A helper that is not there is a failure with its name.
    std::fs::remove_file(helper)?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    assert!(done.stderr.contains("docker-credential-box cannot be run"), "{}", done.stderr);
    assert_eq!(cloud.leak_in(done.stderr.as_bytes()), None);
    Ok(())
}
