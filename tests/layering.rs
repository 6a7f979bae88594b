//! Keeps the way of the data: a module uses those to its left, and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module and the modules that it may use, in the order of the data.
const MAY_USE: &[(&str, &[&str])] = &[
    ("credential", &[]),
    ("trouble", &[]),
    ("clock", &[]),
    ("network", &[]),
    ("program", &[]),
    ("kubernetes", &["clock", "trouble"]),
    ("registry", &["credential", "network"]),
    ("schedule", &["credential"]),
    ("sources", &["clock", "credential", "network", "program", "schedule", "trouble"]),
    ("metrics", &["credential"]),
    ("status", &["clock", "credential", "metrics", "registry", "schedule", "sources", "trouble"]),
    ("refresh", &["clock", "credential", "registry", "schedule", "sources", "status", "trouble"]),
    ("targets", &["clock", "credential", "kubernetes", "schedule", "status", "trouble"]),
    ("hooks", &["clock", "program", "status", "targets", "trouble"]),
    ("page", &["status"]),
    ("http", &["clock", "credential", "metrics", "page", "status"]),
    ("config", &["credential", "hooks", "http", "kubernetes", "network", "sources", "targets"]),
    ("notify", &["clock", "status"]),
    ("process", &[]),
    (
        "daemon",
        &[
            "clock",
            "config",
            "credential",
            "hooks",
            "http",
            "kubernetes",
            "metrics",
            "network",
            "notify",
            "refresh",
            "registry",
            "sources",
            "status",
            "targets",
        ],
    ),
    (
        "doctor",
        &[
            "clock",
            "config",
            "credential",
            "kubernetes",
            "registry",
            "sources",
            "status",
            "targets",
            "trouble",
        ],
    ),
    ("cli", &["config"]),
    ("log", &["cli"]),
    ("table", &["status"]),
    ("watch", &["clock", "http", "status", "table"]),
];

#[test]
fn a_module_uses_only_what_stands_before_it() -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in rust_files(&source)? {
        let relative = file.strip_prefix(&source)?;
        let Some(module) = relative.iter().next().and_then(|name| name.to_str()) else { continue };
        let module = module.trim_end_matches(".rs");
        // Tests may use anything, and these two join everything.
        if relative.ends_with("tests.rs") || module == "main" || module == "lib" {
            continue;
        }
        seen.insert(module.to_owned());
        let text = std::fs::read_to_string(&file)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            wrong.push(format!("{module} has no place in the way of the data: give it one here"));
            continue;
        };
        for used in used_modules(code) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let gone: Vec<_> = MAY_USE.iter().filter(|(name, _)| !seen.contains(*name)).collect();
    assert!(gone.is_empty(), "no longer there: {gone:?}");
    Ok(())
}

#[test]
fn the_way_of_the_data_has_no_circle() {
    let position = |name: &str| MAY_USE.iter().position(|(other, _)| *other == name);
    for (index, (module, uses)) in MAY_USE.iter().enumerate() {
        for used in *uses {
            assert!(position(used).is_some_and(|other| other < index), "{module} uses {used}");
        }
    }
}

#[test]
fn unsafe_code_is_in_one_file() -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source)? {
        let has_it = std::fs::read_to_string(&file)?.contains("unsafe {");
        assert_eq!(has_it, file.ends_with("targets/lease.rs"), "{}", file.display());
    }
    Ok(())
}

fn used_modules(code: &str) -> BTreeSet<String> {
    code.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
