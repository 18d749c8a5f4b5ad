//! `ServiceEntry.spec`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Opaque;

/// `ServiceEntry.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// The hosts.
    pub hosts: Vec<String>,
    /// Addresses by which pods reach them; without effect on a gateway.
    pub addresses: Vec<String>,
    /// The ports.
    pub ports: Vec<EntryPort>,
    /// `MESH_EXTERNAL` or `MESH_INTERNAL`.
    pub location: Option<String>,
    /// `NONE`, `STATIC`, `DNS`, `DNS_ROUND_ROBIN` or `DYNAMIC_DNS`.
    pub resolution: Option<String>,
    /// Where the hosts are.
    pub endpoints: Vec<WorkloadEntry>,
    /// Pods and WorkloadEntries that are the hosts.
    pub workload_selector: Option<EntrySelector>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
    /// Names that the endpoints' certificates may have.
    pub subject_alt_names: Vec<String>,
}

/// `ServiceEntry.spec.ports[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryPort {
    /// Number.
    pub number: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, …
    pub protocol: String,
    /// Name.
    pub name: String,
    /// Port of the endpoints; 0: `number`.
    pub target_port: i64,
}

/// `WorkloadEntry`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntry {
    /// An address, or for `DNS` a name.
    pub address: String,
    /// Ports, by the name of the entry's port.
    pub ports: BTreeMap<String, i64>,
    /// Labels, for subsets.
    pub labels: BTreeMap<String, String>,
    /// Not acted on in this version.
    pub network: Option<Opaque>,
    /// `region/zone/subzone`
    pub locality: String,
    /// Share among the endpoints; 0: 1.
    pub weight: u32,
    /// Not acted on in this version.
    pub service_account: Option<Opaque>,
}

/// `ServiceEntry.spec.workloadSelector`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntrySelector {
    /// Labels of the pods.
    pub labels: BTreeMap<String, String>,
}
