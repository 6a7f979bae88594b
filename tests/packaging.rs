//! What is shipped around the program, judged by the programs that will read it: systemd, hadolint, shellcheck.
//! The chart is in `chart.rs`.
//!
//! A tool that is missing fails its tests and says so; none is skipped.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::CommandFactory;
use serde_json::Value;

use crate::repository::{documents, outcome, put, read, root};

#[path = "support/repository.rs"]
mod repository;

// --- systemd -------------------------------------------------------------------------------------

#[test]
fn systemd_accepts_the_units() -> Result<()> {
    // `verify` wants to see the program that a unit starts; here it is the one just built.
    let folder = tempfile::tempdir()?;
    let mut command = system("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    for unit in units()? {
        let text = fs::read_to_string(&unit)?.replace(PACKAGED, env!("CARGO_BIN_EXE_freshcreds"));
        let name = unit.file_name().and_then(OsStr::to_str).context("no name")?;
        let copy = folder.path().join(name);
        put(&copy, &text)?;
        // Of a template, an instance.
        command.arg(folder.path().join(name.replace('@', "@somebody")));
    }
    let said = succeeds(&mut command)?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify warns:\n{said}");
    Ok(())
}

#[test]
fn the_services_are_confined() -> Result<()> {
    for service in services()? {
        let is_roots = read_file(&service)?.contains("\nUser=root\n");
        let threshold = if is_roots { EXPOSURE_OF_ROOT } else { EXPOSURE };
        succeeds(system("systemd-analyze").current_dir(root()).args([
            OsStr::new("security"),
            OsStr::new("--offline=true"),
            OsStr::new(&format!("--threshold={threshold}")),
            service.as_os_str(),
        ]))
        .with_context(|| format!("{} is more exposed than it was", service.display()))?;
    }
    Ok(())
}

#[test]
fn all_services_share_one_sandbox() -> Result<()> {
    let mut sandboxes = Vec::new();
    for service in services()? {
        let text = read_file(&service)?;
        let (_, sandbox) = text.split_once("\nProtectSystem=strict\n").context("no sandbox")?;
        let lines = sandbox.lines().take_while(|line| !line.starts_with("[Install]"));
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        sandboxes.push((service, lines.map(str::to_owned).collect::<Vec<_>>()));
    }
    assert_eq!(sandboxes.len(), 5);
    for (service, sandbox) in &sandboxes {
        assert!(sandbox.len() > 25, "{} has no sandbox", service.display());
        assert_eq!(sandbox, &sandboxes[0].1, "{}", service.display());
    }
    Ok(())
}

#[test]
fn a_service_and_its_pass_of_a_timer_touch_the_same() -> Result<()> {
    // All between the settings and the sandbox, without the endpoint that a single pass has not.
    let touched = |unit: &str| -> Result<Vec<String>> {
        let text = read(&format!("{UNITS}/{unit}"))?;
        let (_, rest) = text.split_once("\nEnvironmentFile=").context("no settings")?;
        let (touched, _) = rest.split_once("\nProtectSystem=").context("no sandbox")?;
        let lines = touched.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    };
    assert_eq!(touched("freshcreds-root.service")?, touched("freshcreds-once.service")?);
    assert_eq!(touched("freshcreds@.service")?, touched("freshcreds-once@.service")?);
    Ok(())
}

// --- the Debian package --------------------------------------------------------------------------

#[test]
fn the_manual_pages_are_those_of_the_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let command = freshcreds::cli::Cli::command();
    clap_mangen::generate_to(command, folder.path())?;
    put(&folder.path().join("freshcreds.toml.5"), &manual_of_the_settings()?)?;
    is_as_generated(folder.path(), "dist/man")
}

#[test]
fn the_completions_are_those_of_the_program() -> Result<()> {
    use clap_complete::Shell;

    let folder = tempfile::tempdir()?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = freshcreds::cli::Cli::command();
        clap_complete::generate_to(shell, &mut command, "freshcreds", folder.path())?;
    }
    is_as_generated(folder.path(), "dist/completions")
}

#[test]
fn the_manual_of_the_settings_has_every_key() -> Result<()> {
    let manual = read("dist/man/freshcreds.toml.5")?.replace("\\-", "-");
    for line in read("dist/freshcreds.toml")?.lines() {
        if let Some((key, _)) = line.strip_prefix('#').and_then(|line| line.split_once(" = "))
            && key.starts_with(|first: char| first.is_ascii_lowercase())
        {
            ensure!(manual.contains(&format!("{key} = ")), "`{key}` is not in the manual");
        }
    }
    Ok(())
}

#[test]
fn the_package_has_the_version_and_the_units_of_the_rest() -> Result<()> {
    let changelog = read("dist/debian/changelog")?;
    let newest = format!("freshcreds ({}-1) ", env!("CARGO_PKG_VERSION"));
    ensure!(changelog.starts_with(&newest), "the changelog does not start with `{newest}`");
    // What a maintainer script forgets goes on with old code after an upgrade, or without a program
    // after a removal.
    let (postinst, prerm) = (read("dist/debian/postinst")?, read("dist/debian/prerm")?);
    for unit in units()? {
        let name = unit.file_name().and_then(OsStr::to_str).context("no name")?;
        let name = name.replace('@', "@*");
        ensure!(prerm.contains(&name), "prerm does not stop {name}");
        let is_a_pass = name.contains("once") && name.ends_with("service");
        ensure!(is_a_pass || postinst.contains(&name), "postinst does not restart {name}");
    }
    Ok(())
}

/// freshcreds.toml(5), made of the sample, which has a word on each setting.
fn manual_of_the_settings() -> Result<String> {
    use clap_mangen::roff::{Roff, roman};

    let mut roff = Roff::new();
    roff.control("TH", ["freshcreds.toml", "5"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("freshcreds.toml - settings of freshcreds")]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut is_example = false;
    for line in read("dist/freshcreds.toml")?.lines() {
        // Text follows "# ", and a setting "#" alone.
        let (line, is_text) = match line.strip_prefix("# ") {
            Some(text) => (text, true),
            None => (line.strip_prefix('#').unwrap_or(line), false),
        };
        if line.is_empty() {
            roff.control(if is_example { "sp" } else { "PP" }, []);
            continue;
        }
        if is_text == is_example {
            roff.control(if is_example { "fi" } else { "nf" }, []);
            roff.control(if is_example { "RE" } else { "RS" }, []);
            is_example = !is_text;
            if is_text {
                roff.control("PP", []);
            }
        }
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("freshcreds(1)")]);
    Ok(roff.to_roff())
}

/// Whether a folder of the repository has what was generated, and nothing else. It is written anew if
/// `FRESHCREDS_WRITE` is set (`make manual`).
fn is_as_generated(generated: &Path, shipped: &str) -> Result<()> {
    let list = |folder: &Path| -> Result<BTreeMap<OsString, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            files.insert(entry.file_name(), fs::read_to_string(entry.path())?);
        }
        Ok(files)
    };
    let shipped_folder = root().join(shipped);
    if std::env::var_os("FRESHCREDS_WRITE").is_some() {
        for entry in fs::read_dir(&shipped_folder)? {
            fs::remove_file(entry?.path())?;
        }
        for (name, text) in list(generated)? {
            put(&shipped_folder.join(name), &text)?;
        }
    }
    ensure!(
        list(generated)? == list(&shipped_folder)?,
        "{shipped} is not what the program says of itself: run `make manual`"
    );
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
    succeeds(tool("shellcheck")?.args(SCRIPTS))?;
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
    let service = |file: &str, name: &str| -> Result<Value> {
        let file = documents(&read(&format!("dist/compose/{file}.yaml"))?)?.remove(0);
        Ok(file["services"][name].clone())
    };
    let freshcreds = service("compose", "freshcreds")?;
    assert_eq!(freshcreds["volumes"][0], format!("credentials:{FOLDER}"));
    assert_eq!(freshcreds["user"], "65532:65532");
    for application in ["reader", "engine", "watcher"] {
        let application = service(application, application)?;
        assert_eq!(application["volumes"][0], format!("credentials:{FOLDER}:ro"));
        assert_eq!(application["environment"]["DOCKER_CONFIG"], FOLDER);
        assert_eq!(application["depends_on"]["freshcreds"]["condition"], "service_healthy");
    }
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
    Ok(())
}

// --- what the tests ask ---------------------------------------------------------------------------

/// The shared folder of the containers, in the image and the compose file; `tests/chart.rs` has the chart's.
const FOLDER: &str = "/var/run/freshcreds";
/// Where the program is in the image.
const INSTALLED: &str = "/usr/local/bin/freshcreds";
/// Where it is, for the units and in the Debian package.
const PACKAGED: &str = "/usr/bin/freshcreds";
const UNITS: &str = "dist/systemd";
/// In tenths, what `systemd-analyze security` of systemd 252 reports; a plain unit has 9.6.
const EXPOSURE: u8 = 12;
/// Of a service whose user is root.
const EXPOSURE_OF_ROOT: u8 = 18;
const SCRIPTS: [&str; 12] = [
    ".ci/run",
    ".ci/advisories",
    ".ci/release-notes",
    ".ci/release-archive",
    "tests/setup.sh",
    "dist/image/build.sh",
    "dist/image/compile.sh",
    "dist/image/files.sh",
    "dist/debian/postinst",
    "dist/debian/prerm",
    "dist/debian/postrm",
    "dist/notices/sbom.sh",
];

fn read_file(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn services() -> Result<Vec<PathBuf>> {
    let mut services = units()?;
    services.retain(|unit| unit.extension().is_some_and(|kind| kind == "service"));
    Ok(services)
}

fn units() -> Result<Vec<PathBuf>> {
    let mut units = Vec::new();
    for entry in fs::read_dir(root().join(UNITS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "service" || kind == "timer") {
            units.push(path);
        }
    }
    units.sort();
    ensure!(units.len() == 7, "these are the units: {units:?}");
    Ok(units)
}

// --- how they ask ---------------------------------------------------------------------------------

/// A tool that `make setup` puts below `target/tools`.
fn tool(name: &str) -> Result<Command> {
    let mut command = Command::new(repository::tool(&format!("bin/{name}"))?);
    command.current_dir(root());
    Ok(command)
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
