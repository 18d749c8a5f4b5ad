//! What the cluster is told of each nodegate: a Lease of its own, renewed for as long as it runs.
//!
//! A Lease is what Kubernetes has for "I live": small, and watched by nobody who need not. How the nodegate
//! stands is in an annotation of it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{access::Access, custom, interest::WantedKind, trouble::Trouble};
use crate::error::SourceError;

/// On every such Lease: `redirector`, `proxy` or `all`.
const ROLE: &str = "nodegate.io/role";

/// How a nodegate stands, as JSON.
const REPORT: &str = "nodegate.io/report";

/// Who writes, for server-side apply.
const MANAGER: &str = "nodegate";

/// How often a Lease is renewed if there is nothing new, as kubelet does with a node's.
const RENEWAL: Duration = Duration::from_secs(10);

/// What is new waits so long after the last time: where something changes all the time, all nodes together
/// must not be a burden.
const PAUSE: Duration = Duration::from_secs(3);

/// Without a renewal for this long a nodegate is taken to be gone.
pub const SILENCE: Duration = Duration::from_secs(40);

/// How a nodegate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of its node.
    pub node: String,
    /// `redirector`, `proxy` or `all`.
    pub role: String,
    /// nodegate's version.
    pub version: String,
    /// Whether it serves.
    pub ready: bool,
    /// Generation of the Snapshot that is in force there.
    pub generation: u64,
    /// What is wrong there: the first messages.
    pub faults: Vec<String>,
    /// How many messages there are.
    pub fault_count: usize,
    /// Of each kind that it watches, in plural, the highest resourceVersion that is in force there.
    pub resource_versions: BTreeMap<String, u64>,
}

/// A report, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub report: Report,
    /// For how long it has not been renewed.
    pub age: Duration,
}

/// Renews a Lease in `namespace` with what `reports` says, until nobody reports any more. `node_uid` is the
/// uid of the Node object, with which the Lease goes. `trouble` hears why it cannot be renewed.
pub async fn keep(
    access: Access,
    namespace: String,
    node_uid: Option<String>,
    mut reports: watch::Receiver<Report>,
    trouble: watch::Sender<Option<String>>,
) {
    let client = match access.client().await {
        Ok(client) => client,
        Err(error) => return tracing::warn!("the cluster is told nothing of this node: {error}"),
    };
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    loop {
        let began = Instant::now();
        let report = reports.borrow_and_update().clone();
        let renewed = renew(&leases, &report, node_uid.as_deref()).await;
        let complaint = renewed.err().map(|error| complaint(&namespace, &error));
        trouble.send_if_modified(|told| {
            let is_new = *told != complaint;
            if let Some(text) = complaint.as_ref().filter(|_| is_new) {
                tracing::warn!("{text}");
            }
            *told = complaint;
            is_new
        });
        time::sleep_until(began + PAUSE).await;
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = time::sleep_until(began + RENEWAL) => {}
        }
    }
}

fn complaint(namespace: &str, error: &kube::Error) -> String {
    let trouble = Trouble::of_client(error);
    let fix = match trouble {
        Trouble::Forbidden(_) => format!(
            " (fix: add the rule {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, patch]}} to its role in namespace {namespace})"
        ),
        _ => String::new(),
    };
    format!(
        "the cluster is not told how this node stands: {}{fix}",
        trouble.told()
    )
}

async fn renew(
    leases: &Api<Lease>,
    report: &Report,
    node_uid: Option<&str>,
) -> Result<(), kube::Error> {
    let name = format!("nodegate-{}-{}", report.role, report.node);
    let json = serde_json::to_string(report).map_err(kube::Error::SerdeError)?;
    let owner = node_uid.map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: report.node.clone(),
        uid: uid.into(),
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(ROLE.into(), report.role.clone())])),
            annotations: Some(BTreeMap::from([(REPORT.into(), json)])),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(report.node.clone()),
            lease_duration_seconds: i32::try_from(SILENCE.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let parameters = PatchParams::apply(MANAGER).force();
    leases
        .patch(&name, &parameters, &Patch::Apply(&lease))
        .await
        .map(drop)
}

/// What all nodegates of the cluster report, by node and role.
///
/// # Errors
/// Fails if the API server cannot be asked, or does not allow it.
pub async fn received(access: &Access) -> Result<Vec<Received>, SourceError> {
    let client = access.client().await?;
    let leases = Api::<Lease>::all(client);
    let parameters = ListParams::default().labels(ROLE);
    let list = leases
        .list(&parameters)
        .await
        .map_err(|error| refused(&error))?;
    let now = Timestamp::now();
    let mut received: Vec<_> = list
        .items
        .into_iter()
        .filter_map(|lease| read(&lease, now))
        .collect();
    received.sort_by(|a, b| {
        let name = |one: &Received| (one.report.node.clone(), one.report.role.clone());
        name(a).cmp(&name(b))
    });
    Ok(received)
}

fn read(lease: &Lease, now: Timestamp) -> Option<Received> {
    let text = lease.metadata.annotations.as_ref()?.get(REPORT)?;
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    Some(Received {
        report: serde_json::from_str(text).ok()?,
        age: Duration::try_from(now.duration_since(renewed)).unwrap_or_default(),
    })
}

fn refused(error: &kube::Error) -> SourceError {
    let told = Trouble::of_client(error).told().to_owned();
    SourceError::Unreachable { told }
}

/// An object that somebody has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its kind in plural.
    pub plural: &'static str,
    /// Its resourceVersion.
    pub resource_version: u64,
}

/// The resourceVersion of an object; `kind` is its kind in singular or plural, in any case.
///
/// # Errors
/// Fails if nodegate watches no such kind, there is no such object, or the API server cannot be asked.
pub async fn changed(
    access: &Access,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Changed, SourceError> {
    let told = |told: String| SourceError::NoObject { told };
    let wanted = WantedKind::named(kind).ok_or_else(|| {
        let all = WantedKind::ALL.map(WantedKind::plural).join(", ");
        told(format!("nodegate watches no `{kind}`, but {all}"))
    })?;
    let client = access.client().await?;
    let resource = resource(&client, wanted)
        .await
        .map_err(|error| refused(&error))?;
    let resource =
        resource.ok_or_else(|| told(format!("the cluster has no {}", wanted.plural())))?;
    let api = if wanted == WantedKind::Node {
        Api::<DynamicObject>::all_with(client, &resource)
    } else {
        Api::<DynamicObject>::namespaced_with(client, namespace, &resource)
    };
    let found = api
        .get_metadata_opt(name)
        .await
        .map_err(|error| refused(&error))?;
    let found = found.ok_or_else(|| told(format!("there is no {kind} {namespace}/{name}")))?;
    let version = found.metadata.resource_version.unwrap_or_default();
    Ok(Changed {
        plural: wanted.plural(),
        resource_version: version
            .parse()
            .map_err(|_| told(format!("{kind} {namespace}/{name} has no version number")))?,
    })
}

async fn resource(client: &Client, kind: WantedKind) -> Result<Option<ApiResource>, kube::Error> {
    let (group, version) = match kind {
        WantedKind::Gateway
        | WantedKind::VirtualService
        | WantedKind::DestinationRule
        | WantedKind::ServiceEntry
        | WantedKind::WorkloadEntry
        | WantedKind::AuthorizationPolicy
        | WantedKind::RequestAuthentication => {
            return custom::served(client, kind.resource()).await;
        }
        _ => (kind.group(), "v1"),
    };
    let api_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    Ok(Some(ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: format!("{kind:?}"),
        plural: kind.plural().into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_tells_what_was_reported_and_when() {
        let report = Report {
            node: "node1".into(),
            role: "proxy".into(),
            resource_versions: BTreeMap::from([("services".into(), 17)]),
            ..Report::default()
        };
        let now = Timestamp::from_second(1_000).unwrap();
        let annotation = serde_json::to_string(&report).unwrap();
        let mut lease = Lease {
            metadata: ObjectMeta {
                annotations: Some(BTreeMap::from([(REPORT.into(), annotation)])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(Timestamp::from_second(990).unwrap())),
                ..LeaseSpec::default()
            }),
        };
        let age = Duration::from_secs(10);
        assert_eq!(read(&lease, now), Some(Received { report, age }));
        // Somebody else's Lease with our label.
        lease.metadata.annotations = None;
        assert_eq!(read(&lease, now), None);
    }
}
