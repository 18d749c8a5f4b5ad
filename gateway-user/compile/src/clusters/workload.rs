//! WorkloadEntries, in a ServiceEntry or selected by one, as endpoints.

use std::{borrow::Cow, collections::BTreeMap};

use nodegate_model::gateway::Locality;
use nodegate_resources::{
    istio::{Subset, WorkloadEntry},
    lookup::selects,
};
use nodegate_values::port::port as port_number;

use crate::placement::Placement;

/// Which port of a workload is meant.
#[derive(Clone, Copy)]
pub(super) struct Named<'p> {
    /// By which name it may have a port of its own.
    pub(super) name: Option<&'p str>,
    /// The port where it has none.
    pub(super) number: i64,
    /// Whether it is no endpoint without that name.
    pub(super) needs_name: bool,
}

/// A WorkloadEntry that may be an endpoint.
pub(super) struct Candidate<'r> {
    workload: &'r WorkloadEntry,
    labels: Cow<'r, BTreeMap<String, String>>,
}

// === impl Candidate ===

impl<'r> Candidate<'r> {
    /// One that is written in a ServiceEntry.
    pub(super) fn of_entry(workload: &'r WorkloadEntry) -> Self {
        Self {
            workload,
            labels: Cow::Borrowed(&workload.labels),
        }
    }

    /// One that stands by itself, under these labels.
    pub(super) fn selected(workload: &'r WorkloadEntry, labels: BTreeMap<String, String>) -> Self {
        Self {
            workload,
            labels: Cow::Owned(labels),
        }
    }

    pub(super) fn is_in(&self, subset: Option<&Subset>) -> bool {
        subset.is_none_or(|subset| selects(&subset.labels, Some(&self.labels)))
    }

    /// The workload's own port of that name, else the number
    /// (`convertWorkloadInstanceToServiceInstance` of istio's pilot/pkg/serviceregistry/serviceentry).
    pub(super) fn port(&self, named: Named<'_>) -> Option<u16> {
        let own = named.name.and_then(|name| self.workload.ports.get(name));
        let number = match own {
            Some(own) => *own,
            None if named.needs_name => return None,
            None => named.number,
        };
        port_number(number).ok()
    }

    pub(super) fn address(&self) -> &'r str {
        &self.workload.address
    }

    pub(super) fn weight(&self) -> u32 {
        self.workload.weight.max(1)
    }

    /// Where it is: what it says, else what its label says (`GetLocalityLabel` of istio's pkg/model).
    pub(super) fn place(&self) -> Placement<'r> {
        let said = self.workload.locality.as_str();
        let label = self
            .labels
            .get("istio-locality")
            .filter(|_| said.is_empty());
        let locality = match label {
            Some(label) => Locality::parse(&label.replace('.', "/")),
            None => Locality::parse(said),
        };
        Placement {
            locality,
            labels: Some(self.labels.clone()),
            node: None,
        }
    }
}
