//! Which WorkloadEntries are endpoints, and under which labels.

use std::collections::BTreeMap;

use super::{Opaque, Workload};

/// Says that somebody asks the workload whether it is well, and writes the answer into its status.
const IS_PROBED: &str = "proxy.istio.io/health-checks-enabled";

// === impl Workload ===

impl Workload {
    /// Its labels: those of its metadata, and of its spec what they leave open (`ConvertWorkloadEntry` of
    /// istio's pilot/pkg/serviceregistry/serviceentry).
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.spec.labels.clone();
        labels.extend(self.metadata.labels.clone().unwrap_or_default());
        labels
    }

    /// Whether it takes traffic: one that is probed does so once its status says that it is well
    /// (`isHealthy` of istio's pilot/pkg/serviceregistry/serviceentry).
    pub fn is_healthy(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        let probed = annotations.and_then(|annotations| annotations.get(IS_PROBED));
        // `strconv.ParseBool`
        let yes = ["1", "t", "T", "TRUE", "true", "True"];
        if !probed.is_some_and(|probed| yes.contains(&probed.as_str())) {
            return true;
        }
        let conditions = self
            .status
            .as_ref()
            .and_then(|status| status.get("conditions"));
        let mut conditions = conditions
            .and_then(Opaque::as_sequence)
            .into_iter()
            .flatten();
        conditions.any(|condition| {
            let said = |key: &str| condition.get(key).and_then(Opaque::as_str);
            said("type") == Some("Healthy") && said("status") == Some("True")
        })
    }
}
