//! Service accounts whose pods get the Secret without naming it.

use anyhow::Result;
use freshcreds::status::Verdict as Health;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use rustix::process::Signal;
use serde_json::json;

use crate::stage::Stage;

async fn account(
    stage: &Stage,
    namespace: &str,
    name: &str,
    labels: &[(&str, &str)],
) -> Result<()> {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.collect()),
        ..ObjectMeta::default()
    };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    stage.accounts(namespace).create(&PostParams::default(), &account).await?;
    Ok(())
}

#[tokio::test]
async fn the_names_of_others_stay_beside_ours() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    account(&stage, &namespace, "builder", &[]).await?;
    let accounts = stage.accounts(&namespace);
    let theirs = Patch::Merge(json!({ "imagePullSecrets": [{ "name": "theirs" }] }));
    accounts.patch("builder", &PatchParams::default(), &theirs).await?;
    stage.settings_of_ecr(
        "",
        &format!("{}\nservice_accounts = [\"default\", \"builder\"]", stage.selected()),
    )?;
    let daemon = stage.machine.daemon().await?;
    let name = stage.name();
    stage.pulls_with(&namespace, "builder", &["theirs", &name]).await?;
    stage.pulls_with(&namespace, "default", &[&name]).await?;

    // Others go on with theirs.
    let more = json!([{ "name": "theirs" }, { "name": name }, { "name": "more" }]);
    let patch = Patch::Merge(json!({ "imagePullSecrets": more }));
    accounts.patch("builder", &PatchParams::default(), &patch).await?;
    daemon.signal(Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    stage.served(&namespace).await?;
    stage.pulls_with(&namespace, "builder", &["theirs", &name, "more"]).await?;
    // Somebody who knows nothing of us puts their list in its place: ours comes back.
    accounts.patch("builder", &PatchParams::default(), &theirs).await?;
    stage.pulls_with(&namespace, "builder", &["theirs", &name]).await?;

    // An account that comes later.
    let born = stage.namespace("born").await?;
    stage.pulls_with(&born, "default", &[&name]).await?;
    account(&stage, &born, "builder", &[]).await?;
    stage.pulls_with(&born, "builder", &[&name]).await?;
    // With the namespace's label, ours goes.
    stage.label(&namespace, json!({ "freshcreds-test": "no" })).await?;
    stage.pulls_with(&namespace, "builder", &["theirs"]).await?;
    stage.pulls_with(&namespace, "default", &[]).await?;
    stage.gone(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn accounts_are_selected_by_labels() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    account(&stage, &namespace, "pulls", &[("pulls", "yes")]).await?;
    account(&stage, &namespace, "does-not", &[]).await?;
    stage.settings_of_ecr(
        "",
        &format!("{}\nservice_account_selector = \"pulls=yes\"", stage.selected()),
    )?;
    let daemon = stage.machine.daemon().await?;
    let name = stage.name();
    stage.pulls_with(&namespace, "pulls", &[&name]).await?;
    let label = |value| Patch::Merge(json!({ "metadata": { "labels": { "pulls": value } } }));
    let accounts = stage.accounts(&namespace);
    accounts.patch("does-not", &PatchParams::default(), &label(Some("yes"))).await?;
    stage.pulls_with(&namespace, "does-not", &[&name]).await?;
    accounts.patch("pulls", &PatchParams::default(), &label(None)).await?;
    stage.pulls_with(&namespace, "pulls", &[]).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_name_that_somebody_put_there_is_theirs() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    account(&stage, &namespace, "builder", &[]).await?;
    let name = stage.name();
    let patch = Patch::Merge(json!({ "imagePullSecrets": [{ "name": name }] }));
    stage.accounts(&namespace).patch("builder", &PatchParams::default(), &patch).await?;
    stage
        .settings_of_ecr("", &format!("{}\nservice_accounts = [\"builder\"]", stage.selected()))?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(stage.pulls(&namespace, "builder").await?, [name]);
    stage.end(None).await
}

#[tokio::test]
async fn accounts_that_leave_the_settings_lose_it_at_the_next_start() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let with = |accounts: &str| format!("{}\n{accounts}", stage.selected());
    let (with, without) = (with("service_accounts = [\"default\"]"), with(""));
    stage.settings_of_ecr("", &with)?;
    let mut daemon = stage.machine.daemon().await?;
    let name = stage.name();
    stage.pulls_with(&namespace, "default", &[&name]).await?;
    daemon.stop().await?;
    stage.settings_of_ecr("", &without)?;
    let daemon = stage.machine.daemon().await?;
    stage.pulls_with(&namespace, "default", &[]).await?;
    stage.served(&namespace).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn two_installations_serve_one_account_beside_each_other() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let secret = format!("{}\nservice_accounts = [\"default\"]", stage.selected());
    stage.settings_of_ecr("", &secret)?;
    let mut ours = stage.machine.daemon().await?;
    let name = stage.name();
    stage.pulls_with(&namespace, "default", &[&name]).await?;
    let other = format!("{name}-other");
    let text = stage.settings_text(&crate::machine::ecr_registry(&stage.cloud), "", &secret);
    let text = text.replace(&format!("name = \"{name}\""), &format!("name = \"{other}\""));
    let text = text.replace(
        &format!("owner = \"{}\"", stage.mark),
        &format!("owner = \"{}-other\"", stage.mark),
    );
    let mut elsewhere = stage.replica()?;
    elsewhere.settings(&text)?;
    let mut theirs = elsewhere.daemon().await?;
    stage.pulls_with(&namespace, "default", &[&name, &other]).await?;
    ours.stop().await?;
    theirs.stop().await?;
    // A start sweeps what is its own, and nothing else.
    let mut theirs = elsewhere.daemon().await?;
    theirs.wait_for(|report| report.status == Health::Pass).await?;
    crate::machine::pause(std::time::Duration::from_millis(500)).await;
    stage.pulls_with(&namespace, "default", &[&name, &other]).await?;
    theirs.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    stage.pulls_with(&namespace, "default", &[&other]).await?;
    let done = elsewhere.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    stage.pulls_with(&namespace, "default", &[]).await?;
    let account = stage.accounts(&namespace).get("default").await?.metadata;
    assert!(account.annotations.unwrap_or_default().is_empty());
    stage.end(None).await
}
