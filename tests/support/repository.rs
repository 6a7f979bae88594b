//! The repository as a reader finds it, and the tools that judge it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of it.
pub(crate) fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

/// Writes a file that is not there yet.
pub(crate) fn put(path: &Path, text: &str) -> Result<()> {
    Ok(File::create_new(path)?.write_all(text.as_bytes())?)
}

/// What `make setup` puts below `target/tools`.
pub(crate) fn tool(path: &str) -> Result<PathBuf> {
    let tool = root().join("target/tools").join(path);
    ensure!(tool.exists(), "`{path}` is not in target/tools: run `make setup`");
    Ok(tool)
}

/// Whether the command was content, and all that it said.
pub(crate) fn outcome(command: &mut Command) -> Result<(bool, String)> {
    let output = command.output().map_err(|cause| missing(command, cause))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// The documents of a YAML text, read by the parser that kubernetes-validate brings along.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Value>> {
    const TO_JSON: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new(tool("lint/bin/python")?)
        .args(["-c", TO_JSON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    python.stdin.take().context("no input")?.write_all(yaml.as_bytes())?;
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "this is no YAML:\n{yaml}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn missing(command: &Command, cause: std::io::Error) -> anyhow::Error {
    let program = command.get_program().display();
    let hint = match cause.kind() {
        ErrorKind::NotFound => format!("`{program}` is missing: run `make setup`"),
        _ => format!("cannot run `{program}`"),
    };
    anyhow::Error::new(cause).context(hint)
}
