//! Does in the cluster what is to be done there.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde::Serialize;
use serde_json::json;

use super::content::{Content, KEY, MANAGER, Stamp};
use super::mirror::Item;
use super::notes::{NOTE, Notes};
use super::places::{Done, Task};
use crate::kubernetes::{CALL_LIMIT, Link, Refusal};

/// The Secret of one namespace.
pub(super) struct Call {
    pub(super) link: Arc<Link>,
    pub(super) namespace: Box<str>,
    /// The Secret's name.
    pub(super) name: String,
    pub(super) owner: String,
}

impl Call {
    /// Does it. `content` is what the Secret is to have.
    pub(super) async fn execute(
        &self,
        task: &Task,
        content: Option<&Content>,
    ) -> Result<Done, Refusal> {
        match (task, content) {
            // Without force, so that what somebody else has made meanwhile is refused.
            (Task::Make, Some(content)) => self.apply(content, None).await,
            (Task::Renew { uid }, Some(content)) => self.apply(content, Some(uid)).await,
            // They are not asked for without it.
            (Task::Make | Task::Renew { .. }, None) => Err(Refusal::Conflict(String::new())),
            (Task::Remove { uid }, _) => self.remove(uid).await,
            (Task::Account { name, version, pulls, notes }, _) => {
                let changed = self.change_account(name, version, pulls, notes).await;
                match changed {
                    // One that is not selected any more is not told of either.
                    Err(Refusal::Conflict(_)) => {
                        self.read_account(name).await.map(Done::Read).or(changed)
                    }
                    changed => changed,
                }
            }
        }
    }

    /// Applies the content: to the Secret with this uid and by force, or to none.
    async fn apply(&self, content: &Content, uid: Option<&str>) -> Result<Done, Refusal> {
        let parameters = PatchParams { force: uid.is_some(), ..PatchParams::apply(MANAGER) };
        let body = Patch::Apply(content.applied(&self.name, &self.owner, uid));
        let applied = self.link.call(CALL_LIMIT, |client| async move {
            let secrets = Api::<Secret>::namespaced(client, &self.namespace);
            secrets.patch_metadata(&self.name, &parameters, &body).await
        });
        Ok(Done::Secret(Item::of(applied.await?.metadata)))
    }

    pub(super) async fn remove(&self, uid: &str) -> Result<Done, Refusal> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let parameters = DeleteParams::default().preconditions(preconditions);
        let removed = self.link.call(CALL_LIMIT, |client| async move {
            let secrets = Api::<Secret>::namespaced(client, &self.namespace);
            secrets.delete(&self.name, &parameters).await
        });
        removed.await.map(|_| Done::Removed)
    }

    /// Gives a service account these `imagePullSecrets`, if it is still as it was seen: the list
    /// is one value to the API server, so that nobody's names are merged but by whoever writes it.
    pub(super) async fn change_account(
        &self,
        name: &str,
        version: &str,
        pulls: &[String],
        notes: &Notes,
    ) -> Result<Done, Refusal> {
        let parameters =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let body = Patch::Merge(account_patch(version, pulls, notes));
        let changed = self.link.call(CALL_LIMIT, |client| async move {
            let accounts = Api::<ServiceAccount>::namespaced(client, &self.namespace);
            accounts.patch(name, &parameters, &body).await
        });
        Ok(Done::Account(Item::from(changed.await?)))
    }

    pub(super) async fn read_account(&self, name: &str) -> Result<Item, Refusal> {
        let found = self.link.call(CALL_LIMIT, |client| async move {
            Api::<ServiceAccount>::namespaced(client, &self.namespace).get(name).await
        });
        Ok(Item::from(found.await?))
    }

    /// What stands in the Secret, of what its annotation speaks of.
    pub(super) async fn read(&self, stamp: &Stamp) -> Result<super::content::Entries, Refusal> {
        let found = self.link.call(CALL_LIMIT, |client| async move {
            Api::<Secret>::namespaced(client, &self.namespace).get(&self.name).await
        });
        let data: BTreeMap<_, _> = found.await?.data.unwrap_or_default();
        Ok(data.get(KEY).map(|document| stamp.entries(&document.0)).unwrap_or_default())
    }
}

/// What is sent to change a service account; label and annotation go with the last note.
fn account_patch(
    version: &str,
    pulls: &[String],
    notes: &Notes,
) -> impl Serialize + std::fmt::Debug + use<> {
    let pulls: Vec<_> = pulls.iter().map(|name| json!({ "name": name })).collect();
    let note = (!notes.is_empty()).then(|| notes.to_string());
    let label = note.as_ref().map(|_| "yes");
    json!({
        "metadata": {
            "resourceVersion": version,
            "annotations": { NOTE: note },
            "labels": { NOTE: label },
        },
        "imagePullSecrets": pulls,
    })
}
