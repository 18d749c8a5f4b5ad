//! What the API server does with an object before it stores it: defaults and allocations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::object::{Object, ObjectKey};

mod families;

pub(crate) use families::{Family, cluster_ips, families, headless};

use families::Families;

/// All objects that are stored, by key.
pub type Store = BTreeMap<ObjectKey, Object>;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was there and has changed.
    Configured,
    /// It was there, the same.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It is not stored, and why.
    Rejected(String),
}

/// The default Service CIDR of kubeadm: 10.96.0.0/12.
const CLUSTER_IPS: std::ops::RangeInclusive<u32> = 0x0a60_0101..=0x0a6f_fffe;
/// Network of the IPv6 cluster IPs, a /112, and which of them are given out: the first ones are left
/// to authors, as with IPv4.
const CLUSTER_IPS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0);
const CLUSTER_IPS_V6_HOSTS: std::ops::RangeInclusive<u128> = 0x101..=0xfffe;
/// `--service-node-port-range` of the API server, by default.
const NODE_PORTS: std::ops::RangeInclusive<u64> = 30000..=32767;

/// Addresses and ports that Services hold.
#[derive(Debug, Default)]
struct Allocations {
    cluster_ips: BTreeMap<IpAddr, ObjectKey>,
    node_ports: BTreeMap<(String, u64), ObjectKey>,
}

/// Stores objects. `created` is the creation time of those that are new.
pub(crate) fn admit(
    store: &mut Store,
    incoming: Vec<Object>,
    created: &str,
) -> Vec<(ObjectKey, Outcome)> {
    let mut outcomes = Vec::new();
    let mut latest: BTreeMap<ObjectKey, (usize, Object)> = BTreeMap::new();
    for (index, object) in incoming.into_iter().enumerate() {
        let key = object.key.clone();
        if latest.insert(key.clone(), (index, object)).is_some() {
            let message = "given twice: the later one counts".to_string();
            outcomes.push((key, Outcome::Rejected(message)));
        }
    }
    let mut batch: Vec<(usize, Object)> = latest.into_values().collect();
    batch.sort_by_key(|(index, _)| *index);

    let mut taken = Allocations::default();
    let replaced: BTreeSet<&ObjectKey> = batch.iter().map(|(_, object)| &object.key).collect();
    for object in store
        .values()
        .filter(|object| !replaced.contains(&object.key))
    {
        // What is stored has passed this before.
        let _ = taken.reserve(object);
    }

    // First what is written down, in the whole batch; then what is to be chosen.
    let mut accepted = Vec::new();
    for (_, mut object) in batch {
        let stored = store.get(&object.key);
        match inherit(&mut object, stored, created).and_then(|()| taken.reserve(&object)) {
            Ok(()) => accepted.push(object),
            Err(error) => {
                outcomes.push((object.key, Outcome::Rejected(format!("{error:#}"))));
            }
        }
    }
    for mut object in accepted {
        let key = object.key.clone();
        let outcome = match taken.allocate(&mut object) {
            Err(error) => Outcome::Rejected(format!("{error:#}")),
            Ok(()) => match store.get(&key) {
                Some(stored) if stored.value == object.value => Outcome::Unchanged,
                Some(_) => {
                    store.insert(key.clone(), object);
                    Outcome::Configured
                }
                None => {
                    store.insert(key.clone(), object);
                    Outcome::Created
                }
            },
        };
        outcomes.push((key, outcome));
    }
    outcomes
}

/// Takes over what the object was given before, where its author says nothing about it.
fn inherit(object: &mut Object, stored: Option<&Object>, created: &str) -> anyhow::Result<()> {
    if object.value.get("kind").is_some()
        && object
            .at("/metadata/creationTimestamp")
            .is_none_or(Value::is_null)
    {
        let created = stored
            .and_then(|stored| stored.at("/metadata/creationTimestamp"))
            .cloned()
            .unwrap_or_else(|| created.into());
        object.add("metadata", &[("creationTimestamp", created)])?;
    }
    if !is_service(object) {
        return Ok(());
    }
    if needs_families(object) {
        Families::of(object, stored)?.write(object)?;
    }
    let Some(stored) = stored else {
        return Ok(());
    };
    if needs_node_ports(object) {
        let mut value = object.value.clone();
        for port in ports_mut(&mut value) {
            if node_port(port).is_none()
                && let Some(old) = ports(&stored.value).find(|old| same_port(old, port))
                && let Some(number) = node_port(old)
            {
                port["nodePort"] = json!(number);
            }
        }
        object.set(value)?;
    }
    if needs_health_check_port(object)
        && health_check_port(object).is_none()
        && let Some(number) = health_check_port(stored)
    {
        object.add("spec", &[("healthCheckNodePort", json!(number))])?;
    }
    // Nobody but the author writes it here, but a manifest without it takes nothing back.
    if service_type(object) == "LoadBalancer"
        && object.at("/status/loadBalancer").is_none()
        && let Some(status) = stored.at("/status/loadBalancer").cloned()
    {
        object.add("status", &[("loadBalancer", status)])?;
    }
    Ok(())
}

impl Allocations {
    /// Takes what the object names; an error if another object has it.
    fn reserve(&mut self, object: &Object) -> anyhow::Result<()> {
        if !is_service(object) {
            return Ok(());
        }
        let ips = if needs_families(object) {
            cluster_ips(object)?
        } else {
            Vec::new()
        };
        for ip in &ips {
            if let Some(owner) = self.cluster_ips.get(ip) {
                bail!("spec.clusterIP: {ip} is {owner}'s: choose another");
            }
        }
        let mut numbers = BTreeSet::new();
        let node_ports = ports(&object.value).filter_map(|port| {
            let number = node_port(port)?;
            Some(("nodePort", protocol(port), number))
        });
        let health = health_check_port(object).filter(|_| needs_health_check_port(object));
        let health = health.map(|number| ("healthCheckNodePort", "TCP", number));
        for (field, protocol, number) in node_ports.chain(health) {
            ensure!(
                NODE_PORTS.contains(&number),
                "{field} {number} is outside {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            let slot = (protocol.to_string(), number);
            if let Some(owner) = self.node_ports.get(&slot) {
                bail!("{field} {number} is {owner}'s: choose another");
            }
            ensure!(numbers.insert(slot), "{field} {number} occurs twice");
        }
        self.cluster_ips
            .extend(ips.into_iter().map(|ip| (ip, object.key.clone())));
        self.node_ports
            .extend(numbers.into_iter().map(|slot| (slot, object.key.clone())));
        Ok(())
    }

    /// Gives the object what it needs and does not name.
    fn allocate(&mut self, object: &mut Object) -> anyhow::Result<()> {
        if !is_service(object) {
            return Ok(());
        }
        if needs_families(object) {
            let mut families = Families::of(object, None)?;
            families.complete(|family| self.cluster_ip(family, &object.key))?;
            families.write(object)?;
        }
        if needs_node_ports(object) {
            let mut value = object.value.clone();
            for port in ports_mut(&mut value) {
                if node_port(port).is_none() {
                    let number = self.node_port(protocol(port), &object.key)?;
                    port["nodePort"] = json!(number);
                }
            }
            object.set(value)?;
        }
        if needs_health_check_port(object) && health_check_port(object).is_none() {
            let number = self.node_port("TCP", &object.key)?;
            object.add("spec", &[("healthCheckNodePort", json!(number))])?;
        }
        Ok(())
    }

    fn cluster_ip(&mut self, family: Family, owner: &ObjectKey) -> anyhow::Result<IpAddr> {
        let free = |ip: &IpAddr| !self.cluster_ips.contains_key(ip);
        let ip = match family {
            Family::V4 => CLUSTER_IPS
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                .find(free),
            Family::V6 => CLUSTER_IPS_V6_HOSTS
                .map(|host| Ipv6Addr::from_bits(CLUSTER_IPS_V6.to_bits() | host).into())
                .find(free),
        };
        let ip = ip.with_context(|| format!("no {family} cluster IP is left"))?;
        self.cluster_ips.insert(ip, owner.clone());
        Ok(ip)
    }

    fn node_port(&mut self, protocol: &str, owner: &ObjectKey) -> anyhow::Result<u64> {
        let slot = NODE_PORTS
            .map(|number| (protocol.to_string(), number))
            .find(|slot| !self.node_ports.contains_key(slot))
            .with_context(|| format!("no {protocol} node port is left"))?;
        let number = slot.1;
        self.node_ports.insert(slot, owner.clone());
        Ok(number)
    }
}

/// Whether it is a core Service (there are others, such as Knative's).
pub(crate) fn is_service(object: &Object) -> bool {
    object.key.kind == "Service" && object.key.group.is_empty()
}

fn service_type(object: &Object) -> &str {
    object
        .at("/spec/type")
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
}

/// Whether the Service has IP families at all.
fn needs_families(object: &Object) -> bool {
    service_type(object) != "ExternalName"
}

/// As `apiservice.NeedsHealthCheck` of Kubernetes.
fn needs_health_check_port(object: &Object) -> bool {
    service_type(object) == "LoadBalancer"
        && object
            .at("/spec/externalTrafficPolicy")
            .is_some_and(|policy| policy == "Local")
}

fn health_check_port(object: &Object) -> Option<u64> {
    object
        .at("/spec/healthCheckNodePort")
        .and_then(Value::as_u64)
        .filter(|number| *number != 0)
}

fn needs_node_ports(object: &Object) -> bool {
    match service_type(object) {
        "NodePort" => true,
        "LoadBalancer" => object
            .at("/spec/allocateLoadBalancerNodePorts")
            .is_none_or(|allocate| allocate != false),
        _ => false,
    }
}

/// A Service's ports.
pub(crate) fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|port| port.is_object())
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter(|port| port.is_object())
}

/// A port's protocol: TCP unless it says otherwise.
pub(crate) fn protocol(port: &Value) -> &str {
    port.get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("TCP")
}

/// A port's node port; 0 asks for one, as none does.
pub(crate) fn node_port(port: &Value) -> Option<u64> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .filter(|number| *number != 0)
}

fn same_port(a: &Value, b: &Value) -> bool {
    a.get("port") == b.get("port") && protocol(a) == protocol(b)
}

/// The external IPs of Services (true) and the addresses of their load balancers (false). An address
/// that is both counts as an external IP.
pub(crate) fn outside_ips<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
) -> BTreeMap<IpAddr, bool> {
    let mut ips = BTreeMap::new();
    for service in objects.into_iter().filter(|object| is_service(object)) {
        let external = service_external_ips(service).map(|ip| (ip, true));
        let balancers = load_balancer_ips(service).map(|ip| (ip, false));
        for (text, external) in external.chain(balancers) {
            if let Ok(ip) = text.parse() {
                *ips.entry(ip).or_default() |= external;
            }
        }
    }
    ips
}

/// The addresses of a Service's load balancers, as written.
fn load_balancer_ips(service: &Object) -> impl Iterator<Item = &str> {
    service
        .at("/status/loadBalancer/ingress")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.get("ip")?.as_str())
        .filter(|_| service_type(service) == "LoadBalancer")
}

/// A Service's external IPs, as written.
pub(crate) fn service_external_ips(service: &Object) -> impl Iterator<Item = &str> {
    service
        .at("/spec/externalIPs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the callers write literals")]
    fn service(name: &str, spec: Value) -> Object {
        Object::generated(
            ObjectKey::new("", "Service", "default", name),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}),
        )
        .unwrap()
    }

    fn get<'a>(store: &'a Store, name: &str, pointer: &str) -> &'a Value {
        let key = ObjectKey::new("", "Service", "default", name);
        store[&key].at(pointer).unwrap()
    }

    #[test]
    fn what_is_named_is_kept_and_the_rest_does_not_collide() {
        let mut store = Store::new();
        let outcomes = admit(
            &mut store,
            vec![
                service("a", json!({"type": "NodePort", "ports": [{"port": 80}]})),
                service(
                    "b",
                    json!({"type": "LoadBalancer", "clusterIP": "10.96.1.1",
                    "ports": [{"port": 80, "nodePort": 30000}, {"port": 81}]}),
                ),
            ],
            "2026-01-01T00:00:00Z",
        );
        assert!(
            outcomes
                .iter()
                .all(|(_, outcome)| *outcome == Outcome::Created)
        );
        assert_eq!(get(&store, "b", "/spec/clusterIP"), "10.96.1.1");
        assert_eq!(get(&store, "b", "/spec/ports/0/nodePort"), 30000);
        assert_ne!(get(&store, "a", "/spec/clusterIP"), "10.96.1.1");
        let chosen = [
            get(&store, "a", "/spec/ports/0/nodePort"),
            get(&store, "b", "/spec/ports/1/nodePort"),
        ];
        assert_ne!(chosen[0], chosen[1]);
        assert!(chosen.iter().all(|port| **port != 30000));
    }

    #[test]
    fn applying_again_keeps_addresses_ports_and_age() {
        let mut store = Store::new();
        let written = || {
            vec![service(
                "a",
                json!({"type": "NodePort", "ports": [{"port": 80}]}),
            )]
        };
        admit(&mut store, written(), "2026-01-01T00:00:00Z");
        let before = store.clone();
        let outcomes = admit(&mut store, written(), "2027-01-01T00:00:00Z");
        assert_eq!(outcomes[0].1, Outcome::Unchanged);
        let wider = service(
            "a",
            json!({"type": "NodePort", "ports": [{"port": 81}, {"port": 80}]}),
        );
        let outcomes = admit(&mut store, vec![wider], "2027-01-01T00:00:00Z");
        assert_eq!(outcomes[0].1, Outcome::Configured);
        for pointer in ["/spec/clusterIP", "/metadata/creationTimestamp"] {
            assert_eq!(get(&store, "a", pointer), get(&before, "a", pointer));
        }
        assert_eq!(
            get(&store, "a", "/spec/ports/1/nodePort"),
            get(&before, "a", "/spec/ports/0/nodePort")
        );
    }

    #[test]
    fn headless_and_external_name_services_get_nothing() {
        let mut store = Store::new();
        admit(
            &mut store,
            vec![
                service("h", json!({"clusterIP": "None"})),
                service("e", json!({"type": "ExternalName"})),
            ],
            "",
        );
        assert_eq!(get(&store, "h", "/spec/clusterIP"), "None");
        let key = ObjectKey::new("", "Service", "default", "e");
        assert_eq!(store[&key].at("/spec/clusterIP"), None);
    }

    #[test]
    fn conflicts_are_refused_and_named() {
        let mut store = Store::new();
        let port =
            |number| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
        admit(&mut store, vec![service("a", port(30080))], "");
        let outcomes = admit(
            &mut store,
            vec![
                service("b", port(30080)),
                service("c", port(80)),
                service("d", json!({"clusterIP": "x"})),
            ],
            "",
        );
        let reasons: Vec<&str> = outcomes
            .iter()
            .map(|(_, outcome)| match outcome {
                Outcome::Rejected(reason) => reason.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(
            reasons[0].contains("30080 is Service default/a's"),
            "{}",
            reasons[0]
        );
        assert!(reasons[1].contains("80 is outside"));
        assert!(reasons[2].contains("`x` is not an address"));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn dual_stack_services_hold_both_addresses() {
        let mut store = Store::new();
        let dual = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
        admit(
            &mut store,
            vec![service("a", dual.clone()), service("b", dual.clone())],
            "",
        );
        let ips = |store: &Store, name: &str| get(store, name, "/spec/clusterIPs").clone();
        let first = ips(&store, "a");
        assert_eq!(first.as_array().unwrap().len(), 2);
        assert!(first[1].as_str().unwrap().starts_with("fd00:96::"));
        for index in [0, 1] {
            assert_ne!(first[index], ips(&store, "b")[index]);
        }
        let thief = service("c", json!({"clusterIP": first[1]}));
        let outcomes = admit(&mut store, vec![thief], "");
        assert!(
            matches!(&outcomes[0].1, Outcome::Rejected(reason) if reason.contains("default/a's"))
        );
        // One that says nothing about it stays dual-stack.
        let outcomes = admit(
            &mut store,
            vec![service("a", json!({"ports": [{"port": 80}]}))],
            "",
        );
        assert_eq!(outcomes[0].1, Outcome::Unchanged);
        assert_eq!(ips(&store, "a"), first);
    }

    #[test]
    fn local_load_balancers_get_a_port_for_health_checks_and_keep_it() {
        let mut store = Store::new();
        let local = |policy: &str| json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": [{"port": 80}]});
        admit(
            &mut store,
            vec![
                service("a", local("Local")),
                service("b", local("Cluster")),
                service(
                    "c",
                    json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
                ),
            ],
            "",
        );
        let port = get(&store, "a", "/spec/healthCheckNodePort").clone();
        assert_ne!(&port, get(&store, "a", "/spec/ports/0/nodePort"));
        for other in ["b", "c"] {
            let key = ObjectKey::new("", "Service", "default", other);
            assert_eq!(store[&key].at("/spec/healthCheckNodePort"), None);
        }
        let outcomes = admit(&mut store, vec![service("a", local("Local"))], "");
        assert_eq!(outcomes[0].1, Outcome::Unchanged);
        let mut taken = local("Local");
        taken["healthCheckNodePort"] = port;
        let outcomes = admit(&mut store, vec![service("d", taken)], "");
        assert!(
            matches!(&outcomes[0].1, Outcome::Rejected(reason) if reason.contains("healthCheckNodePort"))
        );
    }

    #[test]
    fn a_load_balancers_status_stays_until_it_is_written_anew() {
        let mut store = Store::new();
        let spec = json!({"type": "LoadBalancer", "externalIPs": ["1.2.3.4", "fd00::4"],
            "ports": [{"port": 80}]});
        let mut balanced = service("a", spec.clone());
        let ingress = json!([{"ip": "1.2.3.4"}, {"ip": "1.2.3.5"}, {"hostname": "x"}]);
        balanced
            .add("status", &[("loadBalancer", json!({"ingress": ingress}))])
            .unwrap();
        admit(&mut store, vec![balanced], "");
        let outcomes = admit(&mut store, vec![service("a", spec)], "");
        assert_eq!(outcomes[0].1, Outcome::Unchanged);
        let ips = outside_ips(store.values());
        let ips: Vec<(String, bool)> = ips
            .iter()
            .map(|(ip, external)| (ip.to_string(), *external))
            .collect();
        assert_eq!(
            ips,
            [
                ("1.2.3.4".into(), true),
                ("1.2.3.5".into(), false),
                ("fd00::4".into(), true)
            ]
        );
        let none = service("a", json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        admit(&mut store, vec![none], "");
        assert!(outside_ips(store.values()).is_empty());
    }

    #[test]
    fn of_duplicates_the_later_counts() {
        let mut store = Store::new();
        let outcomes = admit(
            &mut store,
            vec![
                service("a", json!({"clusterIP": "10.96.0.5"})),
                service("a", json!({"clusterIP": "10.96.0.6"})),
            ],
            "",
        );
        assert!(matches!(&outcomes[0].1, Outcome::Rejected(reason) if reason.contains("twice")));
        assert_eq!(outcomes[1].1, Outcome::Created);
        assert_eq!(get(&store, "a", "/spec/clusterIP"), "10.96.0.6");
    }
}
