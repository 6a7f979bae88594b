use super::*;
use crate::sources::EcrOrigin;

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

fn options(hosts: &[&str]) -> Options {
    Options {
        docker_config: vec!["/somewhere/config.json".into()],
        registries: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..Options::default()
    }
}

fn file(text: &str) -> File {
    toml::from_str(text).unwrap()
}

fn settings(hosts: &[&str], text: &str) -> Result<Settings, BadSettings> {
    Settings::new(&options(hosts), &file(text))
}

fn hosts(settings: &Settings) -> Vec<&str> {
    settings.registries.iter().map(|registry| registry.host.as_str()).collect()
}

#[test]
fn hosts_alone_are_enough() {
    let settings = settings(&[ECR, "gcr.io", ECR], "").unwrap();
    assert_eq!(hosts(&settings), [ECR, "gcr.io"]);
    assert_eq!(settings.listen, "127.0.0.1:8099".parse().ok());
    assert_eq!(settings.fetch_timeout, Duration::from_secs(30));
}

#[test]
fn registries_that_can_share_a_credential_do() {
    let other = "210987654321.dkr.ecr.eu-west-1.amazonaws.com";
    let settings = settings(&[ECR, other, "gcr.io", "us-docker.pkg.dev"], "").unwrap();
    let shared: Vec<usize> = settings.sources().values().map(Vec::len).collect();
    assert_eq!(shared, [2, 2]);
}

#[test]
fn flags_win_over_the_file() {
    let text = "listen = \"off\"\ndocker_config = [\"/file.json\"]\nregistries = [\"gcr.io\"]";
    let from_file = Settings::new(&Options::default(), &file(text)).unwrap();
    assert_eq!(from_file.listen, None);
    assert_eq!(from_file.targets, [Target::of("/file.json".into())]);
    assert_eq!(hosts(&from_file), ["gcr.io"]);

    let mut flags = options(&[ECR]);
    flags.listen = Some("[::1]:1".to_owned());
    let from_flags = Settings::new(&flags, &file(text)).unwrap();
    assert_eq!(from_flags.listen, "[::1]:1".parse().ok());
    assert_eq!(from_flags.targets, [Target::of("/somewhere/config.json".into())]);
    assert_eq!(hosts(&from_flags), [ECR]);
}

#[test]
fn a_table_says_what_the_name_does_not() {
    let text = "[[registry]]\nhost = \"localhost:4566\"\nkind = \"ecr\"\nregion = \"eu-west-1\"\n\
                [[registry]]\nhost = \"mirror.example\"\nkind = \"google\"\n";
    let from_file = settings(&[], text).unwrap();
    assert_eq!(hosts(&from_file), ["localhost:4566", "mirror.example"]);
    assert_eq!(
        from_file.registries[0].origin,
        Origin::Ecr(EcrOrigin::of_region("eu-west-1").unwrap())
    );
    // A host that is named as an argument finds its table.
    let named = settings(&["mirror.example"], text).unwrap();
    assert_eq!(named.registries[0].origin, Origin::Google(None));
}

#[test]
fn the_folder_of_docker_config_is_where_docker_reads() {
    let mut options = options(&["gcr.io"]);
    options.docker_config.clear();
    options.docker_config_folder = Some("/var/run/docker".into());
    let settings = Settings::new(&options, &File::default()).unwrap();
    assert_eq!(settings.targets, [Target::of("/var/run/docker/config.json".into())]);
}

#[test]
fn a_path_from_where_one_is_means_the_same_everywhere() {
    let here = std::env::current_dir().unwrap();
    let mut options = options(&["gcr.io"]);
    options.docker_config = vec!["config.json".into()];
    let settings = Settings::new(&options, &File::default()).unwrap();
    assert_eq!(settings.targets, [Target::of(here.join("config.json"))]);
    let text = "registries = [\"gcr.io\"]\n[[target]]\npath = \"a/auth.json\"\n\
                [[hook]]\ncommand = [\"x\"]\ntargets = [\"a/auth.json\"]\n";
    let settings = Settings::new(&Options::default(), &file(text)).unwrap();
    assert_eq!(settings.targets[0].path, here.join("a/auth.json"));
    assert_eq!(settings.hooks[0].targets, [here.join("a/auth.json")]);
}

#[test]
fn what_cannot_be_used_says_what_to_do() {
    let message = |hosts: &[&str], text: &str| settings(hosts, text).unwrap_err().to_string();
    assert!(message(&[], "").contains("no registry is named"));
    assert!(message(&["https://gcr.io"], "").contains("without a scheme"));
    assert!(message(&["registry.example"], "").contains("[[registry]] table"));
    assert!(message(&["ghcr.io"], "").contains("`secret_file`"));
    assert!(message(&["gcr.io"], "listen = \"8099\"").contains("ADDRESS:PORT"));
    for timeout in ["0s", "6m", "30", "soon"] {
        let text = format!("fetch_timeout = \"{timeout}\"");
        assert!(message(&["gcr.io"], &text).contains("fetch_timeout"), "{timeout}");
    }
    let table = |rest: &str| message(&[], &format!("[[registry]]\nhost = \"a.example\"\n{rest}"));
    assert!(table("kind = \"docker\"").contains("`google`"));
    assert!(table("kind = \"ecr\"").contains("needs a `region`"));
    assert!(
        table("kind = \"ecr\"\nregion = \"eu west\"").contains("not the name of an AWS region")
    );
    assert!(table("kind = \"google\"\nregion = \"eu\"").contains("`region` means nothing"));
    assert!(table("").contains("does not say what kind"));
    assert!(
        table("kind = \"google\"\n[[registry]]\nhost = \"A.example\"\nkind = \"google\"")
            .contains("two [[registry]] tables")
    );
    let mut tilde = options(&["gcr.io"]);
    tilde.docker_config = vec!["~/.docker/config.json".into()];
    let message = Settings::new(&tilde, &File::default()).unwrap_err().to_string();
    assert!(message.contains("write the whole path"), "{message}");
    let mut twice = options(&["gcr.io"]);
    twice.docker_config.push("/somewhere/config.json".into());
    let message = Settings::new(&twice, &File::default()).unwrap_err().to_string();
    assert!(message.contains("named twice"), "{message}");
}

#[test]
fn a_hook_does_one_thing_under_one_name() {
    let settings = |text: &str| {
        let file = toml::from_str(&format!("registries = [\"gcr.io\"]\n{text}")).unwrap();
        Settings::new(&Options::default(), &file)
    };
    let hooks = settings(
        "docker_config = [\"/c.json\"]\n\
         [[hook]]\ncommand = [\"/usr/bin/reload\", \"a b\"]\n\
         [[hook]]\nsignal = \"SIGHUP\"\npid_file = \"/run/x.pid\"\ntargets = [\"/c.json\"]\n",
    )
    .unwrap()
    .hooks;
    assert_eq!(hooks[0].name, "reload");
    assert_eq!(hooks[0].limit, DEFAULT_LIMIT);
    let arguments = vec!["a b".to_owned()];
    assert_eq!(hooks[0].action, Action::Run { program: "/usr/bin/reload".to_owned(), arguments });
    assert_eq!(hooks[1].name, "SIGHUP to /run/x.pid");
    assert_eq!(hooks[1].targets, [Path::new("/c.json")]);
    for (text, words) in [
        ("[[hook]]\n", "needs a `command`"),
        ("[[hook]]\ncommand = []\n", "needs a `command`"),
        ("[[hook]]\ncommand = [\"\"]\n", "needs a `command`"),
        ("[[hook]]\nsignal = \"HUP\"\n", "a `pid_file`"),
        ("[[hook]]\ncommand = [\"x\"]\nsignal = \"HUP\"\npid_file = \"/x\"\n", "not both"),
        ("[[hook]]\nsignal = \"KILL\"\npid_file = \"/x\"\n", "`USR1`"),
        ("[[hook]]\nsignal = \"HUP\"\npid_file = \"x.pid\"\n", "the whole path"),
        ("[[hook]]\ncommand = [\"bin/x\"]\n", "the whole path"),
        ("[[hook]]\ncommand = [\"x\"]\ntimeout = \"0s\"\n", "from 1s to 10m"),
        ("[[hook]]\nsignal = \"HUP\"\npid_file = \"/x\"\ntimeout = \"9s\"\n", "needs no `timeout`"),
        ("[[hook]]\ncommand = [\"x\"]\ntargets = [\"/other\"]\n", "no target"),
        ("[[hook]]\ncommand = [\"x\"]\n[[hook]]\ncommand = [\"/bin/x\"]\n", "another `name`"),
    ] {
        let message = settings(text).unwrap_err().to_string();
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn names_that_the_endpoint_is_asked_by_are_names() {
    let settings = |names: &[&str]| {
        let file = toml::from_str("registries = [\"gcr.io\"]").unwrap();
        let allowed_hosts = names.iter().map(|name| (*name).to_owned()).collect();
        Settings::new(&Options { allowed_hosts, ..Options::default() }, &file)
    };
    let names = ["freshcreds", "health.example.com."];
    assert_eq!(settings(&names).unwrap().allowed_hosts, names);
    for name in ["*", "http://x", "a b", "x:8099"] {
        assert!(settings(&[name]).unwrap_err().to_string().contains("no name of a host"), "{name}");
    }
}

#[test]
fn an_identity_is_found_by_its_name_and_a_mistake_is_told_with_its_place() {
    let message = |text: &str| settings(&[], text).unwrap_err().to_string();
    let registry = |more: &str| {
        format!("[[registry]]\nhost = \"{ECR}\"\n{more}\n[aws.known]\nprofile = \"x\"\n")
    };
    let found = settings(&[], &registry("identity = \"known\"")).unwrap();
    assert_eq!(found.registries[0].origin.to_string(), "ecr eu-west-1 as known");
    assert!(
        message(&registry("identity = \"other\"")).contains("there is no identity [aws.other]")
    );
    for (more, words) in [
        ("helper = \"x\"\nkind = \"ecr\"", "its `kind` is `ecr`, and what it has is for `helper`"),
        ("helper = \"x\"\nenvironment = [\"X\"]\nregion = \"eu-west-1\"", "`region` means nothing"),
        ("helper = \"x/y\"", "no name of a credential helper"),
        (
            "helper = \"x\"\nidentity = \"known\"",
            "`identity` means nothing with `kind = \"helper\"`",
        ),
        ("command = []", "needs a `command`"),
        ("command = [\"bin/x\"]", "write the whole path"),
        ("username = \"u\"", "a `secret_file` or a `secret_variable`"),
        ("username = \"u\"\nsecret_file = \"x\"", "write the whole path"),
        ("username = \"u\"\nsecret_file = \"/x\"\nsecret_variable = \"X\"", "not both"),
        ("endpoint = \"vpce-1.example.com\"", "is no address"),
        ("helper = \"x\"\nlife = \"soon\"", "no duration"),
        ("credential_of = \"gcr.io\"\nidentity = \"known\"", "means nothing beside it"),
        ("hosts = [\"gcr.io\"]", "needs a `host`, or `hosts`, and not both"),
    ] {
        let message = message(&registry(more));
        assert!(message.contains(words), "{more}: {message}");
    }
    for (table, words) in [
        ("[aws.a]\nprofile = \"x\"\ncredential_source = \"Environment\"", "two ways to begin"),
        (
            "[aws.a]\nexternal_id = \"x\"\nrole_arn = \"arn:aws:iam::1:role/x\"\nweb_identity_token_file = \"/x\"",
            "nothing that can be told",
        ),
        ("[aws.a]\nexternal_id = \"x\"", "only means something with a `role_arn`"),
        ("[aws.a]\nrole_arn = \"pull\"", "is no role"),
        ("[aws.a]\nexpected_principal = \"pull\"", "is nobody"),
        ("[aws.a]\ncredential_source = \"env\"", "`Ec2InstanceMetadata`"),
        ("[aws.a]\nenvironment_prefix = \"X_\"", "`environment_prefix` only means"),
        ("[aws.a]\nsource_identity = \"b\"", "no identity [aws.b]"),
        (
            "[aws.a]\nsource_identity = \"b\"\n[aws.b]\nsource_identity = \"a\"",
            "begins with itself",
        ),
        ("[google.a]\ncredentials_file = \"/x\"\nmetadata_account = \"default\"", "two ways"),
        ("[google.a]\nimpersonate = \"a/b\"", "no name of an account"),
        ("[google.a]\ndelegates = [\"a@b\"]", "only mean something with `impersonate`"),
        ("[azure.a]\nmanaged_identity = true\nclient_secret_file = \"/x\"", "two ways"),
        ("[azure.a]\nclient_secret_file = \"x\"", "write the whole path"),
        (
            "[github.a]\napp_id = \"1\"\ninstallation_id = 2\nprivate_key_file = \"/x\"\napi_url = \"x\"",
            "no address",
        ),
        (
            "[github.a]\napp_id = \"1\"\ninstallation_id = 2\nprivate_key_file = \"/x\"\npackages = \"all\"",
            "`read` or `write`",
        ),
    ] {
        let message = message(&format!("registries = [\"gcr.io\"]\n{table}\n"));
        assert!(
            message.contains("the identity [") && message.contains(words),
            "{table}: {message}"
        );
    }
}

#[test]
fn an_alias_has_the_credential_of_the_registry_behind_it() {
    let text = format!(
        "registries = [\"{ECR}\"]\n[aws.default]\nprofile = \"x\"\n\
         [[registry]]\nhost = \"mirror.example.com\"\ncredential_of = \"{ECR}\"\n"
    );
    let found = settings(&[], &text).unwrap();
    assert_eq!(hosts(&found), [ECR, "mirror.example.com"]);
    assert_eq!(found.sources().len(), 1, "one call for both");
    let twice =
        format!("{text}[[registry]]\nhost = \"m2\"\ncredential_of = \"mirror.example.com\"\n");
    let message = settings(&[], &twice).unwrap_err().to_string();
    assert!(message.contains("has a `credential_of` itself"), "{message}");
}
