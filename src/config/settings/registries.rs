//! What the registries are, and whose identity asks each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::{BadSettings, Options, is_relative, limit};
use crate::config::file::{AwsTable, AzureTable, File, GitHubTable, GoogleTable, RegistryTable};
use crate::credential::{LONGEST_LIFE, RegistryHost};
use crate::sources::{
    AwsIdentity, AwsStart, AzureIdentity, AzureOrigin, BadRegion, EcrOrigin, EcrPublicOrigin,
    External, ExternalOrigin, FixedOrigin, GitHubApp, GoogleIdentity, GoogleStart, Impersonation,
    Kind, Origin, Place, Principal, Proof, Role, UnknownKind,
};

/// A registry, and where its credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Under which its credential is written.
    pub host: RegistryHost,
    /// Who gives it.
    pub origin: Origin,
}

/// What is kept fresh, in order and without repetition.
pub(super) fn registries(options: &Options, file: &File) -> Result<Vec<Registry>, BadSettings> {
    let identities = Identities::of(file)?;
    let described = described(file, &identities)?;
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
            None => Registry { origin: identities.by_name(&host)?, host },
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

/// What the tables say, by host.
fn described(
    file: &File,
    identities: &Identities,
) -> Result<BTreeMap<RegistryHost, Registry>, BadSettings> {
    let mut described = BTreeMap::new();
    let mut aliases = Vec::new();
    for table in &file.registry {
        let names = match (&table.host, &table.hosts) {
            (Some(host), None) => std::slice::from_ref(host),
            (None, Some(hosts)) if !hosts.is_empty() => hosts,
            _ => return Err(BadSettings::NoHost),
        };
        for name in names {
            let host: RegistryHost = name.parse()?;
            let failed = |why| BadSettings::Described { host: host.clone(), why };
            if let Some(behind) = &table.credential_of {
                let others = table.set_keys();
                if let Some(key) = others.iter().find(|key| **key != "credential_of") {
                    return Err(failed(BadRegistry::BesideAlias(key)));
                }
                aliases.push((host, behind.parse::<RegistryHost>()?));
                continue;
            }
            let origin = identities.described(&host, table).map_err(failed)?;
            let registry = Registry { host: host.clone(), origin };
            if described.insert(host.clone(), registry).is_some() {
                return Err(BadSettings::TwoTables(host));
            }
        }
    }
    let hosts: Vec<_> = aliases.iter().map(|(host, _)| host.clone()).collect();
    for (host, behind) in aliases {
        if hosts.contains(&behind) {
            let why = BadRegistry::AliasOfAlias(behind);
            return Err(BadSettings::Described { host, why });
        }
        let origin = match described.get(&behind) {
            Some(registry) => registry.origin.clone(),
            None => identities.by_name(&behind)?,
        };
        if described.insert(host.clone(), Registry { host: host.clone(), origin }).is_some() {
            return Err(BadSettings::TwoTables(host));
        }
    }
    Ok(described)
}

impl RegistryTable {
    /// The keys that say something about a registry, beside its host.
    fn set_keys(&self) -> Vec<&'static str> {
        let all = [
            ("kind", self.kind.is_some()),
            ("region", self.region.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("identity", self.identity.is_some()),
            ("credential_of", self.credential_of.is_some()),
            ("helper", self.helper.is_some()),
            ("command", self.command.is_some()),
            ("environment", self.environment.is_some()),
            ("username", self.username.is_some()),
            ("secret_file", self.secret_file.is_some()),
            ("secret_variable", self.secret_variable.is_some()),
            ("life", self.life.is_some()),
        ];
        all.into_iter().filter_map(|(key, is_set)| is_set.then_some(key)).collect()
    }

    /// Which kind the keys or the name make it.
    fn kind(&self, host: &RegistryHost, has_app: bool) -> Result<Kind, BadRegistry> {
        let implied = if self.helper.is_some() {
            Some(Kind::Helper)
        } else if self.command.is_some() {
            Some(Kind::Command)
        } else if self.username.is_some() {
            Some(Kind::Static)
        } else {
            None
        };
        let said = self.kind.as_deref().map(str::parse::<Kind>).transpose()?;
        match (said, implied) {
            (Some(said), Some(implied)) if said != implied => {
                Err(BadRegistry::OtherKind { said, implied })
            }
            (Some(kind), _) | (None, Some(kind)) => Ok(kind),
            (None, None) if host.name() == GITHUB && (self.identity.is_some() || has_app) => {
                Ok(Kind::GitHub)
            }
            (None, None) => Ok(Origin::of(host).map_err(Box::new)?.kind()),
        }
    }
}

/// Which keys mean something for a kind.
fn known_keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Ecr => &["kind", "region", "endpoint", "identity"],
        Kind::EcrPublic => &["kind", "endpoint", "identity"],
        Kind::Google | Kind::Azure | Kind::GitHub => &["kind", "identity"],
        Kind::Helper => &["kind", "helper", "environment", "life"],
        Kind::Command => &["kind", "command", "environment", "life"],
        Kind::Static => &["kind", "username", "secret_file", "secret_variable"],
    }
}

/// The identities of the settings, by cloud and name.
struct Identities {
    aws: BTreeMap<String, Arc<AwsIdentity>>,
    google: BTreeMap<String, Arc<GoogleIdentity>>,
    azure: BTreeMap<String, Arc<AzureIdentity>>,
    github: BTreeMap<String, Arc<GitHubApp>>,
}

impl Identities {
    fn of(file: &File) -> Result<Self, BadSettings> {
        fn all<T, I>(
            cloud: &'static str,
            tables: &BTreeMap<String, T>,
            parse: impl Fn(&str, &T) -> Result<I, BadIdentity>,
        ) -> Result<BTreeMap<String, Arc<I>>, BadSettings> {
            let parsed = tables.iter().map(|(name, table)| {
                let identity = parse(name, table).map_err(|why| BadSettings::Identity {
                    cloud,
                    name: name.clone(),
                    why,
                })?;
                Ok((name.clone(), Arc::new(identity)))
            });
            parsed.collect()
        }
        Ok(Self {
            aws: all("aws", &file.aws, |name, _| aws(&file.aws, name, 0))?,
            google: all("google", &file.google, google)?,
            azure: all("azure", &file.azure, azure)?,
            github: all("github", &file.github, github)?,
        })
    }

    /// What the name alone makes a registry.
    fn by_name(&self, host: &RegistryHost) -> Result<Origin, BadSettings> {
        if let Some(app) = self.github.get(DEFAULT).filter(|_| host.name() == GITHUB) {
            return Ok(Origin::GitHub(Arc::clone(app)));
        }
        let origin = Origin::of(host)?;
        self.given(origin, None).map_err(|why| BadSettings::Described { host: host.clone(), why })
    }

    /// An origin that is asked by the identity of this name, else by the one called `default` if there is one.
    fn given(&self, origin: Origin, name: Option<&str>) -> Result<Origin, BadRegistry> {
        fn find<T>(
            all: &BTreeMap<String, Arc<T>>,
            cloud: &'static str,
            name: Option<&str>,
        ) -> Result<Option<Arc<T>>, BadRegistry> {
            let found = all.get(name.unwrap_or(DEFAULT)).cloned();
            match name {
                Some(name) if found.is_none() => {
                    Err(BadRegistry::NoIdentity { cloud, name: name.to_owned() })
                }
                _ => Ok(found),
            }
        }
        Ok(match origin {
            Origin::Ecr(origin) => Origin::Ecr(origin.asked_by(find(&self.aws, "aws", name)?)),
            Origin::EcrPublic(origin) => {
                Origin::EcrPublic(origin.asked_by(find(&self.aws, "aws", name)?))
            }
            Origin::Google(_) => Origin::Google(find(&self.google, "google", name)?),
            Origin::Azure(origin) => {
                Origin::Azure(origin.asked_by(find(&self.azure, "azure", name)?))
            }
            other => other,
        })
    }

    /// What a table makes a registry.
    fn described(&self, host: &RegistryHost, table: &RegistryTable) -> Result<Origin, BadRegistry> {
        let kind = table.kind(host, self.github.contains_key(DEFAULT))?;
        let known = known_keys(kind);
        if let Some(key) = table.set_keys().into_iter().find(|key| !known.contains(key)) {
            return Err(BadRegistry::Needless { key, kind });
        }
        let endpoint = table.endpoint.as_deref();
        if let Some(endpoint) = endpoint
            && !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(BadRegistry::Endpoint(endpoint.to_owned()));
        }
        let life = table.life.as_deref().map(|text| limit("life", text, LONGEST_LIFE));
        let life = life.transpose().map_err(Box::new)?;
        let environment = table.environment.clone().unwrap_or_default();
        let origin = match kind {
            Kind::Ecr => {
                let origin = match (table.region.as_deref(), Origin::of(host)) {
                    (Some(region), _) => EcrOrigin::of_region(region)?,
                    (None, Ok(Origin::Ecr(origin))) => origin,
                    (None, _) => return Err(BadRegistry::NoRegion),
                };
                Origin::Ecr(origin.at(endpoint))
            }
            Kind::EcrPublic => Origin::EcrPublic(EcrPublicOrigin::default().at(endpoint)),
            Kind::Google => Origin::Google(None),
            Kind::Azure => Origin::Azure(AzureOrigin::of(host)),
            Kind::GitHub => {
                let name = table.identity.as_deref().unwrap_or(DEFAULT);
                let app = self.github.get(name).cloned();
                return app.map(Origin::GitHub).ok_or_else(|| BadRegistry::NoIdentity {
                    cloud: "github",
                    name: name.to_owned(),
                });
            }
            Kind::Helper => {
                let name =
                    table.helper.as_deref().ok_or(BadRegistry::Lacks { key: "helper", kind })?;
                let is_name = |sign: char| sign.is_ascii_alphanumeric() || "-_.".contains(sign);
                if name.is_empty() || !name.chars().all(is_name) {
                    return Err(BadRegistry::Helper(name.to_owned()));
                }
                Origin::External(ExternalOrigin::of(
                    host,
                    External::Helper(name.into()),
                    environment,
                    life,
                ))
            }
            Kind::Command => {
                let command = table.command.clone().unwrap_or_default();
                match command.first() {
                    Some(program) if is_relative(program) => {
                        return Err(BadRegistry::Relative(program.clone()));
                    }
                    Some(program) if !program.is_empty() => {}
                    _ => return Err(BadRegistry::Lacks { key: "command", kind }),
                }
                Origin::External(ExternalOrigin::of(
                    host,
                    External::Command(command),
                    environment,
                    life,
                ))
            }
            Kind::Static => {
                let username = table.username.as_deref().filter(|name| !name.is_empty());
                let username = username.ok_or(BadRegistry::Lacks { key: "username", kind })?.into();
                let secret = match (&table.secret_file, &table.secret_variable) {
                    (Some(path), None) => Place::File(absolute(path)?),
                    (None, Some(name)) if !name.is_empty() => Place::Variable(name.as_str().into()),
                    _ => return Err(BadRegistry::Secret),
                };
                Origin::Fixed(FixedOrigin { username, secret })
            }
        };
        self.given(origin, table.identity.as_deref())
    }
}

/// The identity of registries that name none.
const DEFAULT: &str = "default";

/// The one host of GitHub's, whose name alone does not say who asks.
const GITHUB: &str = "ghcr.io";

/// One identity of AWS's, and those that it begins with.
fn aws(
    tables: &BTreeMap<String, AwsTable>,
    name: &str,
    depth: usize,
) -> Result<AwsIdentity, BadIdentity> {
    let table = tables.get(name).ok_or_else(|| BadIdentity::NoSource(name.to_owned()))?;
    if depth > tables.len() {
        return Err(BadIdentity::Circle);
    }
    let starts = [
        ("profile", table.profile.is_some()),
        ("source_identity", table.source_identity.is_some()),
        ("credential_source", table.credential_source.is_some()),
        ("web_identity_token_file", table.web_identity_token_file.is_some()),
    ];
    one_of(&starts)?;
    let role = table.role_arn.as_deref();
    for (key, is_set) in [
        ("external_id", table.external_id.is_some()),
        ("role_session_name", table.role_session_name.is_some()),
        ("web_identity_token_file", table.web_identity_token_file.is_some()),
    ] {
        if is_set && role.is_none() {
            return Err(BadIdentity::NeedsRole(key));
        }
    }
    if table.web_identity_token_file.is_some() && table.external_id.is_some() {
        return Err(BadIdentity::NeedlessExternalId);
    }
    let start = if let Some(profile) = &table.profile {
        AwsStart::Profile(profile.as_str().into())
    } else if let Some(source) = &table.source_identity {
        AwsStart::Identity(Arc::new(aws(tables, source, depth + 1)?))
    } else if let Some(file) = &table.web_identity_token_file {
        AwsStart::WebIdentity(absolute(file)?)
    } else {
        match table.credential_source.as_deref() {
            None => AwsStart::Chain,
            Some("Environment") => AwsStart::Environment(
                table.environment_prefix.as_deref().unwrap_or_default().into(),
            ),
            Some("EcsContainer") => AwsStart::Container,
            Some("Ec2InstanceMetadata") => AwsStart::Instance,
            Some(other) => return Err(BadIdentity::CredentialSource(other.to_owned())),
        }
    };
    if table.environment_prefix.is_some() && !matches!(start, AwsStart::Environment(_)) {
        return Err(BadIdentity::NeedlessPrefix);
    }
    let role = role.map(|arn| {
        if !(arn.starts_with("arn:") && arn.contains(":role/")) {
            return Err(BadIdentity::Role(arn.to_owned()));
        }
        Ok(Role {
            arn: arn.into(),
            external_id: table.external_id.as_deref().map(Into::into),
            session_name: table.role_session_name.as_deref().unwrap_or("freshcreds").into(),
        })
    });
    let expected = table
        .expected_principal
        .as_deref()
        .map(|text| Principal::parse(text).ok_or_else(|| BadIdentity::Principal(text.to_owned())));
    Ok(AwsIdentity {
        name: name.into(),
        start,
        role: role.transpose()?,
        expected: expected.transpose()?,
    })
}

fn google(name: &str, table: &GoogleTable) -> Result<GoogleIdentity, BadIdentity> {
    one_of(&[
        ("credentials_file", table.credentials_file.is_some()),
        ("metadata_account", table.metadata_account.is_some()),
    ])?;
    let start = match (&table.credentials_file, &table.metadata_account) {
        (Some(path), _) => GoogleStart::File(absolute(path)?),
        (None, Some(account)) => GoogleStart::Metadata(account_name(account)?),
        (None, None) => GoogleStart::Chain,
    };
    let delegates = table.delegates.as_deref().unwrap_or_default();
    let impersonation = match &table.impersonate {
        Some(account) => Some(Impersonation {
            account: account_name(account)?,
            delegates: delegates
                .iter()
                .map(|delegate| account_name(delegate))
                .collect::<Result<_, _>>()?,
        }),
        None if delegates.is_empty() => None,
        None => return Err(BadIdentity::NeedlessDelegates),
    };
    let expected = table.expected_principal.as_deref().map(Into::into);
    Ok(GoogleIdentity { name: name.into(), start, impersonation, expected })
}

/// What becomes part of an address.
fn account_name(text: &str) -> Result<Box<str>, BadIdentity> {
    let is_sign = |sign: char| sign.is_ascii_alphanumeric() || "@.-_:".contains(sign);
    if !text.is_empty() && text.chars().all(is_sign) {
        Ok(text.into())
    } else {
        Err(BadIdentity::Account(text.to_owned()))
    }
}

fn azure(name: &str, table: &AzureTable) -> Result<AzureIdentity, BadIdentity> {
    one_of(&[
        ("client_secret_file", table.client_secret_file.is_some()),
        ("client_secret_variable", table.client_secret_variable.is_some()),
        ("client_certificate_file", table.client_certificate_file.is_some()),
        ("federated_token_file", table.federated_token_file.is_some()),
        ("managed_identity", table.managed_identity == Some(true)),
    ])?;
    let proof = if let Some(path) = &table.client_secret_file {
        Proof::SecretFile(absolute(path)?)
    } else if let Some(name) = &table.client_secret_variable {
        Proof::SecretVariable(name.as_str().into())
    } else if let Some(path) = &table.client_certificate_file {
        Proof::Certificate(absolute(path)?)
    } else if let Some(path) = &table.federated_token_file {
        Proof::FederatedToken(absolute(path)?)
    } else if table.managed_identity == Some(true) {
        Proof::ManagedIdentity
    } else {
        Proof::Chain
    };
    let word = |text: &Option<String>| match text.as_deref() {
        None => Ok(None),
        Some(text) => account_name(text).map(Some),
    };
    let (tenant, client) = (word(&table.tenant_id)?, word(&table.client_id)?);
    Ok(AzureIdentity { name: name.into(), tenant, client, proof })
}

fn github(name: &str, table: &GitHubTable) -> Result<GitHubApp, BadIdentity> {
    let api = table.api_url.as_deref().unwrap_or("https://api.github.com").trim_end_matches('/');
    if !["https://", "http://"].iter().any(|scheme| api.starts_with(scheme)) {
        return Err(BadIdentity::Api(api.to_owned()));
    }
    let packages = match table.packages.as_deref() {
        None | Some("read") => "read",
        Some("write") => "write",
        Some(other) => return Err(BadIdentity::Packages(other.to_owned())),
    };
    Ok(GitHubApp {
        name: name.into(),
        app: table.app_id.as_str().into(),
        installation: table.installation_id,
        key: absolute(&table.private_key_file)?,
        api: api.into(),
        packages: packages.into(),
    })
}

/// Only one of several keys.
fn one_of(keys: &[(&'static str, bool)]) -> Result<(), BadIdentity> {
    let set: Vec<_> = keys.iter().filter_map(|(key, is_set)| is_set.then_some(*key)).collect();
    match set.as_slice() {
        [first, second, ..] => Err(BadIdentity::Both(first, second)),
        _ => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, RelativePath> {
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(RelativePath(path.to_owned())) }
}

/// A path that depends on where one is.
#[derive(Debug, Error)]
#[error("`{}` depends on the folder that one is in: write the whole path", .0.display())]
pub struct RelativePath(PathBuf);

/// Why a table describes no registry.
#[derive(Debug, Error)]
pub enum BadRegistry {
    /// A kind that is none.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A name that does not say it.
    #[error(transparent)]
    Unknown(#[from] Box<crate::sources::UnknownRegistry>),
    /// A `kind`, and keys of another one.
    #[error("its `kind` is `{}`, and what it has is for `{}`", said.as_str(), implied.as_str())]
    OtherKind {
        /// What is said.
        said: Kind,
        /// What the keys say.
        implied: Kind,
    },
    /// A key that means nothing here.
    #[error("`{key}` means nothing with `kind = \"{}\"`", kind.as_str())]
    Needless {
        /// Which.
        key: &'static str,
        /// Of what the registry is.
        kind: Kind,
    },
    /// A key beside `credential_of`.
    #[error("with `credential_of` all is said, and `{0}` means nothing beside it")]
    BesideAlias(&'static str),
    /// An alias of an alias.
    #[error("`{0}` has a `credential_of` itself: name the registry behind it")]
    AliasOfAlias(RegistryHost),
    /// A region that is none.
    #[error(transparent)]
    Region(#[from] BadRegion),
    /// A table that needs a region.
    #[error("it is of kind `ecr`, so it needs a `region`, as in \"eu-west-1\"")]
    NoRegion,
    /// An address that is none.
    #[error(
        "`endpoint = \"{0}\"` is no address: write it as in \"https://vpce-1.api.ecr.eu-west-1.vpce.amazonaws.com\""
    )]
    Endpoint(String),
    /// An identity that the settings do not have.
    #[error("there is no identity [{cloud}.{name}]")]
    NoIdentity {
        /// Whose.
        cloud: &'static str,
        /// What it was called.
        name: String,
    },
    /// Without what its kind needs.
    #[error("it is of kind `{}`, so it needs a `{key}`", kind.as_str())]
    Lacks {
        /// What.
        key: &'static str,
        /// Of what kind it is.
        kind: Kind,
    },
    /// A name that would lead to another program than a helper.
    #[error(
        "`helper = \"{0}\"` is no name of a credential helper: write what follows `docker-credential-`"
    )]
    Helper(String),
    /// A program by a path from wherever one is.
    #[error("the command `{0}` depends on the folder that one is in: write the whole path")]
    Relative(String),
    /// Without a secret, or with two.
    #[error("beside `username` it needs a `secret_file` or a `secret_variable`, and not both")]
    Secret,
    /// A path that depends on where one is.
    #[error(transparent)]
    Path(#[from] RelativePath),
    /// A duration that is none.
    #[error(transparent)]
    Life(#[from] Box<BadSettings>),
}

/// Why a table describes no identity.
#[derive(Debug, Error)]
pub enum BadIdentity {
    /// Two ways at once.
    #[error("`{0}` and `{1}` are two ways to begin: leave one")]
    Both(&'static str, &'static str),
    /// A key that only means something with a role.
    #[error("`{0}` only means something with a `role_arn`")]
    NeedsRole(&'static str),
    /// What a web identity cannot tell.
    #[error("`external_id` is nothing that can be told with a `web_identity_token_file`")]
    NeedlessExternalId,
    /// A role that is none.
    #[error(
        "`role_arn = \"{0}\"` is no role: write it as in \"arn:aws:iam::123456789012:role/pull\""
    )]
    Role(String),
    /// A principal that is none.
    #[error(
        "`expected_principal = \"{0}\"` is nobody: write an ARN, in which `*` stands for anything, or an \
         account's twelve digits"
    )]
    Principal(String),
    /// A source that there is not.
    #[error(
        "`credential_source = \"{0}\"` means nothing: write `Environment`, `EcsContainer` or \
         `Ec2InstanceMetadata`"
    )]
    CredentialSource(String),
    /// A prefix of nothing.
    #[error("`environment_prefix` only means something with `credential_source = \"Environment\"`")]
    NeedlessPrefix,
    /// It begins with one that is not there.
    #[error("there is no identity [aws.{0}] to begin with")]
    NoSource(String),
    /// It begins with itself.
    #[error("by its `source_identity` it begins with itself")]
    Circle,
    /// An account that would lead elsewhere.
    #[error("`{0}` is no name of an account")]
    Account(String),
    /// Delegates of nobody.
    #[error("`delegates` only mean something with `impersonate`")]
    NeedlessDelegates,
    /// An address that is none.
    #[error(
        "`api_url = \"{0}\"` is no address: write it as in \"https://github.example.com/api/v3\""
    )]
    Api(String),
    /// A permission that there is not.
    #[error("`packages = \"{0}\"` means nothing: write `read` or `write`")]
    Packages(String),
    /// A path that depends on where one is.
    #[error(transparent)]
    Path(#[from] RelativePath),
}
