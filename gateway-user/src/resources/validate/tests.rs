use crate::resources::{diagnostic::Severity, manifest::Manifest};

/// All messages about the objects of `text`, without severity, file and object.
fn all(text: &str) -> Vec<String> {
    let manifest = Manifest::parse("x.yaml".into(), text);
    assert_eq!(manifest.diagnostics, []);
    let found = manifest.objects.iter().flat_map(super::validate);
    found
        .map(|found| {
            let letter = match found.severity {
                Severity::Info => "I",
                Severity::Warning => "W",
                Severity::Error => "E",
            };
            let line = found.location.as_ref().unwrap().line;
            let field = found.field.unwrap_or_default();
            format!("{letter} {line} {field}: {}", found.message)
        })
        .collect()
}

fn service(spec: &str) -> Vec<String> {
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n{spec}");
    all(&text)
}

fn istio(kind: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n{spec}"
    );
    all(&text)
}

#[test]
fn ports_of_services() {
    assert_eq!(
        service("  type: NodePort\n"),
        ["E 5 spec.ports: no ports".replace('5', "4")]
    );
    let ports = "  ports:\n  - port: 70000\n    name: a\n  - port: 80\n    name: A\n    protocol: HTTP\n  - port: 81\n    nodePort: 30001\n  - port: 82\n    name: a\n    targetPort: 0x\n  - port: 82\n    name: b\n    targetPort: -1\n";
    assert_eq!(
        service(ports),
        [
            "E 6 spec.ports[0].port: 70000 is not a port",
            "E 9 spec.ports[1].name: `A` is not a port's name",
            "E 10 spec.ports[1].protocol: `HTTP` is not a protocol",
            "E 12 spec.ports[2].nodePort: a Service of type ClusterIP has no node ports",
            "E 11 spec.ports[2].name: missing: a Service with several ports needs a name for each",
            "E 14 spec.ports[3].name: the name `a` is taken by another port",
            "E 18 spec.ports[4].targetPort: -1 is not a port",
            "E 16 spec.ports[4].port: TCP 82 is there already",
        ]
    );
    let ports = "  type: NodePort\n  ports:\n  - {name: a, port: 53, nodePort: 30053}\n  - {name: b, port: 53, nodePort: 30053, protocol: UDP}\n  - {name: c, port: 54, nodePort: 30053}\n  - {name: d, port: 55, nodePort: 80}\n";
    assert_eq!(
        service(ports),
        [
            "E 9 spec.ports[2].nodePort: 30053 is there already",
            "E 10 spec.ports[3].nodePort: 80 is not a node port",
        ]
    );
}

#[test]
fn addresses_of_services() {
    let spec = "  type: Loadbalancer\n  clusterIP: 10.96.0\n  externalIPs:\n  - 192.168.96.50\n  - 127.0.0.1\n  - web\n  ports: [{port: 80}]\n";
    assert_eq!(
        service(spec),
        [
            "E 5 spec.type: `Loadbalancer` is not a type of Service",
            "E 6 spec.clusterIP: `10.96.0` is not an IP address",
            "E 9 spec.externalIPs[1]: 127.0.0.1 cannot be reached from outside",
            "E 10 spec.externalIPs[2]: `web` is not an IP address",
        ]
    );
    let pending =
        "  type: LoadBalancer\n  clusterIP: 10.96.0.1\n  ports: [{port: 80, nodePort: 30001}]\n";
    assert_eq!(
        service(pending),
        [
            "I 5 spec.type: load balancer address pending: no provider; reachable through node port 30001, cluster IP 10.96.0.1"
        ]
    );
    assert_eq!(service("  clusterIP: None\n"), [""; 0]);
}

#[test]
fn names_of_objects() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: 1web\n  namespace: My\nspec: {ports: [{port: 80}]}\n";
    assert_eq!(
        all(text),
        [
            "E 5 metadata.namespace: `My` is not a namespace",
            "E 4 metadata.name: `1web` is not a Service's name",
        ]
    );
}

#[test]
fn gateways() {
    assert_eq!(
        istio("Gateway", "  selector: {a: b}\n"),
        ["E 4 spec.servers: no servers"]
    );
    let servers = "  servers:\n  - port: {number: 0, protocol: HTTQ}\n  - port: {number: 80, name: http, protocol: http}\n    bind: 10.0.0.1\n    hosts: ['*/*.x', 'a b', 'ns/', a.*]\n";
    assert_eq!(
        istio("Gateway", servers),
        [
            "E 6 spec.servers[0].port.number: 0 is not a port",
            "E 6 spec.servers[0].port.protocol: `HTTQ` is not a protocol",
            "E 6 spec.servers[0].port.name: missing",
            "E 6 spec.servers[0].hosts: no hosts",
            "E 9 spec.servers[1].hosts[1]: `a b` is not a host",
            "E 9 spec.servers[1].hosts[2]: `ns/` is not a host",
            "E 9 spec.servers[1].hosts[3]: `a.*` is not a host",
            "W 8 spec.servers[1].bind: not supported by this version; this server is left out",
        ]
    );
}

#[test]
fn virtual_services() {
    assert_eq!(
        istio("VirtualService", "  gateways: [g]\n"),
        ["E 4 spec.hosts: no hosts", "E 4 spec: no routes",]
    );
    let http = "  hosts: ['a.*', A.x, a.x]\n  gateways: [g]\n  http:\n  - match: [{uri: {}}, {uri: {prefix: a}, port: 99999}]\n  - route:\n    - {destination: {host: ''}, weight: -1}\n    - {destination: {host: '*.x'}}\n  - redirect: {uri: /}\n  - route:\n    - destination: {host: a}\n    - destination: {host: b}\n    mirror: {host: c}\n";
    assert_eq!(
        istio("VirtualService", http),
        [
            "E 5 spec.hosts[0]: `a.*` is not a host",
            "E 5 spec.hosts[2]: `a.x` is there already",
            "E 8 spec.http[0]: leads nowhere",
            "E 8 spec.http[0].match[0].uri: says nothing",
            "W 8 spec.http[0].match[1].uri.prefix: `a` matches no request: every path begins with `/`",
            "E 8 spec.http[0].match[1].port: 99999 is not a port",
            "E 10 spec.http[1].route[0].destination.host: missing",
            "E 10 spec.http[1].route[0].weight: -1 is not a weight",
            "E 11 spec.http[1].route[1].destination.host: `*.x` is not a host",
            "E 12 spec.http[2].redirect: not supported by this version, and without it there is no answer to give",
            "W 16 spec.http[3].mirror: not supported by this version; ignored",
            "E 13 spec.http[3].route: all weights are 0: nothing would get any traffic",
        ]
    );
    let tcp = "  hosts: [a]\n  tls: [{}]\n  tcp:\n  - match: [{port: 1, sourceSubnet: 10.0.0.0/8}]\n    route: [{destination: {host: a}}]\n";
    assert_eq!(
        istio("VirtualService", tcp),
        [
            "I 4 spec.gateways: names no Gateway, so no gateway applies it: traffic between pods is not routed by this version",
            "W 6 spec.tls: not supported by this version; ignored",
            "W 8 spec.tcp[0].match[0].sourceSubnet: has no effect on a gateway, in Istio neither; ignored",
        ]
    );
}

#[test]
fn destination_rules() {
    let spec = "  trafficPolicy: {}\n  subsets:\n  - name: v1\n  - name: v1\n  - {}\n";
    assert_eq!(
        istio("DestinationRule", spec),
        [
            "E 4 spec.host: missing",
            "W 5 spec.trafficPolicy: not supported by this version; ignored",
            "E 8 spec.subsets[1].name: the subset `v1` is there already",
            "E 9 spec.subsets[2].name: `` is not a subset's name",
        ]
    );
}
