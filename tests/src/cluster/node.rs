//! A node: containerd, kubelet, and kube-proxy where there is one, in the namespaces that process 1 makes ([`super::init`]).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    init::Spec,
    parts::{AGNHOST, PAUSE, SERVER},
    pki::PROXY,
    plan::{CONTROL, DOMAIN},
    runc,
    site::{Running, Site},
};
use crate::{
    cgroup,
    config::Node,
    environment::Unmet,
    image::{self, Process},
    names::{self, Host},
    process,
};

/// Where containerd listens on each node.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The log of the process that makes the machine.
const INIT: &str = "init";
/// The image of what holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KubeProxy {
    /// With iptables.
    Iptables,
    /// With nftables.
    Nftables,
}

/// Makes the machine, and starts containerd on it.
pub(super) fn start_machine(site: &Site, init: &Path, index: usize) -> anyhow::Result<Running> {
    let (host, node) = node(site, index)?;
    let directory = site.directory(&host);
    let file = directory.join("node.json");
    let spec = spec(site, &host, node);
    for (source, _) in &spec.directories {
        make(source)?;
    }
    make(&spec.root)?;
    fs::write(&file, serde_json::to_string_pretty(&spec)?)
        .with_context(|| format!("writing {}", file.display()))?;

    let mut command = own(init);
    command.arg(&file);
    // The root of the node's cgroups is the one that its first process begins in.
    let cgroup = site.names.node_cgroup(&node.name);
    process::enter(&mut command, &site.names.netns(&host), &cgroup)?;
    let log = site.log(&host, INIT);
    let pid = process::detach(command, &log)?;
    process::await_file(&spec.pid, pid, &log)?;

    // The node may not see the directory that this program is in.
    let runc = directory.join(runc::NAME);
    fs::copy(init, &runc).with_context(|| format!("copying {}", init.display()))?;
    let config = directory.join("containerd.toml");
    fs::write(&config, containerd(site, &runc))?;
    let arguments = ["--config".to_owned(), config.display().to_string()];
    site.start(&host, Program::Containerd, &arguments)
}

/// Waits until a node's containerd takes images, and gives it some.
pub(super) fn load(
    site: &Site,
    index: usize,
    containerd: &Running,
    images: &[PathBuf],
) -> anyhow::Result<()> {
    let (host, _) = node(site, index)?;
    containerd.until("containerd is not ready", || {
        let mut version = site.enter(&host, site.parts.command(Program::Ctr))?;
        version.arg("version");
        let output = process::output(version)?;
        Ok(output.status.success().then_some(()))
    })?;
    for image in images {
        import(site, &host, image)?;
    }
    Ok(())
}

/// Brings an image to a node, and gives what containerd says of it.
pub(super) fn import(site: &Site, host: &Host, archive: &Path) -> anyhow::Result<String> {
    let file = fs::File::open(archive).with_context(|| format!("reading {}", archive.display()))?;
    let mut ctr = site.enter(host, site.parts.command(Program::Ctr))?;
    // Its standard input: the node may not see the file.
    ctr.args(["images", "import", "-"]).stdin(Stdio::from(file));
    let output = ctr.output().context("starting ctr")?;
    ensure!(
        output.status.success(),
        "{} is no image that containerd on {host} takes: {}",
        archive.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts kubelet, and kube-proxy where there is to be one.
pub(super) fn start_agents(
    site: &Site,
    index: usize,
    proxy: Option<KubeProxy>,
) -> anyhow::Result<Vec<Running>> {
    let (host, node) = node(site, index)?;
    let directory = site.directory(&host);
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("kubelet.json"), kubelet(site, node).to_string())?;
    let [v4, v6] = node.addresses();
    let arguments = [
        format!("--config={}", path("kubelet.json")),
        format!(
            "--kubeconfig={}",
            site.pki().kubeconfig(&node.name).display()
        ),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={v4},{v6}"),
        format!("--cert-dir={}", path("certificates")),
    ];
    let mut running = vec![site.start(&host, Program::Kubelet, &arguments)?];
    if let Some(mode) = proxy {
        running.push(start_proxy(site, index, mode)?);
    }
    Ok(running)
}

/// Starts kube-proxy.
pub(super) fn start_proxy(site: &Site, index: usize, mode: KubeProxy) -> anyhow::Result<Running> {
    let (host, node) = node(site, index)?;
    let file = site.directory(&host).join("kube-proxy.json");
    fs::write(&file, kube_proxy(site, node, mode).to_string())
        .with_context(|| format!("writing {}", file.display()))?;
    let arguments = [format!("--config={}", file.display())];
    site.start(&host, Program::KubeProxy, &arguments)
}

fn node(site: &Site, index: usize) -> anyhow::Result<(Host, &Node)> {
    let node = site.plan.nodes().nth(index).context("no such node")?;
    Ok((Host::Node(node.name.clone()), node))
}

fn make(directory: &Path) -> anyhow::Result<()> {
    cgroup::make_directories(directory).with_context(|| format!("making {}", directory.display()))
}

/// What the machine is like.
fn spec(site: &Site, host: &Host, node: &Node) -> Spec {
    let directory = site.directory(host);
    let same = |path: &Path| (path.to_owned(), path.to_owned());
    let kept = ["lib/kubelet", "lib/containerd", "log"].map(|name| {
        let place = Path::new("/var").join(name);
        (directory.join("var").join(name), place)
    });
    let mut directories = vec![same(site.parts.cache()), same(&site.names.state())];
    directories.extend(kept);
    let [v4, v6] = node.addresses();
    let name = &node.name;
    let index = site.plan.nodes().position(|other| other.name == *name);
    let files = [
        ("/etc/hostname", format!("{name}\n")),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost\n::1 localhost\n{v4} {name}\n{v6} {name}\n"),
        ),
        // What pods get that do not want the cluster's names.
        ("/etc/resolv.conf", format!("nameserver {CONTROL}\n")),
        (
            "/etc/cni/net.d/10-cluster.conflist",
            network(site, index.unwrap_or_default()).to_string(),
        ),
    ];
    // kubelet wants them so for the whole machine
    // (k8s.io/component-helpers/node/util/sysctl, and pkg/kubelet/cm/container_manager_linux.go).
    let settings = [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ];
    Spec {
        name: name.clone(),
        root: directory.join("root"),
        cgroup: site.cgroup(host),
        directories,
        files: files.map(|(file, text)| (file.into(), text)).into(),
        settings: settings
            .map(|(name, value)| (Path::new("/proc/sys").join(name), value.to_owned()))
            .into(),
        pid: site.names.pid(host),
    }
}

/// Pods' networks: a link for each, as in the testbed, so that all packets pass the node's rules. Behind a
/// bridge, those between two pods of a node would not, unless the kernel has `br_netfilter`.
fn network(site: &Site, index: usize) -> serde_json::Value {
    let ranges = site.plan.pod_networks(index);
    let ranges = ranges.map(|range| json!([{"subnet": range}]));
    json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Without limits (see [`runc`]). Nor may root raise itself above others when memory is short
/// (`CAP_SYS_RESOURCE`), on machines that are themselves containers.
fn containerd(site: &Site, runc: &Path) -> String {
    let plugins = site.parts.file("ptp");
    let plugins = plugins.parent().unwrap_or(Path::new("/"));
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{}"
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{}"]
    conf_dir = "/etc/cni/net.d"
"#,
        runc.display(),
        plugins.display()
    )
}

fn kubelet(site: &Site, node: &Node) -> serde_json::Value {
    let pki = site.pki();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.authority()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.certificate(&node.name),
        "tlsPrivateKeyFile": pki.key(&node.name),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "clusterDNS": [CONTROL],
        "clusterDomain": DOMAIN,
        // See `runc`.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "oomScoreAdj": 0,
        "failSwapOn": false,
        // The disk is the machine's, which may be as full as its owner likes.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}

fn kube_proxy(site: &Site, node: &Node, mode: KubeProxy) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.name(),
        "clusterCIDR": site.plan.pods(),
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": site.pki().kubeconfig(PROXY)},
        "oomScoreAdj": 0,
        // These are the machine's, and no namespace's.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

impl KubeProxy {
    /// As kube-proxy calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// What the image of Kubernetes' own tests has beside agnhost: what they, and people, call in pods.
const TOOLS: [Program; 14] = [
    Program::Sh,
    Program::Cat,
    Program::Date,
    Program::Grep,
    Program::Seq,
    Program::Sleep,
    Program::Tail,
    Program::Curl,
    Program::Wget,
    Program::Nc,
    Program::Dig,
    Program::Nslookup,
    Program::Ip,
    Program::Ss,
];

/// The images that every node has. They are made once for all clusters.
pub(super) fn images(site: &Site) -> anyhow::Result<Vec<PathBuf>> {
    let (pause, agnhost) = (site.parts.file(PAUSE), site.parts.file(AGNHOST));
    let pause_image = image::once(&pause.with_extension("tar"), PAUSE_IMAGE, |root| {
        root.copy(&pause, "/pause")?;
        Ok(Process::new(&["/pause"], &[]))
    })?;
    let name = agnhost_image(site)?;
    // Another one for other programs in it.
    let tools = TOOLS.map(Program::name).join(" ");
    let archive = format!("{AGNHOST}-{}.tar", names::hash(&tools, 6));
    let agnhost_image = image::once(&agnhost.with_file_name(archive), &name, |root| {
        root.copy(&agnhost, "/agnhost")?;
        for tool in TOOLS {
            root.program(&tool.find().ok_or(Unmet::Program(tool))?)?;
        }
        Ok(Process::new(&["/agnhost"], &["pause"]))
    })?;
    Ok(vec![pause_image, agnhost_image])
}

/// The image with nothing but the server that sends invalid packets.
pub(super) fn server_image(site: &Site, name: &str) -> anyhow::Result<PathBuf> {
    let server = site.parts.file(SERVER);
    image::once(&server.with_extension("tar"), name, |root| {
        root.copy(&server, "/server")?;
        Ok(Process::new(&["/server"], &[]))
    })
}

/// What Kubernetes' own manifests call agnhost's image (test/utils/image/manifest.go).
pub(super) fn agnhost_image(site: &Site) -> anyhow::Result<String> {
    let version = site.parts.agnhost_version()?;
    Ok(format!("registry.k8s.io/e2e-test-images/agnhost:{version}"))
}
