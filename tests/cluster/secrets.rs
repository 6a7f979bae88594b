//! Secrets: where they are made, what is in them, and what becomes of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use freshcreds::status::{Report, Verdict as Health};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use rustix::process::Signal;
use serde_json::json;

use crate::cloud::{Fault, Options};
use crate::machine::{ecr_registry, now, registries};
use crate::stage::Stage;

#[tokio::test]
async fn every_selected_namespace_has_the_secret_and_a_new_one_has_it_within_a_second() -> Result<()>
{
    let mut stage = Stage::new().await?;
    let first = stage.namespace("first").await?;
    let other = stage.labelled("other", &[("freshcreds-test", "no")]).await?;
    stage.settings(&stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&first).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;

    let started = now();
    let born = stage.namespace("born").await?;
    stage.served(&born).await?;
    let took = now().duration_since(started)?;
    ensure!(took < Duration::from_secs(1), "it took {took:?}");

    let auths = stage.auths(&first).await?;
    assert_eq!(auths.keys().map(String::as_str).collect::<Vec<_>>(), {
        let mut hosts = vec![stage.ecr(), stage.google()];
        hosts.sort_unstable();
        hosts
    });
    assert!(stage.secret(&other).await?.is_none());
    let report = daemon.wait_for(|report| report.status == Health::Pass).await?;
    let counts = report.checks.secrets[0].namespaces.context("no namespaces")?;
    assert_eq!((counts.wanted, counts.fresh, counts.failing), (2, 2, 0));
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn named_namespaces_have_it_and_one_that_comes_later() -> Result<()> {
    let mut stage = Stage::new().await?;
    let first = stage.namespace("first").await?;
    let other = stage.namespace("other").await?;
    let later = stage.planned("later");
    stage.settings(&format!("namespaces = [\"{first}\", \"{later}\"]"))?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&first).await?;
    let report = daemon.wait_for(|report| report.checks.secrets[0].last_error.is_some()).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "no_namespace");
    ensure!(error.message.contains(&later), "{}", error.message);
    assert_eq!(report.status, Health::Fail, "a named namespace is a promise");

    stage.namespace("later").await?;
    stage.served(&later).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert!(stage.secret(&other).await?.is_none());
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn all_namespaces_have_it_but_the_excluded_ones() -> Result<()> {
    let mut stage = Stage::new().await?;
    let first = stage.labelled("first", &[]).await?;
    let excluded = stage.labelled("excluded", &[]).await?;
    let mut names = stage.other_namespaces().await?;
    names.push(excluded.clone());
    stage.settings(&format!("all_namespaces = true\nexcluded_namespaces = {names:?}"))?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&first).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert!(stage.secret(&excluded).await?.is_none());
    for name in names {
        assert!(stage.secret(&name).await?.is_none(), "{name}");
    }
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn annotations_say_how_fresh_it_is_and_never_the_token() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings(&stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let secret = stage.secret(&namespace).await?.context("no Secret")?;
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let time = |key: &str| humantime::parse_rfc3339(&annotations[key]);
    ensure!(time("freshcreds/expires")? > now() + Duration::from_mins(50), "{annotations:?}");
    ensure!(time("freshcreds/refreshed")? <= now() + Duration::from_secs(1), "{annotations:?}");
    ensure!(annotations["freshcreds/registries"].contains(stage.ecr()));
    stage.is_tight(&serde_json::to_string(&secret.metadata)?)?;
    let labels = secret.metadata.labels.unwrap_or_default();
    assert_eq!(labels["freshcreds/owner"], stage.mark);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn each_new_token_is_in_every_namespace_before_the_old_one_has_expired() -> Result<()> {
    let options = Options { ecr_life: Duration::from_secs(6), ..Options::default() };
    let mut stage = Stage::in_cloud(options).await?;
    let namespaces = [stage.namespace("a").await?, stage.namespace("b").await?];
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    for namespace in &namespaces {
        stage.served(namespace).await?;
    }
    let end = now() + Duration::from_secs(15);
    while now() < end {
        for namespace in &namespaces {
            let auths = stage.auths(namespace).await?;
            let found = auths.get(stage.ecr()).context("no entry")?;
            let issued = stage.cloud.ecr().issued();
            let token = issued.iter().find(|one| one.auth() == *found).context("not a token")?;
            ensure!(!token.is_over(), "an expired token");
        }
        crate::machine::pause(Duration::from_millis(20)).await;
    }
    ensure!(stage.cloud.ecr().issued().len() >= 4);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn what_others_add_to_it_stays() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    let patch = Patch::Merge(json!({
        "metadata": { "labels": { "team": "red" }, "annotations": { "note": "theirs" } },
        "data": { "other": "dGhlaXJz" },
    }));
    stage.secrets(&namespace).patch(&stage.name(), &PatchParams::default(), &patch).await?;
    daemon.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    stage.served(&namespace).await?;
    let secret = stage.secret(&namespace).await?.context("no Secret")?;
    assert_eq!(secret.metadata.labels.unwrap_or_default()["team"], "red");
    assert_eq!(secret.metadata.annotations.unwrap_or_default()["note"], "theirs");
    assert_eq!(secret.data.unwrap_or_default()["other"].0, b"theirs");
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn what_somebody_changes_or_deletes_is_put_back() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    let secrets = stage.secrets(&namespace);
    let patch = Patch::Merge(json!({ "data": { ".dockerconfigjson": "e30=" } }));
    secrets.patch(&stage.name(), &PatchParams::default(), &patch).await?;
    stage.served(&namespace).await?;
    let before = stage.secret(&namespace).await?.context("no Secret")?.metadata.uid;
    secrets.delete(&stage.name(), &DeleteParams::default()).await?;
    stage
        .until(async || {
            let secret = stage.secret(&namespace).await;
            secret.is_ok_and(|secret| secret.is_some_and(|secret| secret.metadata.uid != before))
        })
        .await?;
    stage.served(&namespace).await?;
    let patch =
        Patch::Merge(json!({ "metadata": { "annotations": { "freshcreds/registries": "{}" } } }));
    secrets.patch(&stage.name(), &PatchParams::default(), &patch).await?;
    stage
        .until(async || {
            let secret = stage.secret(&namespace).await.ok().flatten();
            let annotations = secret.and_then(|secret| secret.metadata.annotations);
            annotations.is_some_and(|all| all["freshcreds/registries"].contains(stage.ecr()))
        })
        .await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1, "no cloud was asked for that");
    stage.end(Some(daemon)).await
}

fn foreign(stage: &Stage, kind: &str) -> Secret {
    let document = ByteString(b"{\"auths\":{}}".to_vec());
    Secret {
        metadata: ObjectMeta { name: Some(stage.name()), ..ObjectMeta::default() },
        type_: Some(kind.to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), document)].into()),
        ..Secret::default()
    }
}

#[tokio::test]
async fn a_secret_of_somebody_elses_is_left_alone_and_reported() -> Result<()> {
    let mut stage = Stage::new().await?;
    for kind in ["kubernetes.io/dockerconfigjson", "Opaque"] {
        let ours = stage.namespace(&format!("ours-{}", kind.len())).await?;
        let theirs = stage.namespace(&format!("theirs-{}", kind.len())).await?;
        let secrets = stage.secrets(&theirs);
        let made = secrets.create(&PostParams::default(), &foreign(&stage, kind)).await?;
        // Where it is to be is selected: whoever has the namespace says what is in it.
        stage.settings_of_ecr("", &stage.selected())?;
        let mut daemon = stage.machine.daemon().await?;
        stage.served(&ours).await?;
        let report = daemon
            .wait_for(|report| report.is_ready() && !report.checks.secrets[0].in_the_way.is_empty())
            .await?;
        let found = &report.checks.secrets[0].in_the_way[0];
        assert_eq!((found.kind.as_str(), report.status), ("foreign_secret", Health::Warn));
        ensure!(found.message.contains(&theirs), "{}", found.message);
        daemon.stop().await?;
        // Where it is named, it was promised.
        stage.settings_of_ecr("", &format!("namespaces = [\"{ours}\", \"{theirs}\"]"))?;
        let daemon = stage.machine.daemon().await?;
        daemon
            .wait_for(|report| {
                report.status == Health::Fail && !report.checks.secrets[0].in_the_way.is_empty()
            })
            .await?;
        assert_eq!(secrets.get(&stage.name()).await?, made);
        // As soon as it is gone, ours is there.
        secrets.delete(&stage.name(), &DeleteParams::default()).await?;
        stage.served(&theirs).await?;
        daemon.wait_for(|report| report.status == Health::Pass).await?;
        stage.label(&ours, json!({ "freshcreds-test": null })).await?;
        stage.label(&theirs, json!({ "freshcreds-test": null })).await?;
        drop(daemon);
    }
    stage.end(None).await
}

#[tokio::test]
async fn an_immutable_one_is_reported_and_never_replaced_by_force() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    let secrets = stage.secrets(&namespace);
    let patch = Patch::Merge(json!({ "immutable": true }));
    secrets.patch(&stage.name(), &PatchParams::default(), &patch).await?;
    let before = stage.secret(&namespace).await?.context("no Secret")?.metadata.uid;
    daemon.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    let report = daemon.wait_for(|report| report.checks.secrets[0].last_error.is_some()).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "immutable_secret");
    assert!(report.is_ready(), "the token in it is still good");
    let counts = report.checks.secrets[0].namespaces.context("no namespaces")?;
    assert_eq!((counts.fresh, counts.older), (0, 1));
    assert_eq!(stage.secret(&namespace).await?.context("no Secret")?.metadata.uid, before);
    secrets.delete(&stage.name(), &DeleteParams::default()).await?;
    stage.served(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn what_leaves_the_settings_or_the_selection_is_removed() -> Result<()> {
    let mut stage = Stage::new().await?;
    let [stays, leaves] = [stage.namespace("stays").await?, stage.namespace("leaves").await?];
    stage.settings(&stage.selected())?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&stays).await?;
    stage.served(&leaves).await?;
    // A namespace, by its label.
    stage.label(&leaves, json!({ "freshcreds-test": "no" })).await?;
    stage.gone(&leaves).await?;
    stage.label(&leaves, json!({ "freshcreds-test": stage.mark })).await?;
    stage.served(&leaves).await?;
    // A namespace, by the settings, at a restart.
    daemon.stop().await?;
    stage.settings(&format!("namespaces = [\"{stays}\"]"))?;
    let mut daemon = stage.machine.daemon().await?;
    stage.gone(&leaves).await?;
    // A registry, at a reload.
    let text = stage.settings_text(&ecr_registry(&stage.cloud), "", &stage.selected());
    stage.machine.settings(&text)?;
    daemon.signal(Signal::HUP)?;
    stage
        .until(async || {
            stage
                .auths(&stays)
                .await
                .is_ok_and(|auths| auths.len() == 1 && auths.contains_key(stage.ecr()))
        })
        .await?;
    stage.served(&leaves).await?;
    // The Secret, at a restart: it has another name now.
    daemon.stop().await?;
    let renamed = text.replace(&stage.name(), &format!("{}-new", stage.name()));
    stage.machine.settings(&renamed)?;
    let mut daemon = stage.machine.daemon().await?;
    stage.gone(&stays).await?;
    stage.gone(&leaves).await?;
    // And at a reload, back again.
    stage.machine.settings(&text)?;
    daemon.signal(Signal::HUP)?;
    stage.served(&stays).await?;
    let new = format!("{}-new", stage.name());
    stage.until(async || matches!(stage.secrets(&stays).get_opt(&new).await, Ok(None))).await?;
    let issued = stage.cloud.ecr().issued().len();
    assert_eq!(issued, 2, "the cloud was asked where there was no Secret of that name");
    daemon.stop().await?;
    stage.end(None).await
}

#[tokio::test]
async fn a_failed_fetch_takes_nothing_out_of_it() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings(&stage.selected())?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let before = stage.auths(&namespace).await?;
    assert_eq!(before.len(), 2);
    daemon.stop().await?;
    // A clean start without any cloud.
    stage.cloud.ecr().break_with(Fault::ServerError);
    stage.cloud.google().break_with(Fault::Denied);
    let daemon = stage.machine.daemon().await?;
    daemon.wait_for(Report::is_ready).await?;
    let born = stage.namespace("born").await?;
    stage.until(async || stage.auths(&born).await.is_ok_and(|auths| auths == before)).await?;
    daemon.signal(Signal::USR1)?;
    daemon
        .wait_for(|report| report.checks.credentials.iter().all(|one| one.last_error.is_some()))
        .await?;
    assert_eq!(stage.auths(&namespace).await?, before);
    // One cloud is back: the other's entry stays as it is.
    stage.cloud.ecr().mend();
    daemon.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    stage.served(&namespace).await?;
    let after = stage.auths(&namespace).await?;
    assert_eq!(after.get(stage.google()), before.get(stage.google()));
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_restart_asks_no_cloud_and_writes_nothing() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings(&stage.selected())?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    let before = stage.secret(&namespace).await?.context("no Secret")?.metadata.resource_version;
    daemon.stop().await?;
    let daemon = stage.machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    crate::machine::pause(Duration::from_millis(500)).await;
    let after = stage.secret(&namespace).await?.context("no Secret")?.metadata.resource_version;
    assert_eq!(before, after);
    assert_eq!((stage.cloud.ecr().issued().len(), stage.cloud.google().issued().len()), (1, 1));
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_part_of_the_registries_is_in_it_if_the_settings_say_so() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let part = format!("registries = [\"{}\"]\n{}", stage.ecr(), stage.selected());
    stage.settings(&part)?;
    // The other registry is nobody's, which is not this Secret's lack.
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    assert_eq!(stage.auths(&namespace).await?.len(), 1);
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn once_makes_them_all_and_says_whether_it_could() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let done = stage.machine.freshcreds(&["once"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    stage.served(&namespace).await?;
    let theirs = stage.namespace("theirs").await?;
    stage.settings_of_ecr("", &format!("namespaces = [\"{namespace}\", \"{theirs}-not\"]"))?;
    let done = stage.machine.freshcreds(&["once"]).await?;
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    ensure!(done.stderr.contains(&format!("{theirs}-not")), "{}", done.stderr);
    stage.is_tight(&done.stderr)?;
    stage.end(None).await
}

#[tokio::test]
async fn logout_removes_what_is_ours_and_nothing_else() -> Result<()> {
    let mut stage = Stage::new().await?;
    let [ours, theirs] = [stage.namespace("ours").await?, stage.namespace("theirs").await?];
    let secrets = stage.secrets(&theirs);
    let made = foreign(&stage, "Opaque");
    let made = secrets.create(&PostParams::default(), &made).await?;
    stage.settings(&format!("{}\nservice_accounts = [\"default\"]", stage.selected()))?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&ours).await?;
    stage.pulls_with(&ours, "default", &[&stage.name()]).await?;
    daemon.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    ensure!(done.stderr.contains("1 Secret of ours is removed"), "{}", done.stderr);
    assert!(stage.secret(&ours).await?.is_none());
    assert!(stage.pulls(&ours, "default").await?.is_empty());
    let account = stage.accounts(&ours).get("default").await?.metadata;
    assert!(account.annotations.unwrap_or_default().is_empty());
    assert_eq!(secrets.get(&stage.name()).await?, made);
    stage.end(None).await
}

#[tokio::test]
async fn two_installations_in_one_cluster_keep_off_each_others_secrets() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    let mut other = stage.replica()?;
    let text = stage.settings_text(&registries(&stage.cloud), "", &stage.selected());
    other.settings(&text.replace(
        &format!("owner = \"{}\"", stage.mark),
        &format!("owner = \"{}-other\"", stage.mark),
    ))?;
    let their = other.daemon().await?;
    their
        .wait_for(|report| report.checks.secrets.iter().any(|one| !one.in_the_way.is_empty()))
        .await?;
    assert_eq!(stage.auths(&namespace).await?.len(), 1);
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    drop(their);
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn whoever_writes_in_one_namespace_decides_nothing_for_the_others() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespaces =
        [stage.namespace("a").await?, stage.namespace("b").await?, stage.namespace("c").await?];
    stage.settings_of_ecr("", &stage.selected())?;
    let mut daemon = stage.machine.daemon().await?;
    for namespace in &namespaces {
        stage.served(namespace).await?;
    }
    daemon.stop().await?;
    // As our own field manager, with our label, and an annotation that promises a long life.
    let before = stage.secret(&namespaces[0]).await?.context("no Secret")?.metadata;
    let mut said: serde_json::Value =
        serde_json::from_str(&before.annotations.unwrap_or_default()["freshcreds/registries"])?;
    let host = stage.ecr().to_owned();
    said[&host]["issued"] = "2026-01-01T00:00:00.000Z".into();
    said[&host]["expires"] = "2099-01-01T00:00:00.000Z".into();
    let document = json!({ "auths": { &host: { "auth": "QVdTOmV2aWw=" } } }).to_string();
    let evil = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {
            "name": stage.name(),
            "labels": { "freshcreds/owner": stage.mark },
            "annotations": { "freshcreds/registries": said.to_string() },
        },
        "data": { ".dockerconfigjson": ByteString(document.into_bytes()) },
    });
    let force = PatchParams::apply("freshcreds").force();
    stage.secrets(&namespaces[1]).patch(&stage.name(), &force, &Patch::Apply(&evil)).await?;
    let daemon = stage.machine.daemon().await?;
    for namespace in &namespaces {
        stage.served(namespace).await?;
    }
    let born = stage.namespace("born").await?;
    stage.served(&born).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1, "the others agree on what is good");
    // With the annotation of the others, and another token below it: nobody is believed then.
    let mut daemon = daemon;
    daemon.stop().await?;
    let honest = stage.secret(&namespaces[0]).await?.context("no Secret")?.metadata;
    let mut evil = evil;
    evil["metadata"]["annotations"] = json!(honest.annotations);
    stage.secrets(&namespaces[0]).patch(&stage.name(), &force, &Patch::Apply(&evil)).await?;
    let daemon = stage.machine.daemon().await?;
    stage.cloud.ecr().wait_for_issued(2).await;
    for namespace in &namespaces {
        stage.served(namespace).await?;
    }
    stage.end(Some(daemon)).await
}
