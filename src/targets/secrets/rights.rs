//! What the API server lets us do, asked without doing it.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::{Accounts, Namespaces, Options};
use crate::kubernetes::{CALL_LIMIT, LeaseName, Link, Refusal};

/// What is needed and not allowed, in words, for the Secrets of these settings.
///
/// # Errors
///
/// If the API server does not answer.
pub async fn missing(
    link: &Arc<Link>,
    options: &Options,
    lease: Option<&LeaseName>,
) -> Result<Vec<String>, Refusal> {
    let mut missing = Vec::new();
    for right in needed(options, lease) {
        if !is_allowed(link, &right).await? {
            missing.push(shown(&right));
        }
    }
    Ok(missing)
}

fn needed(options: &Options, lease: Option<&LeaseName>) -> Vec<ResourceAttributes> {
    let right = |verb: &str, resource: &str, namespace: Option<&String>, name: Option<&String>| {
        ResourceAttributes {
            verb: Some(verb.to_owned()),
            resource: Some(resource.to_owned()),
            namespace: namespace.cloned(),
            name: name.cloned(),
            ..ResourceAttributes::default()
        }
    };
    let mut all = Vec::new();
    let namespaces: Vec<Option<&String>> = match &options.namespaces {
        Namespaces::Named(names) => names.iter().take(MOST_NAMESPACES).map(Some).collect(),
        Namespaces::Selected { .. } => {
            all.extend(["list", "watch"].map(|verb| right(verb, "namespaces", None, None)));
            vec![None]
        }
    };
    for namespace in namespaces {
        let name = Some(&options.name);
        let verbs = ["list", "watch", "get", "create", "patch", "delete"];
        all.extend(verbs.map(|verb| right(verb, "secrets", namespace, name)));
        let accounts: Vec<Option<&String>> = match &options.accounts {
            Accounts::None => Vec::new(),
            Accounts::Named(names) => names.iter().map(Some).collect(),
            Accounts::Selected(_) => vec![None],
        };
        for account in accounts {
            let verbs = ["list", "watch", "get", "patch"];
            all.extend(verbs.map(|verb| right(verb, "serviceaccounts", namespace, account)));
        }
    }
    if let Some(LeaseName { namespace, name }) = lease {
        all.extend(["get", "create", "update"].map(|verb| ResourceAttributes {
            group: Some("coordination.k8s.io".to_owned()),
            ..right(verb, "leases", Some(namespace), Some(name))
        }));
    }
    all
}

async fn is_allowed(link: &Arc<Link>, right: &ResourceAttributes) -> Result<bool, Refusal> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(right.clone()),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answered = link.call(CALL_LIMIT, |client| async move {
        Api::all(client).create(&PostParams::default(), &review).await
    });
    Ok(answered.await?.status.is_some_and(|status| status.allowed))
}

fn shown(right: &ResourceAttributes) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (verb, resource) = (text(&right.verb), text(&right.resource));
    let name = right.name.as_ref().map_or_else(String::new, |name| format!(" `{name}`"));
    let place = match &right.namespace {
        Some(namespace) => format!("in the namespace {namespace}"),
        None => "in all namespaces".to_owned(),
    };
    format!("{verb} {resource}{name} {place}")
}

/// So many namespaces are asked about: what is missing in one is missing in others too.
const MOST_NAMESPACES: usize = 10;
