//! What the chart renders, tried: the program goes by these settings, with the rights of these roles and no others.
//! That the roles grant no more than they should is in `tests/chart.rs`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::machine::put;
use crate::repository::{documents, outcome, root, tool};
use crate::rights::Rule;
use crate::stage::Stage;

impl Stage {
    /// Renders the chart for a release in this namespace, and takes over its settings and its rights.
    async fn install(&mut self, home: &str, secret: Value) -> Result<Vec<Granted>> {
        let values = json!({
            "mode": "secrets",
            "settings": {
                "fetch_timeout": "1s",
                "registry": [{ "host": self.ecr(), "kind": "ecr", "region": "eu-west-1" }],
                "image_pull_secret": [secret],
                "kubernetes": {
                    "kubeconfig": self.machine.home().join("kubeconfig"),
                    "owner": self.mark,
                },
            },
        });
        let file = self.machine.home().join("values.yaml");
        put(&file, &values.to_string())?;
        let mut helm = Command::new(tool("bin/helm")?);
        helm.current_dir(root()).env("KUBECONFIG", "/dev/null").env("HELM_PLUGINS", "/nowhere");
        helm.args(["template", "demo", "charts/freshcreds", "--namespace", home, "--values"]);
        let (is_content, said) = outcome(helm.arg(&file))?;
        ensure!(is_content, "{said}");
        let objects = documents(&said)?;

        let config = objects.iter().find_map(|it| it["data"]["config.toml"].as_str());
        let path = self.machine.home().join("settings.toml");
        put(&path, config.context("no settings")?)?;
        self.machine.set("FRESHCREDS_CONFIG", path);
        // Where the chart has it listen, only one could.
        self.machine.set("FRESHCREDS_LISTEN", "127.0.0.1:0");
        let rules = rules(&objects);
        let borrowed: Vec<_> = rules.iter().map(Granted::borrowed).collect();
        self.allow(home, &borrowed).await?;
        Ok(rules)
    }

    /// From nothing to fresh Secrets, and back to nothing.
    async fn lives(self, namespaces: &[String], rules: &[Granted]) -> Result<()> {
        let name = self.name();
        let mut daemon = self.machine.daemon().await?;
        for namespace in namespaces {
            self.served(namespace).await?;
            self.pulls_with(namespace, "default", &[&name]).await?;
        }
        daemon.wait_for(|report| report.status == Health::Pass).await?;
        daemon.stop().await?;
        let done = self.machine.freshcreds(&["logout"]).await?;
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        for namespace in namespaces {
            self.gone(namespace).await?;
            assert!(self.pulls(namespace, "default").await?.is_empty());
        }
        self.unbind(&rules.iter().map(Granted::borrowed).collect::<Vec<_>>()).await?;
        self.end(None).await
    }
}

/// A rule of a role: verbs, resource, and where and for which names, if not for all.
struct Granted {
    verbs: String,
    resource: String,
    namespace: Option<String>,
    names: Option<String>,
}

impl Granted {
    fn borrowed(&self) -> Rule<'_> {
        (&self.verbs, &self.resource, self.namespace.as_deref(), self.names.as_deref())
    }
}

fn rules(objects: &[Value]) -> Vec<Granted> {
    let mut rules = Vec::new();
    for role in objects.iter().filter(|it| it["kind"] == "Role" || it["kind"] == "ClusterRole") {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| {
                let words = rule[key].as_array()?.iter().filter_map(Value::as_str);
                Some(words.collect::<Vec<_>>().join(" "))
            };
            rules.push(Granted {
                verbs: words("verbs").unwrap_or_default(),
                resource: words("resources").unwrap_or_default(),
                namespace: role["metadata"]["namespace"].as_str().map(str::to_owned),
                names: words("resourceNames"),
            });
        }
    }
    rules
}

#[tokio::test]
async fn the_charts_roles_are_enough_for_namespaces_that_are_named() -> Result<()> {
    let mut stage = Stage::new().await?;
    let home = stage.labelled("home", &[]).await?;
    let namespaces = [stage.namespace("one").await?, stage.namespace("two").await?];
    let (name, accounts) = (stage.name(), ["default"]);
    let secret = json!({ "name": name, "namespaces": namespaces, "service_accounts": accounts });
    let rules = stage.install(&home, secret).await?;
    stage.lives(&namespaces, &rules).await
}

#[tokio::test]
async fn the_charts_roles_are_enough_for_namespaces_that_are_selected() -> Result<()> {
    let mut stage = Stage::new().await?;
    let home = stage.labelled("home", &[]).await?;
    let namespaces = [stage.namespace("one").await?, stage.namespace("two").await?];
    let secret = json!({
        "name": stage.name(),
        "namespace_selector": stage.selector(),
        "service_accounts": ["default"],
    });
    let rules = stage.install(&home, secret).await?;
    stage.lives(&namespaces, &rules).await
}

#[tokio::test]
async fn the_charts_roles_are_enough_for_accounts_that_are_selected() -> Result<()> {
    let mut stage = Stage::new().await?;
    let home = stage.labelled("home", &[]).await?;
    let namespace = stage.namespace("one").await?;
    stage.until(async || stage.accounts(&namespace).get("default").await.is_ok()).await?;
    let labels = json!({ "metadata": { "labels": { "pulls": "yes" } } });
    let patch = Patch::Merge(labels);
    stage.accounts(&namespace).patch("default", &PatchParams::default(), &patch).await?;
    let secret = json!({
        "name": stage.name(),
        "namespaces": [namespace],
        "service_account_selector": "pulls=yes",
    });
    let rules = stage.install(&home, secret).await?;
    stage.lives(&[namespace], &rules).await
}
