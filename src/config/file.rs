//! The settings file as it was written: TOML, every key optional, unknown ones
//! refused.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// A settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where the endpoint listens: `ADDRESS:PORT`, `unix:/PATH`, or `off`.
    pub listen: Option<String>,
    /// By which names the endpoint is asked, besides addresses and `localhost`.
    pub allowed_hosts: Option<Vec<String>>,
    /// `text` or `json`.
    pub log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
    /// The files to keep fresh.
    pub docker_config: Option<Vec<PathBuf>>,
    /// How long an issuer may take, as in `30s`.
    pub fetch_timeout: Option<String>,
    /// Where it is remembered what was written, or `off`.
    pub state: Option<PathBuf>,
    /// `leave` or `remove`.
    pub expired_entries: Option<String>,
    /// Whether the registries are asked if they take the credentials.
    pub verify: Option<bool>,
    /// Registries whose names say what they are.
    pub registries: Option<Vec<String>>,
    /// Registries whose names do not.
    #[serde(default)]
    pub registry: Vec<RegistryTable>,
    /// Files of which there is more to say.
    #[serde(default)]
    pub target: Vec<TargetTable>,
    /// What is done after a change.
    #[serde(default)]
    pub hook: Vec<HookTable>,
}

/// A `[[hook]]` table.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "expected a table: `[[hook]]`, and `command = [...]` below it"
)]
pub struct HookTable {
    /// What it is called; the program's name, or the signal and the file, if it is left out.
    pub name: Option<String>,
    /// A program and its arguments.
    pub command: Option<Vec<String>>,
    /// A signal, in place of a command.
    pub signal: Option<String>,
    /// The file with the number of the process that gets the signal.
    pub pid_file: Option<PathBuf>,
    /// After a change of which files; of any if it is left out.
    pub targets: Option<Vec<PathBuf>>,
    /// How long the command may take, as in `30s`.
    pub timeout: Option<String>,
}

/// A `[[target]]` table.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "expected a table: `[[target]]`, and `path = \"FILE\"` below it"
)]
pub struct TargetTable {
    /// The file.
    pub path: PathBuf,
    /// `docker` or `podman`; what the file's name says if it is left out.
    pub reader: Option<String>,
    /// A user, by name or number.
    pub owner: Option<Id>,
    /// A group, by name or number.
    pub group: Option<Id>,
    /// The permission bits, as in `0600`.
    pub mode: Option<String>,
    /// `replace` or `in-place`.
    pub write: Option<String>,
    /// `report`, `take-over` or `store`.
    pub hidden: Option<String>,
}

/// A user or a group.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name or a number")]
pub enum Id {
    /// By its number.
    Number(u32),
    /// By its name, or by its number in quotes.
    Name(String),
}

/// A `[[registry]]` table.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "expected a table: `[[registry]]`, and `host = \"HOST\"` below it; hosts alone go into \
                 `registries = [\"HOST\"]`"
)]
pub struct RegistryTable {
    /// `HOST` or `HOST:PORT`.
    pub host: String,
    /// `ecr` or `google`; what the host name says if it is left out.
    pub kind: Option<String>,
    /// For `ecr`: the region.
    pub region: Option<String>,
}

impl File {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not a settings file; the text names the place.
    pub fn read(path: &Path) -> Result<Self, BadFile> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BadFile::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|message| BadFile::Invalid { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            // It ends with a line end, and shows the line with a mark under the place.
            let shown = error.to_string().trim_end().to_owned();
            match nearest_key(error.message()) {
                Some(nearest) => format!("{shown}\nhint: did you mean `{nearest}`?"),
                None => shown,
            }
        })
    }
}

/// Why there are no settings from a file.
#[derive(Debug, Error)]
pub enum BadFile {
    /// It is not there, or not for us.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or values that mean nothing.
    #[error("in the settings file {}: {message}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
}

/// The known key that is most like the unknown one, if one is like it at all.
///
/// Both are read off serde's message, ``unknown field `x`, expected one of `y`,
/// `z` ``; a test notices should it ever be worded differently.
fn nearest_key(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    rest.split('`')
        .skip(1)
        .step_by(2)
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_nearest_one() {
        let message = File::parse("log_format = \"json\"\nlisten_on = \"off\"\n").unwrap_err();
        assert!(message.contains("line 2"), "{message}");
        assert!(message.contains("listen_on"), "{message}");
        assert!(message.ends_with("hint: did you mean `listen`?"), "{message}");

        let message = File::parse("[[registry]]\nhosts = \"gcr.io\"\n").unwrap_err();
        assert!(message.ends_with("hint: did you mean `host`?"), "{message}");

        let message = File::parse("registry = [\"gcr.io\"]\n").unwrap_err();
        assert!(message.contains("line 1") && message.contains("`registries = ["), "{message}");

        let message = File::parse("zzz = 1\n").unwrap_err();
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_place() {
        let message = File::parse("\n\nregistries = \"gcr.io\"\n").unwrap_err();
        assert!(message.contains("line 3"), "{message}");
        assert!(message.contains("expected a sequence"), "{message}");
    }

    #[test]
    fn the_sample_sets_nothing_but_names_every_key() {
        let sample = include_str!("../../dist/freshcreds.toml");
        let file = File::parse(sample).unwrap();
        assert!(file.listen.is_none() && file.registries.is_none() && file.registry.is_empty());

        // A line that is a commented setting is `#key = value`, without a blank.
        let uncommented: String = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with([' ', '#']) => setting,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let file = File::parse(&uncommented).unwrap();
        assert!(file.listen.is_some() && file.allowed_hosts.is_some());
        assert!(file.log_format.is_some());
        assert!(file.log_level.is_some());
        assert!(file.docker_config.is_some());
        assert!(file.fetch_timeout.is_some());
        assert!(file.registries.is_some());
        assert!(file.registry.iter().any(|table| table.kind.is_some() && table.region.is_some()));
        assert!(file.state.is_some() && file.expired_entries.is_some() && file.verify.is_some());
        let table = &file.target[0];
        assert!(table.reader.is_some() && table.write.is_some() && table.hidden.is_some());
        assert!(file.hook.iter().any(|hook| {
            hook.name.is_some() && hook.command.is_some() && hook.timeout.is_some()
        }));
        assert!(file.hook.iter().any(|hook| {
            hook.signal.is_some() && hook.pid_file.is_some() && hook.targets.is_some()
        }));
        assert!(table.owner.is_some() && table.group.is_some() && table.mode.is_some());
    }
}
