//! What makes a reader pass by an entry that stands in the file.
//!
//! Each rule is what the real clients do; `tests/end_to_end/in_vain.rs` asks them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::document::{Document, Member, Object};
use crate::credential::RegistryHost;
use crate::trouble;

/// Whose file it is: who reads it, and by which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Docker's CLI and all that use its library: buildx, compose, kaniko, ko, nerdctl.
    Docker,
    /// Podman, skopeo, buildah, CRI-O.
    Podman,
    /// The kubelet of a Kubernetes node: it asks no helper, takes paths, and tries all that fits.
    Kubelet,
}

impl Reader {
    /// The name of its program.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Kubelet => "kubelet",
        }
    }
}

/// Something that makes a reader pass by entries of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// With a `credsStore` docker asks that program for every host, and takes no
    /// `auths`; podman and skopeo do not care.
    CredsStore {
        /// The program's name after `docker-credential-`.
        name: String,
        /// Whose entries are passed by.
        hosts: Vec<RegistryHost>,
    },
    /// With `credHelpers` for the host every client asks that program.
    CredHelper {
        /// Whose helper it is.
        host: RegistryHost,
        /// The program's name after `docker-credential-`; with an empty one docker
        /// reads `auths`, and podman fails.
        name: String,
    },
    /// One `auth` that does not decode makes docker refuse the whole file.
    UnreadableEntry {
        /// The entry's key.
        key: String,
    },
    /// A value of the wrong type makes docker refuse the whole file.
    WrongType {
        /// Its key.
        key: String,
    },
    /// `DOCKER_AUTH_CONFIG` names the host, and docker's CLI from 28.3 on takes that.
    Environment {
        /// Which.
        host: RegistryHost,
    },
    /// An entry for a part of the registry, which podman prefers for that part.
    PathKey {
        /// Whose part.
        host: RegistryHost,
        /// The entry's key.
        key: String,
    },
    /// Another spelling of the host with another credential. Today's clients prefer
    /// the bare host; older ones may not.
    Twin {
        /// Whose.
        host: RegistryHost,
        /// The entry's key.
        key: String,
    },
    /// The file is not for the owner of the folder that it stands in.
    NoPermission {
        /// Who owns the folder.
        user: u32,
    },
}

impl Obstacle {
    /// What is in the way, by kind.
    #[must_use]
    pub fn kind(&self) -> trouble::Kind {
        match self {
            Self::CredsStore { .. } => trouble::Kind::CredsStore,
            Self::CredHelper { .. } => trouble::Kind::CredHelper,
            Self::UnreadableEntry { .. } => trouble::Kind::UnreadableEntry,
            Self::WrongType { .. } => trouble::Kind::WrongType,
            Self::Environment { .. } => trouble::Kind::Environment,
            Self::PathKey { .. } => trouble::Kind::PathKey,
            Self::Twin { .. } => trouble::Kind::Twin,
            Self::NoPermission { .. } => trouble::Kind::NoPermission,
        }
    }

    /// Whether it keeps the reader from the entry of `host`.
    #[must_use]
    pub fn hides(&self, host: &RegistryHost, reader: Reader) -> bool {
        match self {
            Self::CredsStore { hosts, .. } => hosts.contains(host),
            Self::UnreadableEntry { .. } | Self::WrongType { .. } | Self::NoPermission { .. } => {
                true
            }
            Self::CredHelper { host: helped, name } => {
                helped == host && (reader == Reader::Podman || !name.is_empty())
            }
            Self::Environment { host: named } => named == host,
            Self::PathKey { .. } | Self::Twin { .. } => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CredsStore { name, .. } => write!(
                formatter,
                "`credsStore` is set, so docker asks docker-credential-{} instead of reading `auths`: \
                 remove `credsStore` from the file, or set `hidden` for this target",
                name.escape_default()
            ),
            Self::CredHelper { host, name } if name.is_empty() => write!(
                formatter,
                "`credHelpers` has an empty name for {host}: docker reads `auths` then, but podman \
                 fails; remove that line for podman"
            ),
            Self::CredHelper { host, name } => write!(
                formatter,
                "`credHelpers` names docker-credential-{} for {host}, so clients ask it instead of \
                 reading `auths`: remove that line from the file, or set `hidden` for this target",
                name.escape_default()
            ),
            Self::UnreadableEntry { key } => write!(
                formatter,
                "the entry of `{}` does not decode, and docker refuses the whole file for it: \
                 run `docker logout {}`, or remove the entry",
                key.escape_default(),
                key.escape_default()
            ),
            Self::WrongType { key } => write!(
                formatter,
                "`{}` has a value of the wrong type, and docker refuses the whole file for it: \
                 repair or remove it",
                key.escape_default()
            ),
            Self::Environment { host } => write!(
                formatter,
                "the variable DOCKER_AUTH_CONFIG names {host}, and docker takes that before the file: \
                 unset it, or take the host out of it"
            ),
            Self::PathKey { host, key } => write!(
                formatter,
                "the entry `{}` is for a part of {host}, and podman takes it for that part: \
                 run `podman logout {}` if that was not meant",
                key.escape_default(),
                key.escape_default()
            ),
            Self::Twin { host, key } => write!(
                formatter,
                "the entry `{}` is for {host} too, with another credential, which some clients may \
                 take: remove it, or set `hidden = \"take-over\"` for this target",
                key.escape_default()
            ),
            Self::NoPermission { user } => write!(
                formatter,
                "user {user}, whose folder the file stands in, may not read it: set `owner` for this \
                 target, or give them the file"
            ),
        }
    }
}

/// What makes `reader` pass by the entries of `hosts`.
#[must_use]
pub fn obstacles(document: &Document<'_>, hosts: &[RegistryHost], reader: Reader) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let helpers = document.helpers();
    if reader == Reader::Docker && !helpers.store.is_empty() {
        let hosts = hosts.iter().filter(|host| !helpers.by_host.contains_key(host.as_str()));
        obstacles.push(Obstacle::CredsStore {
            name: helpers.store.clone(),
            hosts: hosts.cloned().collect(),
        });
    }
    for host in hosts.iter().filter(|_| reader != Reader::Kubelet) {
        if let Some((name, _)) = helpers.by_host.get(host.as_str()) {
            obstacles.push(Obstacle::CredHelper { host: host.clone(), name: name.clone() });
        }
    }
    for member in document.members().iter().filter(|member| !has_its_type(member, reader)) {
        obstacles.push(Obstacle::WrongType { key: shorten(&member.key) });
    }
    // One is enough to say what to do, and a file can have thousands of each.
    let mut is_first_unreadable = reader != Reader::Podman;
    let mut spellings = 0;
    let by_name: BTreeMap<&str, &RegistryHost> =
        hosts.iter().map(|host| (host.as_str(), host)).collect();
    for entry in document.entries() {
        if is_first_unreadable && !is_readable(entry) {
            is_first_unreadable = false;
            obstacles.push(Obstacle::UnreadableEntry { key: shorten(&entry.key) });
        }
        let (name, spelling) = spelling(&entry.key);
        if name == entry.key || spellings == MOST_SPELLINGS {
            continue;
        }
        let Some(host) = by_name.get(name) else { continue };
        spellings += 1;
        let (host, key) = (RegistryHost::clone(host), shorten(&entry.key));
        match spelling {
            // It tries both.
            Spelling::Twin if reader == Reader::Kubelet => {}
            Spelling::Twin => obstacles.push(Obstacle::Twin { host, key }),
            Spelling::Part if reader == Reader::Podman => {
                obstacles.push(Obstacle::PathKey { host, key });
            }
            Spelling::Part => {}
        }
    }
    obstacles
}

/// The host of which `key` is another spelling, if it is of the whole of one.
#[must_use]
pub fn twin_of(key: &str) -> Option<&str> {
    let (name, spelling) = spelling(key);
    (name != key && spelling == Spelling::Twin).then_some(name)
}

/// The program that gives `reader` the credential of `host` instead of `auths`, if
/// there is one.
#[must_use]
pub fn helper_of(document: &Document<'_>, host: &RegistryHost, reader: Reader) -> Option<String> {
    if reader == Reader::Kubelet {
        return None;
    }
    let helpers = document.helpers();
    let name = match helpers.by_host.get(host.as_str()) {
        Some((name, _)) => name.clone(),
        None if reader == Reader::Docker => helpers.store,
        None => return None,
    };
    (!name.is_empty()).then_some(name)
}

/// The hosts that a `DOCKER_AUTH_CONFIG` names; docker ignores one that is not JSON.
#[must_use]
pub fn hosts_in_environment(text: &str) -> Vec<String> {
    let Ok(document) = Document::parse(text.as_bytes()) else { return Vec::new() };
    document.entries().map(|entry| entry.key.clone()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Twin,
    Part,
}

/// Which host a key of `auths` is about, and how: with a scheme, or with a path.
fn spelling(key: &str) -> (&str, Spelling) {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| key.starts_with(scheme));
    let bare = &key[scheme.map_or(0, str::len)..];
    let (name, path) = bare.split_once('/').map_or((bare, None), |(name, path)| (name, Some(path)));
    let spelling = match path {
        None | Some("" | "v1" | "v1/" | "v2" | "v2/") => Spelling::Twin,
        // A scheme and a path: docker takes the host of it.
        Some(_) if scheme.is_some() => Spelling::Twin,
        Some(_) => Spelling::Part,
    };
    (name, spelling)
}

/// Whether docker (and the kubelet) can read an entry, ours or not: without an `auth`, or with one
/// that decodes to `user:…`
/// (<https://github.com/docker/cli/blob/v28.2.2/cli/config/configfile/file.go>).
fn is_readable(entry: &Member<'_>) -> bool {
    if entry.raw == "null" {
        return true;
    }
    let Ok(object) = Object::parse(entry.raw, entry.raw, "") else { return false };
    let mut auth = None;
    for member in object.members.iter().filter(|member| ENTRY_KEYS.iter().any(|key| member.is(key)))
    {
        match serde_json::from_str::<Option<String>>(member.raw) {
            Ok(text) if member.is("auth") => auth = text.or(auth),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    match auth.as_deref() {
        None | Some("") => true,
        Some(auth) => STANDARD
            .decode(auth)
            // Go's decoder skips line ends.
            .or_else(|_| STANDARD.decode(auth.replace(['\r', '\n'], "")))
            .is_ok_and(|pair| pair.iter().position(|byte| *byte == b':').is_some_and(|at| at > 0)),
    }
}

/// Whether a member of the file has a type that the reader takes, if it knows it at
/// all.
fn has_its_type(member: &Member<'_>, reader: Reader) -> bool {
    use std::collections::BTreeMap;
    type Map = BTreeMap<String, Option<String>>;
    let is_helpers = member.is("credHelpers");
    if reader == Reader::Kubelet || reader == Reader::Podman && !is_helpers {
        return true;
    }
    if is_helpers || STRING_MAPS.iter().any(|key| member.is(key)) {
        serde_json::from_str::<Option<Map>>(member.raw).is_ok()
    } else if STRINGS.iter().any(|key| member.is(key)) {
        serde_json::from_str::<Option<String>>(member.raw).is_ok()
    } else if STRING_LISTS.iter().any(|key| member.is(key)) {
        serde_json::from_str::<Option<Vec<Option<String>>>>(member.raw).is_ok()
    } else if member.is("plugins") {
        serde_json::from_str::<Option<BTreeMap<String, Option<Map>>>>(member.raw).is_ok()
    } else {
        true
    }
}

// What docker's CLI 28 decodes, and as what
// (https://github.com/docker/cli/blob/v28.2.2/cli/config/configfile/file.go).
const STRINGS: [&str; 14] = [
    "psFormat",
    "imagesFormat",
    "networksFormat",
    "pluginsFormat",
    "volumesFormat",
    "statsFormat",
    "detachKeys",
    "credsStore",
    "serviceInspectFormat",
    "servicesFormat",
    "tasksFormat",
    "secretFormat",
    "configFormat",
    "currentContext",
];
const STRING_MAPS: [&str; 3] = ["HttpHeaders", "aliases", "features"];
const STRING_LISTS: [&str; 2] = ["pruneFilters", "cliPluginsExtraDirs"];
const ENTRY_KEYS: [&str; 7] =
    ["auth", "username", "password", "email", "serveraddress", "identitytoken", "registrytoken"];

const LONGEST_SHOWN_KEY: usize = 80;

/// So many other spellings of hosts are told.
const MOST_SPELLINGS: usize = 10;

fn shorten(key: &str) -> String {
    key.chars().take(LONGEST_SHOWN_KEY).collect()
}

#[cfg(test)]
mod tests;
