//! What one changed endpoint costs, from the event to the proxy and the maps, with many routes and Services.
//!
//! Everything is what the daemon uses, in the daemon's order; only the source of objects is made here. The
//! daemon puts a Snapshot in force in the proxy and in the maps at the same time; here they come one after
//! the other, so that the sum is the most that it takes. Without root there are no maps.

use std::{
    fmt, fs,
    net::{Ipv4Addr, TcpListener},
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nodegate_compile::{Compiler, GatewayIdentity, NodeIdentity, Publisher, ServiceScope};
use nodegate_datapath::{load, maps::Maps};
use nodegate_model::Snapshot;
use nodegate_programming::{
    capacity::Capacity, desired::Policy, node::NodeFacts, plan::Plan, reconcile::Reconciler,
};
use nodegate_proxy::{self as proxy, Proxy};
use nodegate_resources::manifest::Manifest;
use nodegate_source::{
    SourceError,
    combined::Sources,
    source::{Change, Changes, Followed, Reload, Source, Status},
};

const ROUTES: usize = 10_000;
const SERVICES: usize = 30_000;
const ROUNDS: usize = 200;
/// A round's stages.
const STAGES: [&str; 5] = ["admitted", "compiled", "published", "proxy", "maps"];

/// A source whose objects come from here.
struct Objects {
    documents: Vec<Change>,
    receiver: Receiver,
}

/// Who is told of changes, once there is a follower.
type Receiver = Arc<Mutex<Option<Box<dyn Changes>>>>;

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents", self.documents.len())
    }
}

#[derive(Debug)]
struct Following;

impl Source for Objects {
    fn follow(
        self: Box<Self>,
        changes: Box<dyn Changes>,
    ) -> Result<Box<dyn Followed>, SourceError> {
        changes.tell(self.documents);
        *self.receiver.lock().expect("nobody panics") = Some(changes);
        Ok(Box::new(Following))
    }
}

impl Followed for Following {
    fn reload(&self) -> Reload<'_> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> Status {
        Status {
            kind: "made here",
            read: Vec::new(),
            services: None,
            api_server: None,
        }
    }
}

/// A document of its own for each object, as an API server tells them.
fn document(name: &str, text: &str) -> Change {
    let manifest = Manifest::parse(PathBuf::from(name), text);
    assert_eq!(manifest.diagnostics, [], "{text}");
    Change::Document(Arc::new(manifest))
}

fn address(first: u8, number: usize) -> Ipv4Addr {
    let [_, b, c, d] = (number as u32 + 1).to_be_bytes();
    [first, b, c, d].into()
}

fn service(number: usize) -> Change {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: s{number}}}\nspec:\n  clusterIP: {ip}\n  clusterIPs: [{ip}]\n  ports: [{{name: http, port: 80, targetPort: 8080}}]\n",
        ip = address(11, number)
    );
    document(&format!("Service/s{number}"), &text)
}

fn slice(number: usize, last: u8) -> Change {
    let endpoint = |address: Ipv4Addr| {
        format!("- addresses: [{address}]\n  nodeName: n1\n  conditions: {{ready: true}}\n")
    };
    let text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: s{number}-x, labels: {{kubernetes.io/service-name: s{number}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints:\n{}{}",
        endpoint(address(10, number)),
        endpoint([12, 0, 0, last].into()),
    );
    document(&format!("EndpointSlice/s{number}"), &text)
}

fn route(number: usize) -> Change {
    let to = |number: usize, weight: usize| {
        format!(
            "    - destination: {{host: s{number}, port: {{number: 80}}}}\n      weight: {weight}\n"
        )
    };
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: shop, name: v{number}}}\nspec:\n  hosts: [h{number}.example]\n  gateways: [web]\n  http:\n  - route:\n{}{}{}",
        to(number, 80),
        to(ROUTES + number, 10),
        to(2 * ROUTES + number, 10),
    );
    document(&format!("VirtualService/v{number}"), &text)
}

fn gateway(port: u16) -> Change {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{namespace: shop, name: web}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n  - port: {{number: {port}, name: http, protocol: HTTP}}\n    hosts: ['*']\n"
    );
    document("Gateway/web", &text)
}

/// The maps, pinned below a directory that goes with them.
struct Programmed {
    directory: PathBuf,
    _programs: aya::Ebpf,
    maps: Maps,
    reconciler: Reconciler,
}

impl Programmed {
    fn new() -> Self {
        let directory = PathBuf::from(format!(
            "/sys/fs/bpf/nodegate-control-{}",
            std::process::id()
        ));
        let (programs, maps) = load::load(&directory).expect("root and a BPF file system");
        Self {
            directory,
            _programs: programs,
            maps,
            reconciler: Reconciler::new(Policy::default(), Capacity::MAPS),
        }
    }

    /// Makes the maps say what the Snapshot says; gives when they did. What no packet waits for comes after.
    fn apply(&mut self, snapshot: &Arc<Snapshot>) -> Instant {
        let node = NodeFacts::default();
        let mut plan = self.reconciler.plan(self.maps.mirror(), snapshot, &node);
        let garbage = plan.take_garbage();
        assert_eq!(self.maps.execute(plan), []);
        let applied = Instant::now();
        let rest = Plan {
            groups: garbage.into_iter().collect(),
            refused: Vec::new(),
        };
        assert_eq!(self.maps.execute(rest), []);
        self.reconciler.carried_out();
        applied
    }
}

impl Drop for Programmed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{} is left: {error}", self.directory.display());
        }
    }
}

/// All that is between the event and its effect.
struct Control {
    sources: Sources,
    receiver: Receiver,
    compiler: Compiler,
    publisher: Publisher,
    proxy: Proxy,
    programmed: Option<Programmed>,
}

impl Control {
    fn start(port: u16) -> Self {
        let documents = (0..SERVICES).flat_map(|number| [service(number), slice(number, 0)]);
        let documents = documents.chain((0..ROUTES).map(route));
        let receiver = Receiver::default();
        let objects = Objects {
            documents: documents.chain([gateway(port)]).collect(),
            receiver: Arc::clone(&receiver),
        };
        Self {
            sources: Sources::start(vec![Box::new(objects)], None).expect("it follows at once"),
            receiver,
            compiler: Compiler::default(),
            publisher: Publisher::default(),
            proxy: Proxy::start(proxy::Options {
                workers: NonZero::<usize>::MIN,
                address: Some(Ipv4Addr::LOCALHOST.into()),
                ..proxy::Options::default()
            })
            .expect("a thread"),
            programmed: nix::unistd::geteuid().is_root().then(Programmed::new),
        }
    }

    /// How long each stage takes, from the event on.
    async fn round(&mut self, event: Option<Change>) -> [Duration; STAGES.len()] {
        let (node, identity) = identities();
        let begin = Instant::now();
        if let Some(event) = event {
            let receiver = self.receiver.lock().expect("nobody panics");
            receiver.as_ref().expect("followed").tell(vec![event]);
        }
        let inputs = self.sources.current();
        let admitted = Instant::now();
        let scope = ServiceScope::All;
        let compiler = &mut self.compiler;
        let compiled = compiler.compile(&inputs.resources, &node, Some(&identity), &scope);
        let made = Instant::now();
        let snapshot = self.publisher.publish(compiled);
        let published = Instant::now();
        let applied = self.proxy.apply(&snapshot).await;
        let served = Instant::now();
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        let programmed = self.programmed.as_mut();
        let programmed = programmed.map_or(served, |programmed| programmed.apply(&snapshot));
        [begin, admitted, made, published, served]
            .into_iter()
            .zip([admitted, made, published, served, programmed])
            .map(|(begin, end)| end - begin)
            .collect::<Vec<_>>()
            .try_into()
            .expect("one for each stage")
    }
}

fn identities() -> (NodeIdentity, GatewayIdentity) {
    let node = NodeIdentity::named("n1");
    let gateway = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway-0".into(),
        labels: [("istio".into(), "ingressgateway".into())].into(),
        ..GatewayIdentity::default()
    };
    (node, gateway)
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{name:>10} {:10.3} {:10.3} {:10.3}",
        milliseconds(times[0]),
        milliseconds(times[times.len() / 2]),
        milliseconds(times[times.len() * 9 / 10]),
    );
}

#[tokio::main]
async fn main() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let mut control = Control::start(port);
    if control.programmed.is_none() {
        println!("skipped: the maps, which need root");
    }
    let whole = control.round(None).await;
    println!(
        "{ROUTES} VirtualServices, {SERVICES} Services: {:.1?} for all",
        whole.iter().sum::<Duration>()
    );
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let event = slice(round * 97 % ROUTES, 1 + (round % 250) as u8);
        rounds.push(control.round(Some(event)).await);
    }
    println!("one endpoint, in ms, {ROUNDS} times:");
    println!(
        "{:>10} {:>10} {:>10} {:>10}",
        "", "least", "median", "90 of 100"
    );
    for (stage, name) in STAGES.iter().enumerate() {
        print(name, rounds.iter().map(|round| round[stage]).collect());
    }
    print(
        "together",
        rounds.iter().map(|round| round.iter().sum()).collect(),
    );
    control.proxy.shutdown(Duration::ZERO).await;
}
