//! A real Kubernetes on this machine: control plane, nodes and a client outside, in namespaces.
//!
//! etcd, the API server, the controllers, the scheduler, kubelets, containerd and kube-proxy are the real
//! ones; nobody of them can reach, or be reached from, anything outside. As with a
//! [testbed](crate::Testbed) there is no daemon: each command works on the state below
//! `/var/lib/nodegate-cluster/NAME/`, and [`Cluster::down`] takes all of it away, in whatever state it is.
//!
//! ```no_run
//! use nodegate_testbed::cluster::{Cluster, Options, parts::Parts};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::up(&Options::new("mine", Parts::find()?, "target/debug/testbed-node".into()))?;
//! println!("{}", cluster.ask(&["get", "nodes"])?);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, bail, ensure};
use nodegate_programs::Program;
use serde::{Deserialize, Serialize};

use crate::{
    cgroup,
    environment::{self, Unmet},
    names::{Host, Kind, Names},
    network, process,
    state::{self, Lock},
};

mod base;
mod control;
pub mod init;
mod istio;
mod node;
pub mod parts;
mod pki;
mod plan;
pub mod runc;
mod site;

pub use istio::{Istio, LEFT_OUT};
pub use node::{KubeProxy, PAUSE_IMAGE};
use parts::{Parts, Purpose};
use plan::Plan;
pub use plan::{CONTROL_PLANE, GATEWAY};
use site::{Running, Site, control_plane};

/// What [`Cluster::up`] is to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells clusters apart that stand at the same time.
    pub name: String,
    /// How many nodes. Without any there is the API server alone: no controllers, no DNS, and no pods.
    pub nodes: usize,
    /// The kube-proxy on each node; none for a cluster that leaves Services to others.
    pub kube_proxy: Option<KubeProxy>,
    /// Whether the API server begins a watch with all that there is, as it does since Kubernetes 1.34, or
    /// clients have to list that before.
    pub streams_lists: bool,
    /// Istio beside it, for which the parts must have been built.
    pub istio: Option<Istio>,
    /// Kubernetes' programs.
    pub parts: Parts,
    /// The program `testbed-node`.
    pub init: PathBuf,
    /// Whether to leave everything as it is when `up` fails, to look at it.
    pub keep_failed: bool,
    /// Is told what is being done.
    pub say: fn(&str),
}

impl Options {
    /// Two nodes with kube-proxy as most have it.
    pub fn new(name: &str, parts: Parts, init: PathBuf) -> Self {
        Self {
            name: name.into(),
            nodes: 2,
            kube_proxy: Some(KubeProxy::Iptables),
            streams_lists: true,
            istio: None,
            parts,
            init,
            keep_failed: false,
            say: |_| {},
        }
    }
}

/// A cluster between commands.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    plan: Plan,
    /// The parts that it was built with.
    cache: PathBuf,
}

const STATE: &str = "state.json";

/// A real Kubernetes.
///
/// One that [`up`](Self::up) made goes [`down`](Self::down) when it is dropped, unless it is
/// [kept](Self::keep).
#[derive(Debug)]
pub struct Cluster {
    site: Site,
    down_on_drop: bool,
}

impl Cluster {
    /// Builds a cluster, and returns when all of it is ready.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        environment::check_for_cluster()?;
        let names = Names::new(Kind::Cluster, &options.name)?;
        let lock = Lock::take(&names)?;
        Self::check_free(&options.name)?;
        // What a `down` that was killed, too, has left.
        destroy(&names)?;
        let site = Site {
            names: names.clone(),
            plan: Plan::new(options.nodes, options.istio.is_some())?,
            parts: options.parts.clone(),
        };
        match build(&site, options) {
            Ok(()) => Ok(Self {
                site,
                down_on_drop: true,
            }),
            Err(error) if options.keep_failed => Err(error),
            Err(error) => {
                if let Err(second) = destroy(&names).and_then(|()| lock.remove()) {
                    return Err(error.context(format!("(and cleaning up failed: {second:#})")));
                }
                Err(error)
            }
        }
    }

    /// An error that says what to do when there is a cluster of that name.
    pub fn check_free(name: &str) -> anyhow::Result<()> {
        ensure!(
            !Names::new(Kind::Cluster, name)?.state().exists(),
            "cluster `{name}` exists already: cargo xtask cluster down --name {name}"
        );
        Ok(())
    }

    /// A cluster that is up already; dropping it leaves it so.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        environment::root()?;
        let names = Names::new(Kind::Cluster, name)?;
        let file = names.state().join(STATE);
        let Ok(text) = fs::read(&file) else {
            bail!("there is no cluster `{name}`: cargo xtask cluster up --name {name}");
        };
        let state: State = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is of another version: cargo xtask cluster down --name {name}",
                file.display()
            )
        })?;
        let site = Site {
            names,
            plan: state.plan,
            parts: Parts::at(state.cache),
        };
        Ok(Self {
            site,
            down_on_drop: false,
        })
    }

    /// Takes a cluster down, whatever is there of it; nothing of it being there is fine.
    pub fn down_named(name: &str) -> anyhow::Result<()> {
        environment::root()?;
        let names = Names::new(Kind::Cluster, name)?;
        let lock = Lock::take(&names)?;
        destroy(&names)?;
        lock.remove()
    }

    /// Leaves it up when it is dropped.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.down_on_drop = false;
        self
    }

    /// Takes everything away: processes, cgroups, namespaces, files.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.down_on_drop = false;
        Self::down_named(self.site.names.testbed())
    }

    /// Names and places.
    pub fn names(&self) -> &Names {
        &self.site.names
    }

    /// The hosts and their addresses, IPv4 first: the nodes, the control plane, Istio's gateway where there is
    /// one, and the client outside.
    pub fn hosts(&self) -> Vec<(String, [IpAddr; 2])> {
        let layout = &self.site.plan.layout;
        let nodes = layout.nodes.iter();
        let nodes = nodes.map(|node| (node.name.clone(), node.addresses()));
        let client = (Host::Client.to_string(), layout.client_addresses());
        nodes.chain([client]).collect()
    }

    /// The image of Kubernetes' own tests, which every node has.
    pub fn agnhost(&self) -> anyhow::Result<String> {
        node::agnhost_image(&self.site)
    }

    /// kubectl as the one who may do everything, for the caller to complete and start.
    pub fn kubectl(&self) -> anyhow::Result<Command> {
        let kubectl = self.site.parts.command(Program::Kubectl);
        self.site.enter(&control_plane(), kubectl)
    }

    /// Kubernetes' own tests of networks as the one who may do everything, for the caller to complete and
    /// start.
    pub fn suite(&self) -> anyhow::Result<Command> {
        self.site
            .enter(&control_plane(), self.site.parts.command(Program::E2e))
    }

    /// Host and port of the API server, for whoever has no rules for Services.
    pub fn api_server(&self) -> String {
        Plan::server_address()
    }

    /// What kubectl says; an error with its complaint when it fails.
    pub fn ask<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<String> {
        let mut kubectl = self.kubectl()?;
        kubectl.args(arguments);
        process::run(kubectl)
    }

    /// Applies YAML or JSON.
    pub fn apply(&self, text: &str) -> anyhow::Result<()> {
        base::apply(&self.site, text)
    }

    /// Moves a command to a host, for the caller to complete and start: `client`, `control-plane`, or a
    /// node's name.
    pub fn enter(&self, host: &str, command: Command) -> anyhow::Result<Command> {
        self.site.enter(&self.site.host(host)?, command)
    }

    /// Runs a program on a host to its end and takes what it says; ends it when it hangs.
    pub fn exec<S: AsRef<OsStr>>(
        &self,
        host: &str,
        program: Program,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Output> {
        let mut command = program.by_name();
        command.args(arguments);
        process::output(self.enter(host, command)?)
    }

    /// Starts kube-proxy on every node, on which none runs.
    pub fn start_kube_proxy(&self, mode: KubeProxy) -> anyhow::Result<()> {
        for index in 0..self.site.plan.nodes().count() {
            node::start_proxy(&self.site, index, mode)?.check()?;
        }
        Ok(())
    }

    /// Kills etcd and the API server, lets `meanwhile` do something with etcd's directory, and starts both
    /// again.
    pub fn restart_server(
        &self,
        meanwhile: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        control::end_server(&self.site)?;
        meanwhile(&self.site.names.state().join("etcd"))?;
        let server = control::start_server(&self.site, true)?;
        control::await_server(&self.site, &server)
    }

    /// Brings the images of an archive to every node, and gives what containerd says of it.
    pub fn load(&self, archive: &Path) -> anyhow::Result<String> {
        let mut said = String::new();
        for node in self.site.plan.nodes() {
            let host = Host::Node(node.name.clone());
            said = node::import(&self.site, &host, archive)?;
        }
        Ok(said)
    }

    /// The archive of the image with the server of Kubernetes' own test of invalid packets, under this name.
    pub fn server_image(&self, name: &str) -> anyhow::Result<PathBuf> {
        node::server_image(&self.site, name)
    }

    /// Gives an image that every node has another name, too.
    pub fn name_image(&self, image: &str, name: &str) -> anyhow::Result<()> {
        for node in self.site.plan.nodes() {
            let arguments = ["images", "tag", "--force", image, name];
            let output = self.exec(&node.name, Program::Ctr, arguments)?;
            ensure!(
                output.status.success(),
                "{image} can't be called {name} on {}: {}",
                node.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Where a part is that nothing here starts itself.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.site.parts.file(name)
    }

    /// The logs, by the names of what writes them.
    pub fn logs(&self) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        let directory = self.site.names.state().join("logs");
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        let files = entries.flatten().map(|entry| entry.path());
        Ok(files
            .filter_map(|file| Some((file.file_stem()?.to_str()?.to_owned(), file)))
            .collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let name = self.site.names.testbed();
        if self.down_on_drop
            && let Err(error) = Self::down_named(name)
        {
            eprintln!("cluster {name}: down failed: {error:#}");
        }
    }
}

/// Everything but the lock: on error the caller cleans up.
fn build(site: &Site, options: &Options) -> anyhow::Result<()> {
    if !options.parts.complete(Purpose::Cluster) {
        return Err(Unmet::Parts.into());
    }
    if options.istio.is_some() && !options.parts.complete(Purpose::Istio) {
        return Err(Unmet::Istio.into());
    }
    let say = options.say;
    for directory in ["logs", "pids"] {
        let directory = site.names.state().join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
    }
    let state = State {
        plan: site.plan.clone(),
        cache: site.parts.cache().to_owned(),
    };
    let text = serde_json::to_string_pretty(&state)?;
    state::replace(&site.names, &site.names.state().join(STATE), &text)?;

    say("hosts and certificates");
    hosts(site)?;
    site.pki().create(&site.plan)?;
    say("the API server, and machines for the nodes");
    let server = control::start_server(site, options.streams_lists)?;
    let machines = machines(site, options)?;
    control::await_server(site, &server)?;
    let mut running = vec![server];
    if let Some(istio) = &options.istio {
        say("Istio's control plane and gateway");
        let istiod = istio::start(site, &running[0], istio)?;
        running.push(istio::complete(site, &istiod, istio)?);
        running.push(istiod);
    }
    if options.nodes > 0 {
        say("the controllers, and kubelets");
        running.extend(work(site, options, &running[0])?);
    }
    for running in machines.iter().chain(&running) {
        running.check()?;
    }
    Ok(())
}

/// The nodes' machines, with images.
fn machines(site: &Site, options: &Options) -> anyhow::Result<Vec<Running>> {
    if options.nodes == 0 {
        return Ok(Vec::new());
    }
    let images = node::images(site)?;
    let machines = (0..options.nodes)
        .map(|index| node::start_machine(site, &options.init, index))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (index, containerd) in machines.iter().enumerate() {
        node::load(site, index, containerd, &images)?;
    }
    Ok(machines)
}

/// What makes pods and names of the API server's objects, and runs pods.
fn work(site: &Site, options: &Options, server: &Running) -> anyhow::Result<Vec<Running>> {
    // CoreDNS waits long before it asks again for what it may not see yet.
    base::create(site, server)?;
    let mut running = control::start_clients(site)?;
    let mut agents = Vec::new();
    for index in 0..options.nodes {
        agents.extend(node::start_agents(site, index, options.kube_proxy)?);
    }
    base::await_nodes(site, &agents)?;
    control::await_names(site, &running)?;
    running.append(&mut agents);
    Ok(running)
}

/// Network namespaces, links, routes and cgroups of all hosts.
fn hosts(site: &Site) -> anyhow::Result<()> {
    let names = &site.names;
    cgroup::create(&names.helpers_cgroup())?;
    let nodes = site.plan.layout.nodes.iter();
    let all: Vec<_> = nodes
        .map(|node| Host::Node(node.name.clone()))
        .chain([Host::Client])
        .collect();
    for host in &all {
        cgroup::create(&site.cgroup(host))?;
    }
    network::create(names, &site.plan.layout)?;
    for host in &all {
        let netns = names.netns(host);
        network::ip(names, &netns, &site.plan.routes(host))?;
        network::inside(&netns, link_local)?;
    }
    Ok(())
}

/// Lets links to pods have link-local addresses, by which a node asks for the neighbours that it forwards to:
/// without one it asks nobody, and a pod is out of reach for other nodes until it speaks itself
/// (`ndisc_send_ns` in net/ipv6/ndisc.c).
fn link_local() -> anyhow::Result<()> {
    let file = "/proc/sys/net/ipv6/conf/default/addr_gen_mode";
    fs::write(file, "0").with_context(|| format!("setting {file} to 0"))
}

/// Takes away all that a cluster may have left, in any state.
fn destroy(names: &Names) -> anyhow::Result<()> {
    // With the last process of a node end its namespaces, and with them its mounts and the pods' networks.
    cgroup::destroy(&names.cgroup())?;
    for namespace in network::namespaces(names) {
        network::remove_netns(&namespace)?;
    }
    let state = names.state();
    // While the kernel takes a node's mounts apart, their directories are busy.
    patience::try_until(|| match fs::remove_dir_all(&state) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
        result => result.map(Some).map_err(anyhow::Error::from),
    })
    .with_context(|| format!("removing {}", state.display()))?;
    // Only when this was the last cluster.
    let _ = names.cgroup().parent().map(fs::remove_dir);
    Ok(())
}
