//! What kubelet and the endpoint controllers write back: Node, Pod and EndpointSlice objects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    admission::{self, Store, protocol},
    config::Layout,
    names,
    object::{Object, ObjectKey},
    workload::{self, Pod},
};

/// Everything that nodegate is to see: what users applied, and what the cluster adds.
/// `ready` says which pods may get traffic.
pub(crate) fn manifests(
    store: &Store,
    layout: &Layout,
    pods: &[Pod],
    ready: impl Fn(&Pod) -> bool,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files: BTreeMap<String, String> = store
        .values()
        .map(|object| (object.key.file_name(), object.text.clone()))
        .collect();
    let mut add = |key: ObjectKey, value: Value| {
        let object = Object::generated(key, value)?;
        files.insert(object.key.file_name(), object.text);
        anyhow::Ok(())
    };
    for index in 0..layout.nodes.len() {
        let (key, value) = node(layout, index);
        add(key, value)?;
    }
    for pod in pods {
        let (key, value) = pod_object(store, layout, pod, ready(pod));
        add(key, value)?;
    }
    let ready: Vec<&Pod> = pods.iter().filter(|pod| ready(pod)).collect();
    for service in store
        .values()
        .filter(|object| admission::is_service(object))
    {
        for (key, value) in slices(service, &ready) {
            add(key, value)?;
        }
    }
    Ok(files)
}

fn node(layout: &Layout, index: usize) -> (ObjectKey, Value) {
    let node = &layout.nodes[index];
    let cidr = workload::node_cidr(layout, index);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    (ObjectKey::new("", "Node", "", &node.name), value)
}

fn pod_object(store: &Store, layout: &Layout, pod: &Pod, ready: bool) -> (ObjectKey, Value) {
    let key = ObjectKey::new("", "Pod", &pod.namespace, &pod.name);
    let host_ip = layout.node(&pod.node).map(|node| node.address);
    // A Pod that a user wrote keeps all that it says.
    let mut value = store.get(&key).map_or_else(
        || {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": pod.name,
                    "namespace": pod.namespace,
                    "labels": pod.template.labels,
                    "annotations": pod.template.annotations,
                    "creationTimestamp": pod.created,
                },
                "spec": if pod.template.spec.is_object() { pod.template.spec.clone() } else { json!({}) },
            })
        },
        |object| object.value.clone(),
    );
    if !value["spec"].is_object() {
        value["spec"] = json!({});
    }
    value["spec"]["nodeName"] = json!(pod.node);
    let condition = if ready { "True" } else { "False" };
    value["status"] = json!({
        "phase": if ready { "Running" } else { "Pending" },
        "podIP": pod.address,
        "podIPs": [{"ip": pod.address}],
        "hostIP": host_ip,
        "startTime": pod.created,
        "conditions": [
            {"type": "Ready", "status": condition},
            {"type": "ContainersReady", "status": condition},
            {"type": "PodScheduled", "status": "True"},
        ],
    });
    (key, value)
}

/// One slice for each set of target ports that the pods resolve to: one, except when a named
/// target port is a different number in different pods (as `endpointslice.Reconciler` groups them).
fn slices(service: &Object, pods: &[&Pod]) -> Vec<(ObjectKey, Value)> {
    let Some(selector) = service
        .at("/spec/selector")
        .and_then(Value::as_object)
        .filter(|selector| !selector.is_empty())
    else {
        return Vec::new();
    };
    let selected = pods.iter().filter(|pod| {
        pod.namespace == service.key.namespace
            && selector.iter().all(|(name, value)| {
                pod.template.labels.get(name).map(String::as_str) == value.as_str()
            })
    });
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in selected {
        let ports = resolve(service, pod);
        let group = groups.entry(Value::from(ports.clone()).to_string());
        group.or_insert_with(|| (ports, Vec::new())).1.push(json!({
            "addresses": [pod.address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": pod.node,
            "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
        }));
    }
    if groups.is_empty() {
        groups.insert(String::new(), (Vec::new(), Vec::new()));
    }
    let (namespace, name) = (&service.key.namespace, &service.key.name);
    groups
        .into_values()
        .enumerate()
        .map(|(index, (ports, endpoints))| {
            let slice = format!(
                "{name}-{}",
                names::hash(&format!("{namespace}/{name}/{index}"), 5)
            );
            let value = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": slice,
                    "namespace": namespace,
                    "labels": {
                        "kubernetes.io/service-name": name,
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": endpoints,
            });
            (
                ObjectKey::new("discovery.k8s.io", "EndpointSlice", namespace, &slice),
                value,
            )
        })
        .collect()
}

/// The Service's ports as this pod has them. A named port that the pod lacks is left out, as the
/// endpoint slice controller does.
fn resolve(service: &Object, pod: &Pod) -> Vec<Value> {
    admission::ports(&service.value)
        .filter_map(|port| {
            let number = match port.get("targetPort") {
                None | Some(Value::Null) => port.get("port")?.as_u64()?,
                // The API server takes 0 for absent.
                Some(Value::Number(number)) if number.as_u64() == Some(0) => {
                    port.get("port")?.as_u64()?
                }
                Some(Value::Number(number)) => number.as_u64()?,
                Some(target) => named_port(pod, target.as_str()?, protocol(port))?,
            };
            Some(json!({
                "name": port.get("name").and_then(Value::as_str).unwrap_or_default(),
                "protocol": protocol(port),
                "port": number,
            }))
        })
        .collect()
}

fn named_port(pod: &Pod, name: &str, wanted: &str) -> Option<u64> {
    container_ports(&pod.template.spec)
        .find(|port| {
            port.get("name").and_then(Value::as_str) == Some(name) && protocol(port) == wanted
        })?
        .get("containerPort")?
        .as_u64()
}

fn container_ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    fn service(spec: &Value) -> Object {
        let value = json!({"kind": "Service", "metadata": {"name": "web"}, "spec": spec});
        Object::generated(ObjectKey::new("", "Service", "default", "web"), value).unwrap()
    }

    fn pod(name: &str, address: [u8; 4], ports: &Value) -> Pod {
        Pod {
            namespace: "default".into(),
            name: name.into(),
            owner: "Pod".into(),
            index: 0,
            hash: String::new(),
            node: "node1".into(),
            address: address.into(),
            gateway: false,
            template: workload::Template {
                labels: BTreeMap::from([
                    ("app".into(), "web".into()),
                    ("version".into(), "v1".into()),
                ]),
                annotations: BTreeMap::new(),
                spec: json!({"containers": [{"ports": ports}]}),
            },
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    #[test]
    fn target_ports_default_to_the_port_and_names_are_looked_up() {
        let service = service(&json!({"selector": {"app": "web"}, "ports": [
            {"port": 9000, "name": "tcp"}, {"port": 80, "targetPort": 8080},
            {"port": 81, "targetPort": "web", "name": "named"}, {"port": 82, "targetPort": "absent"}]}));
        let pod = pod(
            "a",
            [10, 10, 1, 2],
            &json!([{"name": "web", "containerPort": 8081}]),
        );
        let found = slices(&service, &[&pod]);
        assert_eq!(found.len(), 1);
        let ports: Vec<(&str, u64)> = found[0].1["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                (
                    port["name"].as_str().unwrap(),
                    port["port"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(ports, [("tcp", 9000), ("", 8080), ("named", 8081)]);
        let endpoint = &found[0].1["endpoints"][0];
        assert_eq!(endpoint["addresses"], json!(["10.10.1.2"]));
        assert_eq!(endpoint["targetRef"]["name"], "a");
    }

    #[test]
    fn pods_with_other_numbers_for_a_name_get_their_own_slice() {
        let service = service(
            &json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]}),
        );
        let one = pod(
            "a",
            [10, 10, 1, 2],
            &json!([{"name": "web", "containerPort": 8081}]),
        );
        let two = pod(
            "b",
            [10, 10, 1, 3],
            &json!([{"name": "web", "containerPort": 8082}]),
        );
        let found = slices(&service, &[&one, &two]);
        assert_eq!(found.len(), 2);
        assert_ne!(found[0].0, found[1].0);
    }

    #[test]
    fn selectors_choose_and_services_without_one_are_left_alone() {
        let pod = pod("a", [10, 10, 1, 2], &json!([]));
        let other =
            service(&json!({"selector": {"app": "web", "version": "v2"}, "ports": [{"port": 80}]}));
        let found = slices(&other, &[&pod]);
        assert_eq!(found[0].1["endpoints"], json!([]));
        assert!(slices(&service(&json!({"ports": [{"port": 80}]})), &[&pod]).is_empty());
    }

    #[test]
    fn pods_that_are_not_ready_are_shown_but_get_no_traffic() {
        let layout = Config::default().layout(None, &BTreeSet::new()).unwrap();
        let service = service(&json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let store = Store::from([(service.key.clone(), service)]);
        let pods = [pod("a", [10, 10, 1, 2], &json!([]))];
        for ready in [false, true] {
            let files = manifests(&store, &layout, &pods, |_| ready).unwrap();
            let pod: Value = serde_yaml::from_str(&files["pod_default_a.yaml"]).unwrap();
            assert_eq!(pod["status"]["podIP"], "10.10.1.2");
            assert_eq!(pod["status"]["phase"] == "Running", ready);
            let slice = files
                .iter()
                .find(|(name, _)| name.starts_with("endpointslice"))
                .unwrap();
            assert_eq!(slice.1.contains("10.10.1.2"), ready, "{}", slice.1);
        }
    }
}
