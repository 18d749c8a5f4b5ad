//! What is served otherwise than its author may think, although nothing about any one object is wrong.
//!
//! | part | what it tells of |
//! |---|---|
//! | [`hosts`] | hosts that no server of a Gateway has |
//! | [`conditions`] | conditions on ports and Gateways that never hold |
//! | [`entries`] | ServiceEntries that contradict each other |
//! | [`reach`] | destinations that the gateway cannot see, and ports that are not named |
//! | [`rules`] | DestinationRules that do not count |
//! | [`shadow`] | routes that others stand before |

mod conditions;
mod entries;
mod hosts;
mod reach;
mod rules;
mod shadow;

use nodegate_model::gateway::Listener;
use nodegate_resources::{
    Resources, istio,
    lookup::{Destinations, RuleUser, gateway_reference},
    object::Object,
};
use nodegate_values::diagnostic::Diagnostic;

use crate::identity::GatewayIdentity;

/// As many names as a message has at most.
const NAMES: usize = 5;

/// Looks all objects over for a gateway with these listeners.
pub(super) fn report(
    resources: &Resources,
    known: &Destinations<'_>,
    listeners: &[Listener],
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let client = RuleUser {
        namespace: &identity.namespace,
        labels: &identity.labels,
    };
    entries::report(resources, diagnostics);
    hosts::report(resources, diagnostics);
    conditions::report(resources, diagnostics);
    reach::report(resources, known, identity, diagnostics);
    rules::report(resources, known, client, diagnostics);
    shadow::within_objects(resources, diagnostics);
    shadow::between_objects(resources, listeners, diagnostics);
}

/// The Gateways that an object of `namespace` names and that are there, each with its place among the names.
fn named<'r>(
    names: &'r [String],
    namespace: &'r str,
    resources: &'r Resources,
) -> Vec<(usize, &'r Object, &'r istio::Gateway)> {
    let names = names.iter().enumerate();
    let found = names.filter_map(|(index, name)| {
        let (namespace, name) = gateway_reference(name, namespace)?;
        let (object, gateway) = resources.gateway(namespace, name)?;
        Some((index, &**object, gateway))
    });
    found.collect()
}

/// `a, b, c and 7 others`
fn listed(names: &[String]) -> String {
    match names {
        few if few.len() <= NAMES => few.join(", "),
        many => format!(
            "{} and {} others",
            many[..NAMES].join(", "),
            many.len() - NAMES
        ),
    }
}
