//! Servers of TLS.

use nodegate_model::gateway::{ClientCertificates, DownstreamTls, ListenerProtocol, TlsSource};

use super::{
    Cluster,
    gateway::{gateway, routes, service, to},
    listeners, messages,
};
use crate::ServiceScope;

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: istio-system}\nstringData: {tls.crt: chain, tls.key: key, ca.crt: authority, ca.crl: revocations}\n";

fn server(number: u16, name: &str, hosts: &str, tls: &str) -> String {
    format!(
        "{{port: {{number: {number}, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}"
    )
}

fn snapshot(texts: &[&str]) -> std::sync::Arc<nodegate_model::Snapshot> {
    let ports = [80, 81, 82, 443].map(|port| format!("{{name: p{port}, port: {port}}}"));
    let app = service("app", &ports.join(", "));
    let texts: Vec<_> = texts.iter().copied().chain([app.as_str()]).collect();
    Cluster::with(&texts).snapshot(&ServiceScope::All)
}

/// How each server of the first port speaks TLS.
fn tls(snapshot: &nodegate_model::Snapshot) -> Vec<&DownstreamTls> {
    let ListenerProtocol::Tls(listener) = &snapshot.gateway.listeners[0].protocol else {
        panic!("{:?}", snapshot.gateway.listeners);
    };
    let chains = listener.chains.iter();
    chains.filter_map(|chain| chain.protocol.tls()).collect()
}

fn content(source: &TlsSource) -> String {
    match source {
        TlsSource::File(path) => path.display().to_string(),
        TlsSource::Secret { name, content } => {
            format!("{name}: {}", String::from_utf8_lossy(content))
        }
        TlsSource::Missing { name, reason } => format!("{name} {reason}"),
    }
}

#[test]
fn each_server_of_https_has_routes_of_its_own() {
    let simple = "mode: SIMPLE, credentialName: web";
    let servers = [
        server(443, "a", "a.x", simple),
        server(443, "b", "'*.b.x', b.y", simple),
        server(443, "all", "'*'", simple),
    ];
    let snapshot = snapshot(&[
        SECRET,
        &gateway("g", &servers.join(", ")),
        &routes("v", "a.x", "g", &format!("  http:\n{}", to("/a"))),
        &routes("w", "'*'", "g", &format!("  http:\n{}", to("/w"))),
    ]);
    assert_eq!(messages(&snapshot), [""; 0]);
    let to = " -> outbound|443||app.default.svc.cluster.local*1";
    let lines: Vec<_> = listeners(&snapshot)
        .iter()
        .map(|line| line.replace(to, ""))
        .collect();
    assert_eq!(
        lines,
        [
            "443 ends https.443.a.g.default for [a.x]",
            "443 a.x:443 [a.x] /a* default/v#0",
            "443 a.x:443 [a.x] /w* default/w#0",
            "443 ends https.443.b.g.default for [*.b.x,b.y]",
            "443 *.b.x:443 [*.b.x] /w* default/w#0",
            "443 b.y:443 [b.y] /w* default/w#0",
            "443 ends https.443.all.g.default for []",
            "443 *:443 [*] /w* default/w#0",
            "443 a.x:443 [a.x] /a* default/v#0",
        ]
    );
}

#[test]
fn certificates_are_those_of_the_secret() {
    let server = server(
        443,
        "a",
        "a.x",
        "mode: MUTUAL, credentialName: 'kubernetes://web', minProtocolVersion: TLSV1_3, subjectAltNames: [c.x], verifyCertificateHash: ['AA:BB']",
    );
    // A fingerprint that is none takes the server down.
    let refused = snapshot(&[SECRET, &gateway("g", &server)]);
    assert!(refused.gateway.listeners.is_empty());
    let hash = "AB".repeat(32);
    let server = server.replace("AA:BB", &hash);
    let snapshot = snapshot(&[SECRET, &gateway("g", &server)]);
    assert_eq!(messages(&snapshot), [""; 0]);
    let tls = tls(&snapshot)[0];
    let own = &tls.certificates[0];
    assert_eq!(content(&own.chain), "web: chain");
    assert_eq!(content(&own.key), "web: key");
    let ClientCertificates::Required(clients) = &tls.clients else {
        panic!("{:?}", tls.clients);
    };
    assert_eq!(content(&clients.authorities), "web: authority");
    let revocations = clients.revocations.as_ref().map(content);
    assert_eq!(revocations.as_deref(), Some("web: revocations"));
    assert_eq!(clients.subject_alt_names, ["c.x"]);
    assert_eq!(clients.hashes, ["ab".repeat(32)]);
}

#[test]
fn authorities_may_be_in_a_secret_beside_it() {
    let beside = "apiVersion: v1\nkind: Secret\nmetadata: {name: web-cacert, namespace: istio-system}\nstringData: {cacert: beside}\n";
    let without = SECRET.replace(", ca.crt: authority, ca.crl: revocations", "");
    let server = server(
        443,
        "a",
        "a.x",
        "mode: OPTIONAL_MUTUAL, credentialName: web",
    );
    let gateway = gateway("g", &server);
    let found = snapshot(&[&without, beside, &gateway]);
    let ClientCertificates::Optional(clients) = &tls(&found)[0].clients else {
        panic!("{:?}", tls(&found)[0].clients);
    };
    assert_eq!(content(&clients.authorities), "web-cacert: beside");
    assert_eq!(
        messages(&snapshot(&[&without, &gateway])),
        [
            "warning: 1.yaml:6: Gateway default/g: spec.servers[0].tls.credentialName: Secret istio-system/web has no ca.crt: connections to a.x are closed (fix: kubectl create secret generic web -n istio-system --from-file=tls.crt --from-file=tls.key --from-file=ca.crt)"
        ]
    );
}

#[test]
fn a_secret_of_another_namespace_is_not_looked_at() {
    let elsewhere = SECRET.replace("istio-system", "default");
    for name in ["web", "'kubernetes://default/web'"] {
        let tls = format!("mode: SIMPLE, credentialName: {name}");
        let server = server(443, "a", "a.x", &tls);
        let with = messages(&snapshot(&[&elsewhere, &gateway("g", &server)]));
        let without = messages(&snapshot(&["", &gateway("g", &server)]));
        assert_eq!(with, without);
        assert!(
            with[0].contains("is not in the gateway's namespace"),
            "{with:?}"
        );
    }
}

#[test]
fn a_name_has_one_server_at_a_port() {
    let simple = "mode: SIMPLE, credentialName: web";
    let servers = [
        server(443, "a", "a.x, b.x", simple),
        server(443, "b", "b.x, c.x", simple),
        server(8443, "c", "b.x", simple),
    ];
    let snapshot = snapshot(&[SECRET, &gateway("g", &servers.join(", "))]);
    assert_eq!(
        listeners(&snapshot),
        [
            "443 ends https.443.a.g.default for [a.x,b.x]",
            "8443 ends https.8443.c.g.default for [b.x]"
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "error: 1.yaml:6: Gateway default/g: spec.servers[1].hosts: `b.x` is at port 443 already, by Gateway default/g (servers[0]); this server is left out (fix: a name can have one server at a port)"
        ]
    );
}

#[test]
fn tls_is_passed_on_by_the_names_of_routes() {
    let passing = server(443, "tls", "'*.x'", "mode: PASSTHROUGH").replace("HTTPS", "TLS");
    let tls_routes = "  tls:\n  - match: [{sniHosts: [a.x, A2.x]}, {port: 444, sniHosts: [c.x]}]\n    route: [{destination: {host: app, port: {number: 80}}}]\n  - match: [{sniHosts: [b.x, a.x]}, {sniHosts: ['*.b.x']}]\n    route: [{destination: {host: app, port: {number: 81}}, weight: 1}, {destination: {host: app, port: {number: 82}}, weight: 3}]\n";
    let snapshot = snapshot(&[
        &gateway("g", &passing),
        &routes("v", "'*.x'", "g", tls_routes),
    ]);
    let app = |port| format!("outbound|{port}||app.default.svc.cluster.local");
    assert_eq!(
        listeners(&snapshot),
        [
            format!(
                "443 passes tls.443.v.default.0.0 for [a.x,a2.x] -> {}*1",
                app(80)
            ),
            format!(
                "443 passes tls.443.v.default.1.1 for [*.b.x] -> {}*1 {}*3",
                app(81),
                app(82)
            ),
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 1.yaml:10: VirtualService default/v: spec.tls[1].match[0]: has no effect: tls[0] has a name of it (fix: remove one of them)"
        ]
    );
}

#[test]
fn what_is_inside_of_tls_may_be_no_http() {
    let server =
        server(443, "a", "a.x", "mode: SIMPLE, credentialName: web").replace("HTTPS", "TLS");
    let tcp = "  tcp:\n  - match: [{port: 443}]\n    route: [{destination: {host: app}}]\n";
    let gateway = gateway("g", &server);
    let with = snapshot(&[SECRET, &gateway, &routes("v", "a.x", "g", tcp)]);
    assert_eq!(
        listeners(&with),
        [
            "443 ends https.443.a.g.default for [a.x] -> outbound|443||app.default.svc.cluster.local*1"
        ]
    );
    let without = snapshot(&[SECRET, &gateway]);
    assert!(without.gateway.listeners.is_empty());
    assert!(messages(&without)[0].contains("its connections are closed"));
}
