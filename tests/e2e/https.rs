//! HTTPS at the gateway: certificates of Secrets, by node port and cluster IP, with curl as people use it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tempfile::TempDir;

use crate::{
    Case, one_node, same,
    scene::{Answer, Scene, wait},
};

pub(crate) const CASES: &[Case] = &[
    ("https_by_node_port_and_cluster_ip", one_node("s1"), answers),
    (
        "https_clients_show_certificates",
        one_node("s1"),
        certificates,
    ),
    (
        "https_a_new_certificate_is_shown_at_once",
        one_node("s1"),
        rotated,
    ),
];

const NODE: &str = "192.168.170.137";
const NODE_PORT: u16 = 30443;
const CLUSTER_IP: &str = "10.96.190.18";
const HOST: &str = "web.example.com";

/// The gateway's Service with a port for TLS, and servers there.
const OBJECTS: &str = "apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system, labels: {app: istio-ingressgateway, istio: ingressgateway}}
spec:
  type: NodePort
  clusterIP: 10.96.190.18
  clusterIPs: [10.96.190.18]
  selector: {app: istio-ingressgateway, istio: ingressgateway}
  ports:
  - {name: http2, port: 80, targetPort: 8080, nodePort: 31373}
  - {name: https, port: 443, targetPort: 8443, nodePort: 30443}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: simple}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [web.example.com]
    tls: {mode: SIMPLE, credentialName: web}
  - port: {number: 443, name: mutual, protocol: HTTPS}
    hosts: [mutual.example.com]
    tls: {mode: MUTUAL, credentialName: web}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure, namespace: simple}
spec:
  hosts: [web.example.com, mutual.example.com]
  gateways: [secure]
  http: [{route: [{destination: {host: nginx}}]}]
";

/// An authority, and files with what it has issued.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        // OpenSSL takes a certificate for self-signed whose issuer has the name of its subject.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            directory: tempfile::tempdir()?,
        };
        fs::write(authority.file("ca.pem"), authority.issuer.pem())?;
        let (certificate, key) = authority.issue("client.example.com")?;
        fs::write(authority.file("client.pem"), certificate)?;
        fs::write(authority.file("client.key"), key)?;
        Ok(authority)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str) -> anyhow::Result<(String, String)> {
        let names = [name, HOST, "mutual.example.com"].map(ToOwned::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The Secret `web` with a new certificate.
    fn secret(&self) -> anyhow::Result<String> {
        let (certificate, key) = self.issue(HOST)?;
        let data = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "web", "namespace": "istio-system"},
            "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": self.issuer.pem()},
        });
        Ok(data.to_string())
    }
}

/// Serves HTTPS with certificates of a new authority.
fn begin(scene: &Scene) -> anyhow::Result<Authority> {
    let authority = Authority::new("first")?;
    let report = scene.testbed.apply_text(&authority.secret()?)?;
    ensure!(!report.has_errors(), "{report:?}");
    let report = scene.testbed.apply_text(OBJECTS)?;
    ensure!(!report.has_errors(), "{report:?}");
    let mut last = None;
    wait(|| {
        let answer = ask(scene, "client", &authority, HOST, NODE, NODE_PORT, &[])?;
        let is_served = answer.status == 200;
        last = Some(answer);
        Ok(is_served.then_some(()))
    })
    .with_context(|| format!("the last answer is {last:?}"))?;
    Ok(authority)
}

/// A request for a name, which curl believes to have this address.
fn ask(
    scene: &Scene,
    from: &str,
    authority: &Authority,
    name: &str,
    address: &str,
    port: u16,
    options: &[&str],
) -> anyhow::Result<Answer> {
    let (resolve, url) = (
        format!("{name}:{port}:{address}"),
        format!("https://{name}:{port}/"),
    );
    let ca = authority.path("ca.pem");
    let fixed = ["--resolve", &resolve, "--cacert", &ca, &url];
    let all: Vec<_> = fixed.iter().chain(options).copied().collect();
    scene.curl(from, &all)
}

fn answers(scene: &Scene) -> anyhow::Result<()> {
    let authority = begin(scene)?;
    let (pod, _) = scene.pod("simple", "simple")?;
    for (from, address, port) in [
        ("client", NODE, NODE_PORT),
        ("node1", CLUSTER_IP, 443),
        (&pod, CLUSTER_IP, 443),
    ] {
        for version in ["--http1.1", "--http2"] {
            let answer = ask(scene, from, &authority, HOST, address, port, &[version])?;
            same!(answer.status, 200, "{version} from {from}");
            ensure!(answer.body.contains("Welcome to nginx!"), "{answer:?}");
        }
    }
    // A name that no server has, and plain text.
    let answer = ask(
        scene,
        "client",
        &authority,
        "other.example.com",
        NODE,
        NODE_PORT,
        &[],
    )?;
    same!(answer.exit, 35, "a name of nobody");
    let answer = scene.get("client", HOST, &format!("http://{NODE}:{NODE_PORT}/"))?;
    same!(answer.status, 0, "plain text");
    let explained = scene.run(
        "node1",
        Program::Nodegate,
        &[
            "explain",
            "external",
            &format!("https://{NODE}:{NODE_PORT}/"),
            "--host",
            HOST,
        ],
    )?;
    ensure!(
        explained.contains("the server for web.example.com"),
        "{explained}"
    );
    Ok(())
}

fn certificates(scene: &Scene) -> anyhow::Result<()> {
    let authority = begin(scene)?;
    let stranger = Authority::new("stranger")?;
    let name = "mutual.example.com";
    let without = ask(scene, "client", &authority, name, NODE, NODE_PORT, &[])?;
    same!(without.status, 0, "without a certificate");
    for (owner, expected) in [(&authority, 200), (&stranger, 0)] {
        let (certificate, key) = (owner.path("client.pem"), owner.path("client.key"));
        let options = ["--cert", &*certificate, "--key", &*key];
        let answer = ask(scene, "client", &authority, name, NODE, NODE_PORT, &options)?;
        same!(answer.status, expected, "with a certificate");
    }
    Ok(())
}

fn rotated(scene: &Scene) -> anyhow::Result<()> {
    let first = begin(scene)?;
    let second = Authority::new("second")?;
    scene.testbed.apply_text(&second.secret()?)?;
    wait(|| {
        let answer = ask(scene, "client", &second, HOST, NODE, NODE_PORT, &[])?;
        Ok((answer.status == 200).then_some(()))
    })?;
    // The old authority's is not shown any more.
    let answer = ask(scene, "client", &first, HOST, NODE, NODE_PORT, &[])?;
    same!(answer.exit, 60, "the certificate of the second authority");
    // Without the Secret its hosts are closed, and others go on.
    scene
        .testbed
        .delete_object("Secret", "istio-system", "web")?;
    wait(|| {
        let answer = ask(scene, "client", &second, HOST, NODE, NODE_PORT, &[])?;
        Ok((answer.exit == 35).then_some(()))
    })?;
    let clear = scene.get(
        "client",
        "simple.baihl.io",
        "http://192.168.170.137:31373/simple/nginx",
    )?;
    same!(clear.status, 200, "another server");
    let told = scene.diagnostics(&scene.gateway()?)?;
    ensure!(
        told.iter()
            .any(|told| told.contains("Secret istio-system/web is not in")),
        "{told:?}"
    );
    Ok(())
}
