//! What kubelet and the controllers write back: Node and Pod objects, and EndpointSlices (see
//! [`slices`]).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    admission::{self, Store},
    config::{Layout, Node},
    object::{Object, ObjectKey},
    workload::{self, Pod},
};

mod slices;

/// What a pod that is deleted is given to end by itself (`terminationGracePeriodSeconds`).
const GRACE_PERIOD: u32 = 30;

/// Everything that nodegate is to see: what users applied, and what the cluster adds.
/// `started` says which pods' containers run.
pub(crate) fn manifests(
    store: &Store,
    layout: &Layout,
    pods: &[Pod],
    started: impl Fn(&Pod) -> bool,
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
        let (key, value) = pod_object(store, layout, pod, started(pod));
        add(key, value)?;
    }
    let serving = |pod: &Pod| started(pod) && pod.ready;
    for service in store
        .values()
        .filter(|object| admission::is_service(object))
    {
        for (key, value) in slices::slices(service, layout, pods, serving) {
            add(key, value)?;
        }
    }
    Ok(files)
}

fn node(layout: &Layout, index: usize) -> (ObjectKey, Value) {
    let node = &layout.nodes[index];
    let cidr = workload::node_cidr(layout, index);
    let cidr_v6 = workload::node_cidr_v6(layout, index);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr, cidr_v6]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "InternalIP", "address": node.address_v6},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    (ObjectKey::new("", "Node", "", &node.name), value)
}

fn pod_object(store: &Store, layout: &Layout, pod: &Pod, started: bool) -> (ObjectKey, Value) {
    let key = ObjectKey::new("", "Pod", &pod.namespace, &pod.name);
    let host_ips: Vec<_> = layout
        .node(&pod.node)
        .into_iter()
        .flat_map(Node::addresses)
        .collect();
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
    if let Some(since) = &pod.deleted {
        value["metadata"]["deletionTimestamp"] = json!(since);
        value["metadata"]["deletionGracePeriodSeconds"] = json!(GRACE_PERIOD);
    }
    let ips = |ips: &[std::net::IpAddr]| -> Vec<Value> {
        ips.iter().map(|ip| json!({ "ip": ip })).collect()
    };
    let ready = if started && pod.ready {
        "True"
    } else {
        "False"
    };
    value["status"] = json!({
        "phase": if started { "Running" } else { "Pending" },
        "podIP": pod.address,
        "podIPs": ips(&pod.addresses()),
        "hostIP": host_ips.first(),
        "hostIPs": ips(&host_ips),
        "startTime": pod.created,
        "conditions": [
            {"type": "Ready", "status": ready},
            {"type": "ContainersReady", "status": ready},
            {"type": "PodScheduled", "status": "True"},
        ],
    });
    (key, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    fn pod() -> Pod {
        Pod {
            namespace: "default".into(),
            name: "a".into(),
            owner: "Pod".into(),
            index: 0,
            hash: String::new(),
            node: "node1".into(),
            address: [10, 10, 1, 2].into(),
            address_v6: "fd00:10:0:1::2".parse().unwrap(),
            ready: true,
            deleted: None,
            gateway: false,
            template: workload::Template {
                labels: BTreeMap::from([("app".into(), "web".into())]),
                ..workload::Template::default()
            },
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    /// The Node, the Pod and the slice of a Service `web`.
    fn published(pod: Pod, started: bool) -> (Value, Value, Value) {
        let layout = Config::default().layout(None, &BTreeSet::new()).unwrap();
        let key = ObjectKey::new("", "Service", "default", "web");
        let service = json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80}], "clusterIP": "10.96.0.9",
            "ipFamilies": ["IPv4"]}});
        let service = Object::generated(key.clone(), service).unwrap();
        let store = Store::from([(key, service)]);
        let files = manifests(&store, &layout, &[pod], |_| started).unwrap();
        let read = |prefix: &str| {
            let mut files = files.iter();
            let found = files.find(|(name, _)| name.starts_with(prefix)).unwrap();
            serde_yaml::from_str(found.1).unwrap()
        };
        (
            read("node_node1"),
            read("pod_default_a"),
            read("endpointslice"),
        )
    }

    #[test]
    fn nodes_and_pods_have_addresses_of_both_families() {
        let (node, pod, _) = published(pod(), true);
        let addresses: Vec<&str> = node["status"]["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str())
            .collect();
        assert_eq!(addresses, ["192.168.170.11", "fd00:c0::11"]);
        assert_eq!(
            node["spec"]["podCIDRs"],
            json!(["10.10.1.0/24", "fd00:10:0:1::/64"])
        );
        assert_eq!(
            pod["status"]["podIPs"],
            json!([{"ip": "10.10.1.2"}, {"ip": "fd00:10:0:1::2"}])
        );
        assert_eq!(
            pod["status"]["hostIPs"],
            json!([{"ip": "192.168.170.11"}, {"ip": "fd00:c0::11"}])
        );
    }

    #[test]
    fn pods_that_are_not_ready_are_shown_but_get_no_traffic() {
        let unready = Pod {
            ready: false,
            ..pod()
        };
        for (pod, started, phase, ready) in [
            (pod(), false, "Pending", false),
            (pod(), true, "Running", true),
            (unready, true, "Running", false),
        ] {
            let (_, pod, slice) = published(pod, started);
            assert_eq!(pod["status"]["phase"], phase);
            let condition = if ready { "True" } else { "False" };
            assert_eq!(pod["status"]["conditions"][0]["status"], condition);
            let endpoint = &slice["endpoints"][0];
            assert_eq!(endpoint["addresses"], json!(["10.10.1.2"]));
            assert_eq!(endpoint["conditions"]["ready"], ready);
        }
    }

    #[test]
    fn pods_that_terminate_say_since_when_and_go_on_serving() {
        let (_, pod, slice) = published(
            Pod {
                deleted: Some("2026-01-02T00:00:00Z".into()),
                ..pod()
            },
            true,
        );
        assert_eq!(pod["metadata"]["deletionTimestamp"], "2026-01-02T00:00:00Z");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        assert_eq!(
            slice["endpoints"][0]["conditions"],
            json!({"ready": false, "serving": true, "terminating": true})
        );
    }
}
