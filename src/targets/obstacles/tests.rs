use super::*;

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

#[test]
fn what_makes_docker_pass_by_our_entry_is_found() {
    let hosts = [host("a.io"), host("b.io")];
    let kinds = |text: &str| -> Vec<&'static str> {
        let document = Document::parse(text.as_bytes()).unwrap();
        obstacles(&document, &hosts, Reader::Docker).iter().map(|one| one.kind().as_str()).collect()
    };
    assert!(kinds(r#"{"auths":{"a.io":{"auth":"eDp5"},"c.io":{}},"credsStore":""}"#).is_empty());
    assert_eq!(kinds(r#"{"credsStore":"desktop"}"#), ["creds_store"]);
    assert_eq!(kinds(r#"{"CREDSSTORE":"desktop"}"#), ["creds_store"]);
    assert_eq!(kinds(r#"{"credHelpers":{"b.io":"ecr-login","c.io":"gcr"}}"#), ["cred_helper"]);
    assert_eq!(kinds(r#"{"auths":{"c.io":{"auth":"%%%"}}}"#), ["unreadable_entry"]);
    assert_eq!(kinds(r#"{"auths":{"c.io":{"auth":"eA=="}}}"#), ["unreadable_entry"]);
    assert_eq!(kinds(r#"{"auths":{"c.io":{"auth":17}}}"#), ["unreadable_entry"]);
    assert_eq!(kinds(r#"{"auths":{"c.io":7}}"#), ["unreadable_entry"]);
    assert_eq!(kinds(r#"{"auths":{"c.io":{"username":7}}}"#), ["unreadable_entry"]);
    assert_eq!(kinds(r#"{"psFormat":7}"#), ["wrong_type"]);
    assert_eq!(kinds(r#"{"credHelpers":["gcr"]}"#), ["wrong_type"]);
    assert_eq!(kinds(r#"{"auths":{"https://a.io/v1/":{}}}"#), ["twin"]);
    assert_eq!(kinds(r#"{"auths":{"a.io/team":{}}}"#), Vec::<&str>::new());

    let text = r#"{"credHelpers":{"b.io":"ecr-login"}}"#;
    let document = Document::parse(text.as_bytes()).unwrap();
    let obstacles = obstacles(&document, &hosts, Reader::Docker);
    assert!(obstacles[0].hides(&hosts[1], Reader::Docker));
    assert!(!obstacles[0].hides(&hosts[0], Reader::Docker));
    assert!(obstacles[0].to_string().contains("remove that line"), "{}", obstacles[0]);
}

#[test]
fn podman_has_rules_of_its_own() {
    let hosts = [host("a.io")];
    let found = |text: &str| {
        let document = Document::parse(text.as_bytes()).unwrap();
        let found = obstacles(&document, &hosts, Reader::Podman);
        found
            .iter()
            .map(|one| (one.kind().as_str(), one.hides(&hosts[0], Reader::Podman)))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(r#"{"credsStore":"desktop"}"#), []);
    assert_eq!(found(r#"{"auths":{"c.io":{"auth":"%%%"}}}"#), []);
    assert_eq!(found(r#"{"psFormat":7}"#), []);
    assert_eq!(found(r#"{"credHelpers":{"a.io":""}}"#), [("cred_helper", true)]);
    assert_eq!(found(r#"{"auths":{"a.io/team":{}}}"#), [("path_key", false)]);
}

#[test]
fn an_empty_helper_sends_docker_back_to_the_file() {
    let hosts = [host("a.io"), host("b.io")];
    let text = r#"{"credsStore":"x","credHelpers":{"a.io":""}}"#;
    let document = Document::parse(text.as_bytes()).unwrap();
    let found = obstacles(&document, &hosts, Reader::Docker);
    let hides = |host| found.iter().any(|one| one.hides(host, Reader::Docker));
    assert!(!hides(&hosts[0]) && hides(&hosts[1]));
    assert_eq!(helper_of(&document, &hosts[0], Reader::Docker), None);
    assert_eq!(helper_of(&document, &hosts[1], Reader::Docker).as_deref(), Some("x"));
}

#[test]
fn a_file_full_of_obstacles_is_told_in_a_few_words() {
    let bad: Vec<String> = (0..1000).map(|n| format!(r#""{n}.io":{{"auth":"%"}}"#)).collect();
    let paths: Vec<String> = (0..1000).map(|n| format!(r#""a.io/{n}":{{}}"#)).collect();
    for (entries, reader, most) in [(bad, Reader::Docker, 1), (paths, Reader::Podman, 10)] {
        let text = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
        let document = Document::parse(text.as_bytes()).unwrap();
        assert_eq!(obstacles(&document, &[host("a.io")], reader).len(), most);
    }
}

#[test]
fn the_variable_names_hosts() {
    assert_eq!(hosts_in_environment(r#"{"auths":{"a.io":{"auth":"x"}}}"#), ["a.io"]);
    assert!(hosts_in_environment("{").is_empty());
}

#[test]
fn a_twin_is_the_same_host_in_another_spelling() {
    let host = host("a.io:5000");
    for twin in ["https://a.io:5000", "http://a.io:5000/", "a.io:5000/v1/", "https://a.io:5000/x/y"]
    {
        assert_eq!(twin_of(twin), Some(host.as_str()), "{twin}");
    }
    for other in ["a.io:5000", "a.io", "a.io:5000/team", "https://b.io", "https://xa.io:5000"] {
        assert_ne!(twin_of(other), Some(host.as_str()), "{other}");
    }
}

/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/credentialprovider/config.go>
#[test]
fn the_kubelet_asks_no_helper_but_refuses_a_file_with_an_entry_it_cannot_decode() {
    let hosts = [host("gcr.io")];
    let text = r#"{"credsStore":"x","credHelpers":{"gcr.io":"y"},"HttpHeaders":7,
        "auths":{"gcr.io":{"auth":"dTpw"},"https://gcr.io":{"auth":"dTpw"}}}"#;
    let document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(obstacles(&document, &hosts, Reader::Kubelet), []);
    assert_eq!(helper_of(&document, &hosts[0], Reader::Kubelet), None);

    let text = r#"{"auths":{"gcr.io":{"auth":"dTpw"},"other":{"auth":"*"}}}"#;
    let document = Document::parse(text.as_bytes()).unwrap();
    let found = obstacles(&document, &hosts, Reader::Kubelet);
    assert!(found[0].hides(&hosts[0], Reader::Kubelet), "{found:?}");
}
