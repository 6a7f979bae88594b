//! Azure Container Registry.
//!
//! A token of Microsoft Entra for the registry's audience is exchanged at the registry itself for one of its own, which
//! lives for three hours, as its `exp` says, and is the password of a user whose name is all zeros
//! (<https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>).

mod entra;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::answers::document;
use super::skew::Asked;
use super::{Fetch, FetchError, Minted, Source, accept, jwt};
use crate::clock::Clock;
use crate::credential::RegistryHost;
use crate::network::{Network, is_local};
use crate::schedule::Issuer;

/// A registry, and who asks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AzureOrigin {
    host: RegistryHost,
    identity: Option<Arc<AzureIdentity>>,
}

impl AzureOrigin {
    /// Of a registry: each gives a token of its own.
    #[must_use]
    pub fn of(host: &RegistryHost) -> Self {
        Self { host: host.clone(), identity: None }
    }

    /// Whether the name is one of Azure's
    /// (<https://learn.microsoft.com/azure/container-registry/container-registry-get-started-portal>).
    pub(super) fn is(name: &str) -> bool {
        let registry = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        registry.is_some_and(|registry| {
            !registry.is_empty()
                && registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    }

    /// The same, asked by somebody else.
    #[must_use]
    pub fn asked_by(self, identity: Option<Arc<AzureIdentity>>) -> Self {
        Self { identity, ..self }
    }
}

impl fmt::Display for AzureOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "azure {}", self.host)?;
        match &self.identity {
            Some(identity) => write!(formatter, " as {}", identity.name),
            None => Ok(()),
        }
    }
}

/// An identity that the settings name, where the machine's own is not the right one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AzureIdentity {
    /// What the settings call it.
    pub name: Box<str>,
    /// The directory that knows it, by its number or its domain.
    pub tenant: Option<Box<str>>,
    /// The number of the application, or of the managed identity.
    pub client: Option<Box<str>>,
    /// How it proves who it is.
    pub proof: Proof,
}

/// How an identity proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// By what the environment says, as Azure's own clients look it up.
    Chain,
    /// By a secret, in a file.
    SecretFile(PathBuf),
    /// By a secret, in a variable.
    SecretVariable(Box<str>),
    /// By the private key of a certificate; both are in the file, in PEM.
    Certificate(PathBuf),
    /// By a token of another issuer, as Kubernetes puts it into a file.
    FederatedToken(PathBuf),
    /// By the machine that it is on.
    ManagedIdentity,
}

pub(super) struct Azure {
    origin: AzureOrigin,
    clock: Clock,
    network: Network,
}

impl Azure {
    pub(super) fn new(origin: AzureOrigin, clock: Clock, network: Network) -> Self {
        Self { origin, clock, network }
    }

    async fn mint(&self) -> Result<Minted, FetchError> {
        #[derive(Deserialize)]
        struct Exchanged {
            refresh_token: SecretString,
        }
        let AzureOrigin { host, identity } = &self.origin;
        let address = host.address();
        let client = self.network.client();
        let authority = authority_of(host.name());
        let entra = entra::token(&client, &self.clock, identity.as_deref(), authority).await?;
        let scheme = if is_local(host.name()) { "http" } else { "https" };
        let mut fields = vec![
            ("grant_type", "access_token"),
            ("service", address),
            ("access_token", entra.secret.expose_secret()),
        ];
        if let Some(tenant) = &entra.tenant {
            fields.push(("tenant", tenant));
        }
        let asked = Asked::now(&self.clock);
        let question = client.post(format!("{scheme}://{address}/oauth2/exchange")).form(&fields);
        let (exchanged, answer) =
            document::<Exchanged>(SERVICE, question.ask().await).map_err(without_role)?;
        let secret = exchanged.refresh_token;
        let expires = jwt::expiry(&secret).ok_or_else(|| FetchError::BadAnswer {
            service: SERVICE,
            detail: "its token does not say when it expires".to_owned(),
        })?;
        let (life, skew) = asked.life(answer.date(), expires);
        let credential = accept(SERVICE, USERNAME, secret, life, &self.clock)?;
        let identity = match identity {
            Some(identity) => format!("{} ({})", entra.identity, identity.name),
            None => entra.identity,
        };
        Ok(Minted { credential, issuer: Issuer::Minting, identity, skew })
    }
}

impl Source for Azure {
    fn fetch(&self) -> Fetch<'_> {
        Box::pin(self.mint())
    }
}

/// The registry knows the identity and does not say what it lacks, so it is said here. Registries of the newer
/// permission mode pass the older roles by
/// (<https://learn.microsoft.com/azure/container-registry/container-registry-rbac-abac-repository-permissions>).
fn without_role(error: FetchError) -> FetchError {
    match error {
        // 403 is what a firewall of the registry says, with our address.
        FetchError::Refused { service, detail } if detail.contains("HTTP 401") => {
            let needs = "the identity needs the role `AcrPull`, or `Container Registry Repository Reader` on a \
                 registry with repository permissions";
            FetchError::Denied { service, detail: format!("{detail}; {needs}") }
        }
        error => error,
    }
}

/// Where the clouds have their directories
/// (<https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud>).
pub(super) fn authority_of(name: &str) -> &'static str {
    if name.ends_with(".azurecr.cn") {
        "https://login.chinacloudapi.cn"
    } else if name.ends_with(".azurecr.us") {
        "https://login.microsoftonline.us"
    } else {
        "https://login.microsoftonline.com"
    }
}

/// Germany's own cloud was closed in 2021, but its names are still to be found in settings.
const SUFFIXES: [&str; 4] = [".azurecr.io", ".azurecr.cn", ".azurecr.us", ".azurecr.de"];

const SERVICE: &str = "the registry's token exchange";
const USERNAME: &str = "00000000-0000-0000-0000-000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_registries_are_known_by_name() {
        for (name, authority) in [
            ("example.azurecr.io", "https://login.microsoftonline.com"),
            ("example-abcd.azurecr.io", "https://login.microsoftonline.com"),
            ("example.azurecr.cn", "https://login.chinacloudapi.cn"),
            ("example.azurecr.us", "https://login.microsoftonline.us"),
            ("example.azurecr.de", "https://login.microsoftonline.com"),
        ] {
            assert!(AzureOrigin::is(name), "{name}");
            assert_eq!(authority_of(name), authority, "{name}");
        }
        for name in [
            "example.eastus.data.azurecr.io",
            "azurecr.io",
            ".azurecr.io",
            "evilazurecr.io",
            "example.azurecr.io.example.com",
        ] {
            assert!(!AzureOrigin::is(name), "{name}");
        }
    }
}
