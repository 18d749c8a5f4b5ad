//! Services, their endpoints, and their addresses.

use std::net::IpAddr;

use nodegate_programs::Program;
use nodegate_testbed::Testbed;
use serde_json::json;

use crate::network::listener_is_reached;
use crate::{
    scene::{Scene, WEB, address, limit, manifests, state, text, up},
    stand_in::STAND_IN,
};

pub(crate) const DUAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  trafficDistribution: PreferSameZone
  ports: [{name: http, port: 80}, {name: sctp, port: 132, protocol: SCTP}]
";

pub(crate) fn dual_stack(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes: [{name: node1, zone: z1}, {name: node2, zone: z2}]\n",
    )?;
    scene.write("manifests/dual.yaml", DUAL)?;
    let testbed = Testbed::up(&scene.options(name))?;
    let ps = testbed.ps()?;
    let service = ps.service("default", "dual").expect("the Service");
    let families: Vec<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv6).collect();
    assert_eq!(families, [false, true]);
    assert_eq!(service.cluster_ip, service.cluster_ips[0].to_string());
    let seen = &manifests(&testbed, "service_default_dual")?[0]["spec"];
    assert_eq!(seen["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(seen["clusterIPs"], json!(service.cluster_ips));

    let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_dual")?;
    let mut types: Vec<&str> = slices
        .iter()
        .filter_map(|slice| slice["addressType"].as_str())
        .collect();
    types.sort_unstable();
    assert_eq!(types, ["IPv4", "IPv6"]);
    for slice in &slices {
        let endpoints = slice["endpoints"].as_array().expect("endpoints");
        assert_eq!(endpoints.len(), 2);
        for endpoint in endpoints {
            let pod = ps
                .pods
                .iter()
                .find(|pod| endpoint["targetRef"]["name"] == pod.name.as_str());
            let pod = pod.expect("the endpoint's pod");
            let index = usize::from(slice["addressType"] == "IPv6");
            assert_eq!(endpoint["addresses"], json!([pod.addresses[index]]));
            let zone = pod.node.replace("node", "z");
            assert_eq!(endpoint["zone"], zone.as_str());
            assert_eq!(endpoint["hints"], json!({"forZones": [{"name": zone}]}));
        }
        assert_eq!(slice["ports"][1]["protocol"], "SCTP");
    }
    // Others stay single-stack.
    let web = manifests(&testbed, "endpointslice.discovery.k8s.io_default_web")?;
    assert_eq!(web.len(), 1);

    // The family goes, and its slices with it.
    testbed.apply_text(&DUAL.replace("RequireDualStack", "SingleStack"))?;
    let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_dual")?;
    assert_eq!(slices.len(), 1);
    let ps = testbed.ps()?;
    let ips = &ps
        .service("default", "dual")
        .expect("the Service")
        .cluster_ips;
    assert_eq!(*ips, service.cluster_ips[..1]);
    testbed.down()
}

pub(crate) fn conditions(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let before = testbed.ps()?.pods;
    // In the order of ready, serving and terminating.
    let shown = || -> anyhow::Result<Vec<[bool; 3]>> {
        let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_web")?;
        let endpoints = slices[0]["endpoints"].as_array().cloned();
        let mut all: Vec<[bool; 3]> = endpoints
            .unwrap_or_default()
            .iter()
            .map(|endpoint| {
                ["ready", "serving", "terminating"].map(|name| endpoint["conditions"][name] == true)
            })
            .collect();
        all.sort_unstable();
        Ok(all)
    };
    assert_eq!(shown()?, [[true, true, false]; 2]);
    let annotate = |annotations: &str| {
        let labels = "labels: {app: web}";
        let more = format!("{labels}, annotations: {{{annotations}}}");
        testbed.apply_text(&WEB.replace(labels, &more))
    };
    annotate("testbed.nodegate.io/ready: 'false,true'")?;
    assert_eq!(shown()?, [[false, false, false], [true, true, false]]);
    annotate("testbed.nodegate.io/terminating: 'true', testbed.nodegate.io/ready: 'false,true'")?;
    assert_eq!(shown()?, [[false, false, true], [false, true, true]]);
    let gone = manifests(&testbed, "pod_default_web-")?;
    assert!(
        gone.iter()
            .all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    );
    // They are the same pods, and serve.
    assert_eq!(testbed.ps()?.pods, before);
    let url = format!("http://{}/", address(&testbed, "web-", "node2")?);
    let answer = testbed.exec("node1", Program::Curl, ["-sSfm", &limit(), &url])?;
    assert!(answer.status.success(), "{answer:?}");
    testbed.apply_text(WEB)?;
    assert_eq!(shown()?, [[true, true, false]; 2]);
    testbed.down()
}

pub(crate) fn load_balancer_ips(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    testbed.apply_text(
        "apiVersion: v1
kind: Service
metadata: {name: lb}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  externalIPs: ['fd00:96:5::1']
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 192.168.97.7}, {ip: 'fd00:97::7'}]}}
",
    )?;
    let nodes = testbed.nodes()?;
    let via = nodes[0].addresses();
    for (ip, via) in [
        ("192.168.97.7", via[0]),
        ("fd00:97::7", via[1]),
        ("fd00:96:5::1", via[1]),
    ] {
        let route = text(&testbed.exec("client", Program::Ip, ["route", "get", ip])?);
        assert!(route.contains(&format!("via {via} ")), "{route}");
    }
    let addresses = text(&testbed.exec("node1", Program::Ip, ["addr"])?);
    assert!(addresses.contains("fd00:96:5::1/128"), "{addresses}");
    assert!(!addresses.contains(".97.7") && !addresses.contains(":97::7"));
    listener_is_reached(&testbed, "node1", "client", "fd00:96:5::1")?;
    let seen = &manifests(&testbed, "service_default_lb")?[0];
    assert_eq!(
        seen["status"]["loadBalancer"]["ingress"][1]["ip"],
        "fd00:97::7"
    );
    assert!(seen["spec"]["healthCheckNodePort"].is_u64(), "{seen}");

    testbed.delete_object("Service", "default", "lb")?;
    for host in ["node1", "client"] {
        let state = state(&testbed, host)?;
        for gone in [".97.7", ":97::7", "fd00:96:5"] {
            assert!(!state.contains(gone), "{host}: {state}");
        }
    }
    testbed.down()
}
