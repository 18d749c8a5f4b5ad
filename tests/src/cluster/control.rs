//! The control plane: etcd, the API server, and what makes pods and names of its objects.

use std::fs;

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::Program;

use super::{
    pki::{CONTROLLERS, DNS, SCHEDULER, SERVER, TO_EXTENSIONS, TO_KUBELETS},
    plan::{CONTROL, CONTROL_V6, DOMAIN, Plan},
    site::{Running, Site, control_plane},
};
use crate::cgroup;

/// Where etcd listens, in the control plane's own loopback.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
/// Where CoreDNS says that it has seen all Services.
const DNS_READY: &str = "127.0.0.1:8181";

/// Starts etcd and the API server, which waits for it.
pub(super) fn start_server(site: &Site, streams_lists: bool) -> anyhow::Result<Running> {
    let host = control_plane();
    site.start(&host, Program::Etcd, &etcd(site))?;
    let mut arguments = apiserver(site);
    arguments.extend(options(&[(
        "feature-gates",
        format!("WatchList={streams_lists}"),
    )]));
    site.start(&host, Program::KubeApiserver, &arguments)
}

/// Kills etcd and the API server, as a machine that crashes does.
pub(super) fn end_server(site: &Site) -> anyhow::Result<()> {
    let cgroup = site.cgroup(&control_plane());
    let serves = |pid: &Pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        [Program::Etcd, Program::KubeApiserver]
            .iter()
            .any(|program| name.trim() == program.name())
    };
    for pid in cgroup::processes(&cgroup).into_iter().filter(serves) {
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGKILL);
    }
    patience::try_until(|| -> anyhow::Result<_> {
        let left = cgroup::processes(&cgroup).iter().any(serves);
        Ok((!left).then_some(()))
    })
    .context("etcd and the API server do not end")
}

/// Waits until the API server serves.
pub(super) fn await_server(site: &Site, server: &Running) -> anyhow::Result<()> {
    server.until("the API server is not ready", || {
        site.ask(&format!("{}/readyz", Plan::server()))
    })?;
    Ok(())
}

/// Starts what works on the API server's objects.
pub(super) fn start_clients(site: &Site) -> anyhow::Result<Vec<Running>> {
    let host = control_plane();
    let corefile = site.names.state().join("Corefile");
    fs::write(&corefile, self::corefile(site)).context("writing the Corefile")?;
    let dns = ["-conf".to_owned(), corefile.display().to_string()];
    [
        (Program::KubeControllerManager, controllers(site)),
        (Program::KubeScheduler, scheduler(site)),
        (Program::Coredns, dns.into()),
    ]
    .into_iter()
    .map(|(program, arguments)| site.start(&host, program, &arguments))
    .collect()
}

/// Waits until CoreDNS has seen all Services.
pub(super) fn await_names(site: &Site, clients: &[Running]) -> anyhow::Result<()> {
    let url = format!("http://{DNS_READY}/ready");
    for client in clients {
        client.until("DNS is not ready", || site.ask(&url))?;
    }
    Ok(())
}

/// `--name=value` of each.
fn options(options: &[(&str, String)]) -> Vec<String> {
    let options = options.iter();
    options
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn etcd(site: &Site) -> Vec<String> {
    options(&[
        (
            "data-dir",
            site.names.state().join("etcd").display().to_string(),
        ),
        ("listen-client-urls", ETCD.into()),
        ("advertise-client-urls", ETCD.into()),
        ("listen-peer-urls", ETCD_PEERS.into()),
        ("initial-advertise-peer-urls", ETCD_PEERS.into()),
        ("initial-cluster", format!("default={ETCD_PEERS}")),
        // What a crash of the machine would take is a cluster for tests.
        ("unsafe-no-fsync", "true".into()),
        ("log-level", "warn".into()),
    ])
}

fn apiserver(site: &Site) -> Vec<String> {
    let pki = site.pki();
    let file = |path: std::path::PathBuf| path.display().to_string();
    let issuer = format!("https://kubernetes.default.svc.{DOMAIN}");
    options(&[
        ("etcd-servers", ETCD.into()),
        ("advertise-address", CONTROL.to_string()),
        ("secure-port", "6443".into()),
        ("service-cluster-ip-range", Plan::services()),
        ("client-ca-file", file(pki.authority())),
        ("tls-cert-file", file(pki.certificate(SERVER))),
        ("tls-private-key-file", file(pki.key(SERVER))),
        (
            "kubelet-client-certificate",
            file(pki.certificate(TO_KUBELETS)),
        ),
        ("kubelet-client-key", file(pki.key(TO_KUBELETS))),
        ("kubelet-certificate-authority", file(pki.authority())),
        // Nobody resolves nodes' names here.
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("service-account-key-file", file(pki.token_public_key())),
        ("service-account-signing-key-file", file(pki.token_key())),
        ("service-account-issuer", issuer),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("allow-privileged", "true".into()),
        (
            "proxy-client-cert-file",
            file(pki.certificate(TO_EXTENSIONS)),
        ),
        ("proxy-client-key-file", file(pki.key(TO_EXTENSIONS))),
        ("requestheader-client-ca-file", file(pki.authority())),
        ("requestheader-allowed-names", TO_EXTENSIONS.into()),
        (
            "requestheader-extra-headers-prefix",
            "X-Remote-Extra-".into(),
        ),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        // The control plane has no rules for Services: extensions are reached by their endpoints.
        ("enable-aggregator-routing", "true".into()),
    ])
}

fn controllers(site: &Site) -> Vec<String> {
    let pki = site.pki();
    let file = |path: std::path::PathBuf| path.display().to_string();
    options(&[
        ("kubeconfig", file(pki.kubeconfig(CONTROLLERS))),
        ("service-account-private-key-file", file(pki.token_key())),
        ("root-ca-file", file(pki.authority())),
        ("cluster-signing-cert-file", file(pki.authority())),
        ("cluster-signing-key-file", file(pki.authority_key())),
        ("use-service-account-credentials", "true".into()),
        ("cluster-cidr", site.plan.pods()),
        ("service-cluster-ip-range", Plan::services()),
        // Nodes have theirs from the start, as their routes do.
        ("allocate-node-cidrs", "false".into()),
        ("leader-elect", "false".into()),
        // It makes the directory, which belongs to no machine for good.
        (
            "flex-volume-plugin-dir",
            file(site.names.state().join("volume-plugins")),
        ),
    ])
}

fn scheduler(site: &Site) -> Vec<String> {
    let kubeconfig = site.pki().kubeconfig(SCHEDULER);
    options(&[
        ("kubeconfig", kubeconfig.display().to_string()),
        ("leader-elect", "false".into()),
    ])
}

/// No cache, so that a change is seen at once, and nobody to ask for other names.
fn corefile(site: &Site) -> String {
    let kubeconfig = site.pki().kubeconfig(DNS);
    format!(
        ".:53 {{\n\
         \x20   bind {CONTROL} {CONTROL_V6}\n\
         \x20   ready {DNS_READY}\n\
         \x20   errors\n\
         \x20   loadbalance\n\
         \x20   kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{\n\
         \x20       kubeconfig {}\n\
         \x20       pods insecure\n\
         \x20       ttl 5\n\
         \x20   }}\n\
         }}\n",
        kubeconfig.display()
    )
}
