//! What the tests of the chart and of the examples for Kubernetes ask, and how.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{CommandFactory, Parser};
use freshcreds::cli::{self, Cli};
use freshcreds::config::{File, Options, Settings};
use serde_json::{Map, Value, json};

use crate::repository::{self, documents, outcome, put, read, root};

pub(crate) const CHART: &str = "charts/freshcreds";
pub(crate) const EXAMPLES: &str = "examples/kubernetes";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The oldest Kubernetes that the chart is for.
pub(crate) const OLDEST: &str = "1.29";
/// Where a sidecar's containers see the credentials.
pub(crate) const FOLDER: &str = "/var/run/freshcreds";
/// Where the program is in the image.
pub(crate) const INSTALLED: &str = "/usr/local/bin/freshcreds";
/// What the table of values in the README stands between.
pub(crate) const BEGIN: &str = "<!-- values, by `make manual` -->\n";
pub(crate) const END: &str = "\n<!-- end of values -->";

/// What the chart renders with one of the sets of values that come with it.
pub(crate) struct Set {
    /// The file, up to `-values.yaml`.
    pub(crate) name: String,
    pub(crate) mode: String,
    pub(crate) text: String,
    pub(crate) objects: Vec<Value>,
}

/// All sets, rendered once for all tests.
pub(crate) fn sets() -> Result<&'static [Set]> {
    static SETS: OnceLock<Result<Vec<Set>>> = OnceLock::new();
    let render_all = || {
        let mut sets = Vec::new();
        for entry in fs::read_dir(root().join(CHART).join("ci"))? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let name = file.strip_suffix("-values.yaml").context("not a set of values")?.to_owned();
            let text = render(&values(&name)).with_context(|| name.clone())?;
            let mode = mode_of(&values(&name))?;
            let objects = documents(&text)?;
            sets.push(Set { name, mode, text, objects });
        }
        ensure!(sets.len() >= 12, "only {} sets of values", sets.len());
        Ok(sets)
    };
    SETS.get_or_init(render_all).as_deref().map_err(|error| anyhow!("{error:#}"))
}

pub(crate) fn values(name: &str) -> PathBuf {
    root().join(CHART).join(format!("ci/{name}-values.yaml"))
}

fn mode_of(values: &Path) -> Result<String> {
    Ok(text(&documents(&read_file(values)?)?.remove(0)["mode"])?.to_owned())
}

pub(crate) fn defaults() -> Result<Value> {
    Ok(documents(&read(&format!("{CHART}/values.yaml"))?)?.remove(0))
}

pub(crate) fn template(values: &Path) -> Result<Command> {
    let mut command = helm("template")?;
    command.args(["demo", CHART, "--namespace", "demo", "--values"]).arg(values);
    Ok(command)
}

/// The chart as Kubernetes gets it.
pub(crate) fn render(values: &Path) -> Result<String> {
    succeeds(&mut template(values)?)
}

pub(crate) fn rendered(name: &str) -> Result<&'static [Value]> {
    let set = sets()?.iter().find(|set| set.name == name);
    Ok(&set.with_context(|| format!("there is no set of values `{name}`"))?.objects)
}

/// A copy of the example that has the chart as a dependency, with that dependency in place.
pub(crate) fn parent_chart() -> Result<(PathBuf, tempfile::TempDir)> {
    let kept = tempfile::tempdir()?;
    let parent = kept.path().join(EXAMPLES).join("sidecar");
    copy(&root().join(CHART), &kept.path().join(CHART))?;
    copy(&root().join(EXAMPLES).join("sidecar"), &parent)?;
    succeeds(&mut dependencies_of(&parent)?)?;
    Ok((parent, kept))
}

pub(crate) fn dependencies_of(parent: &Path) -> Result<Command> {
    let mut command = helm("dependency")?;
    command.arg("build").arg(parent);
    Ok(command)
}

pub(crate) fn template_of(parent: &Path) -> Result<Command> {
    let mut command = helm("template")?;
    command.arg("demo").arg(parent).args(["--namespace", "demo"]);
    Ok(command)
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// The three newest versions that kubernetes-validate knows, the newest last.
pub(crate) fn versions() -> Result<Vec<String>> {
    let libraries = repository::tool("lint/lib")?;
    let python = fs::read_dir(&libraries)?.next().context("no python")??.path();
    let schemas = python.join("site-packages/kubernetes_validate/kubernetes-json-schema");
    let mut minors = BTreeSet::new();
    for entry in fs::read_dir(&schemas)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let minor = name.strip_prefix("v1.").and_then(|it| it.strip_suffix(".0-local-strict"));
        minors.extend(minor.and_then(|it| it.parse::<u32>().ok()));
    }
    let newest: Vec<_> = minors.into_iter().rev().take(3).map(|it| format!("1.{it}")).collect();
    ensure!(newest.len() == 3, "these are the versions: {newest:?}");
    Ok(newest.into_iter().rev().collect())
}

pub(crate) fn accepted_by(version: &str, files: &[PathBuf]) -> Result<()> {
    let mut command = tool("kubernetes-validate")?;
    command.args(["--strict", "--kubernetes-version", version]).args(files);
    succeeds(&mut command).with_context(|| format!("Kubernetes {version}")).map(drop)
}

/// What is of Kubernetes itself; custom resources are judged by their own tests.
pub(crate) fn is_in_the_schemas(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    object["kind"].is_string() && (!group.contains('.') || group.ends_with(".k8s.io"))
}

pub(crate) fn write_for_the_schemas(file: &Path, objects: &[Value]) -> Result<()> {
    let known = objects.iter().filter(|it| is_in_the_schemas(it)).cloned();
    let known = known.map(|mut object| {
        // The pod of an agent gets its name from whoever starts it.
        let name = &mut object["metadata"]["name"];
        if name.is_null() {
            *name = "unnamed".into();
        }
        object.to_string()
    });
    put(file, &known.collect::<Vec<_>>().join("\n---\n"))
}

/// What is rendered as the settings file, if anything is.
pub(crate) fn config_in(objects: &[Value]) -> Option<&str> {
    objects.iter().find_map(|it| it["data"]["config.toml"].as_str())
}

/// The same as this program understands it.
pub(crate) fn settings_in(objects: &[Value]) -> Result<Option<Settings>> {
    let Some(config) = config_in(objects) else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.toml");
    put(&path, config)?;
    let options = Options { docker_config_folder: Some(FOLDER.into()), ..Options::default() };
    let settings = File::read(&path).map(|file| Settings::new(&options, &file));
    Ok(Some(settings.with_context(|| config.to_owned())?.with_context(|| config.to_owned())?))
}

/// The commands of this program in what a pod is told to do.
pub(crate) fn commands_in(object: &Value) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let mut rest = vec![object];
    while let Some(value) = rest.pop() {
        rest.extend(value.as_array().into_iter().flatten());
        rest.extend(value.as_object().into_iter().flat_map(Map::values));
        let image = value["image"].as_str().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        if name.split([':', '@']).next() == Some("freshcreds") {
            let args = list(&value["args"]).iter().filter_map(Value::as_str);
            seen.insert(parsed(args)?);
            let is_this_one = image.ends_with(&format!(":{VERSION}")) || image.contains('@');
            ensure!(is_this_one, "{image} is another version");
            for variable in list(&value["env"]) {
                let name = text(&variable["name"])?;
                let is_known = !name.starts_with("FRESHCREDS_") || variables().contains(name);
                ensure!(is_known, "there is no variable {name}");
            }
        }
        let probe = list(&value["exec"]["command"]);
        if let Some((program, args)) = probe.split_first() {
            ensure!(program == INSTALLED, "{program} is not in the image");
            seen.insert(parsed(args.iter().filter_map(Value::as_str))?);
        }
    }
    Ok(seen)
}

pub(crate) fn parsed<'a>(args: impl Iterator<Item = &'a str>) -> Result<String> {
    let cli = Cli::try_parse_from(["freshcreds"].into_iter().chain(args))?;
    let name = match cli.command {
        cli::Command::Run(_) => "run",
        cli::Command::Once(_) => "once",
        cli::Command::Check(_) => "check",
        cli::Command::Logout => "logout",
        cli::Command::Doctor(_) => "doctor",
        cli::Command::Status(_) => "status",
    };
    Ok(name.to_owned())
}

/// The variables that the program knows.
pub(crate) fn variables() -> BTreeSet<String> {
    let mut command = Cli::command();
    command.build();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    let arguments = commands.flat_map(clap::Command::get_arguments);
    arguments.filter_map(|it| it.get_env()?.to_str().map(str::to_owned)).collect()
}

/// What the roles of a release grant, a line for each rule.
pub(crate) fn grants(objects: &[Value]) -> Result<Vec<String>> {
    let mut grants = Vec::new();
    for role in objects {
        let place = match text(&role["kind"])? {
            "Role" => format!("in {}", text(&role["metadata"]["namespace"])?),
            "ClusterRole" => "everywhere".to_owned(),
            _ => continue,
        };
        // Without a binding it would grant nothing, and with another account somebody else.
        let binding = objects.iter().find(|it| {
            it["roleRef"]["name"] == role["metadata"]["name"]
                && it["roleRef"]["kind"] == role["kind"]
                && it["metadata"]["namespace"] == role["metadata"]["namespace"]
        });
        let binding = binding.with_context(|| format!("nobody is given the role {place}"))?;
        let account = &workload(objects)?["spec"]["template"]["spec"]["serviceAccountName"];
        let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": "demo"}]);
        assert_eq!(binding["subjects"], subject);
        for rule in list(&role["rules"]) {
            let words = |key: &str| -> Result<String> {
                let words = list(&rule[key]).iter().map(text).collect::<Result<Vec<_>>>()?;
                Ok(sorted(words).join(","))
            };
            let group = if words("resources")? == "leases" { "coordination.k8s.io" } else { "" };
            assert_eq!(rule["apiGroups"], json!([group]));
            let of = match words("resourceNames")?.as_str() {
                "" => String::new(),
                names => format!(" of {names}"),
            };
            grants.push(format!("{place}: {} {}{of}", words("resources")?, words("verbs")?));
        }
    }
    Ok(sorted(grants))
}

pub(crate) fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>
pub(crate) fn is_restricted(pod: &Value) -> Result<()> {
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(pod[key].is_null(), "{key} in {pod}");
    }
    for volume in list(&pod["volumes"]) {
        let kinds = ["configMap", "emptyDir", "projected", "secret", "downwardAPI"];
        ensure!(kinds.iter().any(|kind| !volume[kind].is_null()), "{volume}");
    }
    let whole = &pod["securityContext"];
    for container in containers(pod) {
        let own = &container["securityContext"];
        let either = |key: &str| if own[key].is_null() { &whole[key] } else { &own[key] };
        ensure!(either("runAsNonRoot") == true, "may be root: {container}");
        ensure!(either("runAsUser") != 0, "is root: {container}");
        ensure!(either("seccompProfile")["type"] == "RuntimeDefault", "{container}");
        ensure!(own["allowPrivilegeEscalation"] == false, "{container}");
        ensure!(own["capabilities"] == json!({"drop": ["ALL"]}), "{container}");
        ensure!(own["privileged"].is_null(), "{container}");
        // Beyond the standard.
        ensure!(own["readOnlyRootFilesystem"] == true, "{container}");
    }
    Ok(())
}

/// The pods in objects of every kind that has any.
pub(crate) fn pods(objects: &[Value]) -> Vec<&Value> {
    let pod = |object: &'_ Value| match object["kind"].as_str() {
        Some("Pod") => Some("/spec"),
        Some("Deployment" | "DaemonSet" | "Job") => Some("/spec/template/spec"),
        _ => None,
    };
    objects.iter().filter_map(|object| object.pointer(pod(object)?)).collect()
}

pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// What has the pods.
pub(crate) fn workload(objects: &[Value]) -> Result<&Value> {
    let is_it = |it: &&Value| it["kind"] == "Deployment" || it["kind"] == "DaemonSet";
    objects.iter().find(is_it).context("no workload")
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("no text: {value}"))
}

pub(crate) fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let variables = list(&container["env"]);
    variables.iter().find(|it| it["name"] == name).map_or(&Value::Null, |it| &it["value"])
}

/// The manifests of the examples; charts, and values for charts, are no manifests.
pub(crate) fn examples() -> Result<Vec<(PathBuf, Vec<Value>)>> {
    let mut examples = Vec::new();
    for folder in fs::read_dir(root().join(EXAMPLES))? {
        let folder = folder?.path();
        if !folder.is_dir() || folder.join("Chart.yaml").exists() {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
            if is_yaml && !path.to_string_lossy().ends_with("values.yaml") {
                let shown = path.strip_prefix(root())?.to_owned();
                examples.push((shown, documents(&read_file(&path)?)?));
            }
        }
    }
    ensure!(examples.len() >= 4, "only {} manifests", examples.len());
    Ok(examples)
}

/// The values for our chart in the examples.
pub(crate) fn values_in_examples() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root().join(EXAMPLES))? {
        let path = folder?.path().join("freshcreds-values.yaml");
        if path.exists() {
            found.push(path);
        }
    }
    Ok(found)
}

pub(crate) fn values_of(example: &str) -> Result<Value> {
    let path = format!("{EXAMPLES}/{example}/freshcreds-values.yaml");
    Ok(documents(&read(&path)?)?.remove(0))
}

/// The commands in a document's blocks for a shell, each on one line.
pub(crate) fn commands_of_the_shell(document: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut is_in_one = false;
    for line in document.replace("\\\n", " ").lines() {
        if line.contains("```") {
            is_in_one = line.ends_with("```console") || line.ends_with("```sh");
        } else if is_in_one {
            commands.push(line.trim_start_matches(['$', ' ']).to_owned());
        }
    }
    commands
}

// --- how they ask -------------------------------------------------------------------------------------------------

/// Writes what is generated if `FRESHCREDS_WRITE` is set (`make manual`).
pub(crate) fn write_if_asked(path: &Path, text: &str) -> Result<()> {
    if std::env::var_os("FRESHCREDS_WRITE").is_some() { replace(path, text) } else { Ok(()) }
}

pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    fs::remove_file(path)?;
    put(path, text)
}

pub(crate) fn read_file(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn helm(verb: &str) -> Result<Command> {
    let mut command = tool("helm")?;
    // No cluster and no plugin of whoever runs the tests.
    command.arg(verb).env("KUBECONFIG", "/dev/null").env("HELM_PLUGINS", "/nowhere");
    Ok(command)
}

/// A tool that `make setup` puts below `target/tools`.
pub(crate) fn tool(name: &str) -> Result<Command> {
    let mut command = Command::new(repository::tool(&format!("bin/{name}"))?);
    command.current_dir(root());
    Ok(command)
}

/// A program of the system.
pub(crate) fn system(name: &str) -> Command {
    Command::new(name)
}

pub(crate) fn succeeds(command: &mut Command) -> Result<String> {
    match outcome(command)? {
        (true, said) => Ok(said),
        (false, said) => bail!("{command:?} fails:\n{said}"),
    }
}

pub(crate) fn fails(command: &mut Command) -> Result<String> {
    match outcome(command)? {
        (false, said) => Ok(said),
        (true, said) => bail!("{command:?} should have failed:\n{said}"),
    }
}
