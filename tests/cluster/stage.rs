//! A cluster for each test: the stand-in, or a part of a real one (`make test-cluster`), where the
//! test makes namespaces of its own, and names that nobody else has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::cloud::{Cloud, Options};
use crate::machine::{Daemon, Machine, ecr_registry, now, pause, put, registries};
use crate::stand_in::StandIn;

/// What a test has.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) cloud: Cloud,
    /// Absent where the cluster is a real one.
    stand_in: Option<StandIn>,
    pub(crate) client: Client,
    /// In every name of this test's.
    pub(crate) mark: String,
    kubeconfig: PathBuf,
    /// Whether somebody makes the service account `default` of each namespace; beside an API server
    /// by itself, nobody does.
    has_controllers: bool,
    made: Mutex<Vec<String>>,
}

impl Stage {
    pub(crate) async fn new() -> Result<Self> {
        Self::in_cloud(Options::default()).await
    }

    pub(crate) async fn in_cloud(options: Options) -> Result<Self> {
        let (machine, cloud) = Machine::in_cloud(options).await?;
        let kubeconfig = machine.home().join("kubeconfig");
        let stand_in = if let Some(path) = std::env::var_os(REAL) {
            // Its paths are whole ones then, wherever the copy stands.
            let file = Kubeconfig::read_from(&path)?;
            put(&kubeconfig, &serde_json::to_string(&file)?)?;
            None
        } else {
            let stand_in = StandIn::start()?;
            put(&kubeconfig, &stand_in.kubeconfig(None))?;
            Some(stand_in)
        };
        let client = client(&kubeconfig).await?;
        let mark = format!("{:08x}", fastrand::u32(..));
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
        let has_controllers = stand_in.is_some() || accounts.get_opt("default").await?.is_some();
        let made = Mutex::default();
        Ok(Self { machine, cloud, stand_in, client, mark, kubeconfig, has_controllers, made })
    }

    /// With faults, which only the stand-in has.
    pub(crate) fn stand_in(&self) -> Result<&StandIn> {
        self.stand_in.as_ref().context("this test is for the stand-in")
    }

    pub(crate) fn is_real(&self) -> bool {
        self.stand_in.is_none()
    }

    /// The Secret's name.
    pub(crate) fn name(&self) -> String {
        format!("freshcreds-{}", self.mark)
    }

    pub(crate) fn ecr(&self) -> &str {
        self.cloud.ecr_registry().host()
    }

    pub(crate) fn google(&self) -> &str {
        self.cloud.google_registry().host()
    }

    /// How the namespaces of this test are found.
    pub(crate) fn selector(&self) -> String {
        format!("freshcreds-test={}", self.mark)
    }

    /// Settings with both registries, and one Secret of which more is said.
    pub(crate) fn settings(&mut self, secret: &str) -> Result<()> {
        let text = self.settings_text(&registries(&self.cloud), "", secret);
        self.machine.settings(&text)
    }

    /// The same with ECR alone, and with more to say about the cluster.
    pub(crate) fn settings_of_ecr(&mut self, cluster: &str, secret: &str) -> Result<()> {
        let text = self.settings_text(&ecr_registry(&self.cloud), cluster, secret);
        self.machine.settings(&text)
    }

    pub(crate) fn settings_text(&self, registries: &str, cluster: &str, secret: &str) -> String {
        format!(
            "{registries}[kubernetes]\nkubeconfig = \"{}\"\nowner = \"{}\"\n{cluster}\n\
             [[image_pull_secret]]\nname = \"{}\"\n{secret}\n",
            self.kubeconfig.display(),
            self.mark,
            self.name(),
        )
    }

    /// In the namespaces of this test.
    pub(crate) fn selected(&self) -> String {
        format!("namespace_selector = \"{}\"", self.selector())
    }

    /// Another machine with the same settings and identities.
    pub(crate) fn replica(&self) -> Result<Machine> {
        let mut replica = Machine::new()?;
        for (name, value) in self.machine.environment() {
            if name != "HOME" {
                replica.set(&name.to_string_lossy(), value.clone());
            }
        }
        Ok(replica)
    }

    /// A namespace of this test's, which the settings select.
    pub(crate) async fn namespace(&self, name: &str) -> Result<String> {
        self.labelled(name, &[("freshcreds-test", &self.mark)]).await
    }

    /// One with these labels.
    pub(crate) async fn labelled(&self, name: &str, labels: &[(&str, &str)]) -> Result<String> {
        let name = self.planned(name);
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels.collect()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        if !self.has_controllers {
            let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            self.accounts(&name).create(&PostParams::default(), &account).await?;
        }
        Ok(name)
    }

    /// The name of a namespace that may not be there yet.
    pub(crate) fn planned(&self, name: &str) -> String {
        let name = format!("freshcreds-test-{}-{name}", self.mark);
        if let Ok(mut made) = self.made.lock() {
            made.push(name.clone());
        }
        name
    }

    pub(crate) async fn label(&self, namespace: &str, labels: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces.patch(namespace, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub(crate) fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn accounts(&self, namespace: &str) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn secret(&self, namespace: &str) -> Result<Option<Secret>> {
        Ok(self.secrets(namespace).get_opt(&self.name()).await?)
    }

    /// The `auth` entries of the Secret there, by host; nothing if there is none.
    pub(crate) async fn auths(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        let Some(secret) = self.secret(namespace).await? else { return Ok(BTreeMap::new()) };
        ensure!(secret.type_.as_deref() == Some("kubernetes.io/dockerconfigjson"));
        let data = secret.data.unwrap_or_default();
        let document: Value =
            serde_json::from_slice(&data.get(".dockerconfigjson").context("no document")?.0)?;
        let entries = document["auths"].as_object().context("no auths")?;
        let auth = |entry: &Value| entry["auth"].as_str().unwrap_or_default().to_owned();
        Ok(entries.iter().map(|(host, entry)| (host.clone(), auth(entry))).collect())
    }

    /// What ECR gave last.
    pub(crate) fn newest_of_ecr(&self) -> Result<String> {
        Ok(self.cloud.ecr().issued().last().context("nothing was issued")?.auth())
    }

    /// Waits until the Secret there has what ECR gave last.
    pub(crate) async fn served(&self, namespace: &str) -> Result<Duration> {
        let started = now();
        self.until(async || {
            let newest = self.newest_of_ecr().ok();
            newest.is_some()
                && self.auths(namespace).await.ok().and_then(|auths| auths.get(self.ecr()).cloned())
                    == newest
        })
        .await
        .with_context(|| format!("the Secret in {namespace}"))?;
        Ok(now().duration_since(started).unwrap_or_default())
    }

    /// Waits until there is no Secret.
    pub(crate) async fn gone(&self, namespace: &str) -> Result<()> {
        self.until(async || matches!(self.secret(namespace).await, Ok(None)))
            .await
            .with_context(|| format!("the Secret in {namespace} stays"))
    }

    pub(crate) async fn until(&self, condition: impl AsyncFn() -> bool) -> Result<()> {
        let waiting = async {
            while !condition().await {
                pause(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .context("it did not come about")
    }

    /// The `imagePullSecrets` of a service account.
    pub(crate) async fn pulls(&self, namespace: &str, account: &str) -> Result<Vec<String>> {
        let account = self.accounts(namespace).get(account).await?;
        Ok(account.image_pull_secrets.into_iter().flatten().map(|one| one.name).collect())
    }

    /// Waits until a service account pulls with these.
    pub(crate) async fn pulls_with(
        &self,
        namespace: &str,
        account: &str,
        names: &[&str],
    ) -> Result<()> {
        let waited = self
            .until(async || self.pulls(namespace, account).await.is_ok_and(|pulls| pulls == names))
            .await;
        if waited.is_err() {
            bail!("{account} pulls with {:?}, not {names:?}", self.pulls(namespace, account).await);
        }
        Ok(())
    }

    pub(crate) async fn delete_namespace(&self, namespace: &str) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces.delete(namespace, &DeleteParams::default()).await?;
        Ok(())
    }

    /// All namespaces of the cluster but those of this test.
    pub(crate) async fn other_namespaces(&self) -> Result<Vec<String>> {
        let all = Api::<Namespace>::all(self.client.clone()).list(&ListParams::default()).await?;
        let names = all.items.into_iter().filter_map(|one| one.metadata.name);
        Ok(names.filter(|name| !name.contains(&self.mark)).collect())
    }

    /// Nobody finds any secret in this text.
    pub(crate) fn is_tight(&self, text: &str) -> Result<()> {
        match self.cloud.leak_in(text.as_bytes()) {
            Some(leak) => bail!("it has a secret in it ({leak}):\n{text}"),
            None => Ok(()),
        }
    }

    /// Stops the daemon, which has logged no secret, and removes what the test made.
    pub(crate) async fn end(self, daemon: Option<Daemon>) -> Result<()> {
        if let Some(mut daemon) = daemon {
            self.is_tight(&daemon.log())?;
            self.is_tight(&daemon.get("/status").await?)?;
            ensure!(daemon.stop().await?.0 == Some(0), "it ended badly:\n{}", daemon.log());
        }
        let made = self.made.lock().map(|made| made.clone()).unwrap_or_default();
        if self.is_real() {
            for namespace in made {
                // Some are gone already.
                drop(self.delete_namespace(&namespace).await);
            }
        }
        Ok(())
    }
}

pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Where `make test-cluster` says how the real one is reached.
const REAL: &str = "FRESHCREDS_TEST_KUBECONFIG";
