//! Each kind of identity of each cloud, up to the token in the file, beside stand-ins that check what they are sent
//! by other people's code (`stand_ins/clouds.py`). A token names who asked for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use freshcreds::status::Verdict;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::machine::{Done, LIMIT, Machine, ended_with, is_running, put, run, tool, until};

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const GOOGLE: &str = "europe-docker.pkg.dev";

/// A machine whose clouds are stand-ins, and which has no identity of its own.
struct Bench {
    machine: Machine,
    /// Where the stand-ins are, and a registry that takes what they give.
    host: String,
    _clouds: Child,
}

impl Bench {
    async fn new() -> Result<Self> {
        let machine = Machine::new()?;
        std::fs::create_dir(machine.home().join("clouds"))?;
        Self::on(machine, Ipv4Addr::LOCALHOST.into()).await
    }

    async fn on(mut machine: Machine, address: IpAddr) -> Result<Self> {
        let folder = machine.home().join("clouds");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/stand_ins/clouds.py");
        // It has botocore, which signs as AWS's own programs do.
        let python = tool("../moto/bin/python");
        let clouds = Command::new(&python)
            .arg(script)
            .arg(&folder)
            .arg(address.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} is missing: run `make setup`", python.display()))?;
        let port = folder.join("port");
        until(LIMIT, || Ok(port.exists())).await.context("the stand-ins do not start")?;
        let port = std::fs::read_to_string(port)?.parse()?;
        let host = SocketAddr::new(address, port).to_string();
        let url = format!("http://{host}");
        for name in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_ECR_PUBLIC"]
        {
            machine.set(name, &url);
        }
        machine.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
        machine.set("AWS_REGION", "eu-west-1");
        machine.set("GCE_METADATA_HOST", &host);
        machine.set("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", &url);
        machine.set("AZURE_AUTHORITY_HOST", &url);
        machine.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url);
        // The hosts of clouds are not to be asked from here.
        machine.set("FRESHCREDS_VERIFY", "false");
        let profiles = machine.home().join("profiles");
        put(
            &profiles,
            "[base]\naws_access_key_id = key-of-base\naws_secret_access_key = secret-of-base\n",
        )?;
        machine.set("AWS_SHARED_CREDENTIALS_FILE", profiles);
        Ok(Self { machine, host, _clouds: clouds })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.machine.home().join(name);
        put(&path, text)?;
        Ok(path)
    }

    async fn once(&mut self, settings: &str) -> Result<Done> {
        // In place of what depends on the run.
        let home = self.machine.home().display().to_string();
        let settings = settings.replace("HOME", &home).replace("HERE", &self.host);
        self.machine.settings(&settings.replace("fetch_timeout = \"1s\"", ""))?;
        self.machine.freshcreds(&["once"]).await
    }

    /// Runs it once, successfully.
    async fn succeeds(&mut self, settings: &str) -> Result<()> {
        let done = self.once(settings).await?;
        let asked = self.asked();
        ended_with(&done, 0).with_context(|| asked)
    }

    /// Runs it once, in vain, and gives what it says.
    async fn fails(&mut self, settings: &str, kind: &str) -> Result<String> {
        let done = self.once(settings).await?;
        ended_with(&done, 1)?;
        let is_told = done.stderr.contains(&format!("\"kind\":\"{kind}\""));
        anyhow::ensure!(is_told, "not {kind}, but\n{}", done.stderr);
        Ok(done.stderr)
    }

    /// The password that stands in the file.
    fn password(&self, host: &str) -> Result<String> {
        let auth = self.machine.auth(host)?.with_context(|| format!("nothing for {host}"))?;
        let pair = String::from_utf8(STANDARD.decode(auth)?)?;
        Ok(pair.split_once(':').context("no pair")?.1.to_owned())
    }

    /// What the stand-ins were asked, a line each.
    fn asked(&self) -> String {
        std::fs::read_to_string(self.machine.home().join("clouds/asked")).unwrap_or_default()
    }

    /// A key, whose public half the stand-ins get, with a certificate.
    async fn key(&self, name: &str) -> Result<PathBuf> {
        let (key, certificate) =
            (self.machine.home().join("key"), self.machine.home().join("cert"));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
        ]);
        ended_with(&run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).await?, 0)?;
        let mut openssl = Command::new("openssl");
        let public = self.machine.home().join(format!("clouds/{name}.pub"));
        openssl.args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(public);
        ended_with(&run(&mut openssl).await?, 0)?;
        let both = std::fs::read_to_string(&key)? + &std::fs::read_to_string(certificate)?;
        self.file(&format!("{name}.pem"), &both)
    }
}

#[tokio::test]
async fn ecr_by_roles_that_are_taken_on_one_after_the_other() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench
        .succeeds(
            "[aws.base]\nprofile = \"base\"\n\
             [aws.pull]\nsource_identity = \"base\"\nrole_arn = \"arn:aws:iam::123456789012:role/pull\"\n\
             [aws.partner]\nsource_identity = \"pull\"\nexternal_id = \"as agreed\"\n\
             role_arn = \"arn:aws:iam::210987654321:role/partner\"\nrole_session_name = \"ci\"\n\
             expected_principal = \"arn:aws:iam::210987654321:role/partner\"\n\
             [[registry]]\nhost = \"123456789012.dkr.ecr.eu-west-1.amazonaws.com\"\nidentity = \"base\"\n\
             [[registry]]\nhosts = [\"210987654321.dkr.ecr.us-east-1.amazonaws.com\"]\nidentity = \"partner\"\n",
        )
        .await?;
    assert_eq!(bench.password(ECR)?, "ecr eu-west-1 arn:aws:iam::123456789012:user/base");
    assert_eq!(
        bench.password("210987654321.dkr.ecr.us-east-1.amazonaws.com")?,
        "ecr us-east-1 arn:aws:sts::210987654321:assumed-role/partner/ci"
    );
    Ok(())
}

#[tokio::test]
async fn ecr_by_whatever_an_identity_can_begin_with() -> Result<()> {
    let mut bench = Bench::new().await?;
    let token = bench.file("token", "token-of-the-cluster")?;
    let pod = bench.file("pod", "token-of-the-pod")?;
    for (name, value) in [
        ("OTHER_AWS_ACCESS_KEY_ID", "key-of-other".to_owned()),
        ("OTHER_AWS_SECRET_ACCESS_KEY", "secret-of-other".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/container", bench.host)),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", pod.display().to_string()),
    ] {
        bench.machine.set(name, value);
    }
    for (identity, who) in [
        ("profile = \"base\"".to_owned(), "user/base"),
        (
            "credential_source = \"Environment\"\nenvironment_prefix = \"OTHER_\"".to_owned(),
            "user/other",
        ),
        ("credential_source = \"Ec2InstanceMetadata\"".to_owned(), "assumed-role/node/i-1"),
        ("credential_source = \"EcsContainer\"".to_owned(), "assumed-role/pod/p-1"),
        (
            format!(
                "web_identity_token_file = \"{}\"\nrole_arn = \"arn:aws:iam::123456789012:role/web\"",
                token.display()
            ),
            "assumed-role/web/freshcreds",
        ),
    ] {
        // The one that is called so is everybody's who names none.
        let settings = format!("registries = [\"{ECR}\"]\n[aws.default]\n{identity}\n");
        bench.succeeds(&settings).await.with_context(|| identity.clone())?;
        assert!(bench.password(ECR)?.ends_with(who), "{identity}: {}", bench.password(ECR)?);
    }
    Ok(())
}

#[tokio::test]
async fn an_identity_that_is_not_the_one_that_was_meant_gets_nothing() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.machine.set("AWS_EC2_METADATA_DISABLED", "false");
    // Its chain falls through to what the node has.
    let settings = format!(
        "registries = [\"{ECR}\"]\n\
         [aws.default]\nexpected_principal = \"arn:aws:iam::123456789012:role/pull\"\n"
    );
    let said = bench.fails(&settings, "wrong_principal").await?;
    assert!(said.contains("assumed-role/node/i-1"), "{said}");
    assert!(said.contains("role/pull"), "{said}");
    let asked = bench.asked();
    assert!(asked.contains("GetCallerIdentity") && !asked.contains("ecr "), "{asked}");
    bench.succeeds(&settings.replace("role/pull", "role/node")).await?;

    // A role that is not theirs, and a profile that is not there.
    let denied = settings.replace("expected_principal", "role_arn");
    let said = bench.fails(&denied, "denied").await?;
    assert!(said.contains("STS denied it: AccessDenied"), "{said}");
    let said = bench
        .fails(
            &format!("registries = [\"{ECR}\"]\n[aws.default]\nprofile = \"nobody\"\n"),
            "bad_credentials",
        )
        .await?;
    assert!(said.contains("nobody"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_set_to_nothing_ends_no_daemon() -> Result<()> {
    let mut bench = Bench::new().await?;
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_STS"] {
        bench.machine.set(name, "");
        let settings = format!("registries = [\"{ECR}\"]\n[aws.default]\nprofile = \"base\"\n");
        let said = bench.fails(&settings, "bad_credentials").await?;
        assert!(said.contains(&format!("{name} is set to nothing")), "{said}");
        bench.machine.unset(name);
    }
    Ok(())
}

#[tokio::test]
async fn a_doctor_says_how_far_the_way_goes_and_what_to_do() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.machine.set("AWS_ACCESS_KEY_ID", "key-of-other");
    bench.machine.set("AWS_SECRET_ACCESS_KEY", "secret-of-other");
    let secret = bench.file("secret", "word")?;
    bench.machine.settings(&format!(
        "[aws.pull]\nrole_arn = \"arn:aws:iam::123456789012:role/pull\"\n\
         [[registry]]\nhost = \"{host}\"\nkind = \"ecr\"\nregion = \"eu-west-1\"\n\
         [[registry]]\nhost = \"{ECR}\"\nidentity = \"pull\"\n\
         [[registry]]\nhost = \"localhost:1\"\nusername = \"u\"\nsecret_file = \"{}\"\n",
        secret.display(),
        host = bench.host
    ))?;
    bench.machine.put_docker_config("{\"credsStore\":\"nowhere\"}")?;
    let done = bench.machine.freshcreds(&["doctor"]).await?;
    ended_with(&done, 1)?;
    for line in [
        "  ok    recognised  ecr (ecr eu-west-1), by its [[registry]] table",
        "  ok    identity    arn:aws:iam::123456789012:user/other, by variables of the environment",
        "  ok    registry    it takes the token",
        "  ok    recognised  ecr (ecr eu-west-1 as pull), by its name",
        "  FAIL  identity    STS denied it: AccessDenied",
        "do: allow the identity `sts:AssumeRole` on the role",
        "  ok    token       it does not expire",
        "  ?     registry    it could not be asked",
        "  ok    file        of user ",
        "  FAIL  in the way",
    ] {
        assert!(done.stdout.contains(line), "no {line} in\n{}", done.stdout);
    }
    assert!(done.stdout.contains("  ok    token       good for 11h 59m"), "{}", done.stdout);
    assert!(!done.stdout.contains("word"), "{}", done.stdout);
    // Nothing is written, and one registry can be looked at alone.
    assert_eq!(bench.machine.docker_config_text()?, "{\"credsStore\":\"nowhere\"}");
    bench.machine.put_docker_config("{}")?;
    let host = bench.host.clone();
    let done = bench.machine.freshcreds(&["doctor", "--json", &host]).await?;
    ended_with(&done, 0)?;
    let findings: serde_json::Value = serde_json::from_str(&done.stdout)?;
    assert_eq!(findings["status"], "pass", "{findings}");
    let checks = findings["checks"].as_array().context("no checks")?;
    let names: Vec<_> = checks.iter().filter_map(|one| one["check"].as_str()).collect();
    assert_eq!(names, ["recognised", "identity", "token", "registry", "file"]);
    ended_with(&bench.machine.freshcreds(&["doctor", "registry.example.com"]).await?, 2)?;
    Ok(())
}

#[tokio::test]
async fn ecr_public_and_an_endpoint_of_ones_own() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.machine.set("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:1");
    bench
        .succeeds(
            "registries = [\"public.ecr.aws\", \"ecr-public.aws.com\"]\n\
             [aws.default]\nprofile = \"base\"\n\
             [[registry]]\nhost = \"123456789012.dkr.ecr.eu-west-1.amazonaws.com\"\n\
             endpoint = \"http://HERE\"\n",
        )
        .await?;
    let who = "arn:aws:iam::123456789012:user/base";
    for host in ["public.ecr.aws", "ecr-public.aws.com"] {
        assert_eq!(bench.password(host)?, format!("ecr-public us-east-1 {who}"));
    }
    assert_eq!(bench.password(ECR)?, format!("ecr eu-west-1 {who}"));
    assert_eq!(bench.asked().matches("ecr-public").count(), 1, "one call for both");
    Ok(())
}

#[tokio::test]
async fn google_by_the_metadata_server_and_in_other_accounts_names() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.succeeds(&format!("registries = [\"{GOOGLE}\"]\n")).await?;
    assert_eq!(bench.password(GOOGLE)?, "metadata default");
    bench
        .succeeds(&format!(
            "registries = [\"{GOOGLE}\", \"gcr.io\"]\n\
             [google.default]\nmetadata_account = \"special@example.iam.gserviceaccount.com\"\n\
             [google.pull]\nimpersonate = \"pull@example.iam.gserviceaccount.com\"\n\
             delegates = [\"a@example.iam.gserviceaccount.com\"]\n\
             expected_principal = \"pull@example.iam.gserviceaccount.com\"\n\
             [[registry]]\nhost = \"gcr.io\"\nidentity = \"pull\"\n"
        ))
        .await?;
    assert_eq!(bench.password(GOOGLE)?, "metadata special@example.iam.gserviceaccount.com");
    assert_eq!(
        bench.password("gcr.io")?,
        "acting pull@example.iam.gserviceaccount.com metadata default"
    );
    let asked = bench.asked();
    assert!(
        asked.contains("projects/-/serviceAccounts/a@example.iam.gserviceaccount.com 3600"),
        "{asked}"
    );

    let refused = |more: &str| format!("registries = [\"{GOOGLE}\"]\n[google.default]\n{more}\n");
    let said = bench.fails(&refused("metadata_account = \"nobody\""), "no_credentials").await?;
    assert!(said.contains("knows no service account `nobody`"), "{said}");
    let said = bench.fails(&refused("impersonate = \"denied@example\""), "denied").await?;
    assert!(said.contains("PERMISSION_DENIED: Permission 'iam.service"), "{said}");
    let said =
        bench.fails(&refused("expected_principal = \"x@example\""), "wrong_principal").await?;
    assert!(said.contains("default-of-the-machine"), "{said}");
    Ok(())
}

/// The key of a service account, as `gcloud iam service-accounts keys create` writes it.
async fn key_file(bench: &Bench) -> Result<PathBuf> {
    let key = std::fs::read_to_string(bench.key("google").await?)?;
    let file = serde_json::json!({
        "type": "service_account",
        "project_id": "example",
        "private_key_id": "key-1",
        "private_key": key,
        "client_email": "pull@example",
        "client_id": "4711",
        "token_uri": format!("http://{}/google/key", bench.host),
    });
    bench.file("key.json", &file.to_string())
}

#[tokio::test]
async fn google_by_the_key_of_a_service_account() -> Result<()> {
    let mut bench = Bench::new().await?;
    let file = key_file(&bench).await?;
    let plain = format!("registries = [\"{GOOGLE}\"]\n");
    bench.machine.set("GOOGLE_APPLICATION_CREDENTIALS", &file);
    bench.succeeds(&plain).await?;
    assert_eq!(bench.password(GOOGLE)?, "key pull@example");
    assert_eq!(
        bench.asked(),
        "google-key pull@example https://www.googleapis.com/auth/cloud-platform\n"
    );
    // Named by the settings, and in another's name.
    bench.machine.unset("GOOGLE_APPLICATION_CREDENTIALS");
    bench
        .succeeds(&format!(
            "{plain}[google.default]\ncredentials_file = \"{}\"\nimpersonate = \"other@example\"\n",
            file.display()
        ))
        .await?;
    assert_eq!(bench.password(GOOGLE)?, "acting other@example key pull@example");
    // A key that Google does not know any more.
    bench.machine.set("GOOGLE_APPLICATION_CREDENTIALS", &file);
    let known = bench.machine.home().join("clouds/google.pub");
    std::fs::remove_file(known)?;
    let said = bench.fails(&plain, "refused").await?;
    assert!(said.contains("invalid_grant: Invalid JWT"), "{said}");
    assert!(!said.contains("BEGIN") && !said.contains("MII"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_hours_keeps_nobody_from_a_token() -> Result<()> {
    let mut bench = Bench::new().await?;
    let file = key_file(&bench).await?;
    let (app, certificate) = (bench.key("github").await?, bench.key("azure").await?);
    bench.machine.set("GOOGLE_APPLICATION_CREDENTIALS", file);
    let settings = format!(
        "registries = [\"{ECR}\", \"{GOOGLE}\"]\n[aws.default]\nprofile = \"base\"\n\
         [azure.it]\ntenant_id = \"tenant\"\nclient_id = \"app\"\nclient_certificate_file = \"{}\"\n\
         [github.app]\napp_id = \"4711\"\ninstallation_id = 42\nprivate_key_file = \"{}\"\n\
         api_url = \"http://HERE/\"\n\
         [[registry]]\nhost = \"HERE\"\nkind = \"azure\"\nidentity = \"it\"\n\
         [[registry]]\nhost = \"ghcr.io\"\nidentity = \"app\"\n",
        certificate.display(),
        app.display()
    );
    for ahead in ["7200", "-7200"] {
        bench.file("clouds/ahead", ahead)?;
        bench.succeeds(&settings).await.with_context(|| ahead)?;
        let asked = bench.asked();
        for who in
            ["ecr arn:", "google-key pull@example", "entra tenant app certificate", "github 4711"]
        {
            assert_eq!(asked.matches(who).count(), 1, "{who}: {asked}");
        }
        bench.file("clouds/asked", "")?;
    }
    Ok(())
}

/// The settings of a workload identity pool, as `gcloud iam workload-identity-pools create-cred-config` writes them.
fn pool(host: &str, kind: &str, source: &str, more: &str) -> String {
    format!(
        "{{\"type\":\"external_account\",\"audience\":\"//iam/pool\",\"subject_token_type\":\"{kind}\",\
         \"token_url\":\"http://{host}/google/sts\",\"credential_source\":{source}{more}}}"
    )
}

#[tokio::test]
async fn google_by_tokens_of_other_issuers() -> Result<()> {
    const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
    let mut bench = Bench::new().await?;
    let host = bench.host.clone();
    let token = bench.file("token", "token-of-the-issuer\n")?;
    let json = bench.file("token.json", "{\"value\":\"token-of-the-issuer\"}")?;
    let program = bench.file(
        "program",
        "#!/bin/sh\n[ \"$GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE\" = //iam/pool ] || exit 1\n\
         echo '{\"version\":1,\"success\":true,\"token_type\":\"urn:ietf:params:oauth:token-type:id_token\",\"id_token\":\"token-of-the-issuer\"}'\n",
    )?;
    executable(&program)?;
    let format = "\"format\":{\"type\":\"json\",\"subject_token_field_name\":\"value\"}";
    let acting = format!(
        ",\"service_account_impersonation_url\":\"http://{host}/v1/projects/-/serviceAccounts/pull@example:generateAccessToken\",\
         \"service_account_impersonation\":{{\"token_lifetime_seconds\":1200}}"
    );
    let region = "\"regional_cred_verification_url\":\"https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15\"";
    for (kind, source, more, password) in [
        (JWT, format!("{{\"file\":\"{}\"}}", token.display()), "", "federated issuer"),
        (JWT, format!("{{\"file\":\"{}\",{format}}}", json.display()), "", "federated issuer"),
        (
            JWT,
            format!(
                "{{\"url\":\"http://{host}/google/subject\",\"headers\":{{\"X-Asked-By\":\"the file\"}},{format}}}"
            ),
            acting.as_str(),
            "acting pull@example federated issuer",
        ),
        (
            "urn:ietf:params:oauth:token-type:id_token",
            format!(
                "{{\"executable\":{{\"command\":\"{}\",\"timeout_millis\":5000}}}}",
                program.display()
            ),
            "",
            "federated issuer",
        ),
        (
            "urn:ietf:params:aws:token-type:aws4_request",
            format!("{{\"environment_id\":\"aws1\",{region}}}"),
            acting.as_str(),
            "acting pull@example federated arn:aws:iam::123456789012:user/other",
        ),
    ] {
        for (name, value) in [
            ("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1"),
            ("AWS_ACCESS_KEY_ID", "key-of-other"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-other"),
        ] {
            bench.machine.set(name, value);
        }
        let file = bench.file("pool.json", &pool(&host, kind, &source, more))?;
        let settings = format!(
            "registries = [\"{GOOGLE}\"]\n[google.default]\ncredentials_file = \"{}\"\n",
            file.display()
        );
        bench.succeeds(&settings).await.with_context(|| source.clone())?;
        assert_eq!(bench.password(GOOGLE)?, password);
    }
    assert!(bench.asked().contains(" 1200\n"), "{}", bench.asked());

    // What is not allowed, not there, and not one of theirs.
    bench.machine.set("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "");
    for (source, kind, words) in [
        (
            format!("{{\"executable\":{{\"command\":\"{}\"}}}}", program.display()),
            "bad_credentials",
            "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1",
        ),
        ("{\"file\":\"/nowhere\"}".to_owned(), "no_credentials", "/nowhere"),
        ("{\"certificate\":{}}".to_owned(), "bad_credentials", "`certificate` is not supported"),
        (
            format!("{{\"file\":\"{}\"}}", json.display()),
            "refused",
            "invalid_grant: not a token of the issuer",
        ),
    ] {
        let file = bench.file("pool.json", &pool(&host, JWT, &source, ""))?;
        let settings = format!(
            "registries = [\"{GOOGLE}\"]\n[google.default]\ncredentials_file = \"{}\"\n",
            file.display()
        );
        let said = bench.fails(&settings, kind).await?;
        assert!(said.contains(words), "{said}");
    }
    Ok(())
}

/// The clouds' own libraries, by the same settings: whose they become is who we become.
#[tokio::test]
async fn whoever_the_clouds_own_libraries_become_we_become() -> Result<()> {
    let mut bench = Bench::new().await?;
    let config = bench.file(
        "config",
        "[profile pull]\nsource_profile = base\nrole_arn = arn:aws:iam::123456789012:role/pull\n\
         role_session_name = same\n\
         [profile partner]\nsource_profile = pull\nrole_arn = arn:aws:iam::210987654321:role/partner\n\
         external_id = as agreed\nrole_session_name = same\n",
    )?;
    bench.machine.set("AWS_CONFIG_FILE", config);
    // botocore is what the AWS CLI is made of.
    let script = "import botocore.session, sys\n\
                  sts = botocore.session.Session(profile=sys.argv[1]).create_client('sts', region_name='eu-west-1')\n\
                  print(sts.get_caller_identity()['Arn'])\n";
    for profile in ["base", "pull", "partner"] {
        let mut python = bench.machine.command(tool("../moto/bin/python"));
        let done = run(python.args(["-c", script, profile])).await?;
        ended_with(&done, 0)?;
        bench
            .succeeds(&format!(
                "registries = [\"{ECR}\"]\n[aws.default]\nprofile = \"{profile}\"\n"
            ))
            .await?;
        assert_eq!(bench.password(ECR)?, format!("ecr eu-west-1 {}", done.stdout.trim()));
    }

    let key = key_file(&bench).await?;
    let token = bench.file("token", "token-of-the-issuer")?;
    let acting = format!(
        ",\"service_account_impersonation_url\":\"http://{}/v1/projects/-/serviceAccounts/pull@example:generateAccessToken\"",
        bench.host
    );
    let script = "import google.auth, google.auth.transport.requests, sys\n\
                  scopes = ['https://www.googleapis.com/auth/cloud-platform']\n\
                  it, _ = google.auth.load_credentials_from_file(sys.argv[1], scopes=scopes)\n\
                  it.refresh(google.auth.transport.requests.Request())\n\
                  print(it.token)\n";
    let jwt = "urn:ietf:params:oauth:token-type:jwt";
    let source = format!("{{\"file\":\"{}\"}}", token.display());
    let of_pool = bench.file("pool.json", &pool(&bench.host, jwt, &source, ""))?;
    let in_its_name = bench.file("acting.json", &pool(&bench.host, jwt, &source, &acting))?;
    for file in [key, of_pool, in_its_name] {
        let mut python = bench.machine.command(tool("../google/bin/python"));
        let done = run(python.args(["-W", "ignore", "-c", script]).arg(&file)).await?;
        ended_with(&done, 0)?;
        bench.machine.set("GOOGLE_APPLICATION_CREDENTIALS", file);
        bench.succeeds(&format!("registries = [\"{GOOGLE}\"]\n")).await?;
        assert_eq!(bench.password(GOOGLE)?, done.stdout.trim());
    }
    Ok(())
}

#[tokio::test]
async fn google_by_a_user_and_by_an_account_that_a_file_acts_for() -> Result<()> {
    let mut bench = Bench::new().await?;
    let user = format!(
        "{{\"type\":\"authorized_user\",\"client_id\":\"id\",\"client_secret\":\"word\",\
         \"refresh_token\":\"refresh-of-the-user\",\"token_uri\":\"http://{}/google/refresh\"}}",
        bench.host
    );
    let acting = format!(
        "{{\"type\":\"impersonated_service_account\",\"delegates\":[],\"service_account_impersonation_url\":\
         \"http://{}/v1/projects/-/serviceAccounts/pull@example:generateAccessToken\",\"source_credentials\":{user}}}",
        bench.host
    );
    for (text, password) in [(&user, "user"), (&acting, "acting pull@example user")] {
        let file = bench.file("credentials.json", text)?;
        bench.machine.set("GOOGLE_APPLICATION_CREDENTIALS", file);
        bench.succeeds(&format!("registries = [\"{GOOGLE}\"]\n")).await?;
        assert_eq!(bench.password(GOOGLE)?, password);
    }
    Ok(())
}

#[tokio::test]
async fn azure_by_each_proof_of_an_identity() -> Result<()> {
    let mut bench = Bench::new().await?;
    let certificate = bench.key("azure").await?;
    let secret = bench.file("secret", "secret-of-the-application\n")?;
    let token = bench.file("token", "token-of-the-cluster")?;
    bench.machine.set("ACR_SECRET", "secret-of-the-application");
    for (proof, asked) in [
        (format!("client_secret_file = \"{}\"", secret.display()), "entra tenant app secret"),
        ("client_secret_variable = \"ACR_SECRET\"".to_owned(), "entra tenant app secret"),
        (
            format!("client_certificate_file = \"{}\"", certificate.display()),
            "entra tenant app certificate",
        ),
        (format!("federated_token_file = \"{}\"", token.display()), "entra tenant app federated"),
        ("managed_identity = true".to_owned(), "azure-metadata app"),
    ] {
        // The registry itself says that it takes it.
        bench.machine.set("FRESHCREDS_VERIFY", "true");
        let settings = format!(
            "[azure.it]\ntenant_id = \"tenant\"\nclient_id = \"app\"\n{proof}\n\
             [[registry]]\nhost = \"HERE\"\nkind = \"azure\"\nidentity = \"it\"\n"
        );
        bench.succeeds(&settings).await.with_context(|| proof.clone())?;
        let last: Vec<_> = bench.asked().lines().rev().take(2).map(str::to_owned).collect();
        assert_eq!(last[1], asked, "{proof}");
        assert!(last[0].ends_with(" tenant"), "{last:?}");
        let auth = bench.machine.auth(&bench.host)?.context("nothing")?;
        let pair = String::from_utf8(STANDARD.decode(auth)?)?;
        assert!(pair.starts_with("00000000-0000-0000-0000-000000000000:"), "{pair}");
    }
    // As the environment of a workload identity has it, without a word in the settings.
    for (name, value) in [
        ("AZURE_TENANT_ID", "tenant".to_owned()),
        ("AZURE_CLIENT_ID", "workload".to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", token.display().to_string()),
    ] {
        bench.machine.set(name, value);
    }
    let plain = "[[registry]]\nhost = \"HERE\"\nkind = \"azure\"\n";
    bench.succeeds(plain).await?;
    assert!(bench.asked().contains("entra tenant workload federated\nacr"), "{}", bench.asked());

    // For a part of it, which podman's kind understands.
    let target = bench.machine.home().join("auth.json");
    let part = format!(
        "docker_config = [\"{}\"]\n[[registry]]\nhost = \"HERE/team\"\nkind = \"azure\"\n",
        target.display()
    );
    bench.succeeds(&part).await?;
    assert!(std::fs::read_to_string(target)?.contains("/team"));

    // A wrong secret, and an application without a role.
    let wrong = bench.file("wrong", "another")?;
    let settings = |id: &str, secret: &Path| {
        format!(
            "[azure.default]\ntenant_id = \"tenant\"\nclient_id = \"{id}\"\nclient_secret_file = \"{}\"\n{plain}",
            secret.display()
        )
    };
    let said = bench.fails(&settings("app", &wrong), "denied").await?;
    assert!(said.contains("AADSTS7000215") && !said.contains("another"), "{said}");
    let said = bench.fails(&settings("norole", &secret), "denied").await?;
    assert!(said.contains("`AcrPull`") && said.contains("Repository Reader"), "{said}");
    Ok(())
}

/// A certificate for these names, of an authority that nobody knows yet, and that one's.
async fn certificate(folder: &Path, names: &[&str]) -> Result<(String, String)> {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
         -keyout ca.key -out ca.pem && \
         openssl req -newkey rsa:2048 -nodes -subj /CN=test -keyout tls.key -out tls.csr && \
         printf 'subjectAltName=%s' \"$1\" >names && \
         openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out tls.crt";
    let names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let mut sh = Command::new("sh");
    sh.current_dir(folder).args(["-ec", script, "sh", &names.join(",")]);
    ended_with(&run(&mut sh).await?, 0)?;
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    Ok((read("tls.key")? + &read("tls.crt")?, read("ca.pem")?))
}

/// A proxy that leads every name to one port of this machine, and notes the names.
async fn proxy(port: u16) -> Result<(String, Arc<Mutex<Vec<String>>>, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (url, names) =
        (format!("http://{}", listener.local_addr()?), Arc::<Mutex<Vec<_>>>::default());
    let (mut task, noted) = (JoinSet::new(), Arc::clone(&names));
    task.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut client = BufReader::new(stream);
                let (mut first, mut line) = (String::new(), String::new());
                client.read_line(&mut first).await?;
                while client.read_line(&mut line).await? > 2 {
                    line.clear();
                }
                if let Ok(mut noted) = noted.lock() {
                    noted.push(first.split(' ').nth(1).unwrap_or_default().to_owned());
                }
                let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok((url, names, task))
}

#[tokio::test]
async fn a_proxy_and_an_authority_of_ones_own_are_for_every_cloud_and_not_for_metadata()
-> Result<()> {
    const AZURE: &str = "example.azurecr.io";
    let machine = Machine::new()?;
    let folder = machine.home().join("clouds");
    std::fs::create_dir(&folder)?;
    let far = [
        "api.ecr.eu-west-1.amazonaws.com",
        "sts.eu-west-1.amazonaws.com",
        "iamcredentials.googleapis.com",
        "login.microsoftonline.com",
        AZURE,
        ECR,
        GOOGLE,
    ];
    let (tls, authority) = certificate(&folder, &far).await?;
    put(&folder.join("tls.pem"), &tls)?;
    let mut bench = Bench::on(machine, Ipv4Addr::LOCALHOST.into()).await?;
    let port = std::fs::read_to_string(folder.join("tls-port"))?.parse()?;
    let (url, names, _proxy) = proxy(port).await?;
    let authority = bench.file("authority.pem", &authority)?;
    for name in [
        "AWS_ENDPOINT_URL_STS",
        "AWS_ENDPOINT_URL_ECR",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS",
        "AZURE_AUTHORITY_HOST",
    ] {
        bench.machine.unset(name);
    }
    for (name, value) in [
        ("HTTPS_PROXY", url.as_str()),
        ("HTTP_PROXY", &url),
        ("AWS_EC2_METADATA_DISABLED", "false"),
    ] {
        bench.machine.set(name, value);
    }
    // The registries themselves are asked, too.
    bench.machine.set("FRESHCREDS_VERIFY", "true");
    let settings = format!(
        "registries = [\"{ECR}\", \"{GOOGLE}\", \"{AZURE}\"]\n\
         [aws.default]\ncredential_source = \"Ec2InstanceMetadata\"\n\
         expected_principal = \"123456789012\"\n\
         [google.default]\nmetadata_account = \"default\"\nimpersonate = \"pull@example\"\n\
         [azure.default]\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret_variable = \"ACR_SECRET\"\n"
    );
    bench.machine.set("ACR_SECRET", "secret-of-the-application");
    // Whom the machine does not trust is not told anything.
    let said = bench.fails(&settings, "unreachable").await?;
    assert!(said.contains("certificate"), "{said}");
    let trusting = format!("ca_file = \"{}\"\n{settings}", authority.display());
    bench.succeeds(&trusting).await?;
    assert!(bench.password(ECR)?.ends_with("assumed-role/node/i-1"));
    assert_eq!(bench.password(GOOGLE)?, "acting pull@example metadata default");
    let asked: Vec<String> = names.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    for name in far {
        assert!(asked.contains(&format!("{name}:443")), "{name} in {asked:?}");
    }
    assert!(!asked.iter().any(|name| name.contains("127.0.0.1")), "{asked:?}");

    // Round the proxy there is no way from here to a name that means nothing.
    bench.machine.set("NO_PROXY", "api.ecr.eu-west-1.amazonaws.com");
    let before = names.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.len();
    bench.fails(&trusting, "unreachable").await?;
    let asked = names.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.split_off(before);
    assert!(!asked.contains(&"api.ecr.eu-west-1.amazonaws.com:443".to_owned()), "{asked:?}");
    assert!(asked.contains(&"iamcredentials.googleapis.com:443".to_owned()), "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn every_cloud_is_asked_where_there_is_nothing_but_ipv6() -> Result<()> {
    let machine = Machine::new()?;
    std::fs::create_dir(machine.home().join("clouds"))?;
    let mut bench = Bench::on(machine, Ipv6Addr::LOCALHOST.into()).await?;
    let key = bench.key("github").await?;
    // The registry that Azure's token is for is there, too, and says whether it takes it.
    bench.machine.set("FRESHCREDS_VERIFY", "true");
    bench.machine.set("AWS_EC2_METADATA_DISABLED", "false");
    bench.machine.set("ACR_SECRET", "secret-of-the-application");
    // The others' hosts are not reached from here, which is no verdict.
    bench
        .succeeds(&format!(
            "[aws.node]\ncredential_source = \"Ec2InstanceMetadata\"\n\
             expected_principal = \"123456789012\"\n\
             [google.pull]\nimpersonate = \"pull@example.iam.gserviceaccount.com\"\n\
             [azure.it]\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret_variable = \"ACR_SECRET\"\n\
             [github.app]\napp_id = \"4711\"\ninstallation_id = 42\nprivate_key_file = \"{}\"\n\
             api_url = \"http://HERE/\"\n\
             [[registry]]\nhost = \"{ECR}\"\nidentity = \"node\"\n\
             [[registry]]\nhost = \"{GOOGLE}\"\nidentity = \"pull\"\n\
             [[registry]]\nhost = \"HERE\"\nkind = \"azure\"\nidentity = \"it\"\n\
             [[registry]]\nhost = \"ghcr.io\"\nidentity = \"app\"\n",
            key.display()
        ))
        .await?;
    assert!(bench.password(ECR)?.ends_with("assumed-role/node/i-1"));
    assert_eq!(
        bench.password(GOOGLE)?,
        "acting pull@example.iam.gserviceaccount.com metadata default"
    );
    assert_eq!(bench.password("ghcr.io")?, "installation 42");
    assert!(bench.machine.auth(&bench.host)?.is_some());
    Ok(())
}

#[tokio::test]
async fn github_by_an_app() -> Result<()> {
    let mut bench = Bench::new().await?;
    let key = bench.key("github").await?;
    let settings = format!(
        "[github.app]\napp_id = \"4711\"\ninstallation_id = 42\nprivate_key_file = \"{}\"\n\
         api_url = \"http://HERE/\"\n[[registry]]\nhost = \"ghcr.io\"\nidentity = \"app\"\n",
        key.display()
    );
    bench.succeeds(&settings).await?;
    assert_eq!(bench.password("ghcr.io")?, "installation 42");
    assert_eq!(bench.asked(), "github 4711 42 {\"packages\": \"read\"}\n");
    // By its name alone, if there is one that is everybody's.
    let by_name = settings
        .replace("[github.app]", "registries = [\"ghcr.io\"]\n[github.default]")
        .replace("[[registry]]\nhost = \"ghcr.io\"\nidentity = \"app\"\n", "");
    bench.succeeds(&by_name).await?;
    // Another key than the one that GitHub knows.
    bench.key("another").await?;
    let other = bench.machine.home().join("another.pem");
    let said = bench
        .fails(
            &settings.replace(&key.display().to_string(), &other.display().to_string()),
            "refused",
        )
        .await?;
    assert!(said.contains("JSON web token could not be decoded"), "{said}");
    Ok(())
}

fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?)
}

/// A helper of this name on the machine's path.
fn helper(bench: &mut Bench, name: &str, script: &str) -> Result<()> {
    let folder = bench.machine.home().join("programs");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("docker-credential-{name}"));
    put(&path, &format!("#!/bin/sh\n{script}\n"))?;
    executable(&path)?;
    bench.machine.set("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    Ok(())
}

#[tokio::test]
async fn any_registry_by_a_program_or_a_secret() -> Result<()> {
    let mut bench = Bench::new().await?;
    helper(
        &mut bench,
        "good",
        "[ \"$1\" = get ] && read -r host || true\n\
         echo \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"somebody\\\",\\\"Secret\\\":\\\"secret for $host\\\"}\"",
    )?;
    let plugin = bench.file(
        "plugin",
        "#!/bin/sh\ngrep -q '\"image\":\"registry.example.com/' || exit 1\n\
         [ -z \"$FRESHCREDS_CONFIG\" ] || exit 2\n\
         echo '{\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"kind\":\"CredentialProviderResponse\",\
         \"cacheKeyType\":\"Registry\",\"cacheDuration\":\"30m0s\",\"auth\":{\"*.example.com\":{\"username\":\"plugin\",\
         \"password\":\"of '$GREETING' '$FROM_US'\"}}}'\n",
    )?;
    executable(&plugin)?;
    bench.machine.set("FROM_US", "inherited");
    bench.machine.set("HUB_TOKEN", "word of the hub");
    let secret = bench.file("secret", "word of quay\n")?;
    bench
        .succeeds(&format!(
            "[[registry]]\nhost = \"git.example.com:5050\"\nhelper = \"good\"\nlife = \"1h\"\n\
             [[registry]]\nhost = \"registry.example.com\"\ncommand = [\"{}\"]\n\
             environment = [\"GREETING=hello\", \"FROM_US\"]\n\
             [[registry]]\nhost = \"quay.io\"\nusername = \"robot\"\nsecret_file = \"{}\"\n\
             [[registry]]\nhost = \"docker.io\"\nusername = \"me\"\nsecret_variable = \"HUB_TOKEN\"\n\
             [[registry]]\nhost = \"mirror.example.com\"\ncredential_of = \"quay.io\"\n",
            plugin.display(),
            secret.display()
        ))
        .await?;
    for (host, password) in [
        ("git.example.com:5050", "secret for git.example.com:5050"),
        ("registry.example.com", "of hello inherited"),
        ("quay.io", "word of quay"),
        ("https://index.docker.io/v1/", "word of the hub"),
        ("mirror.example.com", "word of quay"),
    ] {
        assert_eq!(bench.password(host)?, password, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_goes_wrong_is_told_of_and_gone() -> Result<()> {
    let mut bench = Bench::new().await?;
    for (script, kind, words) in [
        (
            "echo 'credentials not found in native keychain'; exit 1",
            "program_failed",
            "credentials not found",
        ),
        ("echo 'key canary-secret-0123 is no good' >&2; exit 7", "program_failed", "exit code 7"),
        (
            "echo '{\"Username\":\"u\",\"Secret\":\"canary-secret\"'; exit 0",
            "program_failed",
            "not the JSON",
        ),
        (
            "echo '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"canary-secret\"}'",
            "program_failed",
            "set `life`",
        ),
        (
            "echo '{\"ServerURL\":\"x\",\"Username\":\"<token>\",\"Secret\":\"canary-secret\"}'",
            "program_failed",
            "identity token",
        ),
        ("head -c 1000000000 /dev/zero", "program_failed", "prints without end"),
        ("echo canary-secret-0123; exit 1", "program_failed", "exit code 1"),
        ("kill -9 $$", "program_failed", "killed by signal 9"),
    ] {
        helper(&mut bench, "bad", script)?;
        let said =
            bench.fails("[[registry]]\nhost = \"r.example.com\"\nhelper = \"bad\"\n", kind).await?;
        assert!(said.contains(words), "{script}: {said}");
        assert!(!said.contains("canary-secret"), "{said}");
    }
    helper(&mut bench, "bad", "sleep 600 & echo $! $$ >>\"$HOME/ids\"; exec sleep 600")?;
    bench.fails("[[registry]]\nhost = \"r.example.com\"\nhelper = \"bad\"\n", "timeout").await?;
    let ids = std::fs::read_to_string(bench.machine.home().join("ids"))?;
    for id in ids.split_whitespace() {
        // Killed is killed, and on a busy machine not yet gone.
        let moment = Duration::from_secs(10);
        until(moment, || Ok(!is_running(id))).await.with_context(|| format!("{id} still runs"))?;
    }
    // One that prints a good one, and leaves something running that holds its output open.
    let good = "echo '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"word\"}'; sleep 60 &";
    helper(&mut bench, "bad", good)?;
    bench
        .succeeds("[[registry]]\nhost = \"r.example.com\"\nhelper = \"bad\"\nlife = \"1h\"\n")
        .await?;
    assert_eq!(bench.password("r.example.com")?, "word");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_changes_is_in_the_file_soon_and_never_expires() -> Result<()> {
    let mut bench = Bench::new().await?;
    let secret = bench.file("secret", "the first\n")?;
    bench.machine.settings(&format!(
        "[[registry]]\nhost = \"quay.io\"\nusername = \"robot\"\nsecret_file = \"{}\"\n",
        secret.display()
    ))?;
    let daemon = bench.machine.daemon().await?;
    let report = daemon.wait_for(|report| report.status == Verdict::Pass).await?;
    let check = &report.checks.credentials[0];
    assert!(check.never_expires && check.expires.is_none() && check.next_refresh.is_none());
    assert_eq!((check.kind.as_str(), check.identity.as_deref()), ("static", Some("robot")));
    let metrics = daemon.get("/metrics").await?;
    assert!(!metrics.contains("credential_expiry_timestamp_seconds{"), "{metrics}");
    assert_eq!(bench.password("quay.io")?, "the first");
    // As a rotation does it: another file under the name.
    let new = bench.file("new", "the second\n")?;
    std::fs::rename(new, &secret)?;
    until(LIMIT, || Ok(bench.password("quay.io")? == "the second")).await?;
    assert!(daemon.log().contains("its secret has changed"), "{}", daemon.log());
    // For a build that takes a day it is good enough.
    let listen = format!("{}", daemon.address());
    let check = ["check", "quay.io", "--min-life", "24h", "--listen", &listen];
    ended_with(&bench.machine.freshcreds(&check).await?, 0)?;
    std::fs::remove_file(&secret)?;
    let report = daemon.wait_for(|report| report.status == Verdict::Warn).await?;
    let error = report.checks.credentials[0].last_error.as_ref().context("no error")?;
    assert_eq!(error.kind, "no_credentials");
    assert_eq!(bench.password("quay.io")?, "the second");
    Ok(())
}

#[tokio::test]
async fn other_authorities_are_trusted_after_a_reload() -> Result<()> {
    const AZURE: &str = "example.azurecr.io";
    let machine = Machine::new()?;
    let folder = machine.home().join("clouds");
    std::fs::create_dir(&folder)?;
    let (tls, authority) = certificate(&folder, &["login.microsoftonline.com", AZURE]).await?;
    put(&folder.join("tls.pem"), &tls)?;
    let mut bench = Bench::on(machine, Ipv4Addr::LOCALHOST.into()).await?;
    let port = std::fs::read_to_string(folder.join("tls-port"))?.parse()?;
    let (url, _names, _proxy) = proxy(port).await?;
    bench.machine.unset("AZURE_AUTHORITY_HOST");
    bench.machine.set("HTTPS_PROXY", url);
    bench.machine.set("ACR_SECRET", "secret-of-the-application");
    // The file is of another authority at first.
    let other = bench.machine.home().join("other");
    std::fs::create_dir(&other)?;
    let (_, another) = certificate(&other, &["example.com"]).await?;
    let file = bench.file("authority.pem", &another)?;
    bench.machine.settings(&format!(
        "ca_file = \"{}\"\nregistries = [\"{AZURE}\"]\n\
         [azure.default]\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret_variable = \"ACR_SECRET\"\n",
        file.display()
    ))?;
    let daemon = bench.machine.daemon().await?;
    daemon.wait_for(|report| report.checks.credentials[0].last_error.is_some()).await?;
    put(&file, &authority)?;
    daemon.signal(Signal::HUP)?;
    daemon.wait_for(|report| report.status == Verdict::Pass).await?;
    Ok(())
}

#[tokio::test]
async fn another_role_under_the_same_name_is_asked_at_once() -> Result<()> {
    let mut bench = Bench::new().await?;
    let settings = |role: &str| {
        format!(
            "[aws.default]\nprofile = \"base\"\nrole_arn = \"arn:aws:iam::123456789012:role/{role}\"\n\
             [[registry]]\nhost = \"{ECR}\"\n"
        )
    };
    for (session, wanted) in
        [("pull", "pull/freshcreds"), ("pull\"\nrole_session_name = \"two", "pull/two")]
    {
        bench.machine.settings(&settings(session))?;
        let mut daemon = bench.machine.daemon().await?;
        daemon.wait_for(|report| report.status == Verdict::Pass).await?;
        until(Duration::from_secs(20), || Ok(bench.password(ECR)?.ends_with(wanted))).await?;
        daemon.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_path_is_for_podman_alone() -> Result<()> {
    let mut bench = Bench::new().await?;
    let secret = bench.file("secret", "word")?;
    let registry = format!(
        "[[registry]]\nhost = \"r.example.com/team\"\nusername = \"robot\"\nsecret_file = \"{}\"\n",
        secret.display()
    );
    let done = bench.once(&registry).await?;
    ended_with(&done, 2)?;
    assert!(done.stderr.contains("reader = \"podman\""), "{}", done.stderr);
    let target = bench.machine.home().join("auth.json");
    let settings = format!("docker_config = [\"{}\"]\n{registry}", target.display());
    bench.succeeds(&settings).await?;
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["login", "--get-login", "--authfile"]).arg(&target).arg("r.example.com/team");
    assert_eq!(run(&mut skopeo).await?.stdout, "robot\n");
    Ok(())
}
