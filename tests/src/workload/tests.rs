use super::*;
use crate::{config::Config, object::ObjectKey};

fn layout(nodes: usize) -> Layout {
    Config::default()
        .layout(Some(nodes), &BTreeSet::new())
        .unwrap()
}

fn store(objects: &[Value]) -> Store {
    let mut store = Store::new();
    for value in objects {
        let kind = value["kind"].as_str().unwrap();
        let group = if kind == "Deployment" { "apps" } else { "" };
        let key = ObjectKey::new(
            group,
            kind,
            "default",
            value["metadata"]["name"].as_str().unwrap(),
        );
        store.insert(key.clone(), Object::generated(key, value.clone()).unwrap());
    }
    store
}

fn web(replicas: usize, image: &str, annotations: &Value) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": replicas, "template": {
        "metadata": {"labels": {"app": "web"}, "annotations": annotations},
        "spec": {"containers": [{"image": image}]}}}})
}

fn servers(pods: &[Pod]) -> Vec<&Pod> {
    pods.iter().filter(|pod| !pod.gateway).collect()
}

#[test]
fn replicas_are_spread_and_addresses_differ() {
    let change = plan(
        &store(&[web(4, "nginx", &json!({}))]),
        &layout(2),
        &[],
        "now",
    )
    .unwrap();
    let pods = servers(&change.add);
    assert_eq!(pods.len(), 4);
    for node in ["node1", "node2"] {
        assert_eq!(pods.iter().filter(|pod| pod.node == node).count(), 2);
    }
    let addresses: BTreeSet<IpAddr> = change.add.iter().flat_map(Pod::addresses).collect();
    assert_eq!(addresses.len(), 2 * change.add.len());
    for pod in &change.add {
        let part = if pod.node == "node1" { 1 } else { 2 };
        assert_eq!(pod.address.octets()[..3], [10, 10, part]);
        assert_eq!(
            pod.address_v6.segments()[..4],
            [0xfd00, 0x10, 0, u16::from(part)]
        );
    }
    let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn every_node_has_a_gateway_unless_the_manifests_bring_one() {
    let built_in = plan(&store(&[]), &layout(2), &[], "").unwrap().add;
    let nodes: Vec<&str> = built_in.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(nodes, ["node1", "node2"]);
    assert!(
        built_in
            .iter()
            .all(|pod| pod.gateway && pod.namespace == "istio-system")
    );

    let mine =
        json!({"kind": "Pod", "metadata": {"name": "gw", "labels": {"istio": "ingressgateway"}}});
    let change = plan(&store(&[mine]), &layout(2), &built_in, "").unwrap();
    assert_eq!(change.remove.len(), 2);
    assert_eq!(change.add.len(), 1);
    assert!(change.add[0].gateway && change.add[0].name == "gw");
}

#[test]
fn scaling_keeps_pods_and_a_new_template_replaces_them() {
    let layout = layout(1);
    let two = plan(&store(&[web(2, "nginx", &json!({}))]), &layout, &[], "")
        .unwrap()
        .add;
    let more = plan(&store(&[web(3, "nginx", &json!({}))]), &layout, &two, "").unwrap();
    assert_eq!(
        (more.keep.len(), more.add.len(), more.remove.len()),
        (3, 1, 0)
    );
    let fewer = plan(&store(&[web(1, "nginx", &json!({}))]), &layout, &two, "").unwrap();
    assert_eq!((fewer.add.len(), fewer.remove.len()), (0, 1));
    assert_eq!(fewer.remove[0].index, 1);
    let other = plan(&store(&[web(2, "nginx:2", &json!({}))]), &layout, &two, "").unwrap();
    assert_eq!((servers(&other.add).len(), other.remove.len()), (2, 2));
    let old: BTreeSet<Ipv4Addr> = other.remove.iter().map(|pod| pod.address).collect();
    assert!(other.add.iter().all(|pod| !old.contains(&pod.address)));
}

#[test]
fn annotations_and_rules_give_addresses_and_nodes() {
    let annotations = json!({ADDRESS: "10.10.1.13, 10.10.1.14", NODE: "node2,node1"});
    let change = plan(
        &store(&[web(3, "nginx", &annotations)]),
        &layout(2),
        &[],
        "",
    )
    .unwrap();
    let pods = servers(&change.add);
    let placed: Vec<(String, &str)> = pods[..2]
        .iter()
        .map(|pod| (pod.address.to_string(), pod.node.as_str()))
        .collect();
    assert_eq!(
        placed,
        [
            ("10.10.1.13".into(), "node2"),
            ("10.10.1.14".into(), "node1")
        ]
    );
    assert!(!["10.10.1.13", "10.10.1.14"].contains(&pods[2].address.to_string().as_str()));

    let mut layout = layout(2);
    layout.pods = serde_yaml::from_str(
        "[{namespace: default, name: web, addresses: [10.10.2.50], node: node2}, {namespace: other, name: web-, addresses: [10.10.2.51]}]",
    )
    .unwrap();
    let change = plan(&store(&[web(1, "nginx", &json!({}))]), &layout, &[], "").unwrap();
    let pod = servers(&change.add)[0];
    assert_eq!(
        (pod.address.to_string().as_str(), pod.node.as_str()),
        ("10.10.2.50", "node2")
    );
}

#[test]
fn addresses_of_both_families_are_counted_apart() {
    let placed = |annotation: &str, replicas| -> Vec<(String, String)> {
        let web = web(replicas, "nginx", &json!({ADDRESS: annotation}));
        let add = plan(&store(&[web]), &layout(1), &[], "").unwrap().add;
        servers(&add)
            .iter()
            .map(|pod| (pod.address.to_string(), pod.address_v6.to_string()))
            .collect()
    };
    // The annotation of one dual-stack pod, in the order of status.podIPs.
    assert_eq!(
        placed("10.10.1.13, fd00::5", 1),
        [("10.10.1.13".into(), "fd00::5".into())]
    );
    // Without one, the IPv6 address reads like the other.
    assert_eq!(placed("10.10.1.13", 1)[0].1, "fd00:10:0:1::13");
    let two = placed("fd00::1:1, 10.10.1.77, 10.10.1.78, fd00::1:2", 2);
    assert_eq!(two[0], ("10.10.1.77".into(), "fd00::1:1".into()));
    assert_eq!(two[1], ("10.10.1.78".into(), "fd00::1:2".into()));
    let second = placed(",10.10.1.77,fd00::7", 2);
    assert_eq!(second[1], ("10.10.1.77".into(), "fd00::7".into()));
    assert!(second[0].0 != "10.10.1.77" && second[0].1 != "fd00::7");
}

#[test]
fn gateways_take_their_addresses_in_the_order_of_the_nodes() {
    let mut layout = layout(2);
    layout.gateway.addresses = ["fd00::a", "10.9.0.1", "fd00::b"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let add = plan(&store(&[]), &layout, &[], "").unwrap().add;
    assert_eq!(add[0].address.to_string(), "10.9.0.1");
    let second: Vec<String> = add.iter().map(|pod| pod.address_v6.to_string()).collect();
    assert_eq!(second, ["fd00::a", "fd00::b"]);
    layout.gateway.addresses.push("fd00::c".parse().unwrap());
    let error = plan(&store(&[]), &layout, &[], "").unwrap_err().to_string();
    assert!(error.contains("3 IPv6 addresses for 2 nodes"), "{error}");
}

#[test]
fn readiness_and_termination_change_without_a_new_pod() {
    let layout = layout(1);
    let with = |annotations: Value, running: &[Pod], now: &str| {
        plan(
            &store(&[web(2, "nginx", &annotations)]),
            &layout,
            running,
            now,
        )
        .unwrap()
    };
    let pods = with(json!({}), &[], "t0").add;
    assert!(pods.iter().all(|pod| pod.ready && pod.deleted.is_none()));

    let change = with(
        json!({READY: "true,false", TERMINATING: "true"}),
        &pods,
        "t1",
    );
    assert_eq!((change.add.len(), change.remove.len()), (0, 0));
    let now = servers(&change.keep);
    assert_eq!((now[0].ready, now[1].ready), (true, false));
    assert!(now.iter().all(|pod| pod.deleted.as_deref() == Some("t1")));
    assert_eq!(now[0].template.annotations[READY], "true,false");

    // It goes on terminating since then, and is called back when the annotation goes.
    let later = with(json!({TERMINATING: "true,false"}), &change.keep, "t2").keep;
    let deleted: Vec<Option<&str>> = servers(&later)
        .iter()
        .map(|pod| pod.deleted.as_deref())
        .collect();
    assert_eq!(deleted, [Some("t1"), None]);
}

#[test]
fn a_replaced_pod_may_take_over_its_written_address() {
    let annotations = json!({ADDRESS: "10.10.1.13"});
    let layout = layout(1);
    let old = plan(&store(&[web(1, "nginx", &annotations)]), &layout, &[], "")
        .unwrap()
        .add;
    let change = plan(
        &store(&[web(1, "nginx:2", &annotations)]),
        &layout,
        &old,
        "",
    )
    .unwrap();
    assert_eq!(change.remove[0].address, change.add[0].address);
}

#[test]
fn impossible_wishes_are_errors_that_name_the_pod() {
    let taken = json!({"kind": "Pod", "metadata": {"name": "other", "annotations": {ADDRESS: "10.10.1.13"}}});
    for (objects, part) in [
        (
            vec![web(1, "nginx", &json!({ADDRESS: "10.10.1.13"})), taken],
            "is pod/default/",
        ),
        (
            vec![web(1, "nginx", &json!({ADDRESS: "x"}))],
            "`x` is no IP address",
        ),
        (
            vec![web(1, "nginx", &json!({NODE: "node9"}))],
            "no node is called `node9`",
        ),
        (vec![web(1, "nginx", &json!({"x": 1}))], "must be a string"),
        (
            vec![web(1, "nginx", &json!({READY: "no"}))],
            "`no` is neither",
        ),
        (
            vec![json!({"kind": "Deployment", "metadata": {"name": "d"}})],
            "no spec.template",
        ),
    ] {
        let error = plan(&store(&objects), &layout(1), &[], "").unwrap_err();
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }
    let taken = json!({"kind": "Pod", "metadata": {"name": "other", "annotations": {ADDRESS: "fd00:c0::11"}}});
    let error = plan(&store(&[taken]), &layout(1), &[], "").unwrap_err();
    assert!(error.to_string().contains("node1's"), "{error}");
    let mut small = layout(1);
    small.pod_cidr = "10.9.0.0/29".parse().unwrap();
    let error = plan(&store(&[web(9, "nginx", &json!({}))]), &small, &[], "").unwrap_err();
    assert!(error.to_string().contains("10.9.0.0/29"), "{error}");
}
