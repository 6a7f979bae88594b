//! The chart and the examples for Kubernetes, judged by helm, by Kubernetes' own schemas, by promtool, and by this very
//! program: its settings, its command line.
//!
//! A tool that is missing fails its tests and says so; none is skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use freshcreds::targets::obstacles::Reader;
use serde_json::{Value, json};

use crate::repository::{documents, put, read, root};
use crate::support::*;

#[path = "support/repository.rs"]
mod repository;
#[path = "support/chart.rs"]
mod support;

// --- as others judge it ----------------------------------------------------------------------------

#[test]
fn helm_accepts_the_chart_with_each_set_of_values() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for set in sets()? {
        let values = values(&set.name);
        succeeds(helm("lint")?.args(["--strict", CHART, "--values"]).arg(values))
            .with_context(|| format!("helm lint with {}", set.name))?;
    }
    succeeds(helm("package")?.args([CHART, "--destination"]).arg(folder.path()))?;
    let package = folder.path().join(format!("freshcreds-{VERSION}.tgz"));
    let said = succeeds(system("tar").arg("-tzf").arg(&package))?;
    for file in ["templates/_sidecar.tpl", "files/grafana-dashboard.json", "values.schema.json"] {
        ensure!(said.contains(file), "the package has no {file}:\n{said}");
    }
    ensure!(!said.contains("freshcreds/ci/"), "the package has the tests' values:\n{said}");
    Ok(())
}

#[test]
fn kubernetes_accepts_what_the_chart_renders_in_its_oldest_and_its_three_newest_versions()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for set in sets()? {
        let file = folder.path().join(&set.name);
        write_for_the_schemas(&file, &set.objects)?;
        files.push(file);
    }
    let (parent, _kept) = parent_chart()?;
    let file = folder.path().join("parent.yaml");
    write_for_the_schemas(&file, &documents(&succeeds(&mut template_of(&parent)?)?)?)?;
    files.push(file);
    for version in versions()?.into_iter().chain([OLDEST.to_owned()]) {
        accepted_by(&version, &files)?;
    }
    Ok(())
}

#[test]
fn there_are_three_newest_versions_and_the_last_is_that_of_the_tool() -> Result<()> {
    let versions = versions()?;
    let newest = succeeds(tool("kubernetes-validate")?.arg("--version"))?;
    let newest = newest.trim().rsplit_once('.').context("no version")?.0.to_owned();
    assert_eq!(versions.last(), Some(&newest));
    let chart = documents(&read(&format!("{CHART}/Chart.yaml"))?)?.remove(0);
    assert_eq!(chart["kubeVersion"], format!(">={OLDEST}.0-0"));
    Ok(())
}

#[test]
fn the_chart_has_the_version_and_the_user_of_the_rest() -> Result<()> {
    let chart = documents(&read(&format!("{CHART}/Chart.yaml"))?)?.remove(0);
    assert_eq!((&chart["version"], &chart["appVersion"]), (&VERSION.into(), &VERSION.into()));
    let readme = read(&format!("{CHART}/README.md"))?;
    ensure!(
        readme.contains(&format!("    version: {VERSION}\n")),
        "the README has another version"
    );
    let defaults = defaults()?;
    let dockerfile = read("Dockerfile")?;
    let user = format!("USER {}:{}", defaults["user"], defaults["group"]);
    ensure!(dockerfile.lines().any(|line| line == user), "the image has not `{user}`");
    let folder = format!("ENV DOCKER_CONFIG={}", text(&defaults["sidecar"]["folder"])?);
    ensure!(dockerfile.lines().any(|line| line == folder), "the image has not `{folder}`");
    Ok(())
}

#[test]
fn no_key_stands_twice_in_what_is_rendered() -> Result<()> {
    // Of two equal keys the last would win in silence.
    const STRICT: &str = r"
import sys, yaml
class Strict(yaml.SafeLoader): pass
def mapping(loader, node):
    keys = [key.value for key, _ in node.value]
    assert len(keys) == len(set(keys)), keys
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)
Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
for path in sys.argv[1:]:
    list(yaml.load_all(open(path), Strict))
";
    let folder = tempfile::tempdir()?;
    let mut python = Command::new(repository::tool("lint/bin/python")?);
    python.args(["-c", STRICT]);
    for set in sets()? {
        let file = folder.path().join(&set.name);
        put(&file, &set.text)?;
        python.arg(file);
    }
    succeeds(&mut python).map(drop)
}

// --- as this program judges it -----------------------------------------------------------------------

#[test]
fn the_program_understands_every_settings_file_that_is_rendered() -> Result<()> {
    for set in sets()? {
        let Set { name, mode, .. } = set;
        let Some(settings) = settings_in(&set.objects)? else {
            assert_eq!(name, "sidecar-minimal");
            continue;
        };
        assert_eq!(settings.cluster.lease.is_some(), mode == "secrets", "{name}");
        assert_eq!(settings.secrets.is_empty(), mode != "secrets", "{name}");
        assert_eq!(settings.targets.is_empty(), mode == "secrets", "{name}");
        ensure!(!settings.registries.is_empty(), "{name}: no registries");
        if mode == "node" {
            assert_eq!(settings.targets[0].reader, Reader::Kubelet, "{name}");
        }
    }
    Ok(())
}

#[test]
fn what_the_values_say_is_what_the_program_reads() -> Result<()> {
    let objects = rendered("secrets-several")?;
    let config = config_in(objects).context("no settings")?;
    ensure!(config.contains("installation_id = 7654321\n"), "no whole number:\n{config}");
    let settings = settings_in(objects)?.context("no settings")?;
    assert_eq!(settings.cluster.owner, "platform");
    let lease = settings.cluster.lease.as_ref().context("no lease")?;
    assert_eq!((&*lease.namespace, &*lease.name), ("demo", "puller"));
    assert_eq!(settings.registries.len(), 5);
    assert_eq!(settings.secrets.len(), 4);
    assert_eq!(settings.allowed_hosts[..2], ["puller", "puller.demo"]);
    ensure!(settings.allowed_hosts.contains(&"freshcreds.example.com".to_owned()), "lost");

    let node = settings_in(rendered("node-own-folder")?)?.context("no settings")?;
    assert_eq!(node.targets[0].path, Path::new("/.docker/config.json"));
    assert_eq!(node.allowed_hosts, [""; 0], "nobody else asks it");
    Ok(())
}

#[test]
fn two_installations_in_a_cluster_are_two_owners() -> Result<()> {
    let owner = |release: &str, namespace: &str| -> Result<String> {
        let mut command = helm("template")?;
        command.args([release, CHART, "--namespace", namespace, "--values"]);
        let objects = documents(&succeeds(command.arg(values("secrets-minimal")))?)?;
        Ok(settings_in(&objects)?.context("no settings")?.cluster.owner)
    };
    assert_eq!(owner("pull", "platform")?, "platform.pull");
    // As long as the names may be; the program itself has taken it for a label's value.
    let (release, namespace) = ("r".repeat(53), "n".repeat(63));
    let long = owner(&release, &namespace)?;
    ensure!(long.len() <= 63, "{long}");
    assert_ne!(long, owner(&release[1..], &namespace)?);
    Ok(())
}

#[test]
fn every_command_in_what_is_rendered_is_one_of_this_program() -> Result<()> {
    let mut seen = BTreeSet::new();
    for object in sets()?.iter().flat_map(|set| &set.objects) {
        seen.extend(commands_in(object)?);
    }
    let (parent, _kept) = parent_chart()?;
    for object in documents(&succeeds(&mut template_of(&parent)?)?)? {
        seen.extend(commands_in(&object)?);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["check", "logout", "run"]);
    Ok(())
}

#[test]
fn the_schema_knows_the_keys_that_the_program_knows() -> Result<()> {
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))?)?;
    let tables = tables_of_the_program()?;
    ensure!(tables.len() > 8, "only {:?}", tables.keys());
    same_keys("File", &schema["properties"]["settings"], &tables)
}

/// The tables of a settings file, by the names of their types: each key with its type.
fn tables_of_the_program() -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut tables = BTreeMap::new();
    let source = read("src/config/file.rs")?;
    let (source, _) = source.split_once("impl File").context("the file has changed")?;
    for part in source.split("\npub struct ").skip(1) {
        let (name, rest) = part.split_once(" {\n").context("no fields")?;
        let (fields, _) = rest.split_once("\n}").context("no end")?;
        let fields = fields.lines().filter_map(|line| line.strip_prefix("    pub "));
        let fields = fields.filter_map(|line| line.trim_end_matches(',').split_once(": "));
        let fields = fields.map(|(key, kind)| (key.to_owned(), kind.to_owned())).collect();
        tables.insert(name.to_owned(), fields);
    }
    Ok(tables)
}

fn same_keys(
    table: &str,
    schema: &Value,
    tables: &BTreeMap<String, BTreeMap<String, String>>,
) -> Result<()> {
    let fields = tables.get(table).with_context(|| format!("there is no {table}"))?;
    assert_eq!(schema["additionalProperties"], false, "{table} takes anything");
    let described = schema["properties"].as_object().context("no properties")?;
    let known: BTreeSet<_> = fields.keys().collect();
    assert_eq!(described.keys().collect::<BTreeSet<_>>(), known, "{table}");
    for (key, kind) in fields {
        let inner = tables.keys().find(|name| kind.split(['<', '>', ' ']).any(|it| it == *name));
        let described = &described[key];
        let described = match kind.split('<').next() {
            Some("Vec") => &described["items"],
            Some("BTreeMap") => &described["additionalProperties"],
            _ => described,
        };
        if let Some(inner) = inner {
            same_keys(inner, described, tables)?;
        }
    }
    Ok(())
}

// --- what it may do --------------------------------------------------------------------------------------

#[test]
fn the_roles_are_what_the_settings_need_and_no_more() -> Result<()> {
    const OWN: &str = "secrets create,delete,get,list,patch,watch";
    const ACCOUNTS: &str = "serviceaccounts get,list,patch,watch";
    const LEASE: &str = "in demo: leases get,update of demo-freshcreds";
    const NEW_LEASE: &str = "in demo: leases create";
    let own = |place: &str, names: &str| format!("{place}: {OWN} of {names}");
    let accounts = |place: &str, names: &str| format!("{place}: {ACCOUNTS}{names}");
    let namespaces = "everywhere: namespaces list,watch".to_owned();
    let lease = || vec![LEASE.to_owned(), NEW_LEASE.to_owned()];
    for (name, further) in [
        ("secrets-minimal", vec![own("in build", "freshcreds"), own("in prod", "freshcreds")]),
        (
            "secrets-eks-irsa",
            vec![
                own("in build", "freshcreds"),
                accounts("in build", " of default"),
                own("in prod", "freshcreds"),
                accounts("in prod", " of default"),
            ],
        ),
        (
            "secrets-gke",
            vec![
                own("everywhere", "artifact-registry"),
                accounts("everywhere", ""),
                namespaces.clone(),
            ],
        ),
        (
            "secrets-aks",
            vec![
                own("everywhere", "freshcreds"),
                accounts("everywhere", " of builder,default"),
                namespaces.clone(),
            ],
        ),
    ] {
        assert_eq!(grants(rendered(name)?)?, sorted([lease(), further].concat()), "{name}");
    }
    let several = [
        own("in build", "everything,google"),
        accounts("in build", " of builder,default"),
        own("in prod", "everything,partner"),
        accounts("in prod", ""),
        own("everywhere", "teams"),
        namespaces,
        LEASE.replace("demo-freshcreds", "puller"),
        NEW_LEASE.to_owned(),
    ];
    assert_eq!(grants(rendered("secrets-several")?)?, sorted(several.to_vec()));
    for name in ["secrets-single", "node-minimal", "node-everywhere", "sidecar-settings"] {
        assert_eq!(grants(rendered(name)?)?, [""; 0], "{name}");
    }
    Ok(())
}

#[test]
fn only_pods_that_ask_the_api_have_a_token_for_it() -> Result<()> {
    for set in sets()? {
        let is_asking = set.mode == "secrets";
        for pod in pods(&set.objects) {
            assert_eq!(pod["automountServiceAccountToken"], is_asking, "{}", set.name);
        }
        for account in set.objects.iter().filter(|it| it["kind"] == "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false);
        }
    }
    Ok(())
}

#[test]
fn pods_in_modes_secrets_and_sidecar_are_what_the_restricted_standard_asks_for() -> Result<()> {
    for set in sets()?.iter().filter(|set| set.mode == "secrets") {
        let pods = pods(&set.objects);
        ensure!(!pods.is_empty(), "no pod with {}", set.name);
        for pod in pods {
            is_restricted(pod).with_context(|| set.name.clone())?;
        }
    }
    let (parent, _kept) = parent_chart()?;
    let objects = documents(&succeeds(&mut template_of(&parent)?)?)?;
    for pod in pods(&objects) {
        is_restricted(pod)?;
    }
    Ok(())
}

#[test]
fn pods_on_nodes_are_root_with_nothing_else_of_root() -> Result<()> {
    for name in ["node-minimal", "node-everywhere", "node-own-folder"] {
        let objects = rendered(name)?;
        let pod = pods(objects)[0];
        let security = &pod["containers"][0]["securityContext"];
        assert_eq!(security["runAsUser"], 0);
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(security["privileged"], Value::Null);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        for key in ["hostPID", "hostIPC"] {
            assert_eq!(pod[key], Value::Null);
        }
        assert_eq!(pod["hostNetwork"] == true, name == "node-everywhere");
        let folders = list(&pod["volumes"]).iter().filter(|it| !it["hostPath"].is_null());
        assert_eq!(folders.count(), 1, "one folder of the node's");
    }
    Ok(())
}

// --- what makes it work ----------------------------------------------------------------------------------

#[test]
fn folders_are_mounted_and_never_a_file() -> Result<()> {
    let (parent, _kept) = parent_chart()?;
    let parent = documents(&succeeds(&mut template_of(&parent)?)?)?;
    for objects in sets()?.iter().map(|set| &set.objects).chain([&parent]) {
        for pod in pods(objects) {
            ensure!(!pod.to_string().contains("subPath"), "a subPath in {pod}");
            for volume in list(&pod["volumes"]) {
                let kind = &volume["hostPath"]["type"];
                ensure!(kind.is_null() || kind == "DirectoryOrCreate", "{volume}");
            }
            // A volume within one that is read only cannot be mounted.
            for container in containers(pod) {
                let paths = list(&container["volumeMounts"]).iter();
                let paths: Vec<_> = paths.filter_map(|it| it["mountPath"].as_str()).collect();
                for path in &paths {
                    let is_within = |it: &&&str| *it != path && Path::new(it).starts_with(path);
                    ensure!(!paths.iter().any(|it| is_within(&it)), "{paths:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn no_probe_kills_for_what_a_cloud_does() -> Result<()> {
    for set in sets()? {
        for pod in pods(&set.objects) {
            for container in containers(pod) {
                let path = &container["livenessProbe"]["httpGet"]["path"];
                let is_none = container["livenessProbe"].is_null();
                ensure!(is_none || path == "/livez", "{}", container["livenessProbe"]);
                if container["args"] == json!(["run"]) && set.mode == "secrets" {
                    assert_eq!(path, "/livez");
                    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/livez");
                    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn whoever_probes_or_scrapes_finds_the_endpoint_where_it_listens() -> Result<()> {
    for Set { name, objects, .. } in sets()? {
        let Some(settings) = settings_in(objects)? else { continue };
        let listens = settings.listen.context("no endpoint")?.to_string();
        let is_reachable = !listens.contains("127.0.0.1");
        for pod in pods(objects) {
            for container in containers(pod).filter(|it| it["args"] == json!(["run"])) {
                let port = &container["ports"][0];
                assert_eq!(port["name"] == "http", is_reachable, "{name}");
                if is_reachable {
                    ensure!(listens.ends_with(&format!(":{}", port["containerPort"])), "{listens}");
                }
            }
        }
        if let Some(service) = objects.iter().find(|it| it["kind"] == "Service") {
            ensure!(is_reachable, "a Service of what listens on loopback");
            // Those that are not ready are the ones to ask.
            assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
            assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
            let selector = service["spec"]["selector"].as_object().context("no selector")?;
            let workload = workload(objects)?;
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            for (key, value) in selector {
                assert_eq!(&labels[key], value);
            }
            let job = objects.iter().find(|it| it["kind"] == "Job");
            let strange = job.map(|it| &it["spec"]["template"]["metadata"]["labels"]);
            let is_selected = |labels: &Value| selector.iter().all(|(key, it)| &labels[key] == it);
            ensure!(!strange.is_some_and(is_selected), "the Service leads to the cleanup");
        }
    }
    Ok(())
}

#[test]
fn settings_that_mend_a_failure_can_take_over_from_those_that_caused_it() -> Result<()> {
    // An old pod that kept the lease until a new one is ready would keep the new one from ever being so.
    let objects = rendered("secrets-minimal")?;
    assert_eq!(workload(objects)?["spec"]["strategy"], json!({"type": "Recreate"}));
    let budget = objects.iter().find(|it| it["kind"] == "PodDisruptionBudget").context("none")?;
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    Ok(())
}

#[test]
fn new_settings_make_new_pods() -> Result<()> {
    for (name, key) in
        [("secrets-minimal", "checksum/settings"), ("node-minimal", "checksum/settings")]
    {
        let sum = |further: &str| -> Result<Value> {
            let mut command = template(&values(name))?;
            let objects = documents(&succeeds(command.args(["--set", further]))?)?;
            Ok(workload(&objects)?["spec"]["template"]["metadata"]["annotations"][key].clone())
        };
        let before = sum("replicas=2")?;
        ensure!(before.as_str().is_some_and(|sum| sum.len() == 64), "{before}");
        assert_eq!(before, sum("podLabels.a=b")?);
        assert_ne!(before, sum("settings.log_level=debug")?);
    }
    Ok(())
}

#[test]
fn uninstalling_takes_the_secrets_away_first() -> Result<()> {
    let objects = rendered("secrets-several")?;
    let job = objects.iter().find(|it| it["kind"] == "Job").context("no job")?;
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-delete");
    let pod = &job["spec"]["template"]["spec"];
    let other = &workload(objects)?["spec"]["template"]["spec"];
    // It needs whatever the daemon needs to get there.
    for key in ["serviceAccountName", "volumes", "securityContext", "tolerations", "nodeSelector"] {
        assert_eq!(pod[key], other[key], "{key}");
    }
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["logout"]));
    for key in ["env", "envFrom", "image", "volumeMounts", "securityContext"] {
        assert_eq!(container[key], other["containers"][0][key], "{key}");
    }
    for name in ["secrets-single", "node-minimal", "sidecar-settings"] {
        ensure!(!rendered(name)?.iter().any(|it| it["kind"] == "Job"), "{name} has a job");
    }
    Ok(())
}

#[test]
fn a_node_is_cleared_before_its_pod_waits_for_the_uninstall() -> Result<()> {
    let objects = rendered("node-remove")?;
    let pod = pods(objects)[0];
    let strategy = &workload(objects)?["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(strategy["maxSurge"], 0, "the daemon would still run");
    let logout = &pod["initContainers"][0];
    assert_eq!((&logout["args"], &logout["restartPolicy"]), (&json!(["logout"]), &Value::Null));
    let [waiting] = list(&pod["containers"]) else { bail!("one container was expected") };
    assert_eq!(waiting["args"][0], "check", "`run` would write the entries again");
    // It knows by the memory on the node what was written.
    let objects = rendered("node-minimal")?;
    let daemon = &pods(objects)[0]["containers"][0];
    for key in ["env", "volumeMounts", "securityContext"] {
        assert_eq!(logout[key], daemon[key], "{key}");
    }
    Ok(())
}

#[test]
fn the_lease_belongs_to_the_release_and_its_spec_to_the_holder() -> Result<()> {
    let objects = rendered("secrets-minimal")?;
    let lease = objects.iter().find(|it| it["kind"] == "Lease").context("no lease")?;
    assert_eq!(lease["spec"], Value::Null);
    let named = settings_in(objects)?.context("no settings")?.cluster.lease.context("no lease")?;
    assert_eq!(lease["metadata"]["name"], named.name);
    assert_eq!(lease["metadata"]["namespace"], named.namespace);
    Ok(())
}

#[test]
fn every_cloud_finds_the_identity_where_it_looks() -> Result<()> {
    let account = |name: &str| -> Result<Value> {
        let objects = rendered(name)?;
        let account = objects.iter().find(|it| it["kind"] == "ServiceAccount").context("none")?;
        let pod = &workload(objects)?["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
        Ok(account["metadata"]["annotations"].clone())
    };
    let role = "arn:aws:iam::123456789012:role/pull";
    assert_eq!(account("secrets-eks-irsa")?, json!({"eks.amazonaws.com/role-arn": role}));
    let google = "pull@example.iam.gserviceaccount.com";
    assert_eq!(account("secrets-gke")?, json!({"iam.gke.io/gcp-service-account": google}));
    let azure = account("secrets-aks")?;
    assert_eq!(azure["azure.workload.identity/client-id"], "00000000-0000-0000-0000-000000000002");
    assert_eq!(azure["azure.workload.identity/tenant-id"], "00000000-0000-0000-0000-000000000001");
    // The webhook looks at the pods, the one that cleans up as well.
    for object in rendered("secrets-aks")? {
        if let "Deployment" | "Job" = object["kind"].as_str().unwrap_or_default() {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            assert_eq!(labels["azure.workload.identity/use"], "true");
        }
    }
    Ok(())
}

#[test]
fn the_network_policy_lets_through_what_is_needed() -> Result<()> {
    let policy = |name: &str| -> Result<Value> {
        let objects = rendered(name)?;
        let policy = objects.iter().find(|it| it["kind"] == "NetworkPolicy").context("none")?;
        Ok(policy["spec"].clone())
    };
    let secrets = policy("secrets-gke")?;
    let egress = secrets["egress"].to_string();
    for wanted in ["53", "443", "6443", "169.254.169.254/32", "169.254.170.23/32", "192.0.2.10/32"]
    {
        ensure!(egress.contains(wanted), "no {wanted} in {egress}");
    }
    assert_eq!(secrets["ingress"][0]["ports"][0]["port"], 8099);
    ensure!(secrets["ingress"][0]["from"][0]["namespaceSelector"].is_object(), "{secrets}");
    let node = policy("node-own-folder")?;
    assert_eq!(node["ingress"], json!([]), "it listens on loopback");
    ensure!(!node["egress"].to_string().contains("6443"), "it asks no API server");
    Ok(())
}

// --- for Prometheus and Grafana ----------------------------------------------------------------------------

#[test]
fn the_files_of_the_chart_are_those_of_dist() -> Result<()> {
    for (copy, original) in [
        ("freshcreds.rules.yaml", "dist/monitoring/freshcreds.rules.yaml"),
        ("grafana-dashboard.json", "dist/monitoring/grafana-dashboard.json"),
    ] {
        let path = root().join(CHART).join("files").join(copy);
        write_if_asked(&path, &read(original)?)?;
        ensure!(fs::read(&path)? == fs::read(root().join(original))?, "{copy}: run `make manual`");
    }
    Ok(())
}

#[test]
fn the_alerts_of_the_chart_are_those_of_dist_and_promtool_takes_them() -> Result<()> {
    let original = documents(&read("dist/monitoring/freshcreds.rules.yaml")?)?.remove(0);
    let runbook = "https://git.example.com/freshcreds/blob/main/docs/operations.md#";
    let original = original["groups"].to_string();
    for (name, job, runbook) in [
        ("secrets-monitoring", "pull-secrets", runbook),
        ("node-everywhere", "freshcreds", "docs/operations.md#"),
    ] {
        let objects = rendered(name)?;
        let rule = objects.iter().find(|it| it["kind"] == "PrometheusRule").context("none")?;
        assert_eq!(rule["apiVersion"], "monitoring.coreos.com/v1");
        let expected = original.replace("docs/operations.md#", runbook);
        let expected = expected.replace("job=\\\"freshcreds\\\"", &format!("job=\\\"{job}\\\""));
        assert_eq!(rule["spec"], json!({"groups": serde_json::from_str::<Value>(&expected)?}));

        let folder = tempfile::tempdir()?;
        let file = folder.path().join("rules.yaml");
        put(&file, &rule["spec"].to_string())?;
        let said = succeeds(system("promtool").args(["check", "rules"]).arg(&file))?;
        let count = original.matches("\"alert\":").count();
        ensure!(said.contains(&format!("SUCCESS: {count} rules found")), "{said}");
    }
    Ok(())
}

#[test]
fn the_service_monitor_scrapes_the_service_as_the_job_of_the_alerts() -> Result<()> {
    for (name, job) in [("secrets-monitoring", "pull-secrets"), ("node-everywhere", "freshcreds")] {
        let objects = rendered(name)?;
        let monitor = objects.iter().find(|it| it["kind"] == "ServiceMonitor").context("none")?;
        assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
        let spec = monitor["spec"].as_object().context("no spec")?;
        assert_eq!(spec.keys().collect::<Vec<_>>(), ["endpoints", "selector"]);
        let endpoint = &spec["endpoints"][0];
        assert_eq!((&endpoint["port"], &endpoint["path"]), (&json!("http"), &json!("/metrics")));
        let named = json!({"targetLabel": "job", "replacement": job});
        ensure!(list(&endpoint["relabelings"]).contains(&named), "{endpoint}");
        let service = objects.iter().find(|it| it["kind"] == "Service").context("no service")?;
        assert_eq!(service["spec"]["ports"][0]["name"], "http");
        let labels = service["metadata"]["labels"].as_object().context("no labels")?;
        for (key, value) in spec["selector"]["matchLabels"].as_object().context("no selector")? {
            assert_eq!(labels.get(key), Some(value), "{key}");
        }
    }
    Ok(())
}

#[test]
fn the_dashboard_comes_through_as_it_is() -> Result<()> {
    let objects = rendered("secrets-monitoring")?;
    let holds = |it: &&Value| it["data"]["freshcreds.json"].is_string();
    let dashboard = objects.iter().find(holds).context("no dashboard")?;
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let shown = text(&dashboard["data"]["freshcreds.json"])?;
    assert_eq!(shown.trim_end(), read("dist/monitoring/grafana-dashboard.json")?.trim_end());
    Ok(())
}

#[test]
fn nothing_that_needs_custom_resources_is_there_unasked() -> Result<()> {
    for name in ["secrets-minimal", "node-minimal"] {
        for object in rendered(name)? {
            let group = text(&object["apiVersion"])?;
            ensure!(!group.contains("monitoring"), "{name} has a {}", object["kind"]);
        }
    }
    Ok(())
}

// --- for the charts of others --------------------------------------------------------------------------------

#[test]
fn the_templates_make_a_sidecar_of_another_charts_pod() -> Result<()> {
    let (parent, _kept) = parent_chart()?;
    let objects = documents(&succeeds(&mut template_of(&parent)?)?)?;
    let settings = settings_in(&objects)?.context("no settings")?;
    ensure!(!settings.registries.is_empty(), "no registries");
    let pod = pods(&objects)[0];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always", "else it is no sidecar");
    assert_eq!(sidecar["startupProbe"]["exec"]["command"], json!([INSTALLED, "check"]));
    assert_eq!(sidecar["livenessProbe"], Value::Null, "no cloud may kill it");
    let volumes = list(&pod["volumes"]);
    let shared = volumes.iter().find(|it| it["name"] == "freshcreds").context("no volume")?;
    assert_eq!(shared["emptyDir"]["medium"], "Memory");
    assert_eq!(variable(sidecar, "DOCKER_CONFIG"), FOLDER);
    let application = &pod["containers"][0];
    assert_eq!(variable(application, "DOCKER_CONFIG"), FOLDER);
    assert_eq!(variable(application, "REGISTRY_AUTH_FILE"), &format!("{FOLDER}/config.json"));
    let mount = &application["volumeMounts"][0];
    assert_eq!(mount, &json!({"name": "freshcreds", "mountPath": FOLDER, "readOnly": true}));
    let annotations = &workload(&objects)?["spec"]["template"]["metadata"]["annotations"];
    ensure!(annotations["checksum/freshcreds"].is_string(), "new settings make no new pod");
    // It renders nothing else of its own.
    let own = objects
        .iter()
        .filter(|it| it["metadata"]["labels"]["helm.sh/chart"] == format!("freshcreds-{VERSION}"));
    assert_eq!(own.map(|it| &it["kind"]).collect::<Vec<_>>(), ["ConfigMap"]);
    Ok(())
}

#[test]
fn a_dependency_in_another_mode_is_told_of() -> Result<()> {
    let (parent, _kept) = parent_chart()?;
    let said = fails(template_of(&parent)?.args(["--set", "freshcreds.mode=node"]))?;
    ensure!(said.contains("need `mode: sidecar` below the dependency's name"), "{said}");
    Ok(())
}

#[test]
fn a_dependency_with_an_alias_has_to_be_named_and_then_works_as_well() -> Result<()> {
    let (parent, _kept) = parent_chart()?;
    let edit = |file: &str, from: &str, to: &str| -> Result<()> {
        let path = parent.join(file);
        let text = read_file(&path)?;
        ensure!(text.contains(from), "{file} has no `{from}`");
        replace(&path, &text.replace(from, to))
    };
    edit("Chart.yaml", "  - name: freshcreds\n", "  - name: freshcreds\n    alias: fresh\n")?;
    edit("values.yaml", "\nfreshcreds:", "\nfresh:")?;
    fs::remove_dir_all(parent.join("charts"))?;
    fs::remove_file(parent.join("Chart.lock"))?;
    succeeds(&mut dependencies_of(&parent)?)?;
    let said = fails(&mut template_of(&parent)?)?;
    ensure!(said.contains(".Subcharts.ALIAS"), "{said}");

    edit("templates/deployment.yaml", "\" . ", "\" .Subcharts.fresh ")?;
    edit("templates/serviceaccount.yaml", "\" . ", "\" .Subcharts.fresh ")?;
    let objects = documents(&succeeds(&mut template_of(&parent)?)?)?;
    assert_eq!(pods(&objects)[0]["initContainers"][0]["restartPolicy"], "Always");
    settings_in(&objects)?.context("no settings")?;
    Ok(())
}

#[test]
fn mode_sidecar_has_a_config_map_if_there_are_settings_and_nothing_else() -> Result<()> {
    let kinds = |name| -> Result<Vec<Value>> {
        Ok(rendered(name)?.iter().map(|it| it["kind"].clone()).collect())
    };
    assert_eq!(kinds("sidecar-minimal")?, [""; 0]);
    assert_eq!(kinds("sidecar-settings")?, ["ConfigMap"]);
    Ok(())
}

// --- what is refused -----------------------------------------------------------------------------------------

#[test]
fn a_value_that_is_not_known_or_makes_no_sense_is_refused() -> Result<()> {
    for (name, value, complaint) in [
        ("secrets-minimal", "registries={a.example}", "'registries' not allowed"),
        ("secrets-minimal", "application.image=a", "'application' not allowed"),
        ("secrets-minimal", "settings.registrys={a.example}", "'registrys' not allowed"),
        ("secrets-minimal", "settings.kubernetes.labels=a", "'labels' not allowed"),
        ("secrets-minimal", "settings.registry[0].hst=a", "'hst' not allowed"),
        ("secrets-minimal", "settings.aws.a.role=a", "'role' not allowed"),
        ("secrets-minimal", "settings.image_pull_secret[0].namespace=a", "'namespace' not allowed"),
        ("secrets-minimal", "settings.image_pull_secret[0].name=Fresh_Creds", "/name"),
        ("secrets-minimal", "settings.registries={https://a.example}", "/settings/registries/0"),
        ("secrets-minimal", "settings.registries={a.example,a.example}", "/settings/registries"),
        ("secrets-minimal", "settings.log_level=verbose", "/settings/log_level"),
        ("secrets-minimal", "settings.fetch_timeout=soon", "/settings/fetch_timeout"),
        ("secrets-minimal", "settings.kubernetes.owner=a b", "/settings/kubernetes/owner"),
        ("secrets-minimal", "settings.github.a.app_id=a", "installation_id"),
        ("secrets-minimal", "mode=Secrets", "set it to `secrets`"),
        ("secrets-minimal", "user=0", "/user"),
        ("secrets-minimal", "image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("secrets-minimal", "image.digest=latest", "/image/digest"),
        ("secrets-minimal", "identity.aws.roleArn=pull", "/identity/aws/roleArn"),
        (
            "secrets-minimal",
            "identity.google.serviceAccount=pull",
            "/identity/google/serviceAccount",
        ),
        ("secrets-minimal", "endpoint.port=70000", "/endpoint/port"),
        ("secrets-minimal", "endpoint.address=localhost", "/endpoint/address"),
        ("secrets-minimal", "replicas=-1", "/replicas"),
        ("secrets-minimal", "securityContext.runAsUser=0", "'securityContext' not allowed"),
        ("sidecar-settings", "sidecar.readiness=no", "/sidecar/readiness"),
        ("sidecar-settings", "settings.target[0].reader=kaniko", "/settings/target/0/reader"),
        ("node-minimal", "node.folder=kubelet", "/node/folder"),
        ("node-minimal", "secretFiles[0].secret=a", "key"),
    ] {
        let mut command = template(&values(name))?;
        let said = fails(command.args(["--set", value]))?;
        ensure!(said.contains(complaint), "`{value}` is refused with:\n{said}");
    }
    Ok(())
}

#[test]
fn what_a_schema_cannot_say_is_refused_with_what_to_write() -> Result<()> {
    const SECRET: &str = "settings.image_pull_secret[0]";
    for (name, value, complaint) in [
        ("secrets-minimal", "mode=", "`secrets` (image pull secrets"),
        ("secrets-minimal", "mode=", "`node` (the kubelet's"),
        ("secrets-minimal", "mode=", "`sidecar` (templates"),
        ("secrets-minimal", "mode=", "--set mode=secrets"),
        ("secrets-minimal", "settings.registries=[]", "`settings.registries` is empty: name"),
        ("node-minimal", "settings.registries=[]", "--set 'settings.registries={"),
        (
            "secrets-minimal",
            "settings.image_pull_secret=[]",
            "`settings.image_pull_secret` is empty",
        ),
        ("node-minimal", "settings.image_pull_secret[0].name=a", "is for mode `secrets`"),
        ("secrets-minimal", "settings.docker_config={/a}", "mode `secrets` writes none"),
        ("secrets-minimal", "settings.target[0].path=/a", "mode `secrets` writes none"),
        ("node-minimal", "settings.target[0].path=/a", "say in `node.folder`"),
        (
            "secrets-minimal",
            "settings.kubernetes.lease=a/b",
            "`settings.kubernetes.lease` is the chart's",
        ),
        (
            "secrets-minimal",
            "settings.listen=0.0.0.0:1",
            "set `endpoint.address` and `endpoint.port`",
        ),
        (
            "node-everywhere",
            "settings.listen=0.0.0.0:1",
            "set `endpoint.address` and `endpoint.port`",
        ),
        ("secrets-minimal", &format!("{SECRET}.all_namespaces=true"), "and has 2 of them"),
        ("secrets-minimal", &format!("{SECRET}.namespaces=[]"), "and has 0 of them"),
        ("secrets-minimal", &format!("{SECRET}.excluded_namespaces={{a}}"), "none to exclude"),
        ("secrets-gke", &format!("{SECRET}.service_accounts={{a}}"), "has both `service_accounts`"),
        ("secrets-eks-irsa", "serviceAccount.create=false", "annotate yours"),
        ("secrets-aks", "identity.azure.clientId=", "set that, too"),
        ("secrets-monitoring", "service.enabled=false", "set `service.enabled: true`"),
        ("node-everywhere", "node.exposeEndpoint=false", "set `node.exposeEndpoint: true`"),
    ] {
        let mut command = template(&values(name))?;
        let flag = if value.ends_with("=[]") { "--set-json" } else { "--set" };
        let said = fails(command.args([flag, value]))?;
        ensure!(said.contains(complaint), "`{value}` is refused with:\n{said}");
    }
    let said = fails(helm("template")?.args(["demo", CHART]))?;
    ensure!(said.contains("`mode` is \"\""), "{said}");
    let mut old = template(&values("secrets-minimal"))?;
    let said = fails(old.args(["--kube-version", "1.28.9"]))?;
    ensure!(said.contains("requires kubeVersion"), "{said}");
    Ok(())
}

// --- what is told --------------------------------------------------------------------------------------------

#[test]
fn every_value_is_described_in_the_readme_and_in_the_schema() -> Result<()> {
    let table = table_of_values()?;
    let path = root().join(CHART).join("README.md");
    let readme = read_file(&path)?;
    let (before, rest) = readme.split_once(BEGIN).context("the README has no place for them")?;
    let (_, after) = rest.split_once(END).context("the place has no end")?;
    write_if_asked(&path, &format!("{before}{BEGIN}{table}{END}{after}"))?;
    ensure!(read_file(&path)?.contains(&table), "the README has other values: run `make manual`");

    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))?)?;
    described(&schema["properties"], "")
}

fn described(properties: &Value, place: &str) -> Result<()> {
    for (key, schema) in properties.as_object().context("no properties")? {
        let is_described = schema["description"].as_str().is_some_and(|text| text.len() > 3);
        ensure!(is_described, "{place}{key} is not described");
        for inner in [schema, &schema["items"], &schema["additionalProperties"]] {
            if !inner["properties"].is_null() {
                described(&inner["properties"], &format!("{place}{key}."))?;
            }
        }
    }
    Ok(())
}

/// A table of what stands behind `# -- ` in values.yaml.
fn table_of_values() -> Result<String> {
    let defaults = defaults()?;
    let mut table = "\n| value | default | |\n| --- | --- | --- |\n".to_owned();
    let (mut path, mut words) = (Vec::<&str>::new(), None::<String>);
    let values = read(&format!("{CHART}/values.yaml"))?;
    let mut told = BTreeSet::new();
    for line in values.lines() {
        let entry = line.trim_start();
        let depth = (line.len() - entry.len()) / 2;
        if let Some(text) = entry.strip_prefix("# -- ") {
            words = Some(text.to_owned());
        } else if let (Some(text), Some(words)) = (entry.strip_prefix("# "), &mut words) {
            *words = format!("{words} {text}");
        } else if let Some((key, _)) =
            entry.split_once(':').filter(|_| !entry.starts_with(['#', '-']))
        {
            path.truncate(depth);
            path.push(key);
            if let Some(words) = words.take() {
                let default = path.iter().fold(&defaults, |value, key| &value[key]);
                let name = path.join(".");
                table +=
                    &["| `", &name, "` | `", &default.to_string(), "` | ", &words, " |\n"].concat();
                told.insert(name);
            }
        } else {
            words = None;
        }
    }
    leaves_are_told(&defaults, "", &told)?;
    Ok(table)
}

/// Whether each value, or what it is part of, is among the `told`.
fn leaves_are_told(value: &Value, place: &str, told: &BTreeSet<String>) -> Result<()> {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let name = format!("{place}{key}");
        if !told.contains(&name) {
            ensure!(inner.as_object().is_some_and(|it| !it.is_empty()), "{name} has no `# --`");
            leaves_are_told(inner, &format!("{name}."), told)?;
        }
    }
    Ok(())
}

#[test]
fn the_helm_commands_in_the_documents_work() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut count = 0;
    for document in
        ["charts/freshcreds/README.md", "docs/kubernetes.md", "examples/kubernetes/README.md"]
    {
        for command in commands_of_the_shell(&read(document)?) {
            // What upgrades by the values of before needs a cluster.
            let is_whole = command.starts_with("helm install ")
                || command.starts_with("helm upgrade --install ");
            if !is_whole || !command.contains(CHART) {
                continue;
            }
            count += 1;
            let command = command.replacen("helm ", "\"$HELM\" ", 1);
            let command = command.replace(" upgrade --install ", " install ");
            let said = succeeds(
                system("sh")
                    .current_dir(root())
                    .env("HELM", repository::tool("bin/helm")?)
                    .env("HOME", home.path())
                    .env("KUBECONFIG", "/dev/null")
                    .args(["-euc", &format!("{command} --dry-run=client")]),
            )
            .with_context(|| format!("{document}: {command}"))?;
            let (rendered, notes) = said.split_once("NOTES:").context("no notes")?;
            ensure!(notes.contains("freshcreds status"), "the notes are short:\n{notes}");
            let (_, rendered) = rendered.split_once("MANIFEST:").context("no manifest")?;
            settings_in(&documents(rendered)?)?;
        }
    }
    ensure!(count >= 6, "only {count} commands");
    Ok(())
}

#[test]
fn the_notes_of_each_mode_say_what_to_do_next() -> Result<()> {
    let home = tempfile::tempdir()?;
    for set in sets()? {
        let mut command = helm("install")?;
        command.env("HOME", home.path()).args(["demo", CHART, "--dry-run=client", "--values"]);
        let said = succeeds(command.arg(values(&set.name)))?;
        let (_, notes) = said.split_once("NOTES:").context("no notes")?;
        let mode = &set.mode;
        let wanted: &[&str] = match mode.as_str() {
            "secrets" => &["rollout status deployment/", "logs deployment/", "freshcreds/owner="],
            "node" => &["rollout status daemonset/", "enforce=privileged", "leaves the entries"],
            _ => &["logs POD --container freshcreds"],
        };
        for told in wanted.iter().chain(&["-- freshcreds status"]) {
            ensure!(notes.contains(told), "{mode}: the notes do not say `{told}`:\n{notes}");
        }
        ensure!(!notes.contains("<no value>") && !notes.contains("\n\n\n"), "{notes}");
    }
    Ok(())
}

#[test]
fn every_command_of_ours_in_the_documents_is_one() -> Result<()> {
    let mut count = 0;
    for document in [
        "charts/freshcreds/README.md",
        "docs/kubernetes.md",
        "charts/freshcreds/templates/NOTES.txt",
    ] {
        let text = read(document)?;
        for rest in text.split("-- freshcreds ").skip(1) {
            let words = rest.split(['\n', '`', '|', ')']).next().unwrap_or_default();
            parsed(words.split_whitespace()).with_context(|| format!("{document}: {words}"))?;
            count += 1;
        }
    }
    ensure!(count > 3, "only {count} commands");
    Ok(())
}

// --- the examples --------------------------------------------------------------------------------------------

#[test]
fn kubernetes_accepts_the_examples() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (path, objects) in examples()? {
        let known: Vec<_> = objects.into_iter().filter(is_in_the_schemas).collect();
        if !known.is_empty() {
            let file = folder.path().join(path.to_string_lossy().replace('/', "-"));
            write_for_the_schemas(&file, &known)?;
            files.push(file);
        }
    }
    ensure!(files.len() >= 4, "only {files:?}");
    for version in versions()? {
        accepted_by(&version, &files)?;
    }
    Ok(())
}

#[test]
fn the_program_understands_the_examples() -> Result<()> {
    let (mut commands, mut settings) = (0, 0);
    for (path, objects) in examples()? {
        for object in &objects {
            commands += commands_in(object).with_context(|| path.display().to_string())?.len();
        }
        if settings_in(&objects).with_context(|| path.display().to_string())?.is_some() {
            settings += 1;
        }
    }
    for values in values_in_examples()? {
        let objects = documents(&render(&values)?)?;
        settings_in(&objects)?.context("no settings")?;
        settings += 1;
    }
    ensure!(commands >= 4 && settings >= 4, "only {commands} commands and {settings} settings");
    Ok(())
}

#[test]
fn the_sidecars_in_the_examples_are_sidecars_whose_folder_their_readers_mount() -> Result<()> {
    let mut count = 0;
    for (path, objects) in examples()? {
        for pod in pods(&objects) {
            let Some(sidecar) =
                list(&pod["initContainers"]).iter().find(|it| it["name"] == "freshcreds")
            else {
                continue;
            };
            count += 1;
            assert_eq!(sidecar["restartPolicy"], "Always", "{}", path.display());
            assert_eq!(sidecar["startupProbe"]["exec"]["command"], json!([INSTALLED, "check"]));
            let is_shared = |it: &&Value| it["emptyDir"]["medium"] == "Memory";
            let shared = list(&pod["volumes"]).iter().find(is_shared).context("no volume")?;
            let written = variable(sidecar, "DOCKER_CONFIG");
            let mounted = |container: &Value| {
                let mounts = list(&container["volumeMounts"]);
                mounts.iter().find(|it| it["name"] == shared["name"]).cloned().unwrap_or_default()
            };
            assert_eq!(&mounted(sidecar)["mountPath"], written, "{}", path.display());
            for reader in list(&pod["containers"]) {
                let place = &mounted(reader)["mountPath"];
                assert_eq!(place, variable(reader, "DOCKER_CONFIG"), "{}", path.display());
                ensure!(place.is_string(), "{}: nobody reads it", path.display());
            }
        }
    }
    ensure!(count >= 3, "only {count} sidecars");
    Ok(())
}

#[test]
fn every_example_has_its_line_in_the_readme() -> Result<()> {
    let readme = read("examples/kubernetes/README.md")?;
    let mut count = 0;
    for entry in fs::read_dir(root().join(EXAMPLES))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(readme.contains(&format!("]({name})")), "{name} is not in the README");
            count += 1;
        }
    }
    assert_eq!(count, 7);
    Ok(())
}

#[test]
fn the_settings_of_other_programs_in_the_examples_parse() -> Result<()> {
    let runner = documents(&read("examples/kubernetes/gitlab-runner/values.yaml")?)?.remove(0);
    let config: toml::Table = text(&runner["runners"]["config"])?.parse()?;
    let cluster = &config["runners"][0]["kubernetes"];
    let secret = values_of("gitlab-runner")?;
    let secret = &secret["settings"]["image_pull_secret"][0];
    assert_eq!(cluster["namespace"].as_str(), secret["namespaces"][0].as_str());
    assert_eq!(cluster["image_pull_secrets"][0].as_str(), secret["name"].as_str());
    let volume = &cluster["volumes"]["secret"][0];
    assert_eq!(volume["name"].as_str(), secret["name"].as_str());

    let updater =
        documents(&read("examples/kubernetes/argocd-image-updater/values.yaml")?)?.remove(0);
    let registry = &updater["config"]["registries"][0];
    let secret = values_of("argocd-image-updater")?;
    let secret = &secret["settings"]["image_pull_secret"][0];
    let name = format!("{}/{}", text(&secret["namespaces"][0])?, text(&secret["name"])?);
    assert_eq!(registry["credentials"], format!("pullsecret:{name}"));
    ensure!(registry["credsexpire"].is_string(), "it would keep the first token for ever");
    Ok(())
}
