use super::*;
use crate::parse::parse;
use nodegate_model::selection::{NodeTopology, select};

/// A nat table and a filter table with these rules.
fn read(nat: &str, filter: &str) -> Ports {
    let text = format!("*nat\n{nat}\nCOMMIT\n*filter\n{filter}\nCOMMIT\n");
    let dump = parse(&text);
    assert_eq!(dump.errors, []);
    ports(&dump.rulesets, "node-a")
}

const WEB: &str = r#"
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "ns/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "ns/web:http" -m tcp --dport 30080 -j KUBE-EXT-WEB
-A KUBE-EXT-WEB -m comment --comment "masquerade traffic for ns/web:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -j KUBE-SVC-WEB
-A KUBE-SVC-WEB ! -s 10.0.0.0/8 -d 10.96.0.1/32 -p tcp -m comment --comment "ns/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -m comment --comment "ns/web:http -> 10.10.1.4:8080" -j KUBE-SEP-ONE
-A KUBE-SEP-ONE -p tcp -m comment --comment "ns/web:http" -m tcp -j DNAT --to-destination 10.10.1.4:8080"#;

#[test]
fn a_node_port_service() {
    let ports = read(WEB, "");
    assert_eq!(ports.broken, BTreeMap::new());
    let [web] = &ports.services[..] else {
        panic!("{ports:?}");
    };
    assert_eq!(web.name.to_string(), "ns/web:http");
    assert_eq!((web.port, web.node_port), (80, Some(30080)));
    assert_eq!(web.kind, ServiceType::NodePort);
    assert_eq!(
        web.endpoints,
        [Endpoint::ready([10, 10, 1, 4].into(), 8080, false)]
    );
    let expected = KubeProxyFacts {
        pod_networks: ["10.0.0.0/8".parse().unwrap()].into(),
        localhost_node_ports: true,
        ..KubeProxyFacts::default()
    };
    assert_eq!(ports.facts, expected);
}

#[test]
fn a_service_whose_chains_are_not_whole_is_named() {
    for (gone, why) in [
        ("-A KUBE-SEP-ONE", "a chain of it is missing or empty"),
        ("-A KUBE-EXT-WEB -j", "a chain of it is missing or empty"),
        ("-A KUBE-SERVICES -d", "there is no rule for its cluster IP"),
    ] {
        let rest: Vec<_> = WEB.lines().filter(|line| !line.starts_with(gone)).collect();
        let ports = read(&rest.join("\n"), "");
        assert_eq!(ports.services, [], "{gone}");
        let broken: Vec<_> = ports.broken.values().copied().collect();
        assert_eq!(broken, [why], "{gone}");
    }
}

/// kube-proxy hands both tables over at once, but legacy iptables takes them one after the other.
#[test]
fn tables_that_contradict_each_other_are_noticed() {
    let filter = r#"-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "ns/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable"#;
    let ports = read(WEB, filter);
    let broken: Vec<_> = ports.broken.values().copied().collect();
    assert_eq!(
        broken,
        ["it is refused in one table and has endpoints in the other"]
    );
}

fn lists(port: &ServicePort) -> (Vec<String>, Vec<String>) {
    let node = NodeTopology {
        name: "node-a".into(),
        zone: None,
    };
    let selection = select(port, IpFamily::V4, &node);
    let text = |list: &[&Endpoint]| list.iter().map(|e| e.socket().to_string()).collect();
    assert!(selection.has_endpoints);
    (text(&selection.cluster), text(&selection.local))
}

/// The endpoints on other nodes are ready, those on this one are ending.
#[test]
fn sets_that_have_nothing_in_common_stay_apart() {
    let nat = WEB
        .replace(
            "-A KUBE-EXT-WEB -j KUBE-SVC-WEB",
            "-A KUBE-EXT-WEB -j KUBE-SVL-WEB",
        )
        .replace("masquerade traffic", "masquerade LOCAL traffic")
        + r#"
-A KUBE-SVL-WEB -m comment --comment "ns/web:http -> 10.10.0.9:8080" -j KUBE-SEP-TWO
-A KUBE-SEP-TWO -p tcp -m comment --comment "ns/web:http" -m tcp -j DNAT --to-destination 10.10.0.9:8080"#;
    let ports = read(&nat, "");
    let [web] = &ports.services[..] else {
        panic!("{ports:?}");
    };
    assert_eq!(web.external_policy, TrafficPolicy::Local);
    assert_eq!(
        lists(web),
        (vec!["10.10.1.4:8080".into()], vec!["10.10.0.9:8080".into()])
    );
}

#[test]
fn endpoints_on_other_nodes_that_no_rule_names_are_known_to_be_there() {
    let filter = r#"-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "ns/web:http has no local endpoints" -m tcp --dport 80 -j DROP"#;
    let ports = read("", filter);
    let [web] = &ports.services[..] else {
        panic!("{ports:?}");
    };
    assert_eq!(web.internal_policy, TrafficPolicy::Local);
    assert_eq!(lists(web), (vec![], vec![]));
}

#[test]
fn an_endpoint_that_is_here_for_one_service_is_here_for_all() {
    let other = WEB
        .replace("ns/web", "ns/other")
        .replace("-WEB", "-OTHER")
        .replace("10.96.0.1", "10.96.0.2")
        .replace("30080", "30081")
        .replace(
            "-A KUBE-EXT-OTHER -j KUBE-SVC",
            "-A KUBE-EXT-OTHER -j KUBE-SVL",
        )
        .replace("SEP-ONE", "SEP-OTHER")
        + "\n-A KUBE-SVL-OTHER -j KUBE-SEP-OTHER";
    let ports = read(&format!("{WEB}\n{other}"), "");
    let here: Vec<_> = ports
        .services
        .iter()
        .map(|port| (port.name.name.as_str(), port.endpoints[0].local))
        .collect();
    assert_eq!(here, [("other", true), ("web", true)]);
}

#[test]
fn flags_are_read_off_the_rules() {
    let all = WEB.replace("! -s 10.0.0.0/8 ", "");
    let facts = read(&all, "").facts;
    assert!(facts.masquerade_all && facts.pod_networks.is_empty());
    let by_interface = WEB.replace("! -s 10.0.0.0/8 ", "! -i veth+ ");
    let facts = read(&by_interface, "").facts;
    assert!(!facts.masquerade_all && facts.pod_networks.is_empty());
    let one_address = WEB.replace("-m addrtype --dst-type LOCAL", "-d 192.168.0.2/32");
    let facts = read(&one_address, "").facts;
    let expected: BTreeSet<IpNet> = ["192.168.0.2/32".parse().unwrap()].into();
    assert_eq!(facts.node_port_networks, expected);
    assert!(!facts.localhost_node_ports);
    let not_localhost = WEB.replace("LOCAL -j", "LOCAL ! -d 127.0.0.0/8 -j");
    let facts = read(&not_localhost, "").facts;
    assert!(facts.node_port_networks.is_empty() && !facts.localhost_node_ports);
    let nowhere: Vec<_> = WEB
        .lines()
        .filter(|line| !line.ends_with("-j KUBE-NODEPORTS"))
        .collect();
    let ports = read(&nowhere.join("\n"), "");
    assert_eq!(ports.broken, BTreeMap::new());
    let expected: BTreeSet<IpNet> = ["0.0.0.0/32".parse().unwrap()].into();
    assert_eq!(ports.facts.node_port_networks, expected);
}
