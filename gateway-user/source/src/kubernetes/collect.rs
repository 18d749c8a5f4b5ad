//! Once, and no more: what a source would read, as manifests.
//!
//! Secrets are left out, and of pods what they are given to run with.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams},
};
use nodegate_values::diagnostic::Diagnostic;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    access::Access,
    custom,
    interest::{Objects, Wanted, WantedKind},
    trim,
    trouble::Trouble,
};
use crate::error::SourceError;

/// As `kubectl get` asks.
const PAGE: u32 = 500;

/// What a cluster holds.
#[derive(Debug, Default)]
pub struct Collected {
    /// The objects, by kind, namespace and name.
    pub objects: Vec<CollectedObject>,
    /// The kinds that could not be read, and why.
    pub troubles: Vec<Diagnostic>,
}

/// An object as a manifest says it.
#[derive(Debug)]
pub struct CollectedObject {
    /// Its kind in plural, as the API server's paths have it.
    pub plural: &'static str,
    /// Empty for objects in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: serde_yaml::Value,
}

/// Reads all that a redirector and a gateway together would read, but for Secrets; `progress` hears of each
/// kind that is begun.
///
/// # Errors
/// Fails if it is not known how to reach the API server, or if it does not answer.
pub async fn collect(
    access: &Access,
    progress: impl Fn(&'static str),
) -> Result<Collected, SourceError> {
    let client = access.client().await?;
    let mut collected = Collected::default();
    for kind in [
        WantedKind::Node,
        WantedKind::Service,
        WantedKind::EndpointSlice,
        WantedKind::Pod,
        WantedKind::Gateway,
        WantedKind::VirtualService,
        WantedKind::DestinationRule,
        WantedKind::ServiceEntry,
        WantedKind::WorkloadEntry,
        WantedKind::AuthorizationPolicy,
        WantedKind::RequestAuthentication,
    ] {
        progress(kind.plural());
        match of_kind(&client, kind).await {
            Ok(objects) => collected.objects.extend(objects),
            Err(error) => {
                let trouble = Trouble::of_client(&error);
                if trouble.is_outage() {
                    let told = trouble.told().to_owned();
                    return Err(SourceError::Unreachable { told });
                }
                let objects = Objects::All;
                collected
                    .troubles
                    .push(trouble.report(&Wanted { kind, objects }, 0));
            }
        }
    }
    Ok(collected)
}

async fn of_kind(client: &Client, kind: WantedKind) -> Result<Vec<CollectedObject>, kube::Error> {
    match kind {
        WantedKind::Service => typed(client, kind, trim::service).await,
        WantedKind::EndpointSlice => typed::<EndpointSlice>(client, kind, |slice| slice).await,
        WantedKind::Node => typed(client, kind, trim::node).await,
        WantedKind::Pod => typed(client, kind, trim::pod).await,
        WantedKind::Secret => Ok(Vec::new()),
        WantedKind::Gateway
        | WantedKind::VirtualService
        | WantedKind::DestinationRule
        | WantedKind::ServiceEntry
        | WantedKind::WorkloadEntry
        | WantedKind::AuthorizationPolicy
        | WantedKind::RequestAuthentication => {
            let resource = custom::served(client, kind.resource()).await?;
            let resource = resource.ok_or_else(|| no_such_kind(kind))?;
            of_custom(client, kind, &resource).await
        }
    }
}

/// As the API server says it of kinds that it does not know.
fn no_such_kind(kind: WantedKind) -> kube::Error {
    let message = format!("the server could not find {}", kind.plural());
    let status = kube::core::Status::failure(&message, "NotFound").with_code(404);
    kube::Error::Api(status.boxed())
}

async fn typed<K>(
    client: &Client,
    kind: WantedKind,
    trim: fn(K) -> K,
) -> Result<Vec<CollectedObject>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let objects = pages(&Api::<K>::all(client.clone())).await?;
    Ok(objects
        .into_iter()
        .filter_map(|object| {
            let mut object = trim(object);
            let metadata = trim::metadata(std::mem::take(object.meta_mut()));
            *object.meta_mut() = metadata;
            CollectedObject::of(kind, &object)
        })
        .collect())
}

async fn of_custom(
    client: &Client,
    kind: WantedKind,
    resource: &ApiResource,
) -> Result<Vec<CollectedObject>, kube::Error> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let objects = pages(&api).await?;
    Ok(objects
        .into_iter()
        .filter_map(|mut object| {
            object.metadata = trim::metadata(object.metadata);
            object.types = Some(kube::core::TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            if let Some(fields) = object.data.as_object_mut() {
                fields.remove("status");
            }
            CollectedObject::of(kind, &object)
        })
        .collect())
}

async fn pages<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut all = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        all.extend(page.items);
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => parameters = parameters.continue_token(&next),
            _ => return Ok(all),
        }
    }
}

// === impl CollectedObject ===

impl CollectedObject {
    fn of<K: kube::ResourceExt + Serialize>(kind: WantedKind, object: &K) -> Option<Self> {
        Some(Self {
            plural: kind.plural(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            // By way of JSON, in which the API's types write what YAML has other words for.
            value: serde_yaml::to_value(serde_json::to_value(object).ok()?).ok()?,
        })
    }
}
