//! A running nodegate: the rooms wired together, in the direction of the data.
//!
//! [`source`](nodegate_source) → [`publisher`] (resources to Snapshots) → the redirector and the proxy,
//! each in a task of its own, and [`admin`] beside them. Nothing here decides anything.

use std::{fmt, net::SocketAddr, num::NonZero, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use nodegate_values::diagnostic::JSON_SCHEMA;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::SignalKind,
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

mod gateway;
mod publisher;
mod report;
mod sources;

use nodegate_admin::{
    self as admin, ProxyOnly,
    status::{DatapathStatus, FlowsStatus, ProxyStatus, ShareStatus, SnapshotStatus, Status},
    trace::Traces,
};
use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, TcpShifting, Unenforced};
use nodegate_datapath::{self as datapath, Datapath, lock::Lock, redirector::Redirector};
use nodegate_explain::{
    answer::{Answer, Setup, decided_elsewhere, explain},
    ask::Ask,
    node::{Choices, Loaded},
};
use nodegate_iptables::{
    config::{KubeProxyArgs, NodePortAddresses},
    node::KubeProxyNode,
};
use nodegate_model::{Published, Snapshot};
use nodegate_observe::{AccessLog, AccessLogOptions, Tap};
use nodegate_programming::masquerade::MasqueradeMode;
use nodegate_proxy::{self as proxy, ConnectionLimits, Fronts, Parity, Proxy, Refusal};
use nodegate_source::{
    combined::Sources,
    kubernetes::{
        access::Access,
        interest::{Interest, RedirectorInterest},
        report::Report,
    },
};

use publisher::Audience;

pub use sources::{KubernetesOptions, SourceOptions};

/// How long a daemon that is about to end may take to hand over its maps.
const HAND_OVER: Duration = Duration::from_secs(10);

/// How long [`admin::server::Subject::sync`] waits; clients may give up sooner.
const SYNC_PATIENCE: Duration = Duration::from_mins(1);

/// Which half of nodegate a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Both halves
    #[default]
    All,
    /// The eBPF side
    Redirector,
    /// The proxy
    Proxy,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Redirector => "redirector",
            Self::Proxy => "proxy",
        })
    }
}

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// Which half.
    pub role: Role,
    /// Where Services and all else come from.
    pub sources: SourceOptions,
    /// The admin socket.
    pub admin: PathBuf,
    /// Where probes and Prometheus ask; none: nowhere.
    pub probes: Option<SocketAddr>,
    /// The namespace of the Lease in which the cluster is told how this nodegate stands; none: it is not.
    pub report_to: Option<String>,
    /// This node.
    pub node: NodeIdentity,
    /// Which Services are redirected.
    pub services: ServiceScope,
    /// The eBPF side; none in the proxy role.
    pub datapath: Option<datapath::Options>,
    /// The proxy; none in the redirector role.
    pub proxy: Option<ProxyOptions>,
}

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// This gateway pod.
    pub identity: GatewayIdentity,
    /// Worker threads; one per core if not given.
    pub workers: Option<NonZero<usize>>,
    /// How long new connections are taken after the signal to end: others learn of it with some delay.
    pub linger: Duration,
    /// How long requests may go on after that.
    pub drain: Duration,
    /// Who is asked for the names of ServiceEntries; none: whom the system asks.
    pub dns: Option<SocketAddr>,
    /// In what the proxy does as Envoy does, although it would differ.
    pub parity: Parity,
    /// Whether streams of HTTP/2 may become WebSockets.
    pub extended_connect: bool,
    /// Whether clients may speak HTTP/1.0.
    pub accept_http10: bool,
    /// Who says in the PROXY protocol whose connections it brings.
    pub fronts: Fronts,
    /// How many connections of clients there may be at once.
    pub max_connections: ConnectionLimits,
    /// How much memory the process may take, in bytes; none: what its cgroups allow.
    pub max_memory: Option<u64>,
    /// The access log; none: none is written.
    pub access_log: Option<AccessLogOptions>,
}

// === impl Options ===

impl Options {
    /// What is to be read for what is to run.
    fn interest(&self) -> Interest {
        Interest {
            redirector: self.datapath.as_ref().map(|_| RedirectorInterest {
                node: self.node.name.clone(),
                gateways: matches!(self.services, ServiceScope::Gateway),
                tcp_routes: self.node.tcp_shifting != TcpShifting::Proxy,
            }),
            routes: self.proxy.is_some(),
            secrets: self
                .proxy
                .as_ref()
                .map(|proxy| proxy.identity.namespace.clone()),
        }
    }
}

/// A running nodegate.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Daemon {
    speaker: Arc<Speaker>,
    admin: UnixListener,
    socket: PathBuf,
    probes: Option<TcpListener>,
    reports: Option<(Access, String)>,
    linger: Duration,
    stop: CancellationToken,
    /// The proxy has requests to finish.
    gateway: Option<JoinHandle<()>>,
    /// These have nothing to finish.
    tasks: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts everything; call it within a tokio runtime. Fails before anything is changed on the
    /// node, as far as that can be.
    pub fn start(mut options: Options) -> anyhow::Result<Self> {
        let admin = admin::server::bind(&options.admin)
            .with_context(|| format!("admin socket {}", options.admin.display()))?;
        let probes = match options.probes {
            Some(address) => Some(
                admin::probe::bind(address)
                    .with_context(|| format!("port for probes {address} (--status-address)"))?,
            ),
            None => None,
        };
        let interest = options.interest();
        let reports = options.sources.kubernetes.as_ref();
        let reports = reports.map(|kubernetes| kubernetes.access.clone());
        let reports = reports.zip(options.report_to.clone());
        let sources = sources::start(options.sources, interest, &options.node.name)?;
        if let (Some(rules), Some(datapath)) = (&sources.current().rules, &mut options.datapath) {
            datapath.go_by(&rules.facts);
        }
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();

        let (snapshots, published) = watch::channel(Published::default());
        let audience = Audience {
            node: options.node.clone(),
            gateway: options.proxy.as_ref().map(|proxy| proxy.identity.clone()),
            services: options.services.clone(),
            redirects: options.datapath.is_some(),
        };
        tasks.push(tokio::spawn(publisher::publish(
            audience,
            sources.subscribe(),
            snapshots,
        )));

        let redirector = match &options.datapath {
            Some(options) => Some(start_redirector(options, published.clone(), &mut tasks)?),
            None => None,
        };
        let gateway = match &options.proxy {
            Some(options) => Some(start_proxy(options, published.clone(), stop.clone())?),
            None => None,
        };
        info!(role = %options.role, node = options.node.name, "started");
        let (gateway_tap, gateway_progress, gateway_task) = match gateway {
            Some(gateway) => (
                Some(gateway.tap),
                Some(gateway.progress),
                Some(gateway.task),
            ),
            None => (None, None, None),
        };
        Ok(Self {
            speaker: Arc::new(Speaker {
                role: options.role,
                node: options.node.name,
                sources,
                services: options.services,
                published,
                traces: Traces {
                    kernel: redirector.clone(),
                    proxy: gateway_tap,
                },
                datapath: redirector.zip(options.datapath),
                gateway: gateway_progress,
                unenforced: options
                    .proxy
                    .as_ref()
                    .map(|proxy| proxy.identity.unenforced)
                    .unwrap_or_default(),
                tcp_shifting: options.node.tcp_shifting,
                leaving: CancellationToken::new(),
                report_trouble: watch::Sender::new(None),
            }),
            admin,
            socket: options.admin,
            probes,
            reports,
            linger: options
                .proxy
                .as_ref()
                .map_or(Duration::ZERO, |proxy| proxy.linger),
            stop,
            gateway: gateway_task,
            tasks,
        })
    }

    /// Serves until SIGTERM or SIGINT, then lets requests finish. The datapath stays in force.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
        // Who rotates logs sends it, also where none is written: no reason to end.
        let mut hangup = tokio::signal::unix::signal(SignalKind::hangup())?;
        let hangups = tokio::spawn(async move { while hangup.recv().await.is_some() {} });
        let speaker = Arc::clone(&self.speaker);
        let admin = tokio::spawn(admin::server::serve(self.admin, Arc::clone(&speaker)));
        let probes = self
            .probes
            .map(|listener| tokio::spawn(admin::probe::serve(listener, Arc::clone(&speaker))));
        if let Some((access, namespace)) = self.reports {
            speaker.tell_cluster(access, namespace);
        }
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("{signal}: finishing");
        speaker.leaving.cancel();
        // With a second signal it is over at once.
        tokio::select! {
            () = tokio::time::sleep(self.linger) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.stop.cancel();
        if let Some(gateway) = self.gateway {
            gateway.await.context("finishing requests")?;
        }
        let servers = [admin].into_iter().chain(probes);
        let tasks = servers.chain(self.tasks).chain([hangups]);
        tasks.for_each(|task| task.abort());
        // A socket without a process looks like one that does not answer.
        let _ = std::fs::remove_file(self.socket);
        Ok(())
    }
}

fn start_redirector(
    options: &datapath::Options,
    published: watch::Receiver<Published>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> anyhow::Result<Arc<Redirector>> {
    let lock = Lock::take(&options.pin_dir, HAND_OVER)?;
    let mut datapath = Datapath::open(options)?;
    let events = datapath.take_events()?;
    if let Some(logger) = datapath.take_logger() {
        tasks.push(tokio::spawn(async move {
            if let Err(error) = datapath::events::log(logger).await {
                tracing::warn!(%error, "what the kernel programs log is lost");
            }
        }));
    }
    tasks.push(tokio::spawn(datapath::netfilter::keep(
        datapath.take_netfilter(),
    )));
    let redirector = Redirector::new(datapath);
    tasks.push(tokio::spawn(datapath::health::serve(published.clone())));
    let following = Arc::clone(&redirector).follow(published);
    tasks.push(tokio::spawn(async move {
        // Held for as long as the maps are written.
        let _lock = lock;
        following.await;
    }));
    let reporter = Arc::clone(&redirector);
    tasks.push(tokio::spawn(async move {
        if let Err(error) = reporter.report(events).await {
            tracing::error!(%error, "the kernel's reports cannot be read: no traces");
        }
    }));
    Ok(redirector)
}

/// The proxy's task, and what others see of it.
struct Gateway {
    tap: Tap,
    progress: watch::Receiver<gateway::Progress>,
    task: JoinHandle<()>,
}

fn start_proxy(
    options: &ProxyOptions,
    published: watch::Receiver<Published>,
    stop: CancellationToken,
) -> anyhow::Result<Gateway> {
    let defaults = proxy::Options::default();
    let proxy = Proxy::start(proxy::Options {
        workers: options.workers.unwrap_or(defaults.workers),
        dns: options.dns,
        parity: options.parity,
        extended_connect: options.extended_connect,
        accept_http10: options.accept_http10,
        fronts: options.fronts.clone(),
        max_connections: options.max_connections.clone(),
        max_memory: options.max_memory.or_else(proxy::allowed_memory),
        ..defaults
    })
    .context("starting the proxy's workers")?;
    let tap = proxy.tap().clone();
    let access_log = match &options.access_log {
        Some(options) => Some(
            AccessLog::start(&tap, options.clone())
                .with_context(|| format!("access log {}", options.path.display()))?,
        ),
        None => None,
    };
    let (sender, progress) = watch::channel(gateway::Progress::default());
    let follow = gateway::follow(proxy, published, sender, stop, options.drain);
    let task = tokio::spawn(async move {
        follow.await;
        if let Some(log) = access_log {
            log.finish().await;
        }
    });
    Ok(Gateway {
        tap,
        progress,
        task,
    })
}

/// Speaks for the process on the admin socket.
struct Speaker {
    role: Role,
    node: String,
    sources: Sources,
    services: ServiceScope,
    published: watch::Receiver<Published>,
    traces: Traces,
    datapath: Option<(Arc<Redirector>, datapath::Options)>,
    gateway: Option<watch::Receiver<gateway::Progress>>,
    /// What the gateway does where a policy is for it that is not enforced.
    unenforced: Unenforced,
    /// Who follows TCP routes that are nothing but weights.
    tcp_shifting: TcpShifting,
    /// The process was told to end.
    leaving: CancellationToken,
    /// Why the cluster cannot be told how this nodegate stands.
    report_trouble: watch::Sender<Option<String>>,
}

impl admin::server::Subject for Speaker {
    fn status(&self) -> Status {
        let published = self.published.borrow().clone();
        let snapshot = published.snapshot.as_deref();
        let datapath = self
            .datapath
            .as_ref()
            .map(|(redirector, options)| datapath_status(redirector, options));
        let proxy = self.gateway.as_ref().map(|progress| {
            let progress = progress.borrow();
            ProxyStatus {
                applied: progress.applied,
                listeners: progress.listeners.clone(),
                failures: progress.failures.clone(),
                refused: Refusal::ALL
                    .iter()
                    .map(|refusal| (refusal.name().to_owned(), refusal.count()))
                    .collect(),
            }
        });
        Status {
            schema: JSON_SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: self.role.to_string(),
            node: self.node.clone(),
            pid: std::process::id(),
            ready: self.is_ready(),
            source: sources::status(&self.sources),
            snapshot: SnapshotStatus {
                generation: snapshot.map_or(0, |snapshot| snapshot.generation),
                services: snapshot.map_or(0, |snapshot| snapshot.services.len()),
                listeners: snapshot.map_or(0, |snapshot| snapshot.gateway.listeners.len()),
                clusters: snapshot.map_or(0, |snapshot| snapshot.gateway.clusters.len()),
            },
            datapath,
            proxy,
            diagnostics: self.diagnostics(snapshot),
        }
    }

    fn is_ready(&self) -> bool {
        let redirects = self.datapath.as_ref();
        let serves = self.gateway.as_ref();
        !self.leaving.is_cancelled()
            && redirects.is_none_or(|(redirector, _)| redirector.progress().borrow().applied > 0)
            && serves.is_none_or(|progress| progress.borrow().applied > 0)
    }

    fn sync(&self) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + '_>> {
        Box::pin(async {
            match tokio::time::timeout(SYNC_PATIENCE, self.catch_up()).await {
                Ok(result) => result,
                Err(_) => bail!("not in force after {SYNC_PATIENCE:?}"),
            }
        })
    }

    fn traces(&self) -> &Traces {
        &self.traces
    }

    fn explain(&self, ask: Ask) -> anyhow::Result<Answer> {
        let (redirector, options) = self.redirector("where connections go")?;
        let mut question = ask.question()?;
        match &question.node {
            Some(other) if *other != self.node => bail!(
                "this is node {}, and knows nothing of {other}'s maps (fix: ask there, or --manifests)",
                self.node
            ),
            _ => {}
        }
        let inputs = self.sources.current();
        let (resources, rules) = (&inputs.resources, &inputs.rules);
        if let Some(other) = decided_elsewhere(resources, &question, &self.node)? {
            bail!(
                "node {other} decides that, and this is {here} (fix: ask there, or --node {here} for what \
                 this one would decide)",
                here = self.node
            );
        }
        question.node = Some(self.node.clone());
        let (settings, mirror) = {
            let datapath = redirector.datapath();
            let (settings, mirror) = datapath.tables();
            (*settings, mirror.clone())
        };
        let setup = Setup {
            by_kube_proxy: rules.as_ref().map(|rules| rules.services.clone()),
            unenforced: self.unenforced,
            tcp_shifting: self.tcp_shifting,
            ..setup(options, self.services.clone())?
        };
        let published = self.published.borrow();
        let snapshot = published.snapshot.as_ref();
        let loaded = Loaded {
            settings,
            mirror,
            services: snapshot.map_or_else(Vec::new, |snapshot| snapshot.services.clone()),
        };
        drop(published);
        Ok(explain(resources, &setup, Some(loaded), &question)?)
    }

    fn kube_proxy(&self, args: KubeProxyArgs) -> anyhow::Result<KubeProxyNode> {
        let (_, options) = self.redirector("how the node is set up")?;
        let own = KubeProxyArgs {
            hostname_override: self.node.clone(),
            ..setup(options, ServiceScope::All)?.kube_proxy
        };
        let inputs = self.sources.current();
        let (resources, rules) = (&inputs.resources, &inputs.rules);
        let args = args.or(&own);
        let args = args.on(resources, &args.hostname_override);
        let mut node = KubeProxyNode::new(resources, &args, &mut Vec::new())?;
        if let Some(rules) = rules {
            node.services.clone_from(&rules.services);
        }
        Ok(node)
    }
}

/// How this node is set up: with the addresses that it has, whatever its Node object says.
fn setup(options: &datapath::Options, services: ServiceScope) -> Result<Setup, datapath::Error> {
    let policy = &options.policy;
    let node_ports = policy.node_port_networks.iter().copied();
    Ok(Setup {
        kube_proxy: KubeProxyArgs {
            cluster_cidr: policy.pod_networks.clone(),
            masquerade_all: options.masquerade == MasqueradeMode::All,
            nodeport_addresses: node_ports.map(NodePortAddresses::In).collect(),
            iptables_localhost_nodeports: options.localhost_node_ports,
            node_addresses: datapath::node::facts()?.addresses.into_iter().collect(),
            ..KubeProxyArgs::default()
        },
        choices: Choices {
            external_ips: policy.external_ips,
            masquerade: options.masquerade,
            pod_networks: policy.pod_networks.clone(),
            knows_pods: options.knows_pods,
        },
        services,
        by_kube_proxy: None,
        unenforced: Unenforced::default(),
        tcp_shifting: TcpShifting::default(),
    })
}

impl Speaker {
    /// What is wrong, one line each.
    fn diagnostics(&self, snapshot: Option<&Snapshot>) -> Vec<String> {
        let of_objects = snapshot
            .into_iter()
            .flat_map(|snapshot| &snapshot.diagnostics);
        let trouble = self.report_trouble.borrow().clone();
        let trouble = trouble.map(|text| format!("warning: {text}"));
        of_objects.map(ToString::to_string).chain(trouble).collect()
    }

    /// Keeps the cluster told how this nodegate stands, for as long as the process runs.
    fn tell_cluster(self: &Arc<Self>, access: Access, namespace: String) {
        let (sender, reports) = watch::channel(Report::default());
        tokio::spawn(report::report(Arc::clone(self), sender));
        let speaker = Arc::clone(self);
        tokio::spawn(async move {
            let mut reports = reports;
            // The Node's object is known by then, with which the Lease is to go.
            if reports.wait_for(|report| report.ready).await.is_err() {
                return;
            }
            let inputs = speaker.sources.current();
            let node = inputs.resources.node(&speaker.node);
            let uid = node.and_then(|node| node.metadata.uid.clone());
            let trouble = speaker.report_trouble.clone();
            nodegate_source::kubernetes::report::keep(access, namespace, uid, reports, trouble)
                .await;
        });
    }

    /// The redirector, which alone knows `what`.
    fn redirector(
        &self,
        what: &'static str,
    ) -> Result<&(Arc<Redirector>, datapath::Options), ProxyOnly> {
        let fix = "ask there, or --manifests";
        let missing = || ProxyOnly { what, fix };
        self.datapath.as_ref().ok_or_else(missing)
    }

    async fn catch_up(&self) -> anyhow::Result<()> {
        let inputs = self.sources.reload().await;
        let version = inputs?.version;
        let stopped = |_| anyhow!("nodegate is ending");
        let mut published = self.published.clone();
        let generation = published
            .wait_for(|published| published.version >= version)
            .await
            .map_err(stopped)?
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.generation);
        if let Some((redirector, _)) = &self.datapath {
            let mut progress = redirector.progress();
            progress
                .wait_for(|progress| progress.applied >= generation)
                .await
                .map_err(stopped)?;
        }
        if let Some(progress) = &self.gateway {
            let mut progress = progress.clone();
            progress
                .wait_for(|progress| progress.applied >= generation)
                .await
                .map_err(stopped)?;
        }
        Ok(())
    }
}

fn datapath_status(redirector: &Redirector, options: &datapath::Options) -> DatapathStatus {
    let progress = redirector.progress().borrow().clone();
    let datapath = redirector.datapath();
    let named = |(name, count): (&str, _)| (name.to_owned(), count);
    DatapathStatus {
        applied: progress.applied,
        pin_dir: options.pin_dir.clone(),
        uplinks: datapath.uplinks().to_vec(),
        left_out: datapath.left_out().unwrap_or_default(),
        elements: datapath
            .usage()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        decisions: datapath
            .counters()
            .unwrap_or_default()
            .into_iter()
            .map(named)
            .collect(),
        shares: datapath
            .shares()
            .unwrap_or_default()
            .into_iter()
            .map(|((service, destination), connections)| ShareStatus {
                service,
                destination,
                connections,
            })
            .collect(),
        flows: datapath.flows().ok().map(|flows| FlowsStatus {
            places: flows.places,
            recorded: flows.recorded,
            established: flows.established,
            full_buckets: flows.full,
        }),
        heartbeat_age: datapath
            .heartbeat_age()
            .ok()
            .flatten()
            .map(|age| age.as_secs_f64()),
        failures: progress.failures,
    }
}
