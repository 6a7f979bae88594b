//! The least that it takes, as the chart has it; and what is said where something is missing.

use anyhow::{Context, Result, ensure};
use freshcreds::status::Verdict as Health;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::machine::put;
use crate::stage::Stage;
use crate::stand_in;

/// A rule of RBAC: verbs, resource, the namespace or all, names or all.
pub(crate) type Rule<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>);

impl Stage {
    /// Makes the program somebody who may do this, and nothing else.
    pub(crate) async fn allow(&mut self, home: &str, rules: &[Rule<'_>]) -> Result<()> {
        let path = self.machine.home().join("kubeconfig");
        if self.is_real() {
            let token = self.bind(home, rules).await?;
            let mut file: Value = as_value(&std::fs::read_to_string(&path)?)?;
            file["users"] = json!([{ "name": "limited", "user": { "token": token } }]);
            for context in file["contexts"].as_array_mut().context("no contexts")? {
                context["context"]["user"] = "limited".into();
            }
            return put(&path, &file.to_string());
        }
        let rules: Vec<_> = rules
            .iter()
            .map(|(verbs, resource, namespace, names)| {
                stand_in::Rule::new(verbs, resource, namespace.unwrap_or("*"), names.unwrap_or("*"))
            })
            .collect();
        let stand_in = self.stand_in()?;
        stand_in.allow("limited-token", "limited", &rules);
        // From now on nobody may do anything without a token: the test needs one too.
        stand_in.allow("admin-token", "admin", &[stand_in::Rule::new("*", "*", "*", "*")]);
        let (limited, admin) = (Some("limited-token"), Some("admin-token"));
        let (limited, admin) = (stand_in.kubeconfig(limited), stand_in.kubeconfig(admin));
        let own = self.machine.home().join("admin.kubeconfig");
        put(&own, &admin)?;
        self.client = crate::stage::client(&own).await?;
        put(&path, &limited)
    }

    /// A service account of a real cluster with these rights, and its token.
    async fn bind(&self, home: &str, rules: &[Rule<'_>]) -> Result<String> {
        let name = self.name();
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        self.accounts(home).create(&PostParams::default(), &account).await?;
        let subjects = json!([{ "kind": "ServiceAccount", "name": name, "namespace": home }]);
        let group = "rbac.authorization.k8s.io";
        for (index, (verbs, resource, namespace, names)) in rules.iter().enumerate() {
            let verbs: Vec<_> = verbs.split_whitespace().collect();
            let mut allowed = json!({
                "verbs": verbs,
                "apiGroups": [if *resource == "leases" { "coordination.k8s.io" } else { "" }],
                "resources": [resource],
            });
            if let Some(names) = names {
                allowed["resourceNames"] = names.split_whitespace().collect();
            }
            let name = format!("{name}-{index}");
            let metadata = json!({ "name": name });
            let described = json!({ "metadata": metadata, "rules": [allowed] });
            let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
            let reference = json!({ "apiGroup": group, "kind": kind, "name": name });
            let binding =
                json!({ "metadata": metadata, "roleRef": reference, "subjects": subjects });
            let (client, how) = (self.client.clone(), PostParams::default());
            if let Some(namespace) = namespace {
                let in_one: Api<Role> = Api::namespaced(client.clone(), namespace);
                in_one.create(&how, &serde_json::from_value(described)?).await?;
                let bindings: Api<RoleBinding> = Api::namespaced(client, namespace);
                bindings.create(&how, &serde_json::from_value(binding)?).await?;
            } else {
                let in_all: Api<ClusterRole> = Api::all(client.clone());
                in_all.create(&how, &serde_json::from_value(described)?).await?;
                let bindings: Api<ClusterRoleBinding> = Api::all(client);
                bindings.create(&how, &serde_json::from_value(binding)?).await?;
            }
        }
        let request =
            TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let accounts = self.accounts(home);
        let token: TokenRequest =
            accounts.create_subresource("token", &name, &PostParams::default(), &request).await?;
        token.status.and_then(|status| status.token).context("no token")
    }

    pub(crate) async fn unbind(&self, rules: &[Rule<'_>]) -> Result<()> {
        for index in (0..rules.len()).filter(|index| self.is_real() && rules[*index].2.is_none()) {
            let (name, how) = (format!("{}-{index}", self.name()), DeleteParams::default());
            Api::<ClusterRole>::all(self.client.clone()).delete(&name, &how).await?;
            Api::<ClusterRoleBinding>::all(self.client.clone()).delete(&name, &how).await?;
        }
        Ok(())
    }
}

/// A kubeconfig as a value.
fn as_value(text: &str) -> Result<Value> {
    let file: kube::config::Kubeconfig = kube::config::Kubeconfig::from_yaml(text)?;
    Ok(serde_json::to_value(file)?)
}

const OF_SECRETS: &str = "get list watch create patch delete";

#[tokio::test]
async fn selected_namespaces_take_rights_for_secrets_of_one_name_alone() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let name = stage.name();
    let rules: [Rule<'_>; 4] = [
        ("list watch", "namespaces", None, None),
        (OF_SECRETS, "secrets", None, Some(&name)),
        ("list watch patch", "serviceaccounts", None, Some("default")),
        ("get create update", "leases", Some(&namespace), None),
    ];
    stage.allow(&namespace, &rules).await?;
    let lease = format!("lease = \"{namespace}/freshcreds\"");
    let accounts = format!("{}\nservice_accounts = [\"default\"]", stage.selected());
    stage.settings_of_ecr(&lease, &accounts)?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    stage.pulls_with(&namespace, "default", &[&name]).await?;
    let born = stage.namespace("born").await?;
    stage.served(&born).await?;
    stage.label(&born, json!({ "freshcreds-test": null })).await?;
    stage.gone(&born).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(stage.secret(&namespace).await?.is_none());
    assert!(stage.pulls(&namespace, "default").await?.is_empty());
    stage.unbind(&rules).await?;
    stage.end(None).await
}

#[tokio::test]
async fn named_namespaces_take_rights_in_them_alone() -> Result<()> {
    let mut stage = Stage::new().await?;
    let [one, two] = [stage.namespace("one").await?, stage.namespace("two").await?];
    let name = stage.name();
    let rules: [Rule<'_>; 4] = [
        (OF_SECRETS, "secrets", Some(&one), Some(&name)),
        (OF_SECRETS, "secrets", Some(&two), Some(&name)),
        ("list watch patch", "serviceaccounts", Some(&one), Some("default")),
        ("list watch patch", "serviceaccounts", Some(&two), Some("default")),
    ];
    stage.allow(&one, &rules).await?;
    let secret = format!("namespaces = [\"{one}\", \"{two}\"]\nservice_accounts = [\"default\"]");
    stage.settings_of_ecr("", &secret)?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&one).await?;
    stage.served(&two).await?;
    stage.pulls_with(&two, "default", &[&name]).await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    daemon.stop().await?;
    // It goes on with the token that it finds there.
    let mut daemon = stage.machine.daemon().await?;
    daemon.wait_for(|report| report.status == Health::Pass).await?;
    assert_eq!(stage.cloud.ecr().issued().len(), 1);
    daemon.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(stage.secret(&one).await?.is_none() && stage.secret(&two).await?.is_none());
    stage.unbind(&rules).await?;
    stage.end(None).await
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_with_what_to_do() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let name = stage.name();
    let rules: [Rule<'_>; 2] = [
        ("list watch", "namespaces", None, None),
        ("get list watch delete", "secrets", None, Some(&name)),
    ];
    stage.allow(&namespace, &rules).await?;
    stage.settings_of_ecr("", &stage.selected())?;
    let daemon = stage.machine.daemon().await?;
    let report = daemon.wait_for(|report| report.checks.secrets[0].last_error.is_some()).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "cluster_denied");
    ensure!(
        error.message.contains(&namespace) && error.message.contains("patch"),
        "{}",
        error.message
    );
    assert_eq!(report.status, Health::Fail);
    stage.unbind(&rules).await?;
    stage.end(Some(daemon)).await
}

#[tokio::test]
async fn a_named_namespace_that_goes_with_its_role_holds_up_no_other() -> Result<()> {
    let mut stage = Stage::new().await?;
    let [home, stays, goes] = [
        stage.namespace("home").await?,
        stage.namespace("stays").await?,
        stage.namespace("goes").await?,
    ];
    let name = stage.name();
    let rules: [Rule<'_>; 2] = [
        (OF_SECRETS, "secrets", Some(&stays), Some(&name)),
        (OF_SECRETS, "secrets", Some(&goes), Some(&name)),
    ];
    stage.allow(&home, &rules).await?;
    // One that is not there at all, and has no Role.
    let never = stage.planned("never");
    let named = format!("namespaces = [\"{never}\", \"{goes}\", \"{stays}\"]");
    stage.settings_of_ecr("", &named)?;
    let mut daemon = stage.machine.daemon().await?;
    stage.served(&stays).await?;
    stage.served(&goes).await?;
    let report = daemon.wait_for(|report| report.checks.secrets[0].last_error.is_some()).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    ensure!(error.message.contains(&never), "{}", error.message);
    assert_eq!(report.status, Health::Fail, "a named namespace is a promise");
    stage.delete_namespace(&goes).await?;
    daemon.signal(rustix::process::Signal::USR1)?;
    stage.cloud.ecr().wait_for_issued(2).await;
    stage.served(&stays).await?;
    daemon.stop().await?;
    let done = stage.machine.freshcreds(&["logout"]).await?;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(stage.secret(&stays).await?.is_none());
    stage.end(None).await
}

#[tokio::test]
async fn whoever_may_not_look_at_service_accounts_keeps_the_secrets_fresh() -> Result<()> {
    let mut stage = Stage::new().await?;
    let namespace = stage.namespace("one").await?;
    let name = stage.name();
    let rules: [Rule<'_>; 2] =
        [("list watch", "namespaces", None, None), (OF_SECRETS, "secrets", None, Some(&name))];
    stage.allow(&namespace, &rules).await?;
    let accounts = format!("{}\nservice_accounts = [\"default\"]", stage.selected());
    stage.settings_of_ecr("", &accounts)?;
    let daemon = stage.machine.daemon().await?;
    stage.served(&namespace).await?;
    let report = daemon.wait_for(|report| report.checks.secrets[0].last_error.is_some()).await?;
    let error = report.checks.secrets[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "cluster_denied");
    ensure!(error.message.contains("serviceaccounts"), "{}", error.message);
    stage.unbind(&rules).await?;
    stage.end(Some(daemon)).await
}
