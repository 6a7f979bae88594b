//! New settings while it runs, and a machine that is not ready yet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use rustix::process::Signal;

use crate::cloud::{Fault, Options};
use crate::machine::{
    LIMIT, Machine, ecr, ecr_registry, ended_with, google_registry, now, pause, registries,
};

const FOREIGN: &str = r#"{"auths":{"example.com":{"auth":"c29tZW9uZTplbHNl"}},"x":1}"#;

#[tokio::test]
async fn a_hangup_fetches_what_is_new_logs_out_what_is_gone_and_leaves_the_rest_alone() -> Result<()>
{
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(FOREIGN)?;
    let (ecr_host, google_host) = (cloud.ecr_registry().host(), cloud.google_registry().host());
    machine.settings(&ecr_registry(&cloud))?;
    let mut daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let first = machine.auth(ecr_host)?.context("not written")?;
    assert!(machine.auth(google_host)?.is_none());

    // A further registry and a further file.
    let other = machine.home().join("other.json");
    machine.settings(&registries(&cloud))?;
    machine.target_settings(&machine.docker_config(), "")?;
    machine.target_settings(&other, "")?;
    daemon.signal(Signal::HUP)?;
    let report = daemon
        .wait_for(|report| report.checks.targets.len() == 2 && report.status == Health::Pass)
        .await?;
    assert_eq!(report.checks.credentials.len(), 2);
    assert!(machine.auth(google_host)?.is_some());
    assert!(std::fs::read_to_string(&other)?.contains(&first));
    assert_eq!(cloud.ecr().issued().len(), 1, "what is unchanged is not fetched again");

    // Both gone again, the first registry too.
    machine.settings(&google_registry(&cloud))?;
    daemon.signal(Signal::HUP)?;
    daemon
        .wait_for(|report| report.checks.targets.len() == 1 && report.status == Health::Pass)
        .await?;
    assert!(machine.auth(ecr_host)?.is_none(), "{}", machine.docker_config_text()?);
    assert!(machine.auth(google_host)?.is_some());
    assert!(machine.auth("example.com")?.is_some());
    assert!(!std::fs::read_to_string(&other)?.contains("auth\""));
    assert_eq!((cloud.ecr().issued().len(), cloud.google().issued().len()), (1, 1));
    assert_eq!(daemon.stop().await?.0, Some(0));
    Ok(())
}

#[tokio::test]
async fn settings_that_mean_nothing_change_nothing_and_are_reported() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    let daemon = machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    machine.settings("registrys = []\n")?;
    daemon.signal(Signal::HUP)?;
    let report = daemon.wait_for(|report| report.status == Health::Warn).await?;
    ensure!(report.is_ready(), "the old settings are still good");
    let said = report.output.join("\n");
    ensure!(said.contains("registrys") && said.contains("the old ones stay"), "{said}");
    let calls = cloud.ecr().issued().len();
    machine.settings(&registries(&cloud))?;
    daemon.signal(Signal::HUP)?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(cloud.ecr().issued().len(), calls);
    Ok(())
}

#[tokio::test]
async fn once_waits_for_a_cloud_that_comes_later() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    cloud.ecr().break_with(Fault::HangUp);
    let started = now();
    let waiting = machine.freshcreds(&["once", "--wait", "30s"]);
    let healing = async {
        pause(Duration::from_secs(8)).await;
        cloud.ecr().mend();
    };
    let (done, ()) = tokio::join!(waiting, healing);
    ended_with(&done?, 0)?;
    let took = now().duration_since(started)?;
    ensure!(took > Duration::from_secs(7) && took < LIMIT / 2, "it took {took:?}");
    assert!(machine.auth(cloud.ecr_registry().host())?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_daemon_says_that_it_waits_and_is_ready_soon_after_the_cloud_is_there() -> Result<()> {
    let (machine, cloud) = Machine::in_cloud(Options::default()).await?;
    cloud.ecr().break_with(Fault::HangUp);
    let daemon = machine.daemon().await?;
    let report = daemon
        .wait_for(|report| report.output.join("\n").contains("waiting for a credential"))
        .await?;
    ensure!(!report.is_ready());
    pause(Duration::from_secs(8)).await;
    cloud.ecr().mend();
    let there = now();
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let took = now().duration_since(there)?;
    ensure!(took < Duration::from_secs(4), "ready {took:?} after the cloud was");
    Ok(())
}

#[tokio::test]
async fn a_token_that_its_registry_refuses_is_not_written_and_not_called_ready() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.put_docker_config(FOREIGN)?;
    // Another account's registry: it takes Google's tokens, and no others.
    let foreign = cloud.google_registry().host();
    machine.settings(&ecr(foreign))?;
    let done = machine.freshcreds(&["once"]).await?;
    ended_with(&done, 1)?;
    ensure!(done.stderr.contains("\"kind\":\"rejected\""), "{}", done.stderr);
    ensure!(cloud.ecr().issued().len() >= 2, "another token was tried");
    assert_eq!(machine.docker_config_text()?, FOREIGN);
    // Who does not ask cannot know.
    ended_with(&machine.freshcreds(&["once", "--verify", "false"]).await?, 0)?;
    assert!(machine.auth(foreign)?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_its_registry_takes_is_said_to_be_taken() -> Result<()> {
    let (mut machine, cloud) = Machine::in_cloud(Options::default()).await?;
    machine.set("FRESHCREDS_VERIFY", "true");
    let daemon = machine.daemon().await?;
    let report = daemon.wait_for(|report| report.status == Health::Pass).await?;
    for check in &report.checks.credentials {
        assert_eq!(check.verification.as_deref(), Some("taken"), "{check:?}");
    }
    assert_eq!(cloud.ecr().issued().len(), 1);
    Ok(())
}
