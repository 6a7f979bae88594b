//! Several replicas, of which one works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::{Report, Verdict as Health};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use rustix::process::Signal;

use crate::machine::{now, pause};
use crate::stage::Stage;

fn is_leading(report: &Report) -> bool {
    report.checks.elections.iter().any(|one| one.leading)
}

fn is_standing_by(report: &Report) -> bool {
    report.checks.elections.iter().any(|one| !one.leading && one.holder.is_some())
}

#[tokio::test]
async fn one_works_and_the_other_is_ready_to_go_on_without_asking_a_cloud() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let lease = format!("lease = \"{namespace}/freshcreds\"");
    stage.settings_of_ecr(&lease, &stage.selected())?;
    let mut first = stage.machine.daemon().await?;
    first.wait_for(|report| is_leading(report) && report.status == Health::Pass).await?;
    let second = stage.replica()?.daemon().await?;
    let report =
        second.wait_for(|report| is_standing_by(report) && report.status == Health::Pass).await?;
    ensure!(report.checks.credentials[0].expires.is_some(), "it knows from the Secret");
    ensure!(second.get("/metrics").await?.contains("freshcreds_leading{"));
    stage.served(&namespace).await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1);

    // Killed: it can say nothing any more.
    let killed = now();
    first.signal(Signal::KILL)?;
    first.ended().await?;
    second.wait_for(is_leading).await?;
    let took = now().duration_since(killed)?;
    ensure!(took < Duration::from_secs(15), "it took {took:?}");
    second.wait_for(|report| report.status == Health::Pass).await?;
    let born = stage.namespace("born").await?;
    stage.served(&born).await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1, "the token is still good");

    // Stopped in order: it lets go.
    let third = stage.replica()?.daemon().await?;
    third.wait_for(|report| is_standing_by(report) && report.status == Health::Pass).await?;
    let mut second = second;
    let stopped = now();
    second.stop().await?;
    third.wait_for(is_leading).await?;
    let took = now().duration_since(stopped)?;
    ensure!(took < Duration::from_secs(4), "it took {took:?}");
    third.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1);
    let lease =
        Api::<Lease>::namespaced(stage.client.clone(), &namespace).get("freshcreds").await?;
    let spec = lease.spec.context("no spec")?;
    assert_eq!(spec.lease_transitions, Some(3));
    stage.end(Some(third)).await
}

#[tokio::test]
async fn whoever_stands_by_says_so_when_the_secrets_go_stale() -> Result<()> {
    let options = crate::cloud::Options { ecr_life: Duration::from_secs(4), ..Default::default() };
    let mut stage = Stage::in_cloud(options).await?;
    let namespace = stage.namespace("one").await?;
    let lease = format!("lease = \"{namespace}/freshcreds\"");
    stage.settings_of_ecr(&lease, &stage.selected())?;
    let first = stage.machine.daemon().await?;
    first.wait_for(|report| is_leading(report) && report.is_ready()).await?;
    let second = stage.replica()?.daemon().await?;
    second.wait_for(|report| is_standing_by(report) && report.is_ready()).await?;
    stage.cloud.ecr().break_with(crate::cloud::Fault::ServerError);
    second.wait_for(|report| is_standing_by(report) && report.status == Health::Fail).await?;
    stage.cloud.ecr().mend();
    second.wait_for(|report| is_standing_by(report) && report.is_ready()).await?;
    drop(second);
    stage.end(Some(first)).await
}

#[tokio::test]
async fn logout_makes_running_replicas_stand_by_so_that_nothing_comes_back() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let lease = format!("lease = \"{namespace}/freshcreds\"");
    stage.settings_of_ecr(&lease, &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    // From elsewhere, where no daemon answers.
    let text =
        stage.settings_text(&crate::machine::ecr_registry(&stage.cloud), &lease, &stage.selected());
    let mut elsewhere = stage.replica()?;
    elsewhere.settings(&text)?;
    let done = elsewhere.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(stage.secret(&namespace).await?.is_none());
    pause(Duration::from_secs(3)).await;
    assert!(stage.secret(&namespace).await?.is_none(), "it came back");
    let report = daemon.report().await?;
    assert_eq!(report.checks.elections[0].holder.as_deref(), Some("logout"));
    assert_eq!(report.status, Health::Fail, "there is no Secret any more");
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_lease_that_leaves_the_settings_is_heeded_until_a_restart() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let lease = format!("lease = \"{namespace}/freshcreds\"");
    stage.settings_of_ecr(&lease, &stage.selected())?;
    let first = stage.machine.daemon().await?;
    first.wait_for(|report| is_leading(report) && report.is_ready()).await?;
    let second = stage.replica()?.daemon().await?;
    second.wait_for(|report| is_standing_by(report) && report.is_ready()).await?;
    stage.settings_of_ecr("", &stage.selected())?;
    second.signal(Signal::HUP)?;
    stage.until(async || second.log().contains("going by the new settings")).await?;
    second.signal(Signal::USR1)?;
    pause(Duration::from_secs(2)).await;
    assert!(is_standing_by(&second.report().await?));
    assert_eq!(stage.cloud.ecr().calls(), 1, "whoever stands by asks no cloud");
    drop(second);
    stage.end(Some(first)).await
}

#[tokio::test]
async fn two_writers_of_one_secret_slow_down_and_say_so() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let first = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    // The same settings without a lease: nothing tells one from the other.
    let second = stage.replica()?.daemon().await?;
    second.wait_for(Report::is_ready).await?;
    second.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    let is_told = |report: &Report| {
        let error = report.checks.secrets[0].last_error.as_ref();
        error.is_some_and(|error| error.kind == "tug_of_war")
    };
    stage
        .until(async || {
            first.report().await.is_ok_and(|report| is_told(&report))
                || second.report().await.is_ok_and(|report| is_told(&report))
        })
        .await?;
    let version = async || -> Result<u64> {
        let secret = stage.secret(&namespace).await?.context("no Secret")?;
        Ok(secret.metadata.resource_version.context("no version")?.parse()?)
    };
    let before = version().await?;
    pause(Duration::from_secs(4)).await;
    let after = version().await?;
    ensure!(stage.is_real() || after - before < 20, "{} times", after - before);
    drop(second);
    stage.end(Some(first)).await
}
