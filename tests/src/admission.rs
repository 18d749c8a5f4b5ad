//! What the API server does with an object before it stores it: defaults and allocations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::object::{Object, ObjectKey};

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
    let Some(stored) = stored.filter(|_| is_service(object)) else {
        return Ok(());
    };
    if needs_cluster_ip(object)
        && let Some(ip) = stored.at("/spec/clusterIP").filter(|ip| *ip != "None")
    {
        object.add("spec", &[("clusterIP", ip.clone())])?;
    }
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
    Ok(())
}

impl Allocations {
    /// Takes what the object names; an error if another object has it.
    fn reserve(&mut self, object: &Object) -> anyhow::Result<()> {
        if !is_service(object) {
            return Ok(());
        }
        let ip = match cluster_ip(object) {
            Some(text) => Some(
                text.parse::<IpAddr>()
                    .with_context(|| format!("spec.clusterIP: `{text}` is not an address"))?,
            ),
            None => None,
        };
        if let Some(owner) = ip.and_then(|ip| self.cluster_ips.get(&ip)) {
            bail!(
                "spec.clusterIP: {} is {owner}'s: choose another",
                cluster_ip(object).unwrap_or_default()
            );
        }
        let mut numbers = BTreeSet::new();
        for port in ports(&object.value) {
            let Some(number) = node_port(port) else {
                continue;
            };
            ensure!(
                NODE_PORTS.contains(&number),
                "nodePort {number} is outside {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            let slot = (protocol(port).to_string(), number);
            if let Some(owner) = self.node_ports.get(&slot) {
                bail!("nodePort {number} is {owner}'s: choose another");
            }
            ensure!(numbers.insert(slot), "nodePort {number} occurs twice");
        }
        self.cluster_ips
            .extend(ip.map(|ip| (ip, object.key.clone())));
        self.node_ports
            .extend(numbers.into_iter().map(|slot| (slot, object.key.clone())));
        Ok(())
    }

    /// Gives the object what it needs and does not name.
    fn allocate(&mut self, object: &mut Object) -> anyhow::Result<()> {
        if !is_service(object) {
            return Ok(());
        }
        if needs_cluster_ip(object) {
            let ip = CLUSTER_IPS
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                .find(|ip| !self.cluster_ips.contains_key(ip))
                .context("no cluster IP is left")?;
            self.cluster_ips.insert(ip, object.key.clone());
            object.add("spec", &[("clusterIP", ip.to_string().into())])?;
        }
        if needs_node_ports(object) {
            let mut value = object.value.clone();
            for port in ports_mut(&mut value) {
                if node_port(port).is_some() {
                    continue;
                }
                let protocol = protocol(port).to_string();
                let number = NODE_PORTS
                    .map(|number| (protocol.clone(), number))
                    .find(|slot| !self.node_ports.contains_key(slot))
                    .with_context(|| format!("no {protocol} node port is left"))?;
                port["nodePort"] = json!(number.1);
                self.node_ports.insert(number, object.key.clone());
            }
            object.set(value)?;
        }
        Ok(())
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

/// The address that the Service names; none for headless ones.
pub(crate) fn cluster_ip(object: &Object) -> Option<&str> {
    let named = |pointer| object.at(pointer).and_then(Value::as_str);
    named("/spec/clusterIP")
        .filter(|ip| !ip.is_empty())
        .or_else(|| named("/spec/clusterIPs/0"))
        .filter(|ip| !ip.is_empty() && *ip != "None")
}

fn needs_cluster_ip(object: &Object) -> bool {
    let headless = object.at("/spec/clusterIP").is_some_and(|ip| ip == "None");
    service_type(object) != "ExternalName" && !headless && cluster_ip(object).is_none()
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

/// The external IPs of all Services.
pub(crate) fn external_ips(store: &Store) -> BTreeSet<Ipv4Addr> {
    store
        .values()
        .filter(|object| is_service(object))
        .flat_map(service_external_ips)
        .filter_map(|ip| ip.parse().ok())
        .collect()
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
