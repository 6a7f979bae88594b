//! What is shipped around the program, judged by the programs that will read it: systemd, helm,
//! Kubernetes' own schemas, hadolint, shellcheck.
//!
//! A tool that is missing fails its tests and says so; none is skipped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

// --- systemd -------------------------------------------------------------------------------------

#[test]
fn systemd_accepts_the_units() -> Result<()> {
    // `verify` wants to see the program that a unit starts; here it is the one just built.
    let folder = tempfile::tempdir()?;
    let mut command = system("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    for unit in UNITS {
        let text = read(unit)?.replace(INSTALLED, env!("CARGO_BIN_EXE_freshcreds"));
        let copy = folder.path().join(file_name(unit)?);
        put(&copy, &text)?;
        command.arg(copy);
    }
    let said = succeeds(&mut command)?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify warns:\n{said}");
    Ok(())
}

#[test]
fn the_services_are_confined() -> Result<()> {
    for service in SERVICES {
        succeeds(system("systemd-analyze").current_dir(root()).args([
            "security",
            "--offline=true",
            &format!("--threshold={EXPOSURE_IN_TENTHS}"),
            service,
        ]))
        .with_context(|| format!("{service} is more exposed than it was"))?;
    }
    Ok(())
}

#[test]
fn the_two_services_share_one_sandbox() -> Result<()> {
    let sandbox = |unit| -> Result<Vec<String>> {
        let text = read(unit)?;
        let (_, sandbox) = text
            .split_once("\nEnvironment=FRESHCREDS_CONFIG")
            .with_context(|| format!("{unit} does not say where its settings are"))?;
        Ok(sandbox
            .lines()
            .take_while(|line| !line.starts_with("[Install]"))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect())
    };
    let [daemon, once] = SERVICES;
    assert_eq!(sandbox(daemon)?, sandbox(once)?);
    Ok(())
}

// --- the chart -----------------------------------------------------------------------------------

#[test]
fn helm_and_kubernetes_accept_the_chart_with_each_set_of_values() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for values in sets_of_values()? {
        let shown = values.display();
        succeeds(helm("lint")?.args(["--strict", CHART, "--values"]).arg(&values))
            .with_context(|| format!("helm lint with {shown}"))?;

        let rendered = folder.path().join(values.file_name().context("no name")?);
        put(&rendered, &render(&values)?)?;
        succeeds(tool("kubernetes-validate")?.arg("--strict").arg(&rendered))
            .with_context(|| format!("kubernetes-validate with {shown}"))?;
    }
    Ok(())
}

#[test]
fn the_chart_shares_the_folder_and_never_a_file() -> Result<()> {
    for values in sets_of_values()? {
        let rendered = render(&values)?;
        ensure!(!rendered.contains("subPath"), "a subPath in:\n{rendered}");

        let pod = pod(&rendered)?;
        let volume = &pod["volumes"][0];
        assert_eq!(volume["emptyDir"]["medium"], "Memory");
        for container in both_containers(&pod)? {
            assert_eq!(container["volumeMounts"][0]["name"], volume["name"]);
            assert_eq!(container["volumeMounts"][0]["mountPath"], FOLDER);
            assert_eq!(variable(container, "DOCKER_CONFIG"), FOLDER);
        }
    }
    Ok(())
}

#[test]
fn the_application_starts_when_the_first_credentials_are_there() -> Result<()> {
    for values in sets_of_values()? {
        let pod = pod(&render(&values)?)?;
        let [freshcreds, _] = both_containers(&pod)?;
        assert_eq!(freshcreds["restartPolicy"], "Always", "else it is no sidecar");
        let probe = &freshcreds["startupProbe"]["exec"]["command"];
        assert_eq!(probe, &serde_json::json!([INSTALLED, "check"]));
        assert_eq!(freshcreds["livenessProbe"], Value::Null, "no cloud may kill it");
    }
    Ok(())
}

#[test]
fn both_containers_run_as_one_user_without_privileges() -> Result<()> {
    for values in sets_of_values()? {
        let pod = pod(&render(&values)?)?;
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(context["fsGroup"], context["runAsGroup"], "or a mounted token cannot be read");
        for container in both_containers(&pod)? {
            let own = &container["securityContext"];
            assert_eq!(own["runAsUser"], Value::Null, "config.json is for one user alone");
            assert_eq!(own["allowPrivilegeEscalation"], false);
            assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]));
        }
        let [freshcreds, _] = both_containers(&pod)?;
        assert_eq!(freshcreds["securityContext"]["readOnlyRootFilesystem"], true);
    }
    Ok(())
}

#[test]
fn the_values_reach_the_pod() -> Result<()> {
    let several = pod(&render(&values("several"))?)?;
    let [freshcreds, application] = both_containers(&several)?;
    let arguments = freshcreds["args"].as_array().context("no arguments")?;
    assert_eq!(arguments.len(), 1 + 5, "`run` and the registries: {arguments:?}");
    assert_eq!(several["securityContext"]["runAsUser"], 1000);
    assert_eq!(variable(freshcreds, "FRESHCREDS_LOG_LEVEL"), "debug");
    assert_eq!(application["volumeMounts"][0]["readOnly"], false);

    let irsa = documents(&render(&values("irsa"))?)?;
    let account = of_kind(&irsa, "ServiceAccount")?;
    let role = &account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"];
    assert_eq!(role, "arn:aws:iam::123456789012:role/pull");
    let pod = &of_kind(&irsa, "Deployment")?["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    Ok(())
}

#[test]
fn a_value_that_is_not_known_or_makes_no_sense_is_refused() -> Result<()> {
    for (value, complaint) in [
        ("registrys={a.example}", "'registrys' not allowed"),
        ("application.securityContext.runAsUser=0", "'runAsUser' not allowed"),
        ("user=0", "/user"),
        ("registries={https://a.example}", "/registries/0"),
        ("registries={a.example,a.example}", "/registries"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("readiness=no", "/readiness"),
    ] {
        let mut command = template(&values("minimal"))?;
        let said = fails(command.args(["--set", value]))?;
        ensure!(said.contains(complaint), "`{value}` is refused with:\n{said}");
    }
    Ok(())
}

#[test]
fn a_value_that_nobody_can_guess_is_asked_for_with_an_example() -> Result<()> {
    for (value, complaint) in [
        ("registries=null", "`registries` is empty: name the registries"),
        ("application.image=", "`application.image` is empty: name the image"),
    ] {
        let mut command = template(&values("minimal"))?;
        let said = fails(command.args(["--set", value]))?;
        ensure!(said.contains(complaint), "`{value}` is refused with:\n{said}");
        ensure!(said.contains("--set "), "without an example:\n{said}");
    }
    Ok(())
}

#[test]
fn the_command_in_the_readme_of_the_chart_works() -> Result<()> {
    let readme = read(&format!("{CHART}/README.md"))?;
    let command = readme
        .split_once("```sh\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(command, _)| command.trim().replacen("helm ", "\"$HELM\" ", 1))
        .context("no ```sh block")?;
    let home = tempfile::tempdir()?;
    let said = succeeds(
        system("sh")
            .current_dir(root())
            .env("HELM", tool_path("helm")?)
            .env("HOME", home.path())
            .env("KUBECONFIG", "/dev/null")
            .args(["-euc", &format!("{command} --dry-run=client")]),
    )?;
    let (_, notes) = said.split_once("NOTES:").context("no notes")?;
    for told in
        ["rollout status deployment/builder-freshcreds", "logs deployment/", "freshcreds status"]
    {
        ensure!(notes.contains(told), "the notes do not say `{told}`:\n{notes}");
    }
    Ok(())
}

// --- the image, compose and the setup script -----------------------------------------------------

#[test]
fn hadolint_accepts_the_dockerfile() -> Result<()> {
    succeeds(tool("hadolint")?.arg("Dockerfile"))?;
    Ok(())
}

#[test]
fn shellcheck_accepts_the_scripts() -> Result<()> {
    succeeds(tool("shellcheck")?.arg("tests/setup.sh").args(IMAGE_SCRIPTS))?;
    Ok(())
}

#[test]
fn what_the_dockerfile_copies_is_let_through_to_the_build() -> Result<()> {
    let ignored = read(".dockerignore")?;
    let let_through: Vec<&str> = ignored.lines().filter_map(|it| it.strip_prefix('!')).collect();
    let dockerfile = read("Dockerfile")?;
    let mut copied = Vec::new();
    for line in dockerfile.lines() {
        let words = line.strip_prefix("COPY ").filter(|it| !it.starts_with("--"));
        let mut words: Vec<&str> = words.into_iter().flat_map(str::split_whitespace).collect();
        words.pop();
        copied.extend(words);
    }
    ensure!(copied.len() > 5, "the Dockerfile copies {copied:?} alone");
    for path in copied {
        let is_let_through = |it: &&str| Path::new(path).starts_with(it) || it.starts_with(path);
        ensure!(let_through.iter().any(is_let_through), ".dockerignore keeps {path} back");
    }
    ensure!(ignored.lines().any(|line| line == "*"), ".dockerignore lets all through");
    Ok(())
}

#[test]
fn compose_shares_the_folder_and_waits_for_health() -> Result<()> {
    let compose = documents(&read("dist/compose/compose.yaml")?)?.remove(0);
    let freshcreds = &compose["services"]["freshcreds"];
    let application = &compose["services"]["application"];
    assert_eq!(freshcreds["volumes"][0], format!("credentials:{FOLDER}"));
    assert_eq!(application["volumes"][0], format!("credentials:{FOLDER}:ro"));
    for service in [freshcreds, application] {
        assert_eq!(service["environment"]["DOCKER_CONFIG"], FOLDER);
        assert_eq!(service["user"], "65532:65532");
    }
    assert_eq!(application["depends_on"]["freshcreds"]["condition"], "service_healthy");
    Ok(())
}

#[test]
fn the_image_has_the_version_the_folder_and_the_user_of_the_rest() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let dockerfile = read("Dockerfile")?;
    for line in [
        format!("ARG VERSION={version}"),
        format!("ENV DOCKER_CONFIG={FOLDER}"),
        format!("ENTRYPOINT [\"{INSTALLED}\"]"),
        "USER 65532:65532".to_owned(),
    ] {
        ensure!(dockerfile.lines().any(|it| it == line), "the Dockerfile does not say `{line}`");
    }

    let chart = documents(&read(&format!("{CHART}/Chart.yaml"))?)?.remove(0);
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    let defaults = documents(&read(&format!("{CHART}/values.yaml"))?)?.remove(0);
    assert_eq!((&defaults["user"], &defaults["group"]), (&65532.into(), &65532.into()));
    Ok(())
}

// --- what the tests ask ---------------------------------------------------------------------------

const CHART: &str = "charts/freshcreds";
/// The shared folder of the containers, in the image, the chart and the compose file.
const FOLDER: &str = "/var/run/freshcreds";
/// Where the program is, in the image and for the units.
const INSTALLED: &str = "/usr/local/bin/freshcreds";
const IMAGE_SCRIPTS: [&str; 3] =
    ["dist/image/build.sh", "dist/image/compile.sh", "dist/image/files.sh"];
const SERVICES: [&str; 2] =
    ["dist/systemd/freshcreds.service", "dist/systemd/freshcreds-once.service"];
const UNITS: [&str; 3] = [SERVICES[0], SERVICES[1], "dist/systemd/freshcreds-once.timer"];
/// What `systemd-analyze security` of systemd 252 reports, 1.8; a plain unit has 9.6.
const EXPOSURE_IN_TENTHS: u8 = 18;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

fn put(path: &Path, text: &str) -> Result<()> {
    Ok(File::create_new(path)?.write_all(text.as_bytes())?)
}

fn file_name(path: &str) -> Result<&OsStr> {
    Path::new(path).file_name().with_context(|| format!("{path} has no name"))
}

/// The sets of values that come with the chart.
fn sets_of_values() -> Result<Vec<PathBuf>> {
    let mut sets = Vec::new();
    for entry in fs::read_dir(root().join(CHART).join("ci"))? {
        sets.push(entry?.path());
    }
    ensure!(sets.len() >= 3, "only {} sets of values", sets.len());
    Ok(sets)
}

fn values(name: &str) -> PathBuf {
    root().join(CHART).join(format!("ci/{name}-values.yaml"))
}

fn template(values: &Path) -> Result<Command> {
    let mut command = helm("template")?;
    command.args(["demo", CHART, "--namespace", "demo", "--values"]).arg(values);
    Ok(command)
}

/// The chart as Kubernetes gets it.
fn render(values: &Path) -> Result<String> {
    succeeds(&mut template(values)?)
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|it| it["kind"] == kind).with_context(|| format!("no {kind}"))
}

fn pod(rendered: &str) -> Result<Value> {
    let objects = documents(rendered)?;
    Ok(of_kind(&objects, "Deployment")?["spec"]["template"]["spec"].clone())
}

/// freshcreds, and the application.
fn both_containers(pod: &Value) -> Result<[&Value; 2]> {
    let only = |list: &'static str| -> Result<&Value> {
        match pod[list].as_array().map(Vec::as_slice) {
            Some([one]) => Ok(one),
            other => bail!("one of {list} was expected, not {other:?}"),
        }
    };
    Ok([only("initContainers")?, only("containers")?])
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let variables = container["env"].as_array().map_or(&[][..], Vec::as_slice);
    variables.iter().find(|it| it["name"] == name).map_or(&Value::Null, |it| &it["value"])
}

/// YAML read by the parser that kubernetes-validate brings along.
fn documents(yaml: &str) -> Result<Vec<Value>> {
    const TO_JSON: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut command = Command::new(root().join("target/tools/lint/bin/python"));
    let mut python = command
        .args(["-c", TO_JSON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|cause| missing(&command, cause))?;
    python.stdin.take().context("no input")?.write_all(yaml.as_bytes())?;
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "this is no YAML:\n{yaml}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

// --- how they ask ---------------------------------------------------------------------------------

fn helm(verb: &str) -> Result<Command> {
    let mut command = tool("helm")?;
    // No cluster and no plugin of whoever runs the tests.
    command.arg(verb).env("KUBECONFIG", "/dev/null").env("HELM_PLUGINS", "/nowhere");
    Ok(command)
}

/// A tool that `make setup` puts below `target/tools`.
fn tool(name: &str) -> Result<Command> {
    let mut command = Command::new(tool_path(name)?);
    command.current_dir(root());
    Ok(command)
}

fn tool_path(name: &str) -> Result<PathBuf> {
    let path = root().join("target/tools/bin").join(name);
    ensure!(path.is_file(), "`{name}` is not in target/tools/bin: run `make setup`");
    Ok(path)
}

/// A program of the system.
fn system(name: &str) -> Command {
    Command::new(name)
}

fn succeeds(command: &mut Command) -> Result<String> {
    match outcome(command)? {
        (true, said) => Ok(said),
        (false, said) => bail!("{command:?} fails:\n{said}"),
    }
}

fn fails(command: &mut Command) -> Result<String> {
    match outcome(command)? {
        (false, said) => Ok(said),
        (true, said) => bail!("{command:?} should have failed:\n{said}"),
    }
}

/// Whether the command was content, and all that it said.
fn outcome(command: &mut Command) -> Result<(bool, String)> {
    let output = command.output().map_err(|cause| missing(command, cause))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn missing(command: &Command, cause: std::io::Error) -> anyhow::Error {
    let program = command.get_program().display();
    if cause.kind() == ErrorKind::NotFound {
        anyhow::Error::new(cause).context(format!("`{program}` is missing: run `make setup`"))
    } else {
        anyhow::Error::new(cause).context(format!("cannot run `{program}`"))
    }
}
