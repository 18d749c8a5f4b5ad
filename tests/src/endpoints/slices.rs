//! EndpointSlices, as the controller writes them (kubernetes, staging/src/k8s.io/endpointslice).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    admission::{self, Family, protocol},
    config::{Layout, ZONE},
    names,
    object::{Object, ObjectKey},
    workload::Pod,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotations that ask for hints by the zones' sizes, which switch `trafficDistribution` off.
const TOPOLOGY: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];
/// `--max-endpoints-per-slice` of the controller manager, by default.
const MOST: usize = 100;

/// The slices of a Service: for each family and each set of target ports that its pods resolve to.
/// None when it has no selector: then its author writes them. `serving` says whether a pod's
/// readiness probe succeeds.
pub(super) fn slices(
    service: &Object,
    layout: &Layout,
    pods: &[Pod],
    serving: impl Fn(&Pod) -> bool,
) -> Vec<(ObjectKey, Value)> {
    let Some(selector) = service
        .at("/spec/selector")
        .and_then(Value::as_object)
        .filter(|selector| !selector.is_empty())
    else {
        return Vec::new();
    };
    let mut groups: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| selects(selector, service, pod)) {
        let ports = Value::from(ports(service, pod)).to_string();
        groups.entry(ports).or_default().push(pod);
    }
    let mut found = Vec::new();
    // An ExternalName has no families, and so no slices.
    for family in admission::families(service) {
        let mut parts: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
        for pods in groups.values() {
            for pods in pods.chunks(MOST) {
                let endpoints = pods.iter();
                let endpoints =
                    endpoints.map(|pod| endpoint(service, layout, pod, family, serving(pod)));
                parts.push((ports(service, pods[0]), endpoints.collect()));
            }
        }
        if parts.is_empty() {
            parts.push((Vec::new(), Vec::new()));
        }
        for (index, (ports, endpoints)) in parts.into_iter().enumerate() {
            found.push(slice(service, family, index, &ports, &endpoints));
        }
    }
    found
}

fn selects(selector: &Map<String, Value>, service: &Object, pod: &Pod) -> bool {
    pod.namespace == service.key.namespace
        && selector.iter().all(|(name, value)| {
            pod.template.labels.get(name).map(String::as_str) == value.as_str()
        })
}

fn slice(
    service: &Object,
    family: Family,
    index: usize,
    ports: &[Value],
    endpoints: &[Value],
) -> (ObjectKey, Value) {
    let (namespace, name) = (&service.key.namespace, &service.key.name);
    let seed = match family {
        Family::V4 => format!("{namespace}/{name}/{index}"),
        Family::V6 => format!("{namespace}/{name}/{index}/{family}"),
    };
    let slice = format!("{name}-{}", names::hash(&seed, 5));
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice,
            "generateName": format!("{name}-"),
            "namespace": namespace,
            "labels": labels(service),
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": name,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": family.to_string(),
        "endpoints": endpoints,
        "ports": ports,
    });
    (
        ObjectKey::new("discovery.k8s.io", "EndpointSlice", namespace, &slice),
        value,
    )
}

/// The Service's, and those that are the controller's alone (`setEndpointSliceLabels`).
fn labels(service: &Object) -> Map<String, Value> {
    let labels = service.at("/metadata/labels").and_then(Value::as_object);
    let mut labels = labels.cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if admission::headless(service) {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.insert(SERVICE_NAME.into(), service.key.name.clone().into());
    labels.insert(MANAGED_BY.into(), "endpointslice-controller.k8s.io".into());
    labels
}

/// `podToEndpoint`, and the hints of `trafficdist`.
fn endpoint(service: &Object, layout: &Layout, pod: &Pod, family: Family, serving: bool) -> Value {
    let of_family = pod
        .addresses()
        .into_iter()
        .filter(|ip| Family::of(*ip) == family);
    let terminating = pod.deleted.is_some();
    let always = service
        .at("/spec/publishNotReadyAddresses")
        .is_some_and(|publish| *publish == true);
    let ready = always || (serving && !terminating);
    let zone = layout
        .node(&pod.node)
        .and_then(|node| node.labels.get(ZONE))
        .filter(|zone| !zone.is_empty());
    let mut value = json!({
        "addresses": of_family.collect::<Vec<_>>(),
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod.node,
        "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
    });
    if let Some(zone) = zone {
        value["zone"] = json!(zone);
    }
    if let Some(hostname) = hostname(service, pod) {
        value["hostname"] = json!(hostname);
    }
    if ready && let Some(hints) = hints(service, pod, zone) {
        value["hints"] = hints;
    }
    value
}

/// A pod that is found by name below a headless Service (`ShouldSetHostname`).
fn hostname<'a>(service: &Object, pod: &'a Pod) -> Option<&'a str> {
    let said = |field| pod.template.spec.get(field).and_then(Value::as_str);
    said("hostname")
        .filter(|name| !name.is_empty() && said("subdomain") == Some(service.key.name.as_str()))
}

/// For whom the endpoint is; none when for everybody.
fn hints(service: &Object, pod: &Pod, zone: Option<&String>) -> Option<Value> {
    let annotations = service.at("/metadata/annotations");
    let topology = TOPOLOGY
        .iter()
        .find_map(|name| annotations?.get(name)?.as_str());
    if topology.is_some_and(|mode| mode == "Auto" || mode == "auto") {
        return None;
    }
    let distribution = service
        .at("/spec/trafficDistribution")
        .and_then(Value::as_str)?;
    let node = match distribution {
        "PreferClose" | "PreferSameZone" => None,
        "PreferSameNode" => Some(&pod.node),
        _ => return None,
    };
    let mut hints = Map::new();
    if let Some(zone) = zone {
        hints.insert("forZones".into(), json!([{ "name": zone }]));
    }
    if let Some(node) = node {
        hints.insert("forNodes".into(), json!([{ "name": node }]));
    }
    (!hints.is_empty()).then_some(Value::Object(hints))
}

/// The Service's ports as this pod has them (`getEndpointPorts`): a named port that the pod lacks is
/// left out.
fn ports(service: &Object, pod: &Pod) -> Vec<Value> {
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
            let mut value = json!({
                "name": port.get("name").and_then(Value::as_str).unwrap_or_default(),
                "protocol": protocol(port),
                "port": number,
            });
            if let Some(protocol) = port.get("appProtocol").filter(|said| !said.is_null()) {
                value["appProtocol"] = protocol.clone();
            }
            Some(value)
        })
        .collect()
}

/// `FindPort`: sidecars, which are init containers that are restarted, count too.
fn named_port(pod: &Pod, name: &str, wanted: &str) -> Option<u64> {
    let containers = |field| {
        let list = pod.template.spec.get(field).and_then(Value::as_array);
        list.into_iter().flatten()
    };
    let sidecars = containers("initContainers").filter(|container| {
        container
            .get("restartPolicy")
            .is_some_and(|p| p == "Always")
    });
    containers("containers")
        .chain(sidecars)
        .filter_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten()
        .find(|port| {
            port.get("name").and_then(Value::as_str) == Some(name) && protocol(port) == wanted
        })?
        .get("containerPort")?
        .as_u64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{config::Config, workload::Template};

    fn layout() -> Layout {
        let text =
            "nodes: [{name: node-a, zone: zone-a}, {name: node-b, zone: zone-b}, {name: node-c}]";
        let config: Config = serde_yaml::from_str(text).unwrap();
        config.layout(None, &BTreeSet::new()).unwrap()
    }

    /// A Service that has been admitted.
    fn service(spec: &Value) -> Object {
        let mut value = json!({"kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.77.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"}}});
        for (name, field) in spec.as_object().unwrap() {
            value["spec"][name] = field.clone();
        }
        Object::generated(ObjectKey::new("", "Service", "kt", "web"), value).unwrap()
    }

    fn pod(name: &str, address: &str, node: &str, ports: &Value) -> Pod {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        Pod {
            namespace: "kt".into(),
            name: name.into(),
            owner: "Pod".into(),
            index: 0,
            hash: String::new(),
            node: node.into(),
            address,
            address_v6: std::net::Ipv6Addr::from_bits(
                (0xfd00_u128 << 112) | u128::from(address.to_bits()),
            ),
            ready: true,
            deleted: None,
            gateway: false,
            template: Template {
                labels: BTreeMap::from([
                    ("app".into(), "web".into()),
                    ("version".into(), "v1".into()),
                ]),
                spec: json!({"containers": [{"ports": ports}]}),
                ..Template::default()
            },
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    fn of(service: &Object, pods: &[Pod]) -> Vec<Value> {
        let found = slices(service, &layout(), pods, |pod| pod.ready);
        let keys: BTreeSet<String> = found.iter().map(|(key, _)| key.file_name()).collect();
        assert_eq!(keys.len(), found.len(), "slices of one name");
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// What a controller manager 1.36 has written for these pods and this Service; it chooses the
    /// slices' names by chance.
    const RECORDED: &str = "
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: &metadata
    generateName: web-
    namespace: kt
    labels:
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: web
    ownerReferences: [{apiVersion: v1, kind: Service, name: web, controller: true, blockOwnerDeletion: true}]
  addressType: IPv4
  endpoints:
  - addresses: [10.10.0.5]
    conditions: {ready: true, serving: true, terminating: false}
    targetRef: {kind: Pod, namespace: kt, name: p1}
    nodeName: node-a
    zone: zone-a
    hints: {forZones: [{name: zone-a}], forNodes: [{name: node-a}]}
  ports: [{name: http, protocol: TCP, port: 8080}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: *metadata
  addressType: IPv4
  endpoints:
  - addresses: [10.10.1.5]
    conditions: {ready: false, serving: true, terminating: true}
    targetRef: {kind: Pod, namespace: kt, name: p2}
    nodeName: node-b
    zone: zone-b
  ports: [{name: http, protocol: TCP, port: 8081}]
";

    #[test]
    fn slices_are_those_of_the_real_controller() {
        let service = service(&json!({
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
            "trafficDistribution": "PreferSameNode"}));
        let port = |number| json!([{"containerPort": number, "name": "http", "protocol": "TCP"}]);
        let mut pods = [
            pod("p1", "10.10.0.5", "node-a", &port(8080)),
            pod("p2", "10.10.1.5", "node-b", &port(8081)),
        ];
        pods[1].deleted = Some("2026-11-20T09:12:05Z".into());
        let mut found = of(&service, &pods);
        for slice in &mut found {
            let metadata = slice["metadata"].as_object_mut().unwrap();
            let name = metadata.remove("name").unwrap();
            assert!(name.as_str().unwrap().starts_with("web-"));
        }
        let recorded: Vec<Value> = serde_yaml::from_str(RECORDED).unwrap();
        assert_eq!(found, recorded);
    }

    #[test]
    fn each_family_has_its_slices() {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "sctp", "port": 132, "protocol": "SCTP", "appProtocol": "example.com/x"}]);
        let pods = [pod("a", "10.10.0.5", "node-a", &json!([]))];
        for (families, first) in [
            (json!(["IPv4"]), "10.10.0.5"),
            (json!(["IPv6", "IPv4"]), "fd00::a0a:5"),
            (json!(["IPv6"]), "fd00::a0a:5"),
        ] {
            let count = families.as_array().unwrap().len();
            let service = service(&json!({"ports": ports, "ipFamilies": families}));
            let found = of(&service, &pods);
            assert_eq!(found.len(), count);
            for slice in &found {
                let address: std::net::IpAddr = slice["endpoints"][0]["addresses"][0]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert_eq!(slice["addressType"], Family::of(address).to_string());
                assert_eq!(
                    slice["ports"],
                    json!([{"name": "dns", "protocol": "UDP", "port": 53},
                        {"name": "sctp", "protocol": "SCTP", "port": 132, "appProtocol": "example.com/x"}])
                );
            }
            assert_eq!(found[0]["endpoints"][0]["addresses"], json!([first]));
        }
    }

    #[test]
    fn target_ports_default_to_the_port_and_names_are_looked_up() {
        let service = service(&json!({"ports": [
            {"port": 9000, "name": "tcp"}, {"port": 80, "targetPort": 8080},
            {"port": 81, "targetPort": "web", "name": "named"}, {"port": 82, "targetPort": "absent"},
            {"port": 83, "targetPort": "sidecar", "name": "s"}]}));
        let mut pod = pod(
            "a",
            "10.10.1.2",
            "node-a",
            &json!([{"name": "web", "containerPort": 8081}]),
        );
        pod.template.spec["initContainers"] = json!([
            {"ports": [{"name": "sidecar", "containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [{"name": "sidecar", "containerPort": 2}]}]);
        let found = of(&service, &[pod]);
        assert_eq!(found.len(), 1);
        let ports: Vec<(&str, u64)> = found[0]["ports"]
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
        assert_eq!(
            ports,
            [("tcp", 9000), ("", 8080), ("named", 8081), ("s", 2)]
        );
    }

    #[test]
    fn hints_are_for_the_zone_or_the_node_of_ready_endpoints() {
        let mut pods = [
            pod("a", "10.10.0.5", "node-a", &json!([])),
            pod("b", "10.10.1.5", "node-b", &json!([])),
            pod("c", "10.10.2.5", "node-c", &json!([])),
        ];
        pods[1].ready = false;
        let hints = |distribution: &str| -> Vec<Value> {
            let service =
                service(&json!({"ports": [{"port": 80}], "trafficDistribution": distribution}));
            let found = of(&service, &pods);
            let endpoints = found[0]["endpoints"].as_array().unwrap();
            endpoints.iter().map(|e| e["hints"].clone()).collect()
        };
        let zone = json!({"forZones": [{"name": "zone-a"}]});
        for distribution in ["PreferClose", "PreferSameZone"] {
            assert_eq!(
                hints(distribution),
                [zone.clone(), Value::Null, Value::Null]
            );
        }
        assert_eq!(
            hints("PreferSameNode"),
            [
                json!({"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "node-a"}]}),
                Value::Null,
                // A node without a zone.
                json!({"forNodes": [{"name": "node-c"}]})
            ]
        );
        assert_eq!(hints("Other"), [Value::Null, Value::Null, Value::Null]);
    }

    #[test]
    fn services_may_publish_pods_that_are_not_ready() {
        let mut pods = [pod("a", "10.10.0.5", "node-a", &json!([]))];
        pods[0].ready = false;
        pods[0].deleted = Some("2026-01-01T00:00:00Z".into());
        let service = service(&json!({"ports": [{"port": 80}], "publishNotReadyAddresses": true}));
        assert_eq!(
            of(&service, &pods)[0]["endpoints"][0]["conditions"],
            json!({"ready": true, "serving": false, "terminating": true})
        );
    }

    #[test]
    fn labels_are_copied_and_headless_services_marked() {
        let mut service = service(&json!({"clusterIP": "None"}));
        service.value["metadata"]["labels"] =
            json!({"team": "a", "kubernetes.io/service-name": "lie"});
        let mut pods = [pod("a", "10.10.0.5", "node-a", &json!([]))];
        pods[0].template.spec["hostname"] = json!("one");
        pods[0].template.spec["subdomain"] = json!("web");
        let found = of(&service, &pods);
        assert_eq!(
            found[0]["metadata"]["labels"],
            json!({"team": "a", "kubernetes.io/service-name": "web",
                "service.kubernetes.io/headless": "",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
        );
        assert_eq!(found[0]["ports"], json!([]));
        assert_eq!(found[0]["endpoints"][0]["hostname"], "one");
    }

    #[test]
    fn selectors_choose_and_services_without_one_are_left_alone() {
        let pods = [pod("a", "10.10.1.2", "node-a", &json!([]))];
        let other =
            service(&json!({"selector": {"app": "web", "version": "v2"}, "ports": [{"port": 80}]}));
        let found = of(&other, &pods);
        assert_eq!(found[0]["endpoints"], json!([]));
        assert_eq!(found[0]["ports"], json!([]));
        for none in [
            json!({"selector": null, "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "ipFamilies": null}),
        ] {
            assert!(of(&service(&none), &pods).is_empty());
        }
    }

    #[test]
    fn a_slice_holds_a_hundred_endpoints() {
        let pods: Vec<Pod> = (0..250)
            .map(|index| {
                let address = format!("10.10.1.{index}");
                pod(&format!("p{index}"), &address, "node-a", &json!([]))
            })
            .collect();
        let found = of(&service(&json!({"ports": [{"port": 80}]})), &pods);
        let counts: Vec<usize> = found
            .iter()
            .map(|slice| slice["endpoints"].as_array().unwrap().len())
            .collect();
        assert_eq!(counts, [100, 100, 50]);
    }
}
