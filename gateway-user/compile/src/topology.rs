//! Where a node is.

use nodegate_model::selection::NodeTopology;
use nodegate_resources::Resources;

use crate::identity::NodeIdentity;

/// The zone of a Node (kubernetes.io/docs/reference/labels-annotations-taints).
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where `node` is, by its Node object.
pub fn topology(resources: &Resources, node: &NodeIdentity) -> NodeTopology {
    let zone = resources.node(&node.name).and_then(|node| {
        let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
        (!zone.is_empty()).then(|| zone.clone())
    });
    NodeTopology {
        name: node.name.clone(),
        zone,
    }
}
