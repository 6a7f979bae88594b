//! What the settings mean: every default applied, every text parsed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::file::{File, RegistryTable};
use crate::credential::{BadHost, RegistryHost};
use crate::sources::{BadRegion, EcrOrigin, Kind, Origin, UnknownKind, UnknownRegistry};
use crate::targets::default_docker_config;

/// What the daemon runs with.
#[derive(Debug)]
pub struct Settings {
    /// Where the endpoint listens, if it does.
    pub listen: Option<SocketAddr>,
    /// What is kept fresh, in order and without repetition.
    pub registries: Vec<Registry>,
    /// Where it is kept.
    pub targets: Vec<PathBuf>,
    /// How long an issuer may take.
    pub fetch_timeout: Duration,
}

/// A registry, and where its credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Under which its credential is written.
    pub host: RegistryHost,
    /// Who gives it.
    pub origin: Origin,
}

/// What flags and environment say; the flag wins where both do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the endpoint listens, or `off`.
    pub listen: Option<String>,
    /// The files to keep fresh.
    pub docker_config: Vec<PathBuf>,
    /// The registries to serve; those of the file if there is none.
    pub registries: Vec<String>,
    /// The folder that `DOCKER_CONFIG` names.
    pub docker_config_folder: Option<PathBuf>,
}

impl Settings {
    /// Puts options and file together.
    ///
    /// # Errors
    ///
    /// If a text does not mean anything, or something is missing.
    pub fn new(options: &Options, file: &File) -> Result<Self, BadSettings> {
        Ok(Self {
            listen: listen(options, file)?,
            registries: registries(options, file)?,
            targets: targets(options, file)?,
            fetch_timeout: fetch_timeout(file)?,
        })
    }

    /// Each issuer with all the registries that share its credential.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<Origin, Vec<RegistryHost>> {
        let mut sources = BTreeMap::<_, Vec<_>>::new();
        for Registry { host, origin } in &self.registries {
            sources.entry(origin.clone()).or_default().push(host.clone());
        }
        sources
    }
}

/// Where the endpoint listens, which is all that `check` and `status` need.
///
/// # Errors
///
/// If the text is neither an address nor `off`.
pub fn listen(options: &Options, file: &File) -> Result<Option<SocketAddr>, BadSettings> {
    let text = options.listen.as_deref().or(file.listen.as_deref()).unwrap_or(DEFAULT_LISTEN);
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| BadSettings::Listen(text.to_owned()))
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum BadSettings {
    /// Neither an address nor `off`.
    #[error("`{0}` is no address to listen on: write ADDRESS:PORT as in 127.0.0.1:8099, or `off`")]
    Listen(String),
    /// Not a host.
    #[error(transparent)]
    Host(#[from] BadHost),
    /// A host that does not say what it is.
    #[error(transparent)]
    Registry(#[from] UnknownRegistry),
    /// A `kind` that is none.
    #[error("the registry `{host}`: {source}")]
    Kind {
        /// Whose.
        host: RegistryHost,
        /// What is wrong.
        source: UnknownKind,
    },
    /// A `region` that is none.
    #[error("the registry `{host}`: {source}")]
    Region {
        /// Whose.
        host: RegistryHost,
        /// What is wrong.
        source: BadRegion,
    },
    /// A table that needs a region.
    #[error("the registry `{host}` is of kind `ecr`, so it needs a `region`, as in \"eu-west-1\"")]
    NoRegion {
        /// Whose.
        host: RegistryHost,
    },
    /// A region where it means nothing.
    #[error(
        "the registry `{host}` has a `region`, which only means something with `kind = \"ecr\"`"
    )]
    NeedlessRegion {
        /// Whose.
        host: RegistryHost,
    },
    /// Two tables for one host.
    #[error("the registry `{0}` has two [[registry]] tables: leave one")]
    TwoTables(RegistryHost),
    /// Nothing to do.
    #[error(
        "no registry is named: give its host as an argument, in FRESHCREDS_REGISTRIES, \
         or in a settings file"
    )]
    NoRegistry,
    /// Nowhere to write.
    #[error("there is no home folder, so name the file to keep fresh with --docker-config")]
    NoTarget,
    /// A path that only a shell understands.
    #[error("the file {}: only a shell knows what `~` is, so write the whole path", .0.display())]
    Tilde(PathBuf),
    /// The same file twice.
    #[error("the file {} is named twice", .0.display())]
    TargetTwice(PathBuf),
    /// Not a duration.
    #[error("`fetch_timeout = \"{0}\"` is no duration from 1s to 5m: write it as in \"30s\"")]
    FetchTimeout(String),
}

/// Loopback, since the endpoint tells who may use which registry.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8099";

/// How long an issuer may take, if the settings do not say.
pub const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(30);

const SHORTEST_FETCH_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_FETCH_TIMEOUT: Duration = Duration::from_mins(5);

fn registries(options: &Options, file: &File) -> Result<Vec<Registry>, BadSettings> {
    let mut described = BTreeMap::new();
    for table in &file.registry {
        let registry = described_registry(table)?;
        if let Some(first) = described.insert(registry.host.clone(), registry) {
            return Err(BadSettings::TwoTables(first.host));
        }
    }
    let named = if options.registries.is_empty() {
        file.registries.as_deref().unwrap_or_default()
    } else {
        options.registries.as_slice()
    };
    let mut registries = Vec::new();
    for name in named {
        let host: RegistryHost = name.parse()?;
        let registry = match described.get(&host) {
            Some(registry) => registry.clone(),
            None => Registry { origin: Origin::of(&host)?, host },
        };
        if !registries.contains(&registry) {
            registries.push(registry);
        }
    }
    if options.registries.is_empty() {
        for registry in described.into_values() {
            if !registries.contains(&registry) {
                registries.push(registry);
            }
        }
    }
    if registries.is_empty() {
        return Err(BadSettings::NoRegistry);
    }
    Ok(registries)
}

fn described_registry(table: &RegistryTable) -> Result<Registry, BadSettings> {
    let host: RegistryHost = table.host.parse()?;
    let kind: Option<Kind> = table
        .kind
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|source| BadSettings::Kind { host: host.clone(), source })?;
    let origin = match (kind, table.region.as_deref()) {
        (Some(Kind::Ecr), Some(region)) => {
            let origin = EcrOrigin::of_region(region)
                .map_err(|source| BadSettings::Region { host: host.clone(), source })?;
            Origin::Ecr(origin)
        }
        (Some(Kind::Ecr), None) => match Origin::of(&host) {
            Ok(origin @ Origin::Ecr(_)) => origin,
            _ => return Err(BadSettings::NoRegion { host }),
        },
        (_, Some(_)) => return Err(BadSettings::NeedlessRegion { host }),
        (Some(Kind::Google), None) => Origin::Google,
        (None, None) => Origin::of(&host)?,
    };
    Ok(Registry { host, origin })
}

fn targets(options: &Options, file: &File) -> Result<Vec<PathBuf>, BadSettings> {
    let named = if options.docker_config.is_empty() {
        file.docker_config.as_deref().unwrap_or_default()
    } else {
        options.docker_config.as_slice()
    };
    if named.is_empty() {
        let folder = options.docker_config_folder.as_deref();
        let target = default_docker_config(folder.filter(|folder| *folder != Path::new("")));
        return Ok(vec![target.ok_or(BadSettings::NoTarget)?]);
    }
    let mut targets = Vec::<PathBuf>::new();
    for path in named {
        if path.starts_with("~") {
            return Err(BadSettings::Tilde(path.clone()));
        }
        if targets.contains(path) {
            return Err(BadSettings::TargetTwice(path.clone()));
        }
        targets.push(path.clone());
    }
    Ok(targets)
}

fn fetch_timeout(file: &File) -> Result<Duration, BadSettings> {
    let Some(text) = file.fetch_timeout.as_deref() else {
        return Ok(DEFAULT_FETCH_TIMEOUT);
    };
    let range = SHORTEST_FETCH_TIMEOUT..=LONGEST_FETCH_TIMEOUT;
    humantime::parse_duration(text)
        .ok()
        .filter(|limit| range.contains(limit))
        .ok_or_else(|| BadSettings::FetchTimeout(text.to_owned()))
}

#[cfg(test)]
mod tests;
