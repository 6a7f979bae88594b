//! The kubelet's credential provider plugins, version 1 of their API
//! (<https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/>).

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::Given;
use crate::credential::RegistryHost;
use crate::network::NoDocument;

/// What a plugin is told: an image, of which only the registry counts.
pub(super) fn request(host: &RegistryHost) -> SecretString {
    let request = json!({
        "apiVersion": VERSION,
        "kind": "CredentialProviderRequest",
        "image": image_of(host),
    });
    request.to_string().into()
}

fn image_of(host: &RegistryHost) -> String {
    if host.name() == DOCKER_HUB {
        return format!("{DOCKER_HUB}/library/image");
    }
    format!("{host}/image")
}

/// By which names its answer may speak of the registry.
fn names_of(host: &RegistryHost) -> Vec<&str> {
    if host.name() == DOCKER_HUB {
        return vec![DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];
    }
    vec![host.as_str()]
}

const DOCKER_HUB: &str = "docker.io";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: Option<String>,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Deserialize)]
struct Auth {
    username: String,
    password: SecretString,
}

/// Reads what a plugin answers; nothing if it is no plugin's answer.
pub(super) fn read(text: &str, host: &RegistryHost) -> Result<Option<Given>, String> {
    let response: Response =
        serde_json::from_str(text).map_err(|error| NoDocument::at(&error).to_string())?;
    if response.api_version.is_none() && response.auth.is_none() {
        return Ok(None);
    }
    if let Some(version) = response.api_version.filter(|version| version != VERSION) {
        return Err(format!(
            "it speaks `{}`, and this version knows `{VERSION}`",
            version.escape_default()
        ));
    }
    let cached = match response.cache_duration.as_deref() {
        None => None,
        Some(text) => {
            Some(duration(text).ok_or_else(|| "its `cacheDuration` is no duration".to_owned())?)
        }
    };
    let all = response.auth.unwrap_or_default();
    // Of those that fit, the longest says most.
    let best = all
        .into_iter()
        .filter(|(pattern, _)| names_of(host).iter().any(|name| fits(pattern, name)))
        .max_by_key(|(pattern, _)| (!pattern.contains('*'), pattern.len()));
    match best {
        Some((_, Auth { username, password })) => {
            Ok(Some(Given { username, secret: password, cached }))
        }
        None => Err(format!("it has no credential for {host}")),
    }
}

/// Whether a pattern of the kubelet's is for this registry: `*` stands for a part of a label, the port has to be the
/// same, and a path has to be the beginning of ours
/// (<https://kubernetes.io/docs/concepts/containers/images/#config-json>).
fn fits(pattern: &str, host: &str) -> bool {
    let pattern = pattern
        .strip_prefix("https://")
        .or_else(|| pattern.strip_prefix("http://"))
        .unwrap_or(pattern);
    // What stands for the version of a registry's interface is no path.
    let pattern = pattern.trim_end_matches('/');
    let pattern =
        pattern.strip_suffix("/v1").or_else(|| pattern.strip_suffix("/v2")).unwrap_or(pattern);
    let split = |text: &str| {
        let (name, path) = text.split_once('/').unwrap_or((text, ""));
        let (name, port) = name.rsplit_once(':').unwrap_or((name, ""));
        (name.to_owned(), port.to_owned(), path.trim_end_matches('/').to_owned())
    };
    let ((wanted, wanted_port, wanted_path), (name, port, path)) = (split(pattern), split(host));
    let (wanted, name): (Vec<_>, Vec<_>) = (wanted.split('.').collect(), name.split('.').collect());
    wanted_port == port
        && wanted.len() == name.len()
        && wanted.iter().zip(&name).all(|(pattern, label)| label_fits(pattern, label))
        && (wanted_path.is_empty()
            || path
                .strip_prefix(&wanted_path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(label) = label.strip_prefix(first) else { return false };
    (0..=label.len()).any(|at| label.is_char_boundary(at) && label_fits(rest, &label[at..]))
}

/// A duration as Go writes it: `12h0m0s`, `1.5h`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|sign: char| !sign.is_ascii_digit() && sign != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|sign: char| sign.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> RegistryHost {
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com".parse().unwrap()
    }

    #[test]
    fn a_plugins_answer_is_read() {
        let text = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType":"Registry","cacheDuration":"6h0m0s","auth":{
            "*.dkr.ecr.*.amazonaws.com":{"username":"AWS","password":"wide"},
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com":{"username":"AWS","password":"exact"},
            "gcr.io":{"username":"other","password":"no"}}}"#;
        let given = read(text, &host()).unwrap().unwrap();
        assert_eq!(secrecy::ExposeSecret::expose_secret(&given.secret), "exact");
        assert_eq!((given.username.as_str(), given.cached), ("AWS", Some(Duration::from_hours(6))));
        assert!(read("{\"Username\":\"a\",\"Secret\":\"b\"}", &host()).unwrap().is_none());
        for (text, words) in [
            ("\"canary\"", "not the JSON"),
            ("{\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1alpha1\"}", "v1alpha1"),
            (
                "{\"auth\":{\"gcr.io\":{\"username\":\"a\",\"password\":\"canary\"}}}",
                "no credential for",
            ),
            ("{\"auth\":{},\"cacheDuration\":\"soon\"}", "no duration"),
        ] {
            let error = read(text, &host()).err().unwrap();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn docker_hub_and_a_path_are_named_as_the_kubelet_names_them() {
        let hub: RegistryHost = "docker.io".parse().unwrap();
        assert_eq!(image_of(&hub), "docker.io/library/image");
        for key in ["docker.io", "index.docker.io", "https://index.docker.io/v1/"] {
            let text =
                format!("{{\"auth\":{{\"{key}\":{{\"username\":\"a\",\"password\":\"b\"}}}}}}");
            assert!(read(&text, &hub).is_ok_and(|given| given.is_some()), "{key}");
        }
        let part: RegistryHost = "gcr.io/project/more".parse().unwrap();
        let text = "{\"auth\":{\"gcr.io/project\":{\"username\":\"a\",\"password\":\"b\"}}}";
        assert!(read(text, &part).unwrap().is_some());
    }

    #[test]
    fn patterns_fit_as_the_kubelets_do() {
        for (pattern, host) in [
            ("gcr.io", "gcr.io"),
            ("*.gcr.io", "eu.gcr.io"),
            ("*.dkr.ecr.*.amazonaws.com", "123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
            ("https://gcr.io", "gcr.io"),
            ("*-docker.pkg.dev", "europe-docker.pkg.dev"),
            ("r.example.com:5000", "r.example.com:5000"),
            ("gcr.io/project", "gcr.io/project/more"),
        ] {
            assert!(fits(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("gcr.io", "eu.gcr.io"),
            ("*.io", "eu.gcr.io"),
            ("*", "gcr.io"),
            ("r.example.com", "r.example.com:5000"),
            ("gcr.io/project", "gcr.io"),
            ("gcr.io/project", "gcr.io/project2"),
        ] {
            assert!(!fits(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn a_duration_is_as_go_writes_it() {
        for (text, seconds) in [
            ("12h0m0s", 43_200.0),
            ("1.5h", 5400.0),
            ("300ms", 0.3),
            ("0", 0.0),
            ("0s", 0.0),
            ("1m30s", 90.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        let huge = "18000000000000000000s".repeat(2);
        for text in ["", "h", "12", "1d", "-1h", "1h-2m", "1..2h", &huge] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
