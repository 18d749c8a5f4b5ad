//! What `kubectl apply` says of objects that nodegate would not serve, or not as they are meant.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use nodegate_testbed::cluster::Cluster;

use crate::deploy::rolled_out;

const NAMESPACE: &str = "nodegate-system";
const CONTROLLER: &str = "deployment/nodegate-controller";

/// A Gateway of the trial's own.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: asked, namespace: simple}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [asked.example]}]
";

/// A VirtualService that redirects with this code, as an older version of its API has it.
const REDIRECT: &str = "
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: asked, namespace: simple}
spec:
  hosts: [asked.example]
  gateways: [asked]
  http: [{redirect: {uri: /, redirectCode: CODE}}]
";

/// What kubectl says of an object: whether it was taken, and all its words.
fn apply(cluster: &Cluster, manifest: &str) -> anyhow::Result<(bool, String)> {
    let mut kubectl = cluster.kubectl()?;
    kubectl
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = kubectl.spawn().context("starting kubectl")?;
    let mut input = child.stdin.take().context("kubectl has no input")?;
    input.write_all(manifest.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}

/// Waits for words of kubectl's; where they come, the object was taken, or not, as it should be.
fn said(cluster: &Cluster, manifest: &str, taken: bool, words: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    let found = patience::try_until(|| -> anyhow::Result<_> {
        let (was_taken, said) = apply(cluster, manifest)?;
        let found = was_taken == taken && said.contains(words);
        last = said;
        Ok(found.then_some(()))
    });
    found.with_context(|| format!("{words:?}: {last}"))
}

/// With what `deploy/` installs, and without it again.
pub(crate) fn objects_are_checked(cluster: &Cluster) -> anyhow::Result<()> {
    rolled_out(cluster, NAMESPACE, CONTROLLER)?;
    let bad = REDIRECT.replace("CODE", "200");
    let good = REDIRECT.replace("CODE", "302");
    let denied =
        "admission webhook \"check.nodegate.io\" denied the request: spec.http[0].redirect";
    said(cluster, &bad, false, denied)?;
    for good in [GATEWAY, &good] {
        let (taken, words) = apply(cluster, good)?;
        ensure!(taken && words.is_empty(), "{taken}: {words}");
    }
    // Its Service may come with the next command.
    let redirect = "redirect: {uri: /, redirectCode: 302}";
    let elsewhere = good.replace(redirect, "route: [{destination: {host: nobody}}]");
    let (taken, warned) = apply(cluster, &elsewhere)?;
    let warning = "Warning: spec.http[0].route[0].destination.host: no Service has the host `nobody.simple.svc.cluster.local`; the last accepted version stays in force";
    ensure!(taken && warned.contains(warning), "{taken}: {warned}");
    renews_its_certificate(cluster, &bad, denied)?;

    // Without it all else works.
    let scale = ["scale", "-n", NAMESPACE, CONTROLLER];
    cluster.ask(&[&scale[..], &["--replicas=0"]].concat())?;
    said(cluster, &bad, true, "")?;
    cluster.ask(&[
        "delete",
        "virtualservice/asked",
        "gateway/asked",
        "-n",
        "simple",
    ])?;
    cluster.ask(&[&scale[..], &["--replicas=2"]].concat())?;
    rolled_out(cluster, NAMESPACE, CONTROLLER)
}

/// A certificate that is lost is made anew, and trusted.
fn renews_its_certificate(cluster: &Cluster, bad: &str, denied: &str) -> anyhow::Result<()> {
    let certificate = || {
        let path = "jsonpath={.data.tls\\.crt}";
        let secret = ["get", "secret", "nodegate-controller-certificate", "-n"];
        cluster.ask(&[&secret[..], &[NAMESPACE, "--ignore-not-found", "-o", path]].concat())
    };
    let before = certificate()?;
    ensure!(!before.is_empty(), "no certificate");
    let secret = "secret/nodegate-controller-certificate";
    cluster.ask(&["delete", "-n", NAMESPACE, secret])?;
    patience::try_until(|| -> anyhow::Result<_> {
        let now = certificate()?;
        Ok((!now.is_empty() && now != before).then_some(()))
    })
    .context("a new certificate")?;
    said(cluster, bad, false, denied)
}
