//! What is written twice is compared: links, metrics, settings, versions.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::repository::{read, root};

#[expect(dead_code, reason = "shared with other tests, which use other parts of it")]
#[path = "support/repository.rs"]
mod repository;

fn documents() -> Result<Vec<PathBuf>> {
    let mut documents = Vec::new();
    for folder in [".", "docs", "charts/freshcreds", "examples/kubernetes"] {
        for entry in std::fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    Ok(documents)
}

/// As GitHub makes it of a heading.
fn anchor_of(heading: &str) -> String {
    let words = heading.trim_matches(['#', ' ']).to_lowercase().replace(' ', "-");
    words.chars().filter(|sign| sign.is_alphanumeric() || matches!(sign, '-' | '_')).collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    let mut count = 0;
    for document in documents()? {
        let text = std::fs::read_to_string(&document)?;
        let folder = document.parent().context("no folder")?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            count += 1;
            let is_there = if path.is_empty() {
                text.lines().any(|line| line.starts_with('#') && anchor_of(line) == anchor)
            } else {
                folder.join(path).exists()
            };
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count >= 5, "only {count} links were found");
    Ok(())
}

#[test]
fn the_readme_names_the_metrics_that_there_are() -> Result<()> {
    let source = read("src/metrics.rs")?;
    let (source, _) = source.split_once("#[cfg(test)]").context("no tests")?;
    let readme = read("README.md")?;
    let named = readme.split("`freshcreds_").skip(1).filter_map(|rest| rest.split('`').next());
    let mut count = 0;
    for metric in named {
        let stem = metric.trim_end_matches("_total").trim_end_matches("_seconds");
        assert!(source.contains(&format!("\"{stem}\"")), "freshcreds_{metric}");
        count += 1;
    }
    let there = source.matches("registry.register(").count()
        + source.matches("registry.register_with_unit(").count()
        + source.matches("encode_descriptor(").count();
    assert_eq!(count, there - 1, "all but the build's");
    Ok(())
}

#[test]
fn the_readme_names_every_key_of_the_settings_file() -> Result<()> {
    let readme = read("README.md")?;
    let sample = read("dist/freshcreds.toml")?;
    let keys = sample
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key);
    for key in keys {
        let is_named =
            readme.contains(&format!("{key} = ")) || readme.contains(&format!("`{key}`"));
        assert!(is_named, "`{key}` is not in the README");
    }
    Ok(())
}

#[test]
fn the_readme_makes_all_seven_promises() -> Result<()> {
    let readme = read("README.md")?;
    let (_, promises) = readme.split_once("## What you may rely on").context("no such heading")?;
    let (promises, _) = promises.split_once("\n## ").context("no heading after it")?;
    assert_eq!(promises.lines().filter(|line| line.contains(". ")).count(), 7);
    Ok(())
}

#[test]
fn the_oldest_rust_is_the_same_everywhere() -> Result<()> {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("README.md")?.contains(&format!("Rust {oldest}")));
    Ok(())
}

#[test]
fn every_test_that_the_rules_of_the_schedule_name_is_there() -> Result<()> {
    let rules = read("docs/scheduling.md")?;
    let mut code = String::new();
    for folder in ["src", "src/schedule", "src/refresh", "src/sources", "tests", "tests/end_to_end"]
    {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                code += &std::fs::read_to_string(path)?;
            }
        }
    }
    let rows = rules.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut count = 0;
    for name in rows.filter_map(|row| row.rsplit(" | ").next()).flat_map(|cell| cell.split('`')) {
        if name.matches('_').count() > 2 {
            assert!(code.contains(&format!("fn {name}(")), "there is no test `{name}`");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} tests are named");
    Ok(())
}
