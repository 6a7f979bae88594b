//! Tokens of other issuers, which Google changes for its own: from a file, an address, a program, or AWS
//! (<https://google.aip.dev/auth/4117>).

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::tokens::{Asker, header_name};
use crate::network::NoDocument;
use crate::program::{Program, ended};
use crate::sources::answers::{good, plain};
use crate::sources::aws::Session;
use crate::sources::{FetchError, files};

/// Where the other token comes from.
#[derive(Deserialize)]
pub(super) struct Source {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    executable: Option<Executable>,
    environment_id: Option<String>,
    regional_cred_verification_url: Option<String>,
    certificate: Option<IgnoredAny>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize)]
struct Executable {
    command: String,
    timeout_millis: Option<u64>,
}

/// How the token stands in what is read.
#[derive(Default, Deserialize)]
struct Format {
    r#type: Option<String>,
    subject_token_field_name: Option<String>,
}

/// What the token is to be for.
pub(super) struct Wanted<'a> {
    pub(super) audience: &'a str,
    pub(super) token_type: &'a str,
    /// The service account in whose name it will be used.
    pub(super) account: Option<&'a str>,
}

/// Why there is none.
pub(super) enum Unobtained {
    /// The file of credentials asks for what cannot be.
    Unusable(String),
    /// It can be, and failed.
    Failed(FetchError),
}

impl From<FetchError> for Unobtained {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

/// The token of the other issuer.
pub(super) async fn subject_token(
    asker: &Asker<'_>,
    source: &Source,
    wanted: &Wanted<'_>,
) -> Result<SecretString, Unobtained> {
    let unusable = |detail: &str| Err(Unobtained::Unusable(detail.to_owned()));
    if source.certificate.is_some() {
        return unusable("a `certificate` is not supported by this version");
    }
    if let Some(id) = &source.environment_id {
        if id != "aws1" {
            return unusable("`environment_id` is not `aws1`, which is all that there is");
        }
        let Some(url) = &source.regional_cred_verification_url else {
            return unusable("`regional_cred_verification_url` is missing");
        };
        return Ok(Box::pin(of_aws(asker, url, wanted.audience)).await?);
    }
    if let Some(executable) = &source.executable {
        return of_program(executable, wanted).await;
    }
    if let Some(path) = &source.file {
        let text = files::read(path).await.map_err(|error| {
            // It may be about to be put there, by whoever rotates it.
            let detail = format!("the token in {} ({error})", path.display());
            FetchError::NoCredentials { cloud: super::CLOUD, detail }
        })?;
        return source.format.token_in(&text, &path.display().to_string());
    }
    if let Some(url) = &source.url {
        let mut question = asker.client.get(url);
        for (name, value) in &source.headers {
            let Some(name) = header_name(name) else {
                return unusable("a name in `headers` is no name of a header");
            };
            question = question.secret_header(name, &SecretString::from(value.as_str()));
        }
        let answer = good(ISSUER, question.ask().await)?;
        let text = std::str::from_utf8(answer.body().expose_secret()).unwrap_or_default();
        return source.format.token_in(&SecretString::from(text), url);
    }
    unusable("`credential_source` has no `file`, `url`, `executable` or `environment_id`")
}

impl Format {
    fn token_in(&self, text: &SecretString, place: &str) -> Result<SecretString, Unobtained> {
        let text = text.expose_secret();
        let token = match self.r#type.as_deref() {
            None | Some("text") => text.trim().to_owned(),
            Some("json") => {
                let Some(field) = &self.subject_token_field_name else {
                    let detail = "`format` has no `subject_token_field_name`".to_owned();
                    return Err(Unobtained::Unusable(detail));
                };
                let document: Value = serde_json::from_str(text)
                    .map_err(|error| bad(place, &NoDocument::at(&error).to_string()))?;
                let token = document[field].as_str();
                token.ok_or_else(|| bad(place, &format!("it has no `{field}`")))?.to_owned()
            }
            Some(other) => {
                let detail = format!("`format` is of type `{}`", other.escape_default());
                return Err(Unobtained::Unusable(detail));
            }
        };
        if token.is_empty() {
            return Err(bad(place, "it is empty"));
        }
        Ok(SecretString::from(token))
    }
}

fn bad(place: &str, detail: &str) -> Unobtained {
    let detail = format!("the token in {place}: {detail}");
    Unobtained::Failed(FetchError::NoCredentials { cloud: super::CLOUD, detail })
}

/// A program that prints the token; it is only run where that was allowed, since a file of credentials may come from
/// somewhere else.
async fn of_program(
    executable: &Executable,
    wanted: &Wanted<'_>,
) -> Result<SecretString, Unobtained> {
    #[derive(Deserialize)]
    struct Printed {
        success: bool,
        id_token: Option<SecretString>,
        saml_response: Option<SecretString>,
        code: Option<String>,
        message: Option<String>,
    }
    if env::var(ALLOWED).as_deref() != Ok("1") {
        return Err(Unobtained::Unusable(format!(
            "it names a program, which is only run with {ALLOWED}=1 in the environment"
        )));
    }
    let mut words = executable.command.split_whitespace().map(str::to_owned);
    let Some(name) = words.next() else {
        return Err(Unobtained::Unusable("`command` is empty".to_owned()));
    };
    let arguments: Vec<_> = words.collect();
    let mut environment = vec![
        ("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE".into(), wanted.audience.into()),
        ("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE".into(), wanted.token_type.into()),
        ("GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE".into(), "0".into()),
    ];
    if let Some(account) = wanted.account {
        environment.push(("GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL".into(), account.into()));
    }
    let program =
        Program { name: &name, arguments: &arguments, environment, input: SecretString::from("") };
    let limit = executable.timeout_millis.map_or(PROGRAM_LIMIT, Duration::from_millis);
    let failed = |detail: String| {
        Unobtained::Failed(FetchError::NoCredentials { cloud: super::CLOUD, detail })
    };
    let said = program.run(limit).await.map_err(|error| failed(error.to_string()))?;
    let printed: Printed = serde_json::from_str(said.output.expose_secret()).map_err(|error| {
        let (how, what) = (ended(said.status), NoDocument::at(&error));
        failed(format!("{name} ({how}): {what} {}", said.complaints))
    })?;
    let token = printed.id_token.or(printed.saml_response).filter(|_| printed.success);
    token.ok_or_else(|| {
        let (code, message) =
            (printed.code.unwrap_or_default(), printed.message.unwrap_or_default());
        failed(format!("{name} gives no token: {} {}", plain(&code), plain(&message)))
    })
}

/// Who we are for AWS: a question to it that we sign and that Google asks.
async fn of_aws(asker: &Asker<'_>, url: &str, audience: &str) -> Result<SecretString, FetchError> {
    let client = asker.network.client();
    let found =
        aws_config::defaults(BehaviorVersion::latest()).http_client(client.clone()).load().await;
    let region = found.region().cloned();
    let region = region.ok_or_else(|| FetchError::NoCredentials {
        cloud: "AWS",
        detail: "no region: AWS_REGION is not set, and no profile or metadata has one".to_owned(),
    })?;
    let session = Session::open(None, region.as_ref(), false, &client).await?;
    let url = url.replace("{region}", region.as_ref());
    let unsignable = || FetchError::BadCredentials {
        cloud: super::CLOUD,
        detail: "`regional_cred_verification_url` is no address that can be signed".to_owned(),
    };
    let host = url.parse::<hyper::Uri>().ok();
    let host = host.as_ref().and_then(|url| url.authority()).ok_or_else(unsignable)?;
    let headers = [("host", host.as_str()), (TARGET, audience)];
    let identity = session.credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("sts")
        .time(asker.clock.wall())
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| unsignable())?;
    let question =
        SignableRequest::new("POST", url.as_str(), headers.into_iter(), SignableBody::empty())
            .map_err(|_| unsignable())?;
    let signed = sign(question, &parameters.into()).map_err(|_| unsignable())?.into_parts().0;
    // As Google's own clients write it.
    let written =
        |name: &str| if name == "authorization" { "Authorization" } else { name }.to_owned();
    let signed = signed.headers().map(|(name, value)| (written(name), value.to_owned()));
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .chain(signed.collect::<Vec<_>>())
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    let question = json!({ "url": url, "method": "POST", "headers": headers, "body": "" });
    let encoded: String =
        form_urlencoded::byte_serialize(question.to_string().as_bytes()).collect();
    // A form has plus signs for blanks, and what is asked for here has none of either.
    Ok(SecretString::from(encoded.replace('+', "%20")))
}

/// For which identity pool the question is signed, so that nobody can use it for another.
const TARGET: &str = "x-goog-cloud-target-resource";

const ALLOWED: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";
const ISSUER: &str = "the issuer of the subject token";
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);
