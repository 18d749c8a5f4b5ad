//! Istio's own gateway and nodegate, given the same objects by the same API server, and the same requests.

use std::{
    net::IpAddr,
    process::{Child, Stdio},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use nodegate_testbed::{
    cluster::{Cluster, GATEWAY, Istio, Options, parts::Parts},
    environment,
};

use crate::services::{options, web};

/// Where nodegate runs: a host with routes to pods.
const HOST: &str = "node1";

/// What is applied once, for both. There is no Service in front of a gateway, so ports are as they stand here.
const OBJECTS: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: [shop.test]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.test]
  gateways: [shop]
  http:
  - match: [{uri: {prefix: /who}}]
    rewrite: {uri: /hostname}
    route: [{destination: {host: web, port: {number: 80}}}]
    headers:
      response: {set: {x-shop: open}, remove: [content-type]}
  - match: [{uri: {exact: /old}, queryParams: {page: {regex: '[0-9]+'}}}]
    redirect: {uri: /new, authority: shop.example, redirectCode: 308}
  - match: [{uri: {prefix: /closed}, headers: {x-staff: {exact: 'yes'}}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {regex: '/echo.*'}, method: {exact: GET}}]
    route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
";

/// Refused by Istio: a route that leads to two places.
const REFUSED: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: refused, namespace: default}
spec:
  hosts: [refused.test]
  gateways: [shop]
  http:
  - redirect: {uri: /}
    route: [{destination: {host: web}}]
";

/// A request.
struct Request {
    host: &'static str,
    target: &'static str,
    /// Further arguments of curl.
    more: &'static [&'static str],
}

const fn shop(target: &'static str, more: &'static [&'static str]) -> Request {
    Request {
        host: "shop.test",
        target,
        more,
    }
}

/// Requests, and the status that both must answer with.
const REQUESTS: [(Request, &str); 9] = [
    (shop("/who", &[]), "200"),
    (shop("/who?and=more", &["-H", "x-shop: closed"]), "200"),
    (shop("/old?page=12", &[]), "308"),
    (shop("/old?page=x", &[]), "404"),
    (shop("/closed", &[]), "404"),
    (shop("/closed/door", &["-H", "x-staff: yes"]), "418"),
    (shop("/echo?msg=a", &[]), "503"),
    (shop("/echo?msg=a", &["-X", "POST"]), "404"),
    (
        Request {
            host: "elsewhere.test",
            ..shop("/who", &[])
        },
        "404",
    ),
];

/// Headers whose values no two answers have in common.
const VARYING: [&str; 2] = ["date", "x-envoy-upstream-service-time"];

/// A nodegate that is a gateway, until this is dropped.
struct Nodegate(Child);

impl Nodegate {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let state = cluster.names().state();
        let mut command = own(crate::nodegate()?);
        command
            .args(["run", "--role", "proxy", "--source", "kubernetes"])
            .args(["--node-name", HOST])
            .arg("--kubeconfig")
            .arg(state.join("pki/admin.conf"))
            .arg("--admin")
            .arg(state.join("nodegate.sock"));
        let mut command = cluster.enter(HOST, command)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("starting nodegate")?))
    }
}

impl Drop for Nodegate {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn same_answers(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 1,
        kube_proxy: None,
        istio: Some(Istio::new(environment::envoy()?)),
        ..options(name, parts)
    })?;
    web(&cluster, 1)?;
    cluster.apply(OBJECTS)?;
    let nodegate = Nodegate::start(&cluster)?;
    let (istio, ours) = (address(&cluster, GATEWAY)?, address(&cluster, HOST)?);
    for (who, address) in [("Istio", istio), ("nodegate", ours)] {
        let (ready, _) = &REQUESTS[0];
        let mut last = String::new();
        let answered = patience::until(|| {
            last = curl(&cluster, address, ready).unwrap_or_else(|error| format!("{error:#}"));
            last.starts_with("HTTP/1.1 200").then_some(())
        });
        answered.with_context(|| format!("{who} has not got the objects: {last}"))?;
    }
    for (request, status) in &REQUESTS {
        let theirs = curl(&cluster, istio, request)?;
        ensure!(
            theirs.starts_with(&format!("HTTP/1.1 {status}")),
            "{} gets no {status} from Istio: {theirs}",
            request.target
        );
        let answer = curl(&cluster, ours, request)?;
        ensure!(
            theirs == answer,
            "{}\nIstio: {theirs}\nnodegate: {answer}",
            request.target
        );
    }
    refused(&cluster)?;
    drop(nodegate);
    cluster.down()
}

/// What Istio refuses is not there for nodegate either.
fn refused(cluster: &Cluster) -> anyhow::Result<()> {
    let error = cluster.apply(REFUSED).expect_err("it leads to two places");
    let error = format!("{error:#}");
    ensure!(
        error.contains("rev.validation.istio.io") && error.contains("redirect"),
        "{error}"
    );
    let there = cluster.ask(&["get", "virtualservices", "-o", "name"])?;
    ensure!(
        there.trim() == "virtualservice.networking.istio.io/shop",
        "{there}"
    );
    Ok(())
}

/// A whole answer, but for reason phrases, the order of headers, and what always varies.
fn curl(cluster: &Cluster, address: IpAddr, request: &Request) -> anyhow::Result<String> {
    let limit = patience::limit().as_secs().to_string();
    let (host, url) = (
        format!("host: {}", request.host),
        format!("http://{address}:8080{}", request.target),
    );
    let words = ["-sSim", &limit, "-H", &host, &url];
    let output = cluster.exec("client", Program::Curl, [&words, request.more].concat())?;
    ensure!(
        output.status.success(),
        "{url}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").context("an answer has a head")?;
    let (status, headers) = head.split_once('\n').context("an answer has headers")?;
    let status: Vec<_> = status.split(' ').take(2).collect();
    let varies = |line: &&str| {
        let name = line.split(':').next();
        name.is_some_and(|name| VARYING.contains(&name))
    };
    let mut headers: Vec<_> = headers.lines().filter(|line| !varies(line)).collect();
    headers.sort_unstable();
    Ok(format!(
        "{}\n{}\n\n{body}",
        status.join(" "),
        headers.join("\n")
    ))
}

fn address(cluster: &Cluster, host: &str) -> anyhow::Result<IpAddr> {
    let hosts = cluster.hosts();
    let found = hosts.iter().find(|(name, _)| name == host);
    Ok(found.with_context(|| host.to_owned())?.1[0])
}
