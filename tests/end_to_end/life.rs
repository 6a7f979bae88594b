//! A life of tokens: fetched, renewed, lost in an outage and found again.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use freshcreds::status::Verdict as Health;
use rustix::process::Signal;

use crate::cloud::{Fault, Options, Verdict};
use crate::machine::{Machine, ended_with, pause, put, run};

const SHORT: Options = Options {
    ecr_life: Duration::from_secs(4),
    google_life: Duration::from_secs(5),
    google_caches_until: None,
    short_tokens: false,
};

const FOREIGN: &str = "{\n  \"auths\": {\n    \"example.com\": {\"auth\": \"c29tZW9uZTplbHNl\"}\n  },\n  \
                       \"unknown\": [1.0e2, \"\\u00e9\"]\n}\n";

#[tokio::test]
async fn once_writes_what_both_clouds_gave_and_nothing_else() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(FOREIGN)?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 0)?;
    for (issuer, registry) in
        [(cloud.ecr(), cloud.ecr_registry()), (cloud.google(), cloud.google_registry())]
    {
        assert_eq!(issuer.calls(), 1);
        let issued = issuer.issued().pop().context("nothing was issued")?;
        assert_eq!(machine.auth(registry.host())?, Some(issued.auth()));
    }
    let text = machine.docker_config_text()?;
    let (before, after) = FOREIGN.split_at(FOREIGN.find("\n  },").context("no end")?);
    assert!(text.starts_with(before) && text.ends_with(after), "{text}");
    assert_eq!(cloud.leak_in(done.stderr.as_bytes()), None);
    Ok(())
}

#[tokio::test]
async fn a_new_file_is_for_its_owner_only() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    let mode = |path| anyhow::Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777);
    assert_eq!(mode(machine.docker_config())?, 0o600);
    assert_eq!(mode(machine.home().join(".docker"))?, 0o700);
    Ok(())
}

#[tokio::test]
async fn registries_of_one_region_share_one_call() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let accounts = ["123456789012", "210987654321", "111122223333"];
    let hosts = accounts.map(|account| format!("{account}.dkr.ecr.eu-west-1.amazonaws.com"));
    machine.settings("")?;
    machine.set("FRESHCREDS_REGISTRIES", format!("{}, {} {}", hosts[0], hosts[1], hosts[2]));
    ended_with(&machine.freshcreds(&["once"]).await?, 0)?;
    assert_eq!(cloud.ecr().calls(), 1);
    for host in &hosts {
        assert_eq!(machine.auth(host)?, Some(cloud.ecr().issued()[0].auth()));
    }
    Ok(())
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(SHORT).await?;
    let mut daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    // Longer than any of the first tokens lives.
    for _ in 0..24 {
        let answer = daemon.get("/readyz").await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", daemon.log());
        let host = cloud.ecr_registry().host();
        let auth = machine.auth(host)?;
        let newest = cloud.ecr().issued();
        let good =
            newest.iter().find(|one| Some(one.auth()) == auth).context("no token of ours")?;
        assert!(!good.is_over(), "an expired token stands in the file");
        pause(Duration::from_millis(250)).await;
    }
    assert!(cloud.ecr().issued().len() >= 3 && cloud.google().issued().len() >= 3);
    let (code, took) = daemon.stop().await?;
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(cloud.leak_in(daemon.log().as_bytes()), None);
    Ok(())
}

#[tokio::test]
async fn an_outage_is_a_warning_first_and_a_failure_from_the_moment_of_expiry() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(SHORT).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    cloud.ecr().break_with(Fault::ServerError);

    let warned = daemon.wait_for(|report| report.status == Health::Warn).await?;
    let check = &warned.checks.credentials[0];
    assert_eq!(check.last_error.as_ref().context("no error")?.kind, "server_error");
    assert!(check.consecutive_failures >= 1);
    assert!(daemon.get("/readyz").await?.starts_with("HTTP/1.1 200"));
    let kept = machine.auth(cloud.ecr_registry().host())?;

    let failed = daemon.wait_for(|report| report.status == Health::Fail).await?;
    assert_eq!(failed.checks.credentials[0].observed_value, Some(0));
    let answer = daemon.get("/readyz").await?;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("expired"), "{answer}");
    assert!(daemon.get("/livez").await?.starts_with("HTTP/1.1 200"));
    // Nothing was taken away, and Google's side never noticed.
    assert_eq!(machine.auth(cloud.ecr_registry().host())?, kept);
    assert_eq!(failed.checks.credentials[1].status, Health::Pass);

    cloud.ecr().mend();
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert!(daemon.get("/readyz").await?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[tokio::test]
async fn a_caching_issuers_same_token_is_no_failure_and_no_write() -> Result<()> {
    let options =
        Options { google_caches_until: Some(Duration::from_mins(1)), ..Options::default() };
    let (machine, cloud) = Machine::in_cloud(options).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let before = std::fs::metadata(machine.docker_config())?.ino();
    let calls = cloud.google().calls();
    cloud.ecr().break_with(Fault::ServerError);
    daemon.signal(Signal::USR1)?;
    cloud.google().wait_for_calls(calls + 1).await;
    daemon.wait_for(|report| report.checks.credentials[0].last_error.is_some()).await?;
    assert_eq!(std::fs::metadata(machine.docker_config())?.ino(), before);
    let metrics = daemon.get("/metrics").await?;
    assert!(metrics.contains("outcome=\"same_token\"} 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn the_process_leaves_no_core_and_hides_its_memory() -> Result<()> {
    let (machine, _cloud) = Machine::in_cloud(Options::default()).await?;
    let mut daemon = machine.daemon().await?;
    let folder = PathBuf::from(format!("/proc/{}", daemon.id()?));
    let limits = std::fs::read_to_string(folder.join("limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.context("no limit")?.split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"]);
    // What stands for the memory of one that may not be dumped belongs to root.
    assert_eq!(std::fs::metadata(folder.join("mem"))?.uid(), 0);
    let status = daemon.abort().await?;
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_signal_fetches_now() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.signal(Signal::USR1)?;
    cloud.ecr().wait_for_issued(2).await;
    cloud.google().wait_for_issued(2).await;
    daemon
        .wait_for(|_| {
            let newest = cloud.ecr().issued().pop().map(|one| one.auth());
            machine.auth(cloud.ecr_registry().host()).is_ok_and(|auth| auth == newest)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_entry_that_was_logged_out_comes_back() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    put(&machine.docker_config(), FOREIGN)?;
    pause(Duration::from_millis(1100)).await;
    daemon
        .wait_for(|report| {
            report.status == Health::Pass && daemon.log().contains("another program")
        })
        .await?;
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    assert!(machine.auth("example.com")?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_signal_lets_a_write_under_way_finish_and_a_second_one_does_not() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    // Every fsync takes two seconds.
    let slow = |command: &mut tokio::process::Command| {
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync"]).args([
            "-e",
            "inject=fsync:delay_enter=2000000",
            crate::machine::PROGRAM,
            "run",
        ]);
    };
    let mut command = machine.command("strace");
    slow(&mut command);
    let mut daemon = crate::machine::Daemon::start(&mut command).await?;
    cloud.google().wait_for_issued(1).await;
    pause(Duration::from_millis(500)).await;
    daemon.signal_child(Signal::TERM)?;
    let (code, _) = daemon.ended().await?;
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(machine.auth(cloud.google_registry().host())?.is_some());

    std::fs::remove_file(machine.docker_config())?;
    let mut command = machine.command("strace");
    slow(&mut command);
    let mut daemon = crate::machine::Daemon::start(&mut command).await?;
    cloud.google().wait_for_issued(2).await;
    pause(Duration::from_millis(500)).await;
    daemon.signal_child(Signal::TERM)?;
    pause(Duration::from_millis(200)).await;
    daemon.signal_child(Signal::TERM)?;
    let (code, _) = daemon.ended().await?;
    assert_eq!(code, Some(1), "{}", daemon.log());
    assert!(!machine.docker_config().exists());
    Ok(())
}

#[tokio::test]
async fn old_tokens_are_refused_and_new_ones_taken_by_the_registry() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(SHORT).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let inspect = || async {
        let config = machine.docker_config();
        run(machine
            .command("skopeo")
            .args(["inspect", "--tls-verify=false", "--authfile"])
            .arg(config)
            .arg(format!("docker://{}", cloud.ecr_registry().image())))
        .await
    };
    for _ in 0..3 {
        ended_with(&inspect().await?, 0)?;
        pause(Duration::from_secs(2)).await;
    }
    assert!(cloud.ecr_registry().count(Verdict::Authorised) >= 3);
    assert_eq!(cloud.ecr_registry().count(Verdict::Expired), 0);
    // Without us the same file is worth nothing soon.
    drop(daemon);
    pause(SHORT.ecr_life).await;
    assert_ne!(inspect().await?.code, Some(0));
    assert!(cloud.ecr_registry().count(Verdict::Expired) > 0);
    Ok(())
}
