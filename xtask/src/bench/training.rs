//! Traffic for a build that notes what is done how often: what gateways mostly do, and some of all else,
//! so that nothing is taken for something that never happens.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::traffic::{Questions, table};

use super::{
    Traffic,
    proxies::{Programs, Proxy, Table, free_address},
};
use crate::{binaries, setup};

/// Requests for the table of routes, and of each other kind.
const ORDINARY: u64 = 60_000;
const OTHERS: u32 = 1_500;
/// Hosts in the table.
const HOSTS: usize = 200;
/// CPUs, as for measuring.
const PROXY_CPU: usize = 1;
const TRAFFIC_CPU: usize = 0;
/// How long a listener may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the program, which leaves its notes as the environment variables say.
pub(crate) fn train(program: &Path, environment: &[(&str, &Path)]) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut traffic = Traffic::start(&binaries::traffic()?, TRAFFIC_CPU)?;
    let served = Table {
        directory: directory.path().to_owned(),
        endpoints: traffic.ports()?,
        hosts: table::hosts(HOSTS),
    };
    let programs = Programs {
        nodegate: program.to_owned(),
        ..Programs::default()
    };
    let noting = |mut nodegate: Command| {
        nodegate.envs(environment.iter().copied());
        nodegate
    };
    let proxy = Proxy::start_changed(noting, &programs, &served, PROXY_CPU)?;
    let questions = Questions {
        proxy: proxy.address,
        clients: 64,
        at_once: 64,
        requests: ORDINARY,
        hosts: served.hosts.clone(),
        path: table::PATH.into(),
    };
    traffic.verified(&questions, "nodegate")?;
    let manifests = directory.path().join("changed/manifests/others.yaml");
    others(proxy.address, &manifests)?;
    proxy.end()
}

/// Bodies, chunks and HTTP/2, which go through the proxy to a route of its own that answers.
fn others(proxy: SocketAddr, manifests: &Path) -> anyhow::Result<()> {
    let answering = free_address()?;
    // Written whole: it is read at any time.
    let aside = manifests.with_extension("new");
    fs::write(&aside, other_routes(proxy.port(), answering.port()))?;
    fs::rename(&aside, manifests)?;
    wait_for(answering)?;
    http1(proxy)?;
    http2(proxy, &manifests.with_extension("body"))
}

fn http1(proxy: SocketAddr) -> anyhow::Result<()> {
    let chunked = "transfer-encoding: chunked";
    let kinds: [&[&str]; 3] = [
        &["--data", BODY],
        &["--data", BODY, "--header", chunked],
        &["--head"],
    ];
    for kind in kinds {
        let status = setup::command(Program::Curl)?
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--output",
                "/dev/null",
            ])
            .args(["--max-time", "120", "--header", &format!("host: {HOST}")])
            .args(kind)
            .arg(format!("http://{proxy}/others?[1-{OTHERS}]"))
            .stdin(Stdio::null())
            .status()
            .context("starting curl")?;
        ensure!(status.success(), "curl {}: {status}", kind.join(" "));
    }
    Ok(())
}

fn http2(proxy: SocketAddr, body: &Path) -> anyhow::Result<()> {
    fs::write(body, BODY)?;
    for with_body in [false, true] {
        let mut load = setup::command(Program::H2load)?;
        load.args(["--clients", "8", "--max-concurrent-streams", "4"])
            .args(["--requests", &OTHERS.to_string()])
            .args(["--header", &format!(":authority: {HOST}")]);
        if with_body {
            load.arg("--data").arg(body);
        }
        let output = load
            .arg(format!("http://{proxy}/others"))
            .stdin(Stdio::null())
            .output()
            .context("starting h2load")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let good = format!("{OTHERS} 2xx");
        ensure!(said.contains(&good), "h2load, not {good}: {said}");
    }
    Ok(())
}

/// Who is asked for other things than the table's.
const HOST: &str = "others.example.com";
/// What is posted.
const BODY: &str = "a=what a form has in it, or a small question in JSON; it need not be much";

/// A host whose requests go to another port of the same gateway, where they have their answer.
fn other_routes(listen: u16, answering: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: answering, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {answering}, name: http, protocol: HTTP}}
      hosts: ['*/*']
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: others, namespace: default}}
spec:
  hosts: [answering.example]
  resolution: STATIC
  ports: [{{name: http, number: {listen}, protocol: HTTP, targetPort: {answering}}}]
  endpoints: [{{address: {localhost}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: others, namespace: default}}
spec:
  hosts: [{HOST}]
  gateways: [web]
  http:
    - route: [{{destination: {{host: answering.example}}}}]
      retries: {{attempts: 2, retryOn: 5xx}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: answering, namespace: default}}
spec:
  hosts: ['*']
  gateways: [answering]
  http:
    - directResponse: {{status: 200, body: {{string: an answer}}}}
      headers: {{response: {{set: {{x-answered: 'yes'}}}}}}
",
        localhost = Ipv4Addr::LOCALHOST,
    )
}

fn wait_for(address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < deadline, "nobody listens on {address}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
