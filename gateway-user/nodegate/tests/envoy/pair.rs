//! A real Envoy and this proxy, side by side before the same endpoints, from the same manifests.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZero,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, compile};
use nodegate_export::envoy;
use nodegate_model::Snapshot;
use nodegate_proxy::{Options, Parity, Proxy};
use nodegate_resources::admission::Store;
use nodegate_source::directory::Directory;
use nodegate_values::diagnostic::{Diagnostic, Severity};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    client::{self, Answer},
    http2,
    log::{self, EnvoyLog, Line, Records},
    upstream::{Copies, Upstreams},
};

/// Both have the same ports on loopback addresses of their own, so that nothing in the manifests has
/// to differ; both see the same client.
const ENVOY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NODEGATE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// This proxy again, with all options that make it do as Envoy does.
const WITH_PARITY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// The two, serving.
#[derive(Debug)]
pub(crate) struct Pair {
    places: Places,
    log: EnvoyLog,
    records: Records,
    records_with_parity: Records,
    // Ended in this order.
    _envoy: Envoy,
    proxies: Vec<Proxy>,
    runtime: Option<Runtime>,
}

/// Numbers that manifests and requests name as `{{name}}`: `port`, the port of Gateways; `tls-port`,
/// that of a Gateway that sends clients to https; `https-port`, that of one that speaks TLS; and the endpoints'
/// ports, by their names. Long texts are `{{a*20000}}` and `{{a*70000}}`; `{{certificates}}` is the directory of
/// certificates, and `{{client-hash}}` the fingerprint of the client's.
#[derive(Debug)]
pub(crate) struct Places {
    numbers: BTreeMap<&'static str, u16>,
    upstreams: Upstreams,
}

/// What both answered.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    pub(crate) envoy: Answer,
    pub(crate) nodegate: Answer,
}

/// What both wrote down; none if nothing.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) envoy: Option<Line>,
    pub(crate) nodegate: Option<Line>,
}

impl Pair {
    /// Starts both with manifests: names of files and their texts.
    pub(crate) fn start(program: &Path, manifests: &[(String, String)]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let places = Places::new(runtime.block_on(Upstreams::start())?)?;
        let directory = tempfile::tempdir()?;
        for (name, text) in manifests {
            fs::write(directory.path().join(name), places.fill(text))?;
        }
        let (snapshot, mut bootstrap) = compiled(directory.path())?;
        let log = directory.path().join("access.log");
        log::configure(&mut bootstrap, &log);
        let ports: Vec<u16> = snapshot
            .gateway
            .listeners
            .iter()
            .map(|listener| listener.port)
            .collect();
        let start = |address, parity| -> anyhow::Result<Proxy> {
            let proxy = Proxy::start(Options {
                workers: NonZero::<usize>::MIN,
                address: Some(IpAddr::V4(address)),
                parity,
                extended_connect: true,
                ..Options::default()
            })?;
            let applied = runtime.block_on(proxy.apply(&snapshot));
            ensure!(applied.failures.is_empty(), "{:?}", applied.failures);
            Ok(proxy)
        };
        let proxy = start(NODEGATE, Parity::default())?;
        let with_parity = start(WITH_PARITY, Parity::all())?;
        let envoy = Envoy::start(program, directory, &bootstrap.to_string(), &ports)?;
        Ok(Self {
            places,
            log: EnvoyLog::open(&log)?,
            records: Records::of(proxy.tap()),
            records_with_parity: Records::of(with_parity.tap()),
            _envoy: envoy,
            proxies: vec![proxy, with_parity],
            runtime: Some(runtime),
        })
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// What clients may run on.
    pub(crate) fn runtime(&self) -> anyhow::Result<&Runtime> {
        self.runtime.as_ref().context("not running")
    }

    /// Sends both the same bytes.
    pub(crate) fn ask(&self, port: &str, request: &[u8]) -> anyhow::Result<Answers> {
        let port = *self.places.numbers.get(port).context("no such port")?;
        Ok(Answers {
            envoy: client::ask((ENVOY, port).into(), request).context("Envoy")?,
            nodegate: client::ask((NODEGATE, port).into(), request).context("nodegate")?,
        })
    }

    /// Sends the same bytes to Envoy and to the proxy that is to do as it does.
    pub(crate) fn ask_with_parity(&self, port: &str, request: &[u8]) -> anyhow::Result<Answers> {
        let port = *self.places.numbers.get(port).context("no such port")?;
        Ok(Answers {
            envoy: client::ask((ENVOY, port).into(), request).context("Envoy")?,
            nodegate: client::ask((WITH_PARITY, port).into(), request).context("nodegate")?,
        })
    }

    /// Where both listen: Envoy and this proxy.
    pub(crate) fn addresses(&self, port: &str) -> anyhow::Result<[SocketAddr; 2]> {
        let port = *self.places.numbers.get(port).context("no such port")?;
        Ok([(ENVOY, port).into(), (NODEGATE, port).into()])
    }

    /// Where Envoy listens, this proxy, and this proxy doing as Envoy does.
    pub(crate) fn all_addresses(&self, port: &str) -> anyhow::Result<[SocketAddr; 3]> {
        let port = *self.places.numbers.get(port).context("no such port")?;
        Ok([ENVOY, NODEGATE, WITH_PARITY].map(|address| (address, port).into()))
    }

    /// What the endpoint for copies has seen.
    pub(crate) fn copies(&self) -> &Copies {
        &self.places.upstreams.copies
    }

    /// Connects to both in HTTP/2.
    pub(crate) fn http2(&self, port: &str) -> anyhow::Result<Http2<'_>> {
        let port = *self.places.numbers.get(port).context("no such port")?;
        let runtime = self.runtime.as_ref().context("not running")?;
        let connect = |address| runtime.block_on(http2::Client::connect(address));
        Ok(Http2 {
            runtime,
            envoy: connect((ENVOY, port).into()).context("Envoy")?,
            nodegate: connect((NODEGATE, port).into()).context("nodegate")?,
        })
    }

    /// What comes of asking for a WebSocket in HTTP/2: with Envoy, this proxy, and this proxy doing as Envoy
    /// does.
    pub(crate) fn websockets(
        &self,
        path: &str,
        protocol: &'static str,
    ) -> anyhow::Result<[(Answer, String); 3]> {
        let port = *self.places.numbers.get("port").context("no such port")?;
        let runtime = self.runtime.as_ref().context("not running")?;
        let ask = |address| {
            let asked = http2::websocket((address, port).into(), path, protocol);
            let asked = runtime.block_on(asked);
            asked.map_err(|error| anyhow::anyhow!("{address}, {path}, {protocol}: {error:#}"))
        };
        Ok([ask(ENVOY)?, ask(NODEGATE)?, ask(WITH_PARITY)?])
    }

    /// Settings that both begin an HTTP/2 connection with.
    pub(crate) fn settings(&self) -> anyhow::Result<[BTreeMap<u16, u32>; 2]> {
        let port = *self.places.numbers.get("port").context("no such port")?;
        let runtime = self.runtime.as_ref().context("not running")?;
        Ok([
            runtime.block_on(http2::settings((ENVOY, port).into()))?,
            runtime.block_on(http2::settings((NODEGATE, port).into()))?,
        ])
    }

    /// What both wrote down about a request that they have answered.
    pub(crate) fn lines(&self, answers: &Answers) -> anyhow::Result<Lines> {
        self.lines_of(&self.records, answers)
    }

    /// The same, after [`Self::ask_with_parity`].
    pub(crate) fn lines_with_parity(&self, answers: &Answers) -> anyhow::Result<Lines> {
        self.lines_of(&self.records_with_parity, answers)
    }

    fn lines_of(&self, records: &Records, answers: &Answers) -> anyhow::Result<Lines> {
        let runtime = self.runtime.as_ref().context("not running")?;
        Ok(Lines {
            envoy: self.log.take(&answers.envoy)?,
            nodegate: records.take(runtime, &answers.nodegate),
        })
    }
}

/// A connection to each.
#[derive(Debug)]
pub(crate) struct Http2<'a> {
    runtime: &'a Runtime,
    envoy: http2::Client,
    nodegate: http2::Client,
}

impl Http2<'_> {
    /// Asks both the same.
    pub(crate) fn ask(&mut self, request: &Request<Full<Bytes>>) -> anyhow::Result<Answers> {
        let envoy = self.runtime.block_on(self.envoy.ask(request.clone()));
        let nodegate = self.runtime.block_on(self.nodegate.ask(request.clone()));
        Ok(Answers {
            envoy: envoy.context("Envoy")?,
            nodegate: nodegate.context("nodegate")?,
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.proxies.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Places {
    fn new(upstreams: Upstreams) -> io::Result<Self> {
        let mut numbers = upstreams.ports.clone();
        for name in ["port", "tls-port", "https-port"] {
            // Free with one is as good as free with both: nobody else has these addresses.
            let socket = TcpListener::bind((ENVOY, 0))?;
            numbers.insert(name, socket.local_addr()?.port());
        }
        Ok(Self { numbers, upstreams })
    }

    /// The directory of certificates.
    pub(crate) fn certificates(&self) -> &Path {
        self.upstreams.certificates.directory.path()
    }

    /// Puts the numbers in.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, number) in &self.numbers {
            text = text.replace(&format!("{{{{{name}}}}}"), &number.to_string());
        }
        let certificates = self.upstreams.certificates.directory.path();
        text = text.replace("{{certificates}}", &certificates.to_string_lossy());
        let hash = &self.upstreams.certificates.client_hash;
        text = text.replace("{{client-hash}}", hash);
        for length in [20_000, 70_000] {
            text = text.replace(&format!("{{{{a*{length}}}}}"), &"a".repeat(length));
        }
        text
    }
}

/// What manifests mean for either of the two.
fn compiled(directory: &Path) -> anyhow::Result<(Snapshot, Value)> {
    let mut source = Directory::new(vec![directory.to_owned()])?;
    let scan = source.scan();
    let mut store = Store::default();
    let resources = store.admit(source.manifests(), scan.diagnostics);
    let gateway = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "istio-ingressgateway".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ..GatewayIdentity::default()
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&gateway), &ServiceScope::Gateway);
    // What Istio's webhook does not admit is served where it is in force, as istiod does it.
    let is_served = |diagnostic: &&Diagnostic| diagnostic.message.contains("is not admitted, as");
    let errors = compiled.diagnostics.iter();
    let errors = errors.filter(|diagnostic| diagnostic.severity > Severity::Warning);
    let errors: Vec<_> = errors
        .filter(|error| !is_served(error))
        .map(ToString::to_string)
        .collect();
    if !errors.is_empty() {
        bail!("manifests were refused:\n{}", errors.join("\n"));
    }
    let options = envoy::ExportOptions {
        listen: IpAddr::V4(ENVOY),
        admin_port: 0,
        extended_connect: true,
    };
    let bootstrap = envoy::bootstrap(&compiled.gateway, options);
    let snapshot = Snapshot {
        generation: 1,
        node: compiled.node,
        services: compiled.services,
        gateway: compiled.gateway,
        diagnostics: compiled.diagnostics,
    };
    Ok((snapshot, bootstrap))
}

/// A running Envoy; ended when dropped.
#[derive(Debug)]
struct Envoy {
    process: Child,
    directory: TempDir,
}

impl Envoy {
    fn start(
        program: &Path,
        directory: TempDir,
        bootstrap: &str,
        ports: &[u16],
    ) -> anyhow::Result<Self> {
        let config = directory.path().join("bootstrap.json");
        let log = directory.path().join("envoy.log");
        fs::write(&config, bootstrap)?;
        let process = nodegate_programs::Program::Envoy
            .at(program)
            .arg("--config-path")
            .arg(&config)
            .args(["--concurrency", "1", "--log-level", "error"])
            .args(["--disable-hot-restart", "--file-flush-interval-msec", "5"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut envoy = Self { process, directory };
        let deadline = patience::Deadline::new();
        for &port in ports {
            while TcpStream::connect(SocketAddr::from((ENVOY, port))).is_err() {
                if let Some(status) = envoy.process.try_wait()? {
                    bail!("Envoy has ended ({status}): {}", envoy.log(&log)?);
                }
                ensure!(
                    !deadline.passed(),
                    "Envoy doesn't listen on port {port}: {}",
                    envoy.log(&log)?
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(envoy)
    }

    /// What it has said, as far as it helps.
    fn log(&self, log: &PathBuf) -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(log)?.read_to_string(&mut text)?;
        let config = self.directory.path().join("bootstrap.json");
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("envoy.json");
        fs::copy(config, &kept)?;
        text.push_str("its configuration: ");
        text.push_str(&kept.to_string_lossy());
        Ok(text)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself, which its tests have noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
