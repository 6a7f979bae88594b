//! What can go wrong with an API server, which the stand-in does when it is told to.
//! `make test-cluster` leaves these out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::{Report, Verdict as Health};
use rustix::process::Signal;

use crate::machine::{now, pause};
use crate::stage::Stage;
use crate::stand_in::Kind;

const FULL: &str = "Too many requests, please try again later.\n";

#[tokio::test]
async fn a_full_api_server_is_left_alone_for_as_long_as_it_says() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespaces: Vec<_> = {
        let mut all = Vec::new();
        for index in 0..20 {
            all.push(stage.namespace(&format!("n{index}")).await?);
        }
        all
    };
    stage.settings_of_ecr("", &stage.selected())?;
    let stand_in = stage.stand_in()?;
    let is_write =
        |method: &str, path: &str, _: &str| method == "PATCH" && path.contains("/secrets/");
    stand_in.answer_next(
        1,
        is_write,
        429,
        &[("Retry-After", "3"), ("Content-Type", "text/plain; charset=utf-8")],
        FULL,
    );
    let daemon = stage.machine.daemon().await?;
    stage.until(async || stand_in.calls().iter().any(|call| call.status == 429)).await?;
    pause(Duration::from_millis(300)).await;
    // What was under way has been answered; nothing new comes.
    stand_in.reset_calls();
    pause(Duration::from_secs(2)).await;
    let calls = stand_in.calls();
    ensure!(calls.is_empty(), "{calls:?}");
    for namespace in &namespaces {
        stage.served(namespace).await?;
    }
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let metrics = daemon.get("/metrics").await?;
    ensure!(
        metrics.contains("freshcreds_kubernetes_request_total{method=\"PATCH\",outcome=\"429\"} 1"),
        "{metrics}"
    );
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_history_that_is_gone_costs_a_list_and_loses_nothing() -> Result<()> {
    let mut stage = Stage::new().await?;
    let [one, two] = [stage.namespace("one").await?, stage.namespace("two").await?];
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&one).await?;
    stage.served(&two).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let stand_in = stage.stand_in()?;
    for _ in 0..3 {
        // The API server is away for a moment, and does not know afterwards what has happened.
        stand_in.down();
        stand_in.delete(Kind::Secret, &one, &stage.name());
        let later = format!("freshcreds-test-{}-later-{}", stage.mark, fastrand::u32(..));
        stand_in.create_namespace(&later, &[("freshcreds-test", &stage.mark)])?;
        stand_in.compact();
        stand_in.up()?;
        stage.served(&one).await?;
        stage.served(&later).await?;
        daemon.wait_for(|report| report.status == Health::Pass).await?;
    }
    assert_eq!(stage.cloud.ecr().issued().len(), 1);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn while_the_api_server_is_away_nobody_says_that_all_is_well() -> Result<()> {
    let mut stage = Stage::new().await?;
    let one = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&one).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let stand_in = stage.stand_in()?;
    stand_in.down();
    let report = daemon.wait_for(|report| report.status != Health::Pass).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "cluster_unreachable");
    // After half a minute nobody knows what is there.
    let report = daemon.wait_for(|report| report.status == Health::Fail).await?;
    let kind = report.checks.credentials[0].not_ready.as_ref().map(|one| one.kind.clone());
    assert_eq!(kind.as_deref(), Some("unseen"));
    ensure!(
        daemon.get("/livez").await?.starts_with("HTTP/1.1 200"),
        "no cluster makes it not live"
    );
    stand_in.up()?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_token_that_comes_while_the_api_server_is_away_is_written_when_it_is_back() -> Result<()>
{
    let mut stage = Stage::new().await?;
    let one = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&one).await?;
    let stand_in = stage.stand_in()?;
    stand_in.down();
    daemon.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    pause(Duration::from_secs(1)).await;
    stand_in.up()?;
    stage.served(&one).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn errors_of_one_call_are_tried_again_and_those_of_one_namespace_hold_up_no_other()
-> Result<()> {
    let mut stage = Stage::new().await?;
    let [bad, good] = [stage.namespace("bad").await?, stage.namespace("good").await?];
    stage.settings_of_ecr("", &stage.selected())?;
    let stand_in = stage.stand_in()?;
    let denied = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"admission webhook \"policy.example.com\" denied the request: no","reason":"Forbidden","code":403}"#;
    let at_bad = format!("/namespaces/{bad}/secrets/");
    let is_bad =
        move |method: &str, path: &str, _: &str| method == "PATCH" && path.contains(&at_bad);
    stand_in.answer_next(2, is_bad, 403, &[("Content-Type", "application/json")], denied);
    let is_good =
        |method: &str, path: &str, _: &str| method == "PATCH" && path.contains("-good/secrets/");
    stand_in.answer_next(1, is_good, 500, &[("Content-Type", "application/json")], "{}");
    let daemon = stage.machine.daemon().await?;
    stage.served(&good).await?;
    let names_it = |report: &Report| {
        let error = report.checks.secrets[0].last_error.as_ref();
        error.is_some_and(|error| {
            error.message.contains(&bad) && error.message.contains("policy.example.com")
        })
    };
    let report = daemon.wait_for(names_it).await?;
    assert_eq!(report.status, Health::Fail);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn somebody_who_changes_a_service_account_at_the_same_moment_loses_nothing() -> Result<()> {
    let mut stage = Stage::new().await?;
    let one = stage.namespace("one").await?;
    stage
        .settings_of_ecr("", &format!("{}\nservice_accounts = [\"default\"]", stage.selected()))?;
    let daemon = stage.machine.daemon().await?;
    stage.pulls_with(&one, "default", &[&stage.name()]).await?;
    let stand_in = stage.stand_in()?;
    let started = now();
    for round in 0..40 {
        let theirs = format!("theirs-{round}");
        stand_in.edit(Kind::ServiceAccount, &one, "default", |account| {
            // As somebody who read it before we wrote: our name is not in it.
            account["imagePullSecrets"] = serde_json::json!([{ "name": theirs }]);
        })?;
        if round < 10 {
            stage.pulls_with(&one, "default", &[&theirs, &stage.name()]).await?;
        }
    }
    // It is a tug of war by now, and is not raced with.
    ensure!(now().duration_since(started)? < Duration::from_secs(30));
    stage
        .until(async || {
            stage.pulls(&one, "default").await.is_ok_and(|pulls| {
                pulls.contains(&"theirs-39".to_owned()) && pulls.contains(&stage.name())
            })
        })
        .await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn namespaces_that_come_and_go_all_the_time_leave_nothing_behind() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage
        .settings_of_ecr("", &format!("{}\nservice_accounts = [\"default\"]", stage.selected()))?;
    let stays = stage.namespace("stays").await?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&stays).await?;
    let stand_in = stage.stand_in()?;
    stand_in.terminating_for(Duration::from_millis(50));
    for round in 0..60 {
        let name = format!("freshcreds-test-{}-r{round}", stage.mark);
        stand_in.create_namespace(&name, &[("freshcreds-test", &stage.mark)])?;
        if round % 3 == 0 {
            pause(Duration::from_millis(15)).await;
        }
        if round % 5 == 0 {
            stand_in.cut();
        }
        stand_in.delete(Kind::Namespace, "", &name);
    }
    let report = daemon
        .wait_for(|report| {
            let counts = report.checks.secrets[0].namespaces;
            report.status == Health::Pass && counts.is_some_and(|counts| counts.wanted == 1)
        })
        .await?;
    assert_eq!(report.checks.secrets[0].namespaces.map(|counts| counts.fresh), Some(1));
    assert_eq!(stand_in.list(Kind::Secret).len(), 1);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn five_hundred_namespaces_are_served_with_few_calls_at_once_and_then_left_alone()
-> Result<()> {
    let mut stage = Stage::new().await?;
    let stand_in = stage.stand_in()?;
    for index in 0..500 {
        let name = format!("freshcreds-test-{}-{index}", stage.mark);
        stand_in.create_namespace(&name, &[("freshcreds-test", &stage.mark)])?;
    }
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    let is_done = |report: &Report| {
        let counts = report.checks.secrets[0].namespaces;
        report.status == Health::Pass && counts.is_some_and(|counts| counts.fresh == 500)
    };
    daemon.wait_for(is_done).await?;
    let stand_in = stage.stand_in()?;
    assert_eq!(stand_in.count("PATCH", Kind::Secret), 500);
    // The lists and watches, and eight calls.
    ensure!(stand_in.most_in_flight() <= 12, "{}", stand_in.most_in_flight());
    stand_in.reset_calls();
    pause(Duration::from_secs(2)).await;
    let calls = stand_in.calls();
    ensure!(calls.is_empty(), "{calls:?}");
    stage.end(Some(daemon)).await
}
