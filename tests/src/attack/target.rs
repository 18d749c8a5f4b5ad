//! A proxy under attack: nodegate, or an Envoy that does what nodegate says that it does.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use tempfile::TempDir;

use super::endpoint::Endpoint;
use crate::{measure, process};

/// As long as Envoy is waited for.
const ENVOY: Duration = Duration::from_secs(3);

/// A gateway with a port for plain HTTP and one for TLS, before one endpoint. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) plain: SocketAddr,
    pub(super) secure: SocketAddr,
    pub(super) endpoint: Endpoint,
    /// How long to wait for what must come. Of Envoy nothing must.
    pub(super) patience: Duration,
    process: Child,
    directory: TempDir,
}

/// What is started.
#[derive(Clone, Debug)]
pub(super) enum Proxy {
    /// nodegate's binary.
    Nodegate(PathBuf),
    /// Envoy's, and the nodegate that writes its configuration.
    Envoy {
        /// Envoy.
        envoy: PathBuf,
        /// nodegate.
        nodegate: PathBuf,
    },
}

// === impl Target ===

impl Target {
    /// Starts it; it serves when this returns.
    pub(super) fn start(proxy: &Proxy) -> anyhow::Result<Self> {
        let endpoint = Endpoint::start()?;
        let directory = tempfile::tempdir()?;
        let (plain, secure) = (free_port()?, free_port()?);
        let manifests = directory.path().join("manifests");
        fs::create_dir(&manifests)?;
        let (certificate, key) = (
            directory.path().join("cert.pem"),
            directory.path().join("key.pem"),
        );
        let certified = rcgen::generate_simple_self_signed(vec!["secure.test".to_owned()])?;
        fs::write(&certificate, certified.cert.pem())?;
        fs::write(&key, certified.signing_key.serialize_pem())?;
        let text = manifest(plain, secure, endpoint.address.port(), (&certificate, &key));
        fs::write(manifests.join("gateway.yaml"), text)?;
        let mut command = match proxy {
            Proxy::Nodegate(nodegate) => run(nodegate, directory.path(), &manifests),
            Proxy::Envoy { envoy, nodegate } => {
                configured(envoy, nodegate, directory.path(), &manifests)?
            }
        };
        let log = directory.path().join("log");
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let mut target = Self {
            plain: (Ipv4Addr::LOCALHOST, plain).into(),
            secure: (Ipv4Addr::LOCALHOST, secure).into(),
            endpoint,
            patience: match proxy {
                Proxy::Nodegate(_) => patience::limit(),
                Proxy::Envoy { .. } => ENVOY,
            },
            process,
            directory,
        };
        for address in [target.plain, target.secure] {
            patience::try_until(|| {
                if TcpStream::connect(address).is_ok() {
                    return Ok(Some(()));
                }
                ensure!(target.is_alive()?, "it has ended; {}", process::tail(&log));
                Ok(None)
            })
            .with_context(|| format!("{address}: {}", process::tail(&log)))?;
        }
        Ok(target)
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Memory that it has to itself, in bytes.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        Ok(measure::memory(self.process.id())?)
    }

    /// Where its manifests are.
    pub(super) fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// What no attack may break, and has: somebody else was not served, or it has ended.
    pub(super) fn broken(&mut self, served: Result<(), String>) -> anyhow::Result<Vec<String>> {
        let mut broken = Vec::new();
        if let Err(failure) = served {
            broken.push(format!("others are not served: {failure}"));
        }
        if !self.is_alive()? {
            let said = process::tail(&self.directory.path().join("log"));
            broken.push(format!("it has ended: {said}"));
        }
        Ok(broken)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself, which its attacker has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn run(nodegate: &Path, directory: &Path, manifests: &Path) -> Command {
    let mut command = own(nodegate);
    command
        .args([
            "run",
            "--role",
            "proxy",
            "--workers",
            "1",
            "--node-name",
            "node1",
        ])
        .arg("--manifests")
        .arg(manifests)
        .arg("--admin")
        .arg(directory.join("admin.sock"));
    command
}

fn configured(
    envoy: &Path,
    nodegate: &Path,
    directory: &Path,
    manifests: &Path,
) -> anyhow::Result<Command> {
    let mut export = own(nodegate);
    export
        .args([
            "export",
            "envoy",
            "--listen",
            "127.0.0.1",
            "--admin-port",
            "0",
            "--manifests",
        ])
        .arg(manifests);
    let bootstrap = directory.join("bootstrap.yaml");
    fs::write(&bootstrap, process::run(export)?)?;
    let mut command = Program::Envoy.at(envoy);
    command.arg("--config-path").arg(bootstrap).args([
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]);
    Ok(command)
}

fn manifest(plain: u16, secure: u16, endpoint: u16, (certificate, key): (&Path, &Path)) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: web, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: {plain}, name: http, protocol: HTTP}}, hosts: ['*']}}
  - port: {{number: {secure}, name: https, protocol: HTTPS}}
    hosts: [secure.test]
    tls: {{mode: SIMPLE, serverCertificate: {certificate}, privateKey: {key}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web, namespace: istio-system}}
spec:
  hosts: [web.example]
  resolution: STATIC
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {endpoint}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: istio-system}}
spec: {{hosts: ['*'], gateways: [web], http: [{{route: [{{destination: {{host: web.example}}}}]}}]}}
",
        certificate = certificate.display(),
        key = key.display(),
    )
}
