//! Where an endpoint or a gateway runs.

use std::{borrow::Cow, collections::BTreeMap};

use nodegate_model::gateway::Locality;

/// Labels that say where something is, whether it carries them or not.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Where an endpoint or a gateway runs, and the labels that it carries there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement<'r> {
    pub(crate) locality: Locality,
    pub(crate) labels: Option<Cow<'r, BTreeMap<String, String>>>,
    pub(crate) node: Option<&'r str>,
}

// === impl Placement ===

impl Placement<'_> {
    /// Its label, or what it would be if its node had given it (istio's `AugmentLabels`).
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let of_place = match key {
            REGION => Some(self.locality.region.as_str()),
            ZONE => Some(self.locality.zone.as_str()),
            SUBZONE => Some(self.locality.subzone.as_str()),
            HOSTNAME => self.node,
            _ => None,
        };
        of_place
            .filter(|value| !value.is_empty())
            .or_else(|| Some(self.labels.as_ref()?.get(key)?.as_str()))
    }
}
