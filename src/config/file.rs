//! The settings file as it was written: TOML, every key optional, unknown ones
//! refused.

use std::collections::BTreeMap;
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
    /// Authorities to trust beside the machine's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Identities of AWS's, by name.
    #[serde(default)]
    pub aws: BTreeMap<String, AwsTable>,
    /// Identities of Google's, by name.
    #[serde(default)]
    pub google: BTreeMap<String, GoogleTable>,
    /// Identities of Azure's, by name.
    #[serde(default)]
    pub azure: BTreeMap<String, AzureTable>,
    /// Apps of GitHub's, by name.
    #[serde(default)]
    pub github: BTreeMap<String, GitHubTable>,
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
    /// How a Kubernetes cluster is reached.
    pub kubernetes: Option<KubernetesTable>,
    /// Secrets of that cluster.
    #[serde(default)]
    pub image_pull_secret: Vec<ImagePullSecretTable>,
}

/// The `[kubernetes]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesTable {
    /// The file that says how; the pod's own account if it is left out and there is one.
    pub kubeconfig: Option<PathBuf>,
    /// Which context of that file.
    pub context: Option<String>,
    /// `NAMESPACE/NAME` of the lease by which replicas agree who works.
    pub lease: Option<String>,
    /// Whose the secrets are.
    pub owner: Option<String>,
}

/// An `[[image_pull_secret]]` table.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "expected a table: `[[image_pull_secret]]`, and `name = \"NAME\"` below it"
)]
pub struct ImagePullSecretTable {
    /// The secret's name.
    pub name: String,
    /// The namespaces that it is for.
    pub namespaces: Option<Vec<String>>,
    /// The labels of those that it is for.
    pub namespace_selector: Option<String>,
    /// Whether it is for all.
    pub all_namespaces: Option<bool>,
    /// The ones that it is not for.
    pub excluded_namespaces: Option<Vec<String>>,
    /// The registries whose credentials are in it; all if it is left out.
    pub registries: Option<Vec<String>>,
    /// The service accounts that get it.
    pub service_accounts: Option<Vec<String>>,
    /// The labels of those that get it.
    pub service_account_selector: Option<String>,
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
    /// `docker`, `podman` or `kubelet`; what the file's name says if it is left out.
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

/// An `[aws.NAME]` table. The keys are those of AWS's own settings where these have the like.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsTable {
    /// A profile.
    pub profile: Option<String>,
    /// Another identity.
    pub source_identity: Option<String>,
    /// `Environment`, `EcsContainer` or `Ec2InstanceMetadata`.
    pub credential_source: Option<String>,
    /// What the names of variables begin with.
    pub environment_prefix: Option<String>,
    /// A token to take on a role with.
    pub web_identity_token_file: Option<PathBuf>,
    /// The role to take on.
    pub role_arn: Option<String>,
    /// What the role's owner wants to be told.
    pub external_id: Option<String>,
    /// What the audit log calls the session.
    pub role_session_name: Option<String>,
    /// Who it has to be in the end.
    pub expected_principal: Option<String>,
}

/// A `[google.NAME]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoogleTable {
    /// A file of credentials.
    pub credentials_file: Option<PathBuf>,
    /// An account of the machine's metadata server.
    pub metadata_account: Option<String>,
    /// The service account in whose name it acts.
    pub impersonate: Option<String>,
    /// Through whom.
    pub delegates: Option<Vec<String>>,
    /// The e-mail address that it has to have in the end.
    pub expected_principal: Option<String>,
}

/// An `[azure.NAME]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureTable {
    /// The directory.
    pub tenant_id: Option<String>,
    /// The application, or the managed identity.
    pub client_id: Option<String>,
    /// A secret, in a file.
    pub client_secret_file: Option<PathBuf>,
    /// A secret, in a variable.
    pub client_secret_variable: Option<String>,
    /// A certificate and its key, in PEM.
    pub client_certificate_file: Option<PathBuf>,
    /// A token of another issuer.
    pub federated_token_file: Option<PathBuf>,
    /// Whether it is the machine's.
    pub managed_identity: Option<bool>,
}

/// A `[github.NAME]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitHubTable {
    /// The app's client id, or its number in quotes.
    pub app_id: String,
    /// The installation's number.
    pub installation_id: u64,
    /// The app's private key, in PEM.
    pub private_key_file: PathBuf,
    /// Where the API of an enterprise's server is.
    pub api_url: Option<String>,
    /// `read` or `write`.
    pub packages: Option<String>,
}

/// A `[[registry]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "expected a table: `[[registry]]`, and `host = \"HOST\"` below it; hosts alone go into \
                 `registries = [\"HOST\"]`"
)]
pub struct RegistryTable {
    /// `HOST` or `HOST:PORT`.
    pub host: Option<String>,
    /// Several of them.
    pub hosts: Option<Vec<String>>,
    /// What it is; what the host name says if it is left out.
    pub kind: Option<String>,
    /// For `ecr`: the region.
    pub region: Option<String>,
    /// For `ecr` and `ecr-public`: another address of the API.
    pub endpoint: Option<String>,
    /// The name of an identity.
    pub identity: Option<String>,
    /// The registry behind it, whose credential it gets.
    pub credential_of: Option<String>,
    /// The name of a credential helper.
    pub helper: Option<String>,
    /// A program that gives the credential, and its arguments.
    pub command: Option<Vec<String>>,
    /// What the program finds in its environment.
    pub environment: Option<Vec<String>>,
    /// A user name that does not expire.
    pub username: Option<String>,
    /// Its secret, in a file.
    pub secret_file: Option<PathBuf>,
    /// Its secret, in a variable.
    pub secret_variable: Option<String>,
    /// How long a credential lives, where nothing else says it.
    pub life: Option<String>,
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

        let message = File::parse("[[registry]]\nhst = \"gcr.io\"\n").unwrap_err();
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
        let table = |is: fn(&RegistryTable) -> bool| assert!(file.registry.iter().any(is));
        table(|it| it.host.is_some() && it.kind.is_some() && it.region.is_some());
        table(|it| it.hosts.is_some() && it.identity.is_some() && it.endpoint.is_some());
        table(|it| it.credential_of.is_some());
        table(|it| it.helper.is_some() && it.life.is_some());
        table(|it| it.command.is_some() && it.environment.is_some());
        table(|it| it.username.is_some() && it.secret_file.is_some());
        table(|it| it.secret_variable.is_some());
        assert!(file.ca_file.is_some());
        let aws = |is: fn(&AwsTable) -> bool| assert!(file.aws.values().any(is));
        aws(|it| {
            it.role_arn.is_some() && it.external_id.is_some() && it.role_session_name.is_some()
        });
        aws(|it| it.profile.is_some() && it.expected_principal.is_some());
        aws(|it| it.credential_source.is_some() && it.environment_prefix.is_some());
        aws(|it| it.source_identity.is_some());
        aws(|it| it.web_identity_token_file.is_some());
        let google = |is: fn(&GoogleTable) -> bool| assert!(file.google.values().any(is));
        google(|it| it.credentials_file.is_some() && it.expected_principal.is_some());
        google(|it| it.metadata_account.is_some());
        google(|it| it.impersonate.is_some() && it.delegates.is_some());
        let azure = |is: fn(&AzureTable) -> bool| assert!(file.azure.values().any(is));
        azure(|it| it.tenant_id.is_some() && it.client_id.is_some());
        azure(|it| it.client_secret_file.is_some());
        azure(|it| it.client_secret_variable.is_some());
        azure(|it| it.client_certificate_file.is_some());
        azure(|it| it.federated_token_file.is_some());
        azure(|it| it.managed_identity.is_some());
        assert!(file.github.values().any(|it| it.api_url.is_some() && it.packages.is_some()));
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
        let cluster = file.kubernetes.unwrap();
        assert!(cluster.kubeconfig.is_some() && cluster.context.is_some());
        assert!(cluster.lease.is_some() && cluster.owner.is_some());
        let secret = |is: fn(&ImagePullSecretTable) -> bool| {
            assert!(file.image_pull_secret.iter().any(is));
        };
        secret(|it| it.namespaces.is_some() && it.registries.is_some());
        secret(|it| it.namespace_selector.is_some() && it.service_account_selector.is_some());
        secret(|it| it.all_namespaces.is_some() && it.excluded_namespaces.is_some());
        secret(|it| it.service_accounts.is_some());
    }
}
