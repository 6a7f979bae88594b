//! What is told of others' code in the program: the bill of materials and the licence texts.
//!
//! `make notices` writes both anew. Here they are held against what cargo builds, so that no dependency
//! changes without them; the texts are also made here, out of the very sources that were compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::repository::{put, read, root, tool};

#[expect(dead_code, reason = "shared with other tests, which use other parts of it")]
#[path = "support/repository.rs"]
mod repository;

const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
const BILL: &str = "dist/notices/freshcreds.cdx.json";
const TEXTS: &str = "dist/notices/THIRD-PARTY-LICENSES.txt";
/// Crates whose package has no licence text, with the one of their repository.
const TEXT_ELSEWHERE: [(&str, &str); 5] = [
    ("base64-simd", "dist/notices/texts/Nugine-simd-MIT.txt"),
    ("kube", KUBE),
    ("kube-client", KUBE),
    ("kube-core", KUBE),
    ("vsimd", "dist/notices/texts/Nugine-simd-MIT.txt"),
];

const KUBE: &str = "dist/notices/texts/kube-rs-Apache-2.0.txt";
/// What looks at what a processor can do, and what takes its place: each is in one program alone.
const OF_ONE: [&str; 2] = ["core_detect", "multiversion_no_op"];

#[test]
fn both_architectures_are_built_of_the_same_crates() -> Result<()> {
    let [one, other] = TARGETS;
    let (mut one, mut other) = (crates_for(&[one])?, crates_for(&[other])?);
    for crates in [&mut one, &mut other] {
        crates.retain(|(name, _)| !OF_ONE.contains(&name.as_str()));
    }
    assert_eq!(one, other, "the bill of materials speaks for both");
    Ok(())
}

#[test]
fn the_bill_of_materials_names_the_crates_in_the_program_and_no_others() -> Result<()> {
    let bill: Value = serde_json::from_str(&read(BILL)?)?;
    let named = bill["components"].as_array().context("no components")?.iter().map(|it| {
        ensure!(it["hashes"][0]["alg"] == "SHA-256", "{} has no hash", it["name"]);
        let part = |key| it[key].as_str().map(str::to_owned).context("no name or version");
        Ok((part("name")?, part("version")?))
    });
    let named = named.collect::<Result<BTreeSet<_>>>()?;
    assert_eq!(named, crates_for(&TARGETS)?, "run `make notices`");
    assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));

    let known = bill["dependencies"].as_array().context("no graph")?;
    assert_eq!(known.len(), named.len() + 1, "each crate and the program are in the graph");
    Ok(())
}

#[test]
fn the_bill_of_materials_says_the_same_on_every_machine_and_day() -> Result<()> {
    let bill: Value = serde_json::from_str(&read(BILL)?)?;
    assert_eq!(bill["serialNumber"], Value::Null);
    assert_eq!(bill["metadata"]["timestamp"], Value::Null);
    ensure!(!read(BILL)?.contains("file://"), "it names a folder of the machine that made it");
    Ok(())
}

#[test]
fn the_bill_of_materials_follows_the_schema_of_cyclonedx() -> Result<()> {
    const VALIDATE: &str = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(str(JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()) or '') or None)";
    let python = tool("cyclonedx/bin/python")?;
    let validate = |path: &Path| -> Result<bool> {
        Ok(Command::new(&python).args(["-c", VALIDATE]).arg(path).status()?.success())
    };
    ensure!(validate(&root().join(BILL))?, "see above");

    let folder = tempfile::tempdir()?;
    let wrong = folder.path().join("wrong.json");
    put(&wrong, &read(BILL)?.replacen("\"SHA-256\"", "\"SHA-257\"", 1))?;
    ensure!(!validate(&wrong)?, "a validator that accepts anything");
    Ok(())
}

#[test]
fn the_licence_texts_are_those_of_the_crates_in_the_program() -> Result<()> {
    let texts = licence_texts()?;
    if std::env::var_os("FRESHCREDS_WRITE").is_some() {
        let kept = root().join(TEXTS);
        if kept.exists() {
            fs::remove_file(&kept)?;
        }
        put(&kept, &texts)?;
        return Ok(());
    }
    let kept = read(TEXTS)?;
    let differs = kept.lines().zip(texts.lines()).find(|(kept, made)| kept != made);
    ensure!(kept == texts, "{TEXTS} is out of date ({differs:?}): run `make notices`");
    Ok(())
}

#[test]
fn what_aws_lc_asks_to_be_told_is_told() -> Result<()> {
    let texts = read(TEXTS)?;
    for part in [
        "Copyright (c) 1998-2011 The OpenSSL Project",
        "Copyright (c) 2014-2024 Google Inc.",
        "the fiat-crypto authors",
        "ISC License",
        "Stephan Mueller",
        "MIT No Attribution",
    ] {
        ensure!(texts.contains(part), "the licence texts do not say `{part}`");
    }
    Ok(())
}

// --- the texts ------------------------------------------------------------------------------------

/// Every licence and notice file of every crate in the program, each text once.
///
/// Word for word, since what they ask for is their copyright lines. Where a crate leaves a choice of
/// licences, all of them are here.
fn licence_texts() -> Result<String> {
    let packages = packages()?;
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, version) in crates_for(&TARGETS)? {
        let package = packages
            .get(&(name.clone(), version.clone()))
            .with_context(|| format!("cargo does not know {name} {version}"))?;
        let licence = package["license"].as_str().context("no licence")?;
        let source = package["repository"].as_str().unwrap_or("https://crates.io");
        writeln!(list, "{name} {version}\n    {licence}\n    {source}")?;

        let manifest = Path::new(package["manifest_path"].as_str().context("no path")?);
        let folder = manifest.parent().context("no folder")?;
        let mut files = Vec::new();
        find_licences(folder, &mut files)?;
        if let Some((_, elsewhere)) = TEXT_ELSEWHERE.iter().find(|(it, _)| *it == name) {
            ensure!(files.is_empty(), "{name} has a text of its own by now");
            let text = tidy(&read(elsewhere)?);
            texts.entry(text).or_default().push(format!("{name} {version} (its repository)"));
            continue;
        }
        ensure!(!files.is_empty(), "{name} {version} has no licence text: see TEXT_ELSEWHERE");
        files.sort();
        for file in files {
            let bytes = fs::read(&file)?;
            let shown = file.strip_prefix(folder)?.display();
            let user = format!("{name} {version} ({shown})");
            texts.entry(tidy(&String::from_utf8_lossy(&bytes))).or_default().push(user);
        }
    }

    let mut texts = texts.into_iter().collect::<Vec<_>>();
    texts.sort_by(|(_, one), (_, other)| one.cmp(other));
    let mut out = format!(
        "freshcreds is under the Apache License 2.0, which is in the file LICENSE. The program also holds the crates\n\
         below. `A OR B` leaves a choice of licences; all texts are here. Made by `make notices`.\n\n\
         {list}\n{}",
        read("dist/notices/beside-the-crates.txt")?
    );
    for (text, users) in texts {
        write!(out, "\n{}\n{}\n{}\n\n{text}", "=".repeat(100), users.join("\n"), "-".repeat(100))?;
    }
    Ok(out)
}

fn find_licences(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.file_type()?.is_dir() {
            find_licences(&entry.path(), found)?;
        } else if ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|start| name.starts_with(start))
            && ![".RS", ".PY", ".SH", ".GO"].iter().any(|end| name.ends_with(end))
        {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The same text once, however its lines end.
fn tidy(text: &str) -> String {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_end);
    let text = lines.collect::<Vec<_>>().join("\n");
    format!("{}\n", text.trim_matches('\n'))
}

// --- what cargo says ------------------------------------------------------------------------------

/// The crates that are in the program, by name and version.
///
/// By `cargo tree`, which goes by the features that are built; the graph in `cargo metadata` also has
/// what tests alone ask for. Macros count: what they write is in the program.
fn crates_for(targets: &[&str]) -> Result<BTreeSet<(String, String)>> {
    let mut tree = cargo("tree");
    tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.args(targets.iter().map(|target| format!("--target={target}")));
    let mut crates = BTreeSet::new();
    // An empty line is between the trees of two targets.
    for line in said_by(&mut tree)?.lines().filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(" v").with_context(|| format!("what is `{line}`?"))?;
        let version = rest.split(' ').next().unwrap_or(rest);
        if name != env!("CARGO_PKG_NAME") {
            crates.insert((name.to_owned(), version.to_owned()));
        }
    }
    ensure!(crates.len() > 50, "only {} crates", crates.len());
    Ok(crates)
}

fn packages() -> Result<BTreeMap<(String, String), Value>> {
    let said = said_by(cargo("metadata").args(["--format-version", "1"]))?;
    let Value::Object(mut metadata) = serde_json::from_str(&said)? else { bail!("no object") };
    let Some(Value::Array(packages)) = metadata.remove("packages") else { bail!("no packages") };
    let named = packages.into_iter().map(|it| {
        let part = |key: &str| it[key].as_str().map(str::to_owned).context("no name or version");
        Ok(((part("name")?, part("version")?), it.clone()))
    });
    named.collect()
}

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args([verb, "--locked", "--quiet"]);
    command
}

fn said_by(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} fails:\n{complaint}");
    Ok(String::from_utf8(output.stdout)?)
}
