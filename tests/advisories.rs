//! `.ci/advisories` against databases made up for it: a weakness fails the check, and so does not knowing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const PUBLIC: &str = "https://github.com/RustSec/advisory-db";

#[test]
fn a_database_without_anything_against_us_passes() -> Result<()> {
    let database = Database::with(&[("freshcreds-no-such-crate", "")])?;
    let (passes, said) = database.check("required")?;
    ensure!(passes, "{said}");
    ensure!(said.ends_with("1 advisories were checked, none of them against us.\n"), "{said}");
    Ok(())
}

#[test]
fn a_weakness_in_a_crate_of_the_program_fails() -> Result<()> {
    let database = Database::with(&[("tokio", "")])?;
    for mode in ["required", "if-reachable"] {
        let (passes, said) = database.check(mode)?;
        ensure!(!passes, "{mode} passes:\n{said}");
        ensure!(said.contains("RUSTSEC-2026-9990"), "{said}");
    }
    Ok(())
}

#[test]
fn a_weakness_that_cargo_audit_alone_looks_for_fails() -> Result<()> {
    // It is in Cargo.lock, and built for Windows alone.
    let database = Database::with(&[("windows-sys", "")])?;
    let (passes, said) = database.check("required")?;
    ensure!(!passes, "{said}");
    ensure!(said.contains("advisories ok"), "cargo-deny sees it, too:\n{said}");
    ensure!(said.contains("vulnerabilities found!"), "{said}");
    Ok(())
}

#[test]
fn a_crate_that_nobody_maintains_fails() -> Result<()> {
    let database = Database::with(&[("tokio", "informational = \"unmaintained\"\n")])?;
    let (passes, said) = database.check("required")?;
    ensure!(!passes && said.contains("error[unmaintained]"), "{said}");
    Ok(())
}

#[test]
fn a_database_that_cannot_be_had_fails_and_says_what_to_do() -> Result<()> {
    let (passes, said) = Database::out_of_reach()?.check("required")?;
    ensure!(!passes, "{said}");
    ensure!(said.contains("make check ADVISORIES=if-reachable"), "{said}");
    Ok(())
}

#[test]
fn who_is_offline_on_purpose_passes_and_is_told_at_the_end_that_nothing_was_checked() -> Result<()>
{
    let (passes, said) = Database::out_of_reach()?.check("if-reachable")?;
    ensure!(passes, "{said}");
    let (_, end) = said.split_once("######\n# ADVISORIES WERE NOT CHECKED").context("not told")?;
    ensure!(end.lines().count() == 3, "something comes after it:\n{end}");
    Ok(())
}

#[test]
fn a_copy_of_the_last_days_is_better_than_nothing_and_an_older_one_is_not() -> Result<()> {
    let database = Database::with(&[("freshcreds-no-such-crate", "")])?;
    ensure!(database.check("required")?.0, "the database cannot be had");
    database.vanish()?;
    let (passes, said) = database.check("required")?;
    ensure!(passes && said.contains("going by the copy of 20"), "{said}");

    let fetched = database.0.path().join("copy/fetched");
    ensure!(Command::new("touch").args(["-d", "9 days ago"]).arg(&fetched).status()?.success());
    for (mode, should_pass) in [("required", false), ("if-reachable", true)] {
        let (passes, said) = database.check(mode)?;
        ensure!(passes == should_pass, "{mode}:\n{said}");
        ensure!(!said.contains("advisories were checked"), "{said}");
    }
    Ok(())
}

#[test]
fn a_weakness_in_a_copy_fails_without_a_network() -> Result<()> {
    let database = Database::with(&[("tokio", "")])?;
    database.check("required")?;
    database.vanish()?;
    let (passes, said) = database.check("if-reachable")?;
    ensure!(!passes && said.contains("RUSTSEC-2026-9990"), "{said}");
    Ok(())
}

#[test]
fn a_word_that_is_neither_is_refused() -> Result<()> {
    let (passes, said) = Database::out_of_reach()?.check("never")?;
    ensure!(!passes && said.contains("required|if-reachable"), "{said}");
    Ok(())
}

// --- the database ---------------------------------------------------------------------------------

/// A git repository in the layout of `RustSec`'s, which git takes for the public one, and a place for our
/// copy of it.
struct Database(TempDir);

impl Database {
    /// With an advisory against every version of each crate.
    fn with(crates: &[(&str, &str)]) -> Result<Self> {
        let database = Self(tempfile::tempdir()?);
        let origin = database.origin();
        for (number, (name, more)) in crates.iter().enumerate() {
            let id = format!("RUSTSEC-2026-{}", 9990 + number);
            let folder = origin.join("crates").join(name);
            fs::create_dir_all(&folder)?;
            let advisory = format!(
                "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{name}\"\ndate = \"2026-01-01\"\n{more}\n\
                 [versions]\npatched = []\n```\n\n# Made up\n\nFor a test.\n"
            );
            let path = folder.join(format!("{id}.md"));
            fs::File::create_new(path)?.write_all(advisory.as_bytes())?;
        }
        for git in [
            &["init", "--quiet", "--initial-branch", "main"][..],
            &["add", "--all"],
            &["-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-qm", "test"],
        ] {
            ensure!(Command::new("git").arg("-C").arg(&origin).args(git).status()?.success());
        }
        Ok(database)
    }

    fn out_of_reach() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn vanish(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.origin())?)
    }

    fn origin(&self) -> PathBuf {
        self.0.path().join("origin")
    }

    /// Whether the script passes, and what it says.
    fn check(&self, mode: &str) -> Result<(bool, String)> {
        let output = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$1\" 2>&1"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/advisories"))
            .arg(mode)
            // Whoever runs the tests may want colours; in the middle of a sentence, they hide it from `contains`.
            .env("CARGO_TERM_COLOR", "never")
            .env("ADVISORIES_FOLDER", self.0.path().join("copy"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", format!("url.{}.insteadOf", self.origin().display()))
            .env("GIT_CONFIG_VALUE_0", PUBLIC)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        for tool in ["deny", "audit"] {
            let missing = format!("no such command: `{tool}`");
            ensure!(!said.contains(&missing), "cargo-{tool} is missing: run `make setup`");
        }
        Ok((output.status.success(), said))
    }
}
