//! Tokens of Microsoft Entra for the registries' audience, by each way in which an identity can prove who it is.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HeaderName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{AzureIdentity, Proof};
use crate::clock::Clock;
use crate::network::{Answer, Client, NoDocument, Unanswered};
use crate::program::{Program, ended};
use crate::sources::answers::{AccessToken, document};
use crate::sources::skew::Asked;
use crate::sources::{FetchError, files, jwt};

/// A token, and whose it is.
pub(super) struct Token {
    pub(super) secret: SecretString,
    pub(super) identity: String,
    /// The directory, if the settings name it.
    pub(super) tenant: Option<Box<str>>,
}

/// Who proves who it is, all of it found.
struct Application {
    tenant: String,
    client: String,
    proof: Evidence,
}

enum Evidence {
    Secret(SecretString),
    Certificate(PathBuf),
    FederatedToken(PathBuf),
}

/// A token for this identity, or for whomever Azure's own clients would find: the environment, a workload identity, a
/// managed identity, the command line
/// (<https://learn.microsoft.com/dotnet/azure/sdk/authentication/credential-chains>).
pub(super) async fn token(
    client: &Client,
    clock: &Clock,
    identity: Option<&AzureIdentity>,
    authority: &str,
) -> Result<Token, FetchError> {
    let asker = Asker { client, clock, authority };
    let Some(identity) = identity else { return asker.search(None, None).await };
    let AzureIdentity { tenant, client, proof, .. } = identity;
    let evidence = match proof {
        Proof::Chain => {
            return asker.search(tenant.as_deref(), client.as_deref()).await;
        }
        Proof::ManagedIdentity => {
            let mut token = asker.ask_machine(client.as_deref()).await?;
            token.tenant.clone_from(tenant);
            return Ok(token);
        }
        Proof::SecretFile(path) => Evidence::Secret(read(path).await?),
        Proof::SecretVariable(name) => {
            let secret =
                variable(name).ok_or_else(|| nothing_found(format!("{name} is not set")))?;
            Evidence::Secret(secret.into())
        }
        Proof::Certificate(path) => Evidence::Certificate(path.clone()),
        Proof::FederatedToken(path) => Evidence::FederatedToken(path.clone()),
    };
    let needed = |given: &Option<Box<str>>, name: &str| {
        given.as_deref().map(str::to_owned).or_else(|| variable(name)).ok_or_else(|| {
            nothing_found(format!("{name} is not set, and the settings do not say it"))
        })
    };
    let application = Application {
        tenant: needed(tenant, TENANT)?,
        client: needed(client, CLIENT)?,
        proof: evidence,
    };
    let mut token = asker.of_application(&application).await?;
    token.tenant.clone_from(tenant);
    Ok(token)
}

struct Asker<'a> {
    client: &'a Client,
    clock: &'a Clock,
    authority: &'a str,
}

impl Asker<'_> {
    async fn search(
        &self,
        tenant: Option<&str>,
        client: Option<&str>,
    ) -> Result<Token, FetchError> {
        let given = |given: Option<&str>, name| given.map(str::to_owned).or_else(|| variable(name));
        if let (Some(tenant), Some(client)) = (given(tenant, TENANT), given(client, CLIENT)) {
            let proof = variable(SECRET)
                .map(|secret| Evidence::Secret(secret.into()))
                .or_else(|| Some(Evidence::Certificate(variable(CERTIFICATE)?.into())))
                .or_else(|| Some(Evidence::FederatedToken(variable(FEDERATED_TOKEN)?.into())));
            if let Some(proof) = proof {
                return self.of_application(&Application { tenant, client, proof }).await;
            }
        }
        let client = client.map(str::to_owned).or_else(|| variable(CLIENT));
        let nobody = match self.ask_machine(client.as_deref()).await {
            Err(error @ (FetchError::Unreachable { .. } | FetchError::NoCredentials { .. })) => {
                error
            }
            result => return result,
        };
        match self.ask_command_line(tenant).await {
            Err(FetchError::NoCredentials { detail, .. }) => Err(nothing_found(format!(
                "{CLIENT}, {TENANT} and one of {SECRET}, {CERTIFICATE}, {FEDERATED_TOKEN} are not set, \
                 there is no managed identity ({nobody}), and {detail}"
            ))),
            result => result,
        }
    }

    /// <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>
    async fn of_application(&self, application: &Application) -> Result<Token, FetchError> {
        let asked = Asked::now(self.clock);
        let mut answer = self.ask_entra(application, asked.wall).await?;
        if matches!(application.proof, Evidence::Certificate(_))
            && let Some(skew) = asked.blames(&answer)
        {
            let now = skew.to_theirs(self.clock.wall());
            answer = self.ask_entra(application, now).await?;
        }
        let (token, _) = document::<AccessToken>(ENTRA, answer)?;
        let identity = format!("application {}", application.client);
        Ok(Token { secret: token.access_token, identity, tenant: None })
    }

    /// Asks at `now`, if anything is to be dated.
    async fn ask_entra(
        &self,
        application: &Application,
        now: SystemTime,
    ) -> Result<Result<Answer, Unanswered>, FetchError> {
        let Application { tenant, client, proof } = application;
        let authority = variable(AUTHORITY);
        let authority = authority.as_deref().unwrap_or(self.authority).trim_end_matches('/');
        let url = format!("{authority}/{tenant}/oauth2/v2.0/token");
        let mut fields = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client.as_str()),
            ("scope", SCOPE),
        ];
        let assertion = match proof {
            Evidence::Secret(secret) => {
                fields.push(("client_secret", secret.expose_secret()));
                None
            }
            Evidence::FederatedToken(path) => Some(read(path).await?),
            Evidence::Certificate(path) => Some(self.signed(path, client, &url, now).await?),
        };
        if let Some(assertion) = &assertion {
            fields.push((
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
            fields.push(("client_assertion", assertion.expose_secret()));
        }
        Ok(self.client.post(url).form(&fields).ask().await)
    }

    /// <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>
    async fn signed(
        &self,
        path: &Path,
        client: &str,
        url: &str,
        now: SystemTime,
    ) -> Result<SecretString, FetchError> {
        let unusable = |why: &str| FetchError::BadCredentials {
            cloud: CLOUD,
            detail: format!("{}: {why}", path.display()),
        };
        let pem = read(path).await?;
        let certificate = CertificateDer::pem_slice_iter(pem.expose_secret().as_bytes()).next();
        let Some(Ok(certificate)) = certificate else {
            return Err(unusable("there is no certificate in it, in PEM"));
        };
        let print = |algorithm| URL_SAFE_NO_PAD.encode(digest(algorithm, &certificate));
        let now = jwt::seconds(now);
        let header = json!({
            "alg": "RS256",
            "typ": "JWT",
            "x5t": print(&SHA1_FOR_LEGACY_USE_ONLY),
            "x5t#S256": print(&SHA256),
        });
        let claims = json!({
            "aud": url,
            "iss": client,
            "sub": client,
            "jti": format!("{:032x}", fastrand::u128(..)),
            "nbf": now.saturating_sub(CLOCKS_MAY_DIFFER),
            "iat": now.saturating_sub(CLOCKS_MAY_DIFFER),
            "exp": now + ASSERTION_LIFE.as_secs(),
        });
        jwt::sign(&header, &claims, &pem).map_err(unusable)
    }

    /// By App Service's endpoint where there is one, else by the instance's metadata
    /// (<https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>).
    async fn ask_machine(&self, client: Option<&str>) -> Result<Token, FetchError> {
        let query = |version: &str| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("api-version", version).append_pair("resource", AUDIENCE);
            if let Some(client) = client {
                query.append_pair("client_id", client);
            }
            query.finish()
        };
        if variable("IDENTITY_ENDPOINT").is_some() && variable("IDENTITY_HEADER").is_none() {
            let detail = "IDENTITY_ENDPOINT without IDENTITY_HEADER is how Azure Arc and Service Fabric say it, which \
                 are not supported by this version";
            return Err(FetchError::BadCredentials { cloud: CLOUD, detail: detail.to_owned() });
        }
        let question = if let (Some(endpoint), Some(header)) =
            (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER"))
        {
            let url = format!("{endpoint}?{}", query("2019-08-01"));
            let question = self.client.get(url).near();
            question.secret_header(IDENTITY_HEADER, &header.into())
        } else {
            let host = variable(METADATA_HOST);
            let host = host.as_deref().unwrap_or("http://169.254.169.254").trim_end_matches('/');
            let url = format!("{host}/metadata/identity/oauth2/token?{}", query("2018-02-01"));
            self.client.get(url).near().header(METADATA, "true")
        };
        let answer = question.ask().await;
        // It has no such identity, or there is some other cloud's metadata server.
        if let Ok(answer) = &answer
            && matches!(answer.status.as_u16(), 400 | 401 | 403 | 404 | 405)
        {
            return Err(nothing_found(format!(
                "the machine has no managed identity{} (HTTP {})",
                client.map_or_else(String::new, |client| format!(" {client}")),
                answer.status
            )));
        }
        let (token, _) = document::<AccessToken>(IMDS, answer)?;
        let identity = client.map_or_else(
            || "the machine's managed identity".to_owned(),
            |client| format!("managed identity {client}"),
        );
        Ok(Token { secret: token.access_token, identity, tenant: None })
    }

    /// The token of whoever is logged in to Azure's command line.
    async fn ask_command_line(&self, tenant: Option<&str>) -> Result<Token, FetchError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Printed {
            access_token: SecretString,
        }
        let mut arguments =
            ["account", "get-access-token", "--output", "json", "--resource", AUDIENCE]
                .map(str::to_owned)
                .to_vec();
        if let Some(tenant) = tenant {
            arguments.extend(["--tenant".to_owned(), tenant.to_owned()]);
        }
        let environment =
            variable("AZURE_CONFIG_DIR").map(|folder| ("AZURE_CONFIG_DIR".into(), folder.into()));
        let az = Program {
            name: "az",
            arguments: &arguments,
            environment: environment.into_iter().collect(),
            input: SecretString::from(""),
        };
        let said = az.run(COMMAND_LIMIT).await.map_err(|error| nothing_found(error.to_string()))?;
        let printed: Printed =
            serde_json::from_str(said.output.expose_secret()).map_err(|error| {
                let (how, what) = (ended(said.status), NoDocument::at(&error));
                nothing_found(format!(
                    "`az account get-access-token` ({how}): {what} {}",
                    said.complaints
                ))
            })?;
        let identity = "the user of `az login`".to_owned();
        Ok(Token { secret: printed.access_token, identity, tenant: None })
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

async fn read(path: &Path) -> Result<SecretString, FetchError> {
    files::read(path).await.map_err(|error| nothing_found(format!("{}: {error}", path.display())))
}

fn nothing_found(detail: String) -> FetchError {
    FetchError::NoCredentials { cloud: CLOUD, detail }
}

const CLOUD: &str = "Azure";
const ENTRA: &str = "Microsoft Entra";
const IMDS: &str = "Azure's metadata server";

/// The same in every cloud.
const AUDIENCE: &str = "https://containerregistry.azure.net";
const SCOPE: &str = "https://containerregistry.azure.net/.default";

// As in all of Azure's own clients.
const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
const SECRET: &str = "AZURE_CLIENT_SECRET";
const CERTIFICATE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
const FEDERATED_TOKEN: &str = "AZURE_FEDERATED_TOKEN_FILE";
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";
const METADATA_HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

const METADATA: HeaderName = HeaderName::from_static("metadata");
const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

const ASSERTION_LIFE: Duration = Duration::from_mins(10);
const CLOCKS_MAY_DIFFER: u64 = 30;
const COMMAND_LIMIT: Duration = Duration::from_mins(1);
