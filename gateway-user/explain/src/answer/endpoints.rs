//! Why a Service has no endpoints, or ones that are none.

use gateway_common::decide::Verdict;
use nodegate_model::service::ServicePort;
use nodegate_resources::lookup::selects;

use super::World;
use crate::connection::Connection;

/// What is to be said of the endpoints of the Service that a connection is for.
pub(super) fn notes(world: &World<'_>, connection: &Connection) -> Vec<String> {
    let to = connection.destination;
    let of = |service: &&ServicePort| {
        let addresses = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        let is_node = world.node.addresses().contains(&to.ip()) || to.ip().is_loopback();
        service.protocol == connection.protocol
            && (service.port == to.port() && addresses.iter().any(|all| all.contains(&to.ip()))
                || service.node_port == Some(to.port()) && is_node)
    };
    let Some(service) = world.services.iter().find(of) else {
        return Vec::new();
    };
    match connection.nodegate.verdict {
        Verdict::Reject | Verdict::Drop => why_none(world, service).into_iter().collect(),
        Verdict::Forward => elsewhere(world, service),
        Verdict::Pass => Vec::new(),
    }
}

fn why_none(world: &World<'_>, service: &ServicePort) -> Option<String> {
    let (all, ready) = (
        service.endpoints.len(),
        service.endpoints.iter().filter(|it| it.ready).count(),
    );
    if ready > 0 {
        return None;
    }
    let name = &service.name;
    if all > 0 {
        let (are, why) = if all == 1 {
            ("its only endpoint is not".to_owned(), "why the pod is not")
        } else {
            (
                format!("none of its {all} endpoints is"),
                "why the pods are not",
            )
        };
        return Some(format!("Service {name}: {are} ready (fix: see {why})"));
    }
    let object = world.resources.service(&name.namespace, &name.name)?;
    let selector = object.spec.as_ref()?.selector.as_ref();
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
        return Some(format!(
            "Service {name} has no selector, and no EndpointSlice with the label \
             kubernetes.io/service-name: {} has a port for it (fix: write one)",
            name.name
        ));
    };
    let labels: Vec<_> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let labels = labels.join(",");
    let pods = world.resources.pods().filter(|(object, pod)| {
        object.key.namespace == name.namespace && selects(selector, pod.metadata.labels.as_ref())
    });
    Some(match pods.count() {
        0 => format!(
            "no Pod in {} has the labels of its selector, {labels} (fix: correct the selector, or see why the \
             pods are not there)",
            name.namespace
        ),
        pods => format!(
            "{pods} of the Pods in {} have the labels of its selector, {labels}, and no EndpointSlice has them \
             (fix: compare the names of the ports, and see whether the endpoint controller runs)",
            name.namespace
        ),
    })
}

/// Endpoints that are themselves addresses of Services: no pod is there, and nothing leads on.
fn elsewhere(world: &World<'_>, service: &ServicePort) -> Vec<String> {
    let other = |endpoint: &nodegate_model::service::Endpoint| {
        let mut all = world.services.iter();
        let other = all.find(|other| other.cluster_ips.contains(&endpoint.address))?;
        Some(format!(
            "the endpoint {} is the cluster IP of Service {}/{}: what comes from a client outside is not translated \
             twice (fix: name the pods)",
            endpoint.socket(),
            other.name.namespace,
            other.name.name
        ))
    };
    service.endpoints.iter().filter_map(other).collect()
}
