//! The workers together: they are started, given one configuration after the other, and ended.

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use nodegate_model::{
    Snapshot,
    gateway::{Cluster, Gateway},
};
use nodegate_observe::Tap;
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task,
    time::Instant,
};

use crate::{
    accept::{self, BindError},
    config::{Config, Endpoints, Protocol},
    counts::ProxyCounts,
    dns::{Answers, Resolver},
    options::Options,
    thread::{Command, spawn},
};

/// How long a Snapshot waits for names that are asked for with it. Until they are known, their
/// clusters have no endpoints.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The workers.
#[derive(Debug)]
pub struct Proxy {
    options: Arc<Options>,
    shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    applied: watch::Sender<u64>,
    tap: Tap,
}

/// What became of a Snapshot.
#[derive(Debug)]
#[must_use = "ports that could not be listened on are reported here"]
pub struct Applied {
    /// Its generation, which all workers serve now.
    pub generation: u64,
    /// Listeners that it wants and that are not there. They are tried again with the next Snapshot.
    pub failures: Vec<BindError>,
}

/// What putting a configuration in force needs.
#[derive(Debug)]
struct Shared {
    config: Arc<ArcSwap<Config>>,
    /// Commands to each worker.
    commands: Vec<mpsc::UnboundedSender<Command>>,
    /// Held while a configuration is put in force.
    applying: Mutex<Applying>,
}

#[derive(Debug, Default)]
struct Applying {
    /// Ports that the workers listen on.
    ports: BTreeSet<u16>,
    /// Which endpoints are in the clusters that are in force.
    endpoints: Endpoints,
    /// Resolves the names of endpoints; none while there are no names.
    resolver: Option<Resolver>,
}

impl Proxy {
    /// Starts the workers. They listen on nothing yet.
    ///
    /// # Errors
    ///
    /// If a thread or its runtime can't be created.
    pub fn start(options: Options) -> io::Result<Self> {
        let options = Arc::new(options);
        let config = Arc::new(ArcSwap::from_pointee(Config::default()));
        let tap = Tap::default();
        let mut workers = Vec::new();
        let mut commands = Vec::new();
        for index in 0..options.workers.get() {
            let (sender, receiver) = mpsc::unbounded_channel();
            workers.push(spawn(
                index,
                Arc::clone(&config),
                Arc::clone(&options),
                tap.clone(),
                receiver,
            )?);
            commands.push(sender);
        }
        Ok(Self {
            options,
            shared: Arc::new(Shared {
                config,
                commands,
                applying: Mutex::default(),
            }),
            workers,
            applied: watch::Sender::new(0),
            tap,
        })
    }

    /// The generation that all workers serve; 0 before the first.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What the routes and clusters that are in force have counted so far.
    pub fn counts(&self) -> ProxyCounts {
        ProxyCounts::of(&self.shared.config.load())
    }

    /// Where records of what happens can be subscribed to.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Puts a Snapshot in force, and returns when all workers serve it.
    ///
    /// New ports are bound before old ones are closed; ports that stay are not touched, and neither
    /// are their connections: HTTP requests obey the new routes from the next one on, TCP
    /// connections stay with their endpoints. A port that can't be bound doesn't hold up the others.
    pub async fn apply(&self, snapshot: &Snapshot) -> Applied {
        let mut applying = self.shared.applying.lock().await;
        self.resolve(&mut applying, &snapshot.gateway).await;
        let answers = applying.answers();
        let ports = &mut applying.ports;
        let wanted: BTreeSet<u16> = snapshot
            .gateway
            .listeners
            .iter()
            .map(|listener| listener.port)
            .collect();

        let mut failures = Vec::new();
        let mut bound = Vec::new();
        for &port in wanted.difference(ports) {
            match accept::listen(self.options.address, port, self.workers.len()) {
                Ok(sockets) => bound.push((port, sockets)),
                Err(error) => {
                    tracing::warn!(port, %error, "no listener");
                    failures.push(error);
                }
            }
        }
        let closed: Vec<u16> = ports.difference(&wanted).copied().collect();
        for &port in &closed {
            let unlisten = |done| Command::Unlisten(port, done);
            self.shared.ask(unlisten).await;
            ports.remove(&port);
            tracing::info!(port, "listener closed");
        }

        self.shared
            .install(&mut applying, &snapshot.gateway, &answers, bound)
            .await;
        self.applied.send_replace(snapshot.generation);
        Applied {
            generation: snapshot.generation,
            failures,
        }
    }

    /// Stops accepting, lets open requests and connections finish, and ends: after `deadline` at the
    /// latest, cutting off what is left.
    pub async fn shutdown(self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        for worker in &self.shared.commands {
            // A worker that has ended needs no command.
            let _ = worker.send(Command::Drain(deadline));
        }
        let threads = task::spawn_blocking(move || {
            for worker in self.workers {
                if worker.join().is_err() {
                    tracing::error!("a worker had panicked");
                }
            }
        });
        if let Err(error) = threads.await {
            tracing::error!(%error, "waiting for the workers failed");
        }
    }

    /// Resolves the names of a Gateway's endpoints from now on.
    async fn resolve(&self, applying: &mut Applying, gateway: &Gateway) {
        let previous = Arc::clone(self.shared.config.load().gateway());
        let mut changes = gateway.clusters.changes_since(&previous.clusters);
        let has_names = |cluster: Option<&Arc<Cluster>>| {
            cluster.is_some_and(|cluster| !cluster.names.is_empty())
        };
        if !changes.any(|change| has_names(change.before) || has_names(change.after)) {
            return;
        }
        let names: BTreeSet<String> = gateway
            .clusters
            .values()
            .flat_map(|cluster| &cluster.names)
            .map(|target| target.host.clone())
            .collect();
        if names.is_empty() {
            applying.resolver = None;
            return;
        }
        let resolver = applying.resolver.get_or_insert_with(|| {
            let resolver = Resolver::start(self.options.dns);
            task::spawn(follow(Arc::downgrade(&self.shared), resolver.answers()));
            resolver
        });
        if resolver.want(names) {
            resolver.settle(FIRST_ANSWER).await;
        }
    }
}

impl Shared {
    /// Puts a configuration in force, with sockets for new ports.
    async fn install(
        &self,
        applying: &mut Applying,
        gateway: &Arc<Gateway>,
        answers: &Arc<Answers>,
        sockets: Vec<(u16, Vec<TcpListener>)>,
    ) {
        let previous = self.config.load_full();
        let (next, changes) = Config::new(gateway, answers, &previous);
        let next = Arc::new(next);
        self.config.store(Arc::clone(&next));
        for (port, sockets) in sockets {
            for (worker, socket) in self.commands.iter().zip(sockets) {
                // A worker that has ended serves nothing; the others go on.
                let _ = worker.send(Command::Listen(port, socket));
            }
            applying.ports.insert(port);
            let protocol = next.listener(port).map(|new| new.protocol.name());
            tracing::info!(port, protocol, "listener opened");
        }
        let finish = changed_from_http(&previous, &next);
        let gone = Arc::new(applying.endpoints.update(&changes));
        let applied = |done| Command::Applied(finish.clone(), Arc::clone(&gone), done);
        self.ask(applied).await;
    }

    /// Gives a command to all workers, and waits until all have obeyed.
    async fn ask(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let answers: Vec<_> = self
            .commands
            .iter()
            .filter_map(|worker| {
                let (done, answer) = oneshot::channel();
                worker.send(command(done)).ok()?;
                Some(answer)
            })
            .collect();
        for answer in answers {
            // If there is no answer the worker has ended, and serves nothing.
            let _ = answer.await;
        }
    }
}

impl Applying {
    /// The addresses of names, as far as they are known now.
    fn answers(&self) -> Arc<Answers> {
        let resolver = self.resolver.as_ref();
        resolver.map_or_else(Arc::default, |resolver| {
            let answers = resolver.answers();
            let answers = answers.borrow();
            Arc::clone(&answers)
        })
    }
}

/// Puts new addresses of names in force as they come, for as long as there are workers and a resolver.
async fn follow(shared: Weak<Shared>, mut answers: watch::Receiver<Arc<Answers>>) {
    while answers.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut applying = shared.applying.lock().await;
        let known = Arc::clone(&answers.borrow_and_update());
        let gateway = Arc::clone(shared.config.load().gateway());
        shared
            .install(&mut applying, &gateway, &known, Vec::new())
            .await;
    }
}

/// Ports that spoke HTTP in the clear and speak something else now. Their sockets stay.
fn changed_from_http(previous: &Config, next: &Config) -> Vec<u16> {
    next.listeners()
        .iter()
        .filter(|new| !matches!(new.protocol, Protocol::Http(_)))
        .filter(|new| {
            previous
                .listener(new.port)
                .is_some_and(|old| matches!(old.protocol, Protocol::Http(_)))
        })
        .map(|new| new.port)
        .collect()
}
