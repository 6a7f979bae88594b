//! What stands in a Secret: the document for the kubelet, and the annotations that say how fresh
//! it is. They have no secret in them, so that looking at them needs no right to read any.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::super::document::Document;
use crate::clock::Clock;
use crate::credential::{Credential, Lifetime, RegistryHost};

/// A credential and where it is from.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) credential: Credential,
    /// Of its issuer, with all that its identity's settings say.
    pub(super) origin: String,
}

impl Entry {
    fn is(&self, other: &Self) -> bool {
        let [one, two] = [self, other].map(|entry| entry.credential.lifetime());
        self.credential.is_same_token(&other.credential)
            && self.origin == other.origin
            && (one.issued(), one.expires()) == (two.issued(), two.expires())
    }
}

pub(super) type Entries = BTreeMap<RegistryHost, Entry>;

/// Whether the two are the same.
pub(super) fn are_same(one: &Entries, other: &Entries) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((host, entry), (other_host, other))| host == other_host && entry.is(other))
}

/// What a Secret is to have.
pub(super) struct Content {
    pub(super) entries: Entries,
    pub(super) stamp: Arc<Stamp>,
    annotations: BTreeMap<&'static str, String>,
    /// `.dockerconfigjson`, in base64 as the API takes it.
    data: SecretString,
}

impl Content {
    pub(super) fn new(entries: Entries, clock: &Clock) -> Self {
        let pairs: Vec<_> =
            entries.iter().map(|(host, entry)| (host.clone(), entry.credential.auth())).collect();
        // Nothing to keep, so nothing that could not be changed.
        let text = Document::parse(b"{}").ok().and_then(|empty| empty.with(&pairs));
        let text = text.unwrap_or_default();
        let stamp = Stamp::of(&entries, clock);
        let lives = || entries.values().map(|entry| entry.credential.lifetime());
        let shown =
            |time: SystemTime| humantime::format_rfc3339_seconds(clock.to_wall(time)).to_string();
        let expires = lives().filter(|life| !life.is_endless()).map(Lifetime::expires).min();
        let refreshed = lives().map(Lifetime::issued).max();
        let annotations = [
            (EXPIRES, expires.map(shown)),
            (REFRESHED, refreshed.map(shown)),
            (REGISTRIES, Some(stamp.text.clone())),
        ];
        let annotations = annotations.into_iter().filter_map(|(key, text)| Some((key, text?)));
        Self {
            annotations: annotations.collect(),
            stamp: Arc::new(stamp),
            data: STANDARD.encode(text.expose_secret()).into(),
            entries,
        }
    }

    /// How much of the room that Kubernetes gives is taken.
    pub(super) fn size(&self) -> usize {
        self.data.expose_secret().len() / 4 * 3
    }

    pub(super) fn size_of_annotations(&self) -> usize {
        self.annotations.iter().map(|(key, text)| key.len() + text.len()).sum()
    }

    /// When the next of them expires, if one has not yet.
    pub(super) fn first_end(&self, now: SystemTime) -> Option<SystemTime> {
        let ends = self.entries.values().map(|entry| entry.credential.lifetime().expires());
        ends.filter(|end| *end > now).min()
    }

    /// What is sent to have it in a Secret; nowhere but in the one with `uid`, if it is given.
    pub(super) fn applied<'a>(
        &'a self,
        name: &'a str,
        owner: &'a str,
        uid: Option<&'a str>,
    ) -> Applied<'a> {
        let labels = [(OWNER, owner), (MANAGED_BY, MANAGER)].into();
        let annotations =
            self.annotations.iter().map(|(key, text)| (*key, text.as_str())).collect();
        Applied {
            api_version: "v1",
            kind: "Secret",
            metadata: AppliedMetadata { name, uid, labels, annotations },
            r#type: TYPE,
            data: [(KEY, self.data.expose_secret())].into(),
        }
    }
}

/// The body of a server-side apply.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Applied<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: AppliedMetadata<'a>,
    r#type: &'static str,
    data: BTreeMap<&'static str, &'a str>,
}

#[derive(Serialize)]
struct AppliedMetadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    labels: BTreeMap<&'static str, &'a str>,
    annotations: BTreeMap<&'static str, &'a str>,
}

impl fmt::Debug for Applied<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Applied").finish_non_exhaustive()
    }
}

/// Which credentials stand somewhere, and how long each of them lives.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    /// As the annotation has it: who has the same text has the same credentials.
    pub(super) text: String,
    pub(super) lives: BTreeMap<RegistryHost, Life>,
}

/// What an annotation says of one credential.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) lifetime: Lifetime,
    origin: String,
}

/// The same as it is written.
#[derive(Deserialize, Serialize)]
struct WrittenLife {
    issued: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    origin: String,
}

impl Stamp {
    fn of(entries: &Entries, clock: &Clock) -> Self {
        let shown =
            |time: SystemTime| humantime::format_rfc3339_millis(clock.to_wall(time)).to_string();
        let written: BTreeMap<&str, WrittenLife> = entries
            .iter()
            .map(|(host, entry)| {
                let life = entry.credential.lifetime();
                let expires = (!life.is_endless()).then(|| shown(life.expires()));
                let origin = entry.origin.clone();
                (host.as_str(), WrittenLife { issued: shown(life.issued()), expires, origin })
            })
            .collect();
        // Nothing in it can fail.
        let text = serde_json::to_string(&written).unwrap_or_default();
        let lives = entries.iter().map(|(host, Entry { credential, origin })| {
            (host.clone(), Life { lifetime: credential.lifetime(), origin: origin.clone() })
        });
        Self { text, lives: lives.collect() }
    }

    /// What an annotation says; nothing of what somebody else has put there.
    pub(super) fn read(text: &str, clock: &Clock) -> Self {
        let written: BTreeMap<String, WrittenLife> = serde_json::from_str(text).unwrap_or_default();
        let time = |text: &str| humantime::parse_rfc3339(text).ok().map(|at| clock.from_wall(at));
        let lives = written.into_iter().filter_map(|(host, life)| {
            let issued = time(&life.issued)?;
            let lifetime = match &life.expires {
                None => Lifetime::endless(issued),
                Some(text) => Lifetime::new(issued, time(text)?),
            };
            Some((host.parse().ok()?, Life { lifetime, origin: life.origin }))
        });
        Self { text: text.to_owned(), lives: lives.collect() }
    }

    /// The credentials that a document has, of those that the annotation speaks of.
    pub(super) fn entries(&self, document: &[u8]) -> Entries {
        let Ok(document) = Document::parse(document) else { return Entries::new() };
        let entries = self.lives.iter().filter_map(|(host, life)| {
            let auth = document.auth(host)?;
            let credential = Credential::from_auth(&auth, life.lifetime).ok()?;
            Some((host.clone(), Entry { credential, origin: life.origin.clone() }))
        });
        entries.collect()
    }
}

/// Whose a Secret is, as its metadata says.
pub(super) enum Whose {
    /// Somebody else's.
    Foreign,
    /// Ours.
    Ours {
        /// What it has, as the annotation says.
        text: String,
        /// Whether it was made by us, and not copied by somebody together with our label.
        is_made_by_us: bool,
        /// Whether what it has and what the annotation says is still what we applied.
        is_whole: bool,
    },
}

/// Reads it off the labels, and off what each manager has applied.
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>
pub(super) fn whose(meta: &ObjectMeta, owner: &str) -> Whose {
    let labels = meta.labels.as_ref();
    if labels.and_then(|labels| labels.get(OWNER)).is_none_or(|found| found != owner) {
        return Whose::Foreign;
    }
    let applied = meta.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let fields = applied.and_then(|entry| entry.fields_v1.as_ref()).map(|fields| &fields.0);
    let owns = |path: &[&str]| {
        let found = fields.and_then(|fields| {
            path.iter().try_fold(fields, |fields, name| fields.get(format!("f:{name}")))
        });
        found.is_some()
    };
    let is_whole = owns(&["data", KEY]) && owns(&["metadata", "annotations", REGISTRIES]);
    let annotations = meta.annotations.as_ref();
    let text = annotations.and_then(|known| known.get(REGISTRIES)).cloned().unwrap_or_default();
    Whose::Ours { text, is_made_by_us: applied.is_some(), is_whole }
}

/// Who we are to the API server.
pub(super) const MANAGER: &str = "freshcreds";
/// The label that says whose a Secret is.
pub(super) const OWNER: &str = "freshcreds/owner";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const EXPIRES: &str = "freshcreds/expires";
const REFRESHED: &str = "freshcreds/refreshed";
const REGISTRIES: &str = "freshcreds/registries";
/// <https://kubernetes.io/docs/concepts/configuration/secret/#docker-config-secrets>
const TYPE: &str = "kubernetes.io/dockerconfigjson";
pub(super) const KEY: &str = ".dockerconfigjson";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    /// To the millisecond, as annotations are.
    fn moment() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    fn clock() -> Clock {
        Clock::simulated(moment())
    }

    fn entries() -> Entries {
        let life = Lifetime::new(moment(), moment() + Duration::from_hours(12));
        let entry = |life| Entry {
            credential: Credential::new("AWS", "canary-secret".to_owned().into(), life).unwrap(),
            origin: "an origin".to_owned(),
        };
        let endless = entry(Lifetime::endless(moment() - Duration::from_hours(1)));
        [("gcr.io".parse().unwrap(), entry(life)), ("quay.io".parse().unwrap(), endless)].into()
    }

    /// The metadata that an API server makes of what we apply.
    fn meta(content: &Content) -> ObjectMeta {
        let applied = content.applied("name", "us", None);
        let mut value = serde_json::to_value(&applied).unwrap()["metadata"].take();
        value["managedFields"] = json!([{
            "manager": MANAGER, "operation": "Apply", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {format!("f:{KEY}"): {}},
                "f:metadata": {"f:annotations": {format!("f:{REGISTRIES}"): {}}},
            },
        }]);
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_is_read_back_with_its_life() {
        let clock = clock();
        let content = Content::new(entries(), &clock);
        let Whose::Ours { text, is_made_by_us: true, is_whole: true } =
            whose(&meta(&content), "us")
        else {
            panic!("not ours");
        };
        let stamp = Stamp::read(&text, &clock);
        assert_eq!(stamp.text, content.stamp.text);
        let document = STANDARD.decode(content.data.expose_secret()).unwrap();
        assert!(are_same(&stamp.entries(&document), &content.entries));
        let again = Content::new(stamp.entries(&document), &clock);
        assert_eq!(again.stamp.text, content.stamp.text, "or a restart would write all anew");
    }

    #[test]
    fn neither_annotations_nor_labels_have_a_secret_in_them() {
        let clock = clock();
        let content = Content::new(entries(), &clock);
        let applied = content.applied("name", "us", Some("uid"));
        let value = serde_json::to_value(&applied).unwrap();
        let metadata = value["metadata"].to_string();
        let secret = "canary-secret";
        for form in
            [secret.to_owned(), STANDARD.encode(secret), STANDARD.encode(format!("AWS:{secret}"))]
        {
            assert!(!metadata.contains(&form), "{metadata}");
        }
        assert!(!format!("{applied:?}").contains("auth"));
        assert_eq!(value["metadata"]["annotations"][EXPIRES], "2027-01-15T20:00:00Z");
        assert_eq!(value["metadata"]["annotations"][REFRESHED], "2027-01-15T08:00:00Z");
        assert_eq!(value["metadata"]["uid"], "uid");
        assert_eq!(value["type"], TYPE);
    }

    #[test]
    fn who_changes_the_data_or_copies_the_label_is_seen_in_the_metadata_alone() {
        let clock = clock();
        let content = Content::new(entries(), &clock);
        let ours = meta(&content);
        assert!(matches!(whose(&ours, "others"), Whose::Foreign));

        let mut changed = serde_json::to_value(&ours).unwrap();
        changed["managedFields"][0]["fieldsV1"]["f:data"] = json!({});
        let changed = serde_json::from_value(changed).unwrap();
        assert!(matches!(
            whose(&changed, "us"),
            Whose::Ours { is_whole: false, is_made_by_us: true, .. }
        ));

        let mut copied = serde_json::to_value(&ours).unwrap();
        copied["managedFields"] = Value::Null;
        let copied = serde_json::from_value(copied).unwrap();
        assert!(matches!(whose(&copied, "us"), Whose::Ours { is_made_by_us: false, .. }));
    }

    #[test]
    fn an_annotation_of_somebody_elses_says_nothing() {
        for text in
            ["", "null", "[]", "{\"gcr.io\":{}}", "{\"gcr.io\":{\"issued\":\"x\",\"origin\":\"\"}}"]
        {
            assert!(Stamp::read(text, &clock()).lives.is_empty(), "{text}");
        }
    }
}
