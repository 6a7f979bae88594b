//! What is kept fresh: the [`RegistryHost`] a credential is for, the
//! [`Credential`] itself, and its [`Lifetime`].

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// The host, and the port if it is not the default one, of a registry.
///
/// This is the key under which docker, podman and skopeo look a credential up: bare,
/// without a scheme, and with a path only for podman's kind, who look for the longest
/// that fits. Docker Hub alone has another one, for historical reasons
/// (<https://github.com/docker/cli/blob/master/cli/config/configfile/file.go>). Names are
/// compared in lower case, as DNS does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(Box<str>);

/// A map by host can be asked by a key of `config.json`: equal ones are the same text.
impl Borrow<str> for RegistryHost {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl RegistryHost {
    /// The host as it is written in `config.json`, with its port.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port and path.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.is_docker_hub() {
            return "docker.io";
        }
        let host = self.without_path();
        split_port(host).map_or(host, |(name, _)| name)
    }

    /// Where the registry is asked: the host, and its port.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.is_docker_hub() { "registry-1.docker.io" } else { self.without_path() }
    }

    /// Whether it is for a part of a registry alone, which only podman's kind understands: docker would take it for
    /// all of it.
    #[must_use]
    pub fn has_path(&self) -> bool {
        !self.is_docker_hub() && self.0.contains('/')
    }

    fn without_path(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }
}

impl FromStr for RegistryHost {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        if DOCKER_HUB_NAMES.contains(&text.to_ascii_lowercase().trim_end_matches(":443")) {
            return Ok(Self(DOCKER_HUB.into()));
        }
        let (host, path) = match text.split_once('/') {
            Some((host, path)) => (host, Some(path)),
            None => (text, None),
        };
        let (name, port) = match split_port(host) {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let well_formed = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !name.is_empty() && name.len() <= LONGEST_NAME && name.split('.').all(is_label),
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let path_fits = path.is_none_or(|path| path.split('/').all(is_path_component));
        if well_formed && port_fits && path_fits {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(BadHost(text.to_owned()))
        }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text that is not a [`RegistryHost`].
#[derive(Debug, Error)]
#[error(
    "`{0}` is not a registry host: write it as HOST or HOST:PORT, without a scheme (and with a path, \
     HOST/NAMESPACE, for podman alone)"
)]
pub struct BadHost(String);

/// A user name and a secret that a registry takes for a while.
///
/// Neither this type nor any other of the crate can print the secret; whoever
/// needs it has to call `expose_secret`, which is easy to search for.
#[derive(Clone)]
pub struct Credential {
    username: Box<str>,
    secret: SecretString,
    lifetime: Lifetime,
}

impl Credential {
    /// A credential for `username`.
    ///
    /// # Errors
    ///
    /// If docker could not read it back: an empty user name or secret, a colon
    /// in the user name, a control character, or more than 64 KiB.
    pub fn new(
        username: &str,
        secret: SecretString,
        lifetime: Lifetime,
    ) -> Result<Self, BadCredential> {
        let password = secret.expose_secret();
        if username.is_empty() || password.is_empty() {
            return Err(BadCredential::Empty);
        }
        if username.contains(':') {
            return Err(BadCredential::Colon);
        }
        if username.chars().chain(password.chars()).any(char::is_control) {
            return Err(BadCredential::ControlCharacter);
        }
        if username.len() + password.len() > LONGEST_CREDENTIAL {
            return Err(BadCredential::TooLong);
        }
        Ok(Self { username: username.into(), secret, lifetime })
    }

    /// When it was issued and when it expires.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// The value of `auth` in docker's `config.json`: `user:secret` in base64.
    #[must_use]
    pub fn auth(&self) -> SecretString {
        let pair = SecretString::from(format!("{}:{}", self.username, self.secret.expose_secret()));
        SecretString::from(STANDARD.encode(pair.expose_secret()))
    }

    /// Reads an `auth` back that was written with this lifetime.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn from_auth(auth: &SecretString, lifetime: Lifetime) -> Result<Self, BadCredential> {
        let pair = STANDARD.decode(auth.expose_secret()).ok().map(String::from_utf8);
        let Some(Ok(pair)) = pair else { return Err(BadCredential::Undecodable) };
        let pair = SecretString::from(pair);
        let Some((username, secret)) = pair.expose_secret().split_once(':') else {
            return Err(BadCredential::Undecodable);
        };
        Self::new(username, SecretString::from(secret), lifetime)
    }

    /// The same, with another lifetime.
    #[must_use]
    pub fn living(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// The user name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// Whether both are the same user name and secret, whatever their lifetimes.
    ///
    /// An issuer that caches hands the same token out again.
    #[must_use]
    pub fn is_same_token(&self, other: &Self) -> bool {
        self.username == other.username
            && self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("username", &self.username)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// Why a user name and a secret are no [`Credential`]. None of the texts has a
/// part of the secret in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadCredential {
    /// Nothing before or nothing after the colon.
    #[error("the user name or the secret is empty")]
    Empty,
    /// `auth` is split at its first colon, so a user name cannot have one.
    #[error("the user name has a colon in it")]
    Colon,
    /// Docker would send it, and no registry would take it.
    #[error("it has a control character in it")]
    ControlCharacter,
    /// Neither base64 nor a user name and a secret in it.
    #[error("it does not decode to a user name and a secret")]
    Undecodable,
    /// Longer than any registry's token, and than most servers' header limits.
    #[error("it is longer than 64 KiB")]
    TooLong,
}

/// The credentials that every target should hold.
pub type Wanted = BTreeMap<RegistryHost, Credential>;

/// The life of a credential, in wall time, as the issuer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    issued: SystemTime,
    expires: SystemTime,
}

impl Lifetime {
    /// A life from `issued` to `expires`.
    ///
    /// An issuer that claims more than [`LONGEST_LIFE`] mixed up its units or
    /// its clock, and is not believed: such a life is cut to that length.
    #[must_use]
    pub fn new(issued: SystemTime, expires: SystemTime) -> Self {
        Self { issued, expires: expires.min(issued + LONGEST_LIFE) }
    }

    /// A life that nobody has set an end to.
    #[must_use]
    pub fn endless(issued: SystemTime) -> Self {
        Self { issued, expires: issued + FOR_EVER }
    }

    /// Whether it has no end.
    #[must_use]
    pub fn is_endless(self) -> bool {
        self.length() > LONGEST_LIFE
    }

    /// When the credential was issued.
    #[must_use]
    pub fn issued(self) -> SystemTime {
        self.issued
    }

    /// When the registry stops taking the credential.
    #[must_use]
    pub fn expires(self) -> SystemTime {
        self.expires
    }

    /// From issue to expiry.
    #[must_use]
    pub fn length(self) -> Duration {
        self.expires.duration_since(self.issued).unwrap_or_default()
    }

    /// What is left at `now`; nothing once it has expired.
    #[must_use]
    pub fn left(self, now: SystemTime) -> Duration {
        self.expires.duration_since(now).unwrap_or_default()
    }

    /// Whether the registry refuses the credential at `now`.
    #[must_use]
    pub fn is_over(self, now: SystemTime) -> bool {
        now >= self.expires
    }
}

/// No cloud's registry token lives longer: ECR's 12 hours are the most that is
/// documented, and 36 leave room for emulators.
pub const LONGEST_LIFE: Duration = Duration::from_hours(36);

/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 100);

const LONGEST_CREDENTIAL: usize = 64 * 1024;

/// <https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4>
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Under which docker keeps Docker Hub's credential, and podman finds it.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What people call it.
const DOCKER_HUB_NAMES: [&str; 5] =
    ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", DOCKER_HUB];

fn split_port(text: &str) -> Option<(&str, &str)> {
    // The colons inside of a bracketed IPv6 address are no port's.
    let from = text.rfind(']').map_or(0, |bracket| bracket + 1);
    let colon = from + text[from..].find(':')?;
    Some((&text[..colon], &text[colon + 1..]))
}

/// <https://github.com/distribution/reference/blob/main/reference.go>
fn is_path_component(component: &str) -> bool {
    let is_sign = |byte: u8| matches!(byte, b'.' | b'_' | b'-');
    !component.is_empty()
        && !component.starts_with(['.', '_', '-'])
        && component
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_sign(byte))
}

fn is_label(label: &str) -> bool {
    // An underscore is no host name's, but docker lets it pass and compose's
    // service names have it.
    !label.is_empty()
        && label.len() <= LONGEST_LABEL
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(username: &str, secret: &str) -> Result<Credential, BadCredential> {
        let life = Lifetime::new(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        Credential::new(username, SecretString::from(secret), life)
    }

    #[test]
    fn a_host_has_neither_scheme_nor_path() {
        for good in ["gcr.io", "localhost:5000", "[::1]:5000", "my_registry", "127.0.0.1"] {
            assert_eq!(good.parse::<RegistryHost>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "https://gcr.io",
            "gcr.io/",
            "gcr.io//project",
            "gcr.io/..",
            "gcr.io/Project",
            "gcr.io:",
            "gcr.io:0",
            "gcr.io:65536",
            "a..b",
            ".a",
            "a:1:2",
            "[::1",
            "[zz]:1",
            "a b",
            "user@gcr.io",
            "gcr.io\n",
        ] {
            let message = bad.parse::<RegistryHost>().unwrap_err().to_string();
            assert!(message.contains("write it as HOST or HOST:PORT"), "{bad}: {message}");
        }
    }

    #[test]
    fn hosts_are_compared_in_lower_case_and_without_their_port_by_name() {
        let host: RegistryHost = "GCR.io:443".parse().unwrap();
        assert_eq!(host.as_str(), "gcr.io:443");
        assert_eq!(host.name(), "gcr.io");
        assert_eq!("[::1]:5000".parse::<RegistryHost>().unwrap().name(), "[::1]");
    }

    #[test]
    fn a_path_is_for_podman_and_docker_hub_has_a_key_of_its_own() {
        let host: RegistryHost = "r.example.com:5000/team/app".parse().unwrap();
        assert!(host.has_path());
        assert_eq!((host.name(), host.address()), ("r.example.com", "r.example.com:5000"));
        for name in
            ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.io", "docker.io:443"]
        {
            let hub: RegistryHost = name.parse().unwrap();
            assert_eq!(hub.as_str(), "https://index.docker.io/v1/");
            assert_eq!((hub.name(), hub.address()), ("docker.io", "registry-1.docker.io"));
            assert!(!hub.has_path());
        }
    }

    #[test]
    fn a_life_without_an_end_is_told_from_one_of_centuries() {
        let issued = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        assert!(Lifetime::endless(issued).is_endless());
        assert!(!Lifetime::new(issued, issued + Duration::from_hours(24 * 365 * 500)).is_endless());
        assert!(!Lifetime::endless(issued).is_over(issued + Duration::from_hours(24 * 365 * 50)));
    }

    #[test]
    fn auth_is_the_pair_in_base64() {
        let auth = credential("AWS", "word").unwrap().auth();
        assert_eq!(auth.expose_secret(), "QVdTOndvcmQ=");
    }

    #[test]
    fn what_docker_could_not_read_back_is_refused() {
        assert_eq!(credential("", "word").unwrap_err(), BadCredential::Empty);
        assert_eq!(credential("AWS", "").unwrap_err(), BadCredential::Empty);
        assert_eq!(credential("A:S", "word").unwrap_err(), BadCredential::Colon);
        assert_eq!(credential("AWS", "wo\nrd").unwrap_err(), BadCredential::ControlCharacter);
        assert_eq!(credential("AWS", &"x".repeat(70_000)).unwrap_err(), BadCredential::TooLong);
    }

    #[test]
    fn nothing_that_prints_a_credential_prints_its_secret() {
        let credential = credential("AWS", "do-not-print").unwrap();
        let printed = format!("{credential:?} {credential:#?} {:?}", credential.auth());
        assert!(!printed.contains("do-not-print"), "{printed}");
        assert!(!printed.contains("QVdTOmRvLW5vdC1wcmludA"), "{printed}");
    }

    #[test]
    fn a_life_of_centuries_is_not_believed() {
        let issued = SystemTime::UNIX_EPOCH;
        let life = Lifetime::new(issued, issued + Duration::from_hours(24 * 365 * 500));
        assert_eq!(life.length(), LONGEST_LIFE);
    }
}
