//! What the settings mean: every default applied, every text parsed.

mod cluster;
mod registries;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

pub use self::cluster::{BadCluster, Cluster};
pub use self::registries::{BadIdentity, BadRegistry, Registry, RelativePath};
use super::file::{File, HookTable, Id, TargetTable};
use crate::credential::{BadHost, RegistryHost};
use crate::hooks::{Action, DEFAULT_LIMIT, Options as Hook, UnknownSignal};
use crate::http::{Address, BadAddress};
use crate::network::{BadAuthorities, Network};
use crate::sources::{Origin, UnknownRegistry};
use crate::targets::memory::Memory;
use crate::targets::obstacles::{Reader, hosts_in_environment};
use crate::targets::secrets::Options as Secret;
use crate::targets::{Hidden, Options as Target, Shared, Write, default_docker_config};

/// What the daemon runs with.
#[derive(Debug)]
pub struct Settings {
    /// Where the endpoint listens, if it does.
    pub listen: Option<Address>,
    /// By which names it is asked, besides addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// What the file says about the log's form and level.
    pub log: [Option<String>; 2],
    /// What is kept fresh, in order and without repetition.
    pub registries: Vec<Registry>,
    /// Where it is kept.
    pub targets: Vec<Target>,
    /// What goes for all of them.
    pub shared: Shared,
    /// The Kubernetes cluster that the secrets are in.
    pub cluster: Cluster,
    /// Where it is kept in that cluster.
    pub secrets: Vec<Secret>,
    /// What is done after a change.
    pub hooks: Vec<Hook>,
    /// How long an issuer may take.
    pub fetch_timeout: Duration,
    /// Whether the registries are asked if they take the credentials; if it is not said,
    /// the command decides.
    pub verify: Option<bool>,
    /// How the clouds are reached.
    pub network: Network,
}

/// What flags and environment say; the flag wins where both do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the endpoint listens, or `off`.
    pub listen: Option<String>,
    /// By which names the endpoint is asked.
    pub allowed_hosts: Vec<String>,
    /// The files to keep fresh.
    pub docker_config: Vec<PathBuf>,
    /// The registries to serve; those of the file if there is none.
    pub registries: Vec<String>,
    /// The folder that `DOCKER_CONFIG` names.
    pub docker_config_folder: Option<PathBuf>,
    /// Where it is remembered what was written, or `off`.
    pub state: Option<PathBuf>,
    /// The folder that systemd made for it (`STATE_DIRECTORY`).
    pub state_folder: Option<PathBuf>,
    /// Whether the registries are asked if they take the credentials.
    pub verify: Option<String>,
    /// Authorities to trust beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// What `DOCKER_AUTH_CONFIG` says.
    pub docker_auth_config: Option<SecretString>,
}

impl Settings {
    /// Puts options and file together.
    ///
    /// # Errors
    ///
    /// If a text does not mean anything, or something is missing.
    pub fn new(options: &Options, file: &File) -> Result<Self, BadSettings> {
        let registries = registries::registries(options, file)?;
        let (cluster, secrets) = cluster::cluster(file, &registries)?;
        let targets = targets(options, file)?;
        if let (Some(_), Some(target)) = (&cluster.lease, targets.first()) {
            return Err(BadSettings::LeaseForFiles(target.path.clone()));
        }
        if cluster.lease.is_some() && secrets.is_empty() {
            return Err(BadSettings::LeaseForNothing);
        }
        let settings = Self {
            listen: listen(options, file)?,
            allowed_hosts: allowed_hosts(options, file)?,
            log: [file.log_format.clone(), file.log_level.clone()],
            registries,
            cluster,
            secrets,
            network: network(options, file)?,
            hooks: hooks(file, &targets)?,
            targets,
            shared: shared(options, file)?,
            fetch_timeout: fetch_timeout(file)?,
            verify: verify(options, file)?,
        };
        let mut of_docker =
            settings.targets.iter().filter(|target| target.reader == Reader::Docker);
        let mut with_path = settings.registries.iter().filter(|registry| registry.host.has_path());
        if let (Some(target), Some(registry)) = (of_docker.next(), with_path.next()) {
            let (host, path) = (registry.host.clone(), target.path.clone());
            return Err(BadSettings::PathForDocker { host, path });
        }
        Ok(settings)
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
pub fn listen(options: &Options, file: &File) -> Result<Option<Address>, BadSettings> {
    let text = options.listen.as_deref().or(file.listen.as_deref()).unwrap_or(DEFAULT_LISTEN);
    if text == "off" {
        return Ok(None);
    }
    Ok(Some(text.parse()?))
}

fn allowed_hosts(options: &Options, file: &File) -> Result<Vec<String>, BadSettings> {
    let named = if options.allowed_hosts.is_empty() {
        file.allowed_hosts.as_deref().unwrap_or_default()
    } else {
        options.allowed_hosts.as_slice()
    };
    let is_bad = |name: &&String| {
        name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match named.iter().find(is_bad) {
        Some(name) => Err(BadSettings::AllowedHost(name.clone())),
        None => Ok(named.to_vec()),
    }
}

/// Where it is remembered what was written.
///
/// # Errors
///
/// If the path is none.
pub fn memory(options: &Options, file: &File) -> Result<Memory, BadSettings> {
    let named = options.state.as_ref().or(file.state.as_ref());
    if let Some(path) = named {
        if path.starts_with("~") {
            return Err(BadSettings::Tilde(path.clone()));
        }
        return Ok(Memory::new((path != Path::new("off")).then(|| path.clone())));
    }
    let default = || Some(dirs::state_dir()?.join(env!("CARGO_PKG_NAME")));
    Ok(Memory::new(options.state_folder.clone().or_else(default)))
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum BadSettings {
    /// Neither an address nor `off`.
    #[error(transparent)]
    Listen(#[from] BadAddress),
    /// Not the name of a host.
    #[error("`{0}` in `allowed_hosts` is no name of a host: write it as in freshcreds.example.com")]
    AllowedHost(String),
    /// Not a host.
    #[error(transparent)]
    Host(#[from] BadHost),
    /// A host that does not say what it is.
    #[error(transparent)]
    Registry(#[from] UnknownRegistry),
    /// A table that describes no registry.
    #[error("the registry `{host}`: {why}")]
    Described {
        /// Whose.
        host: RegistryHost,
        /// What is wrong.
        why: BadRegistry,
    },
    /// A table without a host.
    #[error("a [[registry]] needs a `host`, or `hosts`, and not both")]
    NoHost,
    /// A table that describes no identity.
    #[error("the identity [{cloud}.{name}]: {why}")]
    Identity {
        /// Whose.
        cloud: &'static str,
        /// What it is called.
        name: String,
        /// What is wrong.
        why: BadIdentity,
    },
    /// Certificates that cannot be used.
    #[error(transparent)]
    Authorities(#[from] BadAuthorities),
    /// A path where only docker reads.
    #[error(
        "the registry `{host}` has a path, which docker would take for all of it: {} has to be read by \
         podman (`reader = \"podman\"`), or leave the path",
        path.display()
    )]
    PathForDocker {
        /// Which.
        host: RegistryHost,
        /// Whose reader.
        path: PathBuf,
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
    #[error(
        "nobody knows a home folder (HOME is not set), so name the file to keep fresh, by a \
         `[[target]]` or with --docker-config"
    )]
    NoTarget,
    /// A path that only a shell understands.
    #[error("the file {}: only a shell knows what `~` is, so write the whole path", .0.display())]
    Tilde(PathBuf),
    /// The same file twice.
    #[error("the file {} is named twice", .0.display())]
    TargetTwice(PathBuf),
    /// A word that means nothing.
    #[error("`{key} = \"{text}\"` means nothing: write one of {known}")]
    Word {
        /// Whose value.
        key: &'static str,
        /// What was written.
        text: String,
        /// What could have been.
        known: &'static str,
    },
    /// A word that means nothing, for a target.
    #[error("the target {}: {source}", path.display())]
    Target {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
    /// Nobody of this name.
    #[error("`{key} = \"{name}\"`: there is no such name on this machine; a number always works")]
    NoSuchId {
        /// Whose value.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// Not permission bits.
    #[error("`mode = \"{0}\"` is no file mode: write it as in \"0600\"")]
    Mode(String),
    /// Writing in place changes no owner.
    #[error("`{0}` cannot be kept with `write = \"in-place\"`, which leaves the file as it is")]
    NotInPlace(&'static str),
    /// Two tables for one file.
    #[error("the file {} has two [[target]] tables: leave one", .0.display())]
    TwoTargetTables(PathBuf),
    /// Not a duration.
    #[error(
        "`{key} = \"{text}\"` is no duration from 1s to {}: write it as in \"30s\"",
        humantime::format_duration(*longest)
    )]
    Limit {
        /// Whose value.
        key: &'static str,
        /// What was written.
        text: String,
        /// The longest that can be.
        longest: Duration,
    },
    /// A table that describes no cluster.
    #[error("[kubernetes]: {0}")]
    Kubernetes(BadCluster),
    /// A table that describes no secret.
    #[error("the [[image_pull_secret]] `{name}`: {why}")]
    ImagePullSecret {
        /// Which.
        name: String,
        /// What is wrong.
        why: BadCluster,
    },
    /// Files of which each replica has its own.
    #[error(
        "`lease` lets one of several replicas work, and {} is a file that each of them has: remove \
         `lease`, or the file",
        .0.display()
    )]
    LeaseForFiles(PathBuf),
    /// No secret to agree on.
    #[error(
        "`lease` in [kubernetes] is for an [[image_pull_secret]], and there is none: add one, or remove `lease`"
    )]
    LeaseForNothing,
    /// A hook that does nothing, or two things.
    #[error(
        "a [[hook]] needs a `command` with a program, as in [\"systemctl\", \"reload\", \"app\"], or \
         a `signal` and a `pid_file`, and not both"
    )]
    NoAction,
    /// A path that depends on where one is.
    #[error("`{0}` in a [[hook]] depends on the folder that one is in: write the whole path")]
    Relative(String),
    /// Two hooks of one name.
    #[error("two hooks are called `{0}`: give one of them another `name`")]
    TwoHooks(String),
    /// Not a signal.
    #[error(transparent)]
    Signal(#[from] UnknownSignal),
    /// A limit for what takes no time.
    #[error("the hook `{0}` sends a signal, which needs no `timeout`: remove it")]
    NeedlessTimeout(String),
    /// A hook for a file that is not written.
    #[error("the hook `{name}` is for {}, which is no target: name it as the target is named", path.display())]
    NoSuchTarget {
        /// Which hook.
        name: String,
        /// Which file.
        path: PathBuf,
    },
}

/// Loopback, since the endpoint tells who may use which registry.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8099";

/// How long an issuer may take, if the settings do not say.
pub const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(30);

const SHORTEST_LIMIT: Duration = Duration::from_secs(1);
const LONGEST_FETCH_TIMEOUT: Duration = Duration::from_mins(5);
const LONGEST_HOOK_TIMEOUT: Duration = Duration::from_mins(10);

fn network(options: &Options, file: &File) -> Result<Network, BadSettings> {
    match options.ca_file.as_ref().or(file.ca_file.as_ref()) {
        None => Ok(Network::default()),
        Some(path) => Ok(Network::trusting(path)?),
    }
}

fn verify(options: &Options, file: &File) -> Result<Option<bool>, BadSettings> {
    match options.verify.as_deref() {
        None => Ok(file.verify),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(text) => {
            let (key, text, known) = ("verify", text.to_owned(), "`true`, `false`");
            Err(BadSettings::Word { key, text, known })
        }
    }
}

/// The files to keep fresh.
///
/// # Errors
///
/// If a text does not mean anything.
pub fn targets(options: &Options, file: &File) -> Result<Vec<Target>, BadSettings> {
    let mut described = Vec::<Target>::new();
    for table in &file.target {
        let target = described_target(table).map_err(|source| BadSettings::Target {
            path: table.path.clone(),
            source: source.into(),
        })?;
        if described.iter().any(|other| other.path == target.path) {
            return Err(BadSettings::TwoTargetTables(target.path));
        }
        described.push(target);
    }
    let named = if options.docker_config.is_empty() {
        file.docker_config.as_deref().unwrap_or_default()
    } else {
        options.docker_config.as_slice()
    };
    let mut targets = Vec::<Target>::new();
    for path in named.iter().map(|path| whole(path)) {
        let path = &path;
        if targets.iter().any(|other| other.path == *path) {
            return Err(BadSettings::TargetTwice(path.clone()));
        }
        let target = described.iter().find(|target| target.path == *path);
        targets.push(target.cloned().unwrap_or_else(|| Target::of(path.clone())));
    }
    if options.docker_config.is_empty() {
        let further = described.into_iter();
        let further: Vec<_> = further.filter(|target| !targets.contains(target)).collect();
        targets.extend(further);
    }
    if targets.is_empty() && file.image_pull_secret.is_empty() {
        let folder = options.docker_config_folder.as_deref();
        let path = default_docker_config(folder.filter(|folder| *folder != Path::new("")));
        targets.push(Target::of(whole(&path.ok_or(BadSettings::NoTarget)?)));
    }
    match targets.iter().find(|target| target.path.starts_with("~")) {
        Some(target) => Err(BadSettings::Tilde(target.path.clone())),
        None => Ok(targets),
    }
}

/// The whole path: it is remembered, and a `logout` may be somewhere else.
fn whole(path: &Path) -> PathBuf {
    if path.starts_with("~") {
        return path.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn described_target(table: &TargetTable) -> Result<Target, BadSettings> {
    let mut target = Target::of(whole(&table.path));
    let word = |key, text: &Option<String>, known| {
        let text = text.clone().unwrap_or_default();
        BadSettings::Word { key, text, known }
    };
    target.reader = match table.reader.as_deref() {
        None => target.reader,
        Some("docker") => Reader::Docker,
        Some("podman") => Reader::Podman,
        Some("kubelet") => Reader::Kubelet,
        Some(_) => return Err(word("reader", &table.reader, "`docker`, `podman`, `kubelet`")),
    };
    target.write = match table.write.as_deref() {
        None | Some("replace") => Write::Replace,
        Some("in-place") => Write::InPlace,
        Some(_) => return Err(word("write", &table.write, "`replace`, `in-place`")),
    };
    target.hidden = match table.hidden.as_deref() {
        None | Some("report") => Hidden::Report,
        Some("take-over") => Hidden::TakeOver,
        Some("store") => Hidden::Store,
        Some(_) => return Err(word("hidden", &table.hidden, "`report`, `take-over`, `store`")),
    };
    let attributes = &mut target.attributes;
    attributes.owner = id("owner", table.owner.as_ref(), |name| {
        Some(nix::unistd::User::from_name(name).ok()??.uid.as_raw())
    })?;
    attributes.group = id("group", table.group.as_ref(), |name| {
        Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw())
    })?;
    attributes.mode = match &table.mode {
        None => None,
        Some(text) => Some(
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= MOST_PERMISSIONS)
                .ok_or_else(|| BadSettings::Mode(text.clone()))?,
        ),
    };
    if target.write == Write::InPlace {
        let kept = [
            ("owner", attributes.owner.is_some()),
            ("group", attributes.group.is_some()),
            ("mode", attributes.mode.is_some()),
        ];
        if let Some((key, _)) = kept.into_iter().find(|(_, is_set)| *is_set) {
            return Err(BadSettings::NotInPlace(key));
        }
    }
    Ok(target)
}

fn id(
    key: &'static str,
    id: Option<&Id>,
    look_up: impl Fn(&str) -> Option<u32>,
) -> Result<Option<u32>, BadSettings> {
    match id {
        None => Ok(None),
        Some(Id::Number(number)) => Ok(Some(*number)),
        Some(Id::Name(name)) => match name.parse().ok().or_else(|| look_up(name)) {
            Some(number) => Ok(Some(number)),
            None => Err(BadSettings::NoSuchId { key, name: name.clone() }),
        },
    }
}

fn shared(options: &Options, file: &File) -> Result<Shared, BadSettings> {
    let remove_expired = match file.expired_entries.as_deref() {
        None | Some("leave") => false,
        Some("remove") => true,
        Some(text) => {
            let (key, text, known) = ("expired_entries", text.to_owned(), "`leave`, `remove`");
            return Err(BadSettings::Word { key, text, known });
        }
    };
    let environment = options.docker_auth_config.as_ref();
    let in_environment =
        environment.map(|text| hosts_in_environment(text.expose_secret())).unwrap_or_default();
    Ok(Shared {
        remove_expired,
        in_environment: in_environment.into(),
        memory: memory(options, file)?,
    })
}

const MOST_PERMISSIONS: u32 = 0o777;

fn hooks(file: &File, targets: &[Target]) -> Result<Vec<Hook>, BadSettings> {
    let mut hooks = Vec::<Hook>::new();
    for table in &file.hook {
        let hook = hook(table, targets)?;
        if hooks.iter().any(|other| other.name == hook.name) {
            return Err(BadSettings::TwoHooks(hook.name));
        }
        hooks.push(hook);
    }
    Ok(hooks)
}

fn hook(table: &HookTable, targets: &[Target]) -> Result<Hook, BadSettings> {
    let HookTable { name, command, signal, pid_file, targets: named, timeout } = table;
    let action = match (command.as_deref(), signal, pid_file) {
        (Some([program, ..]), None, None) if is_relative(program) => {
            return Err(BadSettings::Relative(program.clone()));
        }
        (None, Some(_), Some(pid_file)) if pid_file.is_relative() => {
            return Err(BadSettings::Relative(pid_file.display().to_string()));
        }
        (Some([program, arguments @ ..]), None, None) if !program.is_empty() => {
            Action::Run { program: program.clone(), arguments: arguments.to_vec() }
        }
        (None, Some(signal), Some(pid_file)) => {
            Action::Tell { signal: signal.parse()?, pid_file: pid_file.clone() }
        }
        _ => return Err(BadSettings::NoAction),
    };
    let name = name.clone().unwrap_or_else(|| match &action {
        Action::Run { program, .. } => program.rsplit('/').next().unwrap_or(program).to_owned(),
        Action::Tell { signal, pid_file } => {
            format!("SIG{} to {}", signal.as_str(), pid_file.display())
        }
    });
    let limit = match (timeout.as_deref(), &action) {
        (None, _) => DEFAULT_LIMIT,
        (Some(_), Action::Tell { .. }) => return Err(BadSettings::NeedlessTimeout(name)),
        (Some(text), Action::Run { .. }) => limit("timeout", text, LONGEST_HOOK_TIMEOUT)?,
    };
    let named: Vec<_> = named.iter().flatten().map(|path| whole(path)).collect();
    match named.iter().find(|path| !targets.iter().any(|target| target.path == **path)) {
        Some(path) => Err(BadSettings::NoSuchTarget { name, path: path.clone() }),
        None => Ok(Hook { name, action, targets: named, limit }),
    }
}

/// Whether a program is named by a path from wherever one is; a bare name is looked up in `PATH`.
fn is_relative(program: &str) -> bool {
    program.contains('/') && !program.starts_with('/')
}

fn fetch_timeout(file: &File) -> Result<Duration, BadSettings> {
    match file.fetch_timeout.as_deref() {
        None => Ok(DEFAULT_FETCH_TIMEOUT),
        Some(text) => limit("fetch_timeout", text, LONGEST_FETCH_TIMEOUT),
    }
}

/// A duration from a second on.
fn limit(key: &'static str, text: &str, longest: Duration) -> Result<Duration, BadSettings> {
    let range = SHORTEST_LIMIT..=longest;
    let bad = || BadSettings::Limit { key, text: text.to_owned(), longest };
    humantime::parse_duration(text).ok().filter(|limit| range.contains(limit)).ok_or_else(bad)
}

#[cfg(test)]
mod tests;
