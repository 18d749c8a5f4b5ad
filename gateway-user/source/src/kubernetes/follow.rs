//! The API server as a source: a thread that hears what changes, and tells of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use nodegate_resources::object::Body;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    access::{Access, Connected},
    interest::{Interest, Wanted},
    journal::{self, Journal},
    ledger::Ledger,
    watch::{self, Found, News, Report},
};
use crate::{
    error::SourceError,
    source::{ApiServerStatus, Changes, Followed, KindStatus, Reload, Source, Status},
};

/// How long a start waits for the API server before it goes by the last state on disk.
const GRACE: Duration = Duration::from_secs(3);

/// How often there is a look at the clock.
const TICK: Duration = Duration::from_secs(1);

/// How often it is noted on disk that the API server is heard, if nothing else is.
const HEARD: u32 = 60;

/// How many reports may wait, and how many are taken at once.
const REPORTS: usize = 4096;

/// A cluster's API server, before anything has been read.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// How it is reached.
    pub access: Access,
    /// For what objects are read.
    pub interest: Interest,
    /// Where the last state is kept; none: nowhere.
    pub state: Option<PathBuf>,
}

/// An API server that is followed.
///
/// The thread behind it ends when this is dropped.
#[derive(Debug)]
struct Follower {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<Status>>,
}

#[derive(Debug)]
enum Command {
    /// List everything anew, and answer when that has been told.
    Reload(oneshot::Sender<()>),
}

/// The thread's state.
struct Worker {
    connected: Connected,
    interest: Interest,
    ledger: Ledger,
    watches: BTreeMap<Wanted, JoinHandle<()>>,
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    commands: mpsc::UnboundedReceiver<Command>,
    changes: Box<dyn Changes>,
    status: Arc<Mutex<Status>>,
    state: Option<PathBuf>,
    journal: Option<Journal>,
    /// How old what is in force was when it was read from disk; none as soon as the API server has been
    /// heard.
    remembered: Option<Duration>,
    /// Whether the other rooms have been told anything.
    has_told: bool,
    /// Whether the last state on disk has been looked for.
    has_looked_back: bool,
    /// Whether it has been said that there is nothing to go by.
    has_complained: bool,
    /// The answers to reloads that are waited for.
    waiting: Vec<oneshot::Sender<()>>,
    /// Rises when everything is listed anew: what watches before that say does not count any more.
    epoch: u64,
    began: Instant,
    ticks: u32,
}

// === impl ApiServer ===

impl Source for ApiServer {
    /// Fails if it is not known how to reach the API server. Whether it answers is told later: until it has,
    /// or the last state on disk is taken in its place, nothing is told of.
    fn follow(
        self: Box<Self>,
        changes: Box<dyn Changes>,
    ) -> Result<Box<dyn Followed>, SourceError> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (ready, outcome) = std_mpsc::channel();
        let status = Arc::new(Mutex::new(Status::of_api_server(self.access.to_string())));
        let shown = Arc::clone(&status);
        thread::Builder::new()
            .name("kubernetes".into())
            .spawn(move || {
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(SourceError::Thread(error)))),
                };
                runtime.block_on(async {
                    match self.access.connected().await {
                        Ok(connected) => {
                            // The one who asked waits for it.
                            drop(ready.send(Ok(())));
                            let worker = Worker::new(*self, connected, inbox, changes, shown);
                            worker.run().await;
                        }
                        Err(error) => drop(ready.send(Err(error))),
                    }
                });
            })
            .map_err(SourceError::Thread)?;
        outcome.recv().map_err(|_| SourceError::Stopped)??;
        Ok(Box::new(Follower { commands, status }))
    }
}

// === impl Follower ===

impl Followed for Follower {
    fn reload(&self) -> Reload<'_> {
        Box::pin(async {
            let (sender, answer) = oneshot::channel();
            self.commands
                .send(Command::Reload(sender))
                .map_err(|_| SourceError::Stopped)?;
            answer.await.map_err(|_| SourceError::Stopped)
        })
    }

    fn status(&self) -> Status {
        // A status is whole at any time.
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }
}

// === impl Worker ===

impl Worker {
    fn new(
        source: ApiServer,
        connected: Connected,
        commands: mpsc::UnboundedReceiver<Command>,
        changes: Box<dyn Changes>,
        status: Arc<Mutex<Status>>,
    ) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        let wanted = source.interest.wanted();
        Self {
            connected,
            ledger: Ledger::new(wanted),
            interest: source.interest,
            watches: BTreeMap::new(),
            sender,
            reports,
            commands,
            changes,
            status,
            state: source.state,
            journal: None,
            remembered: None,
            has_told: false,
            has_looked_back: false,
            has_complained: false,
            waiting: Vec::new(),
            epoch: 0,
            began: Instant::now(),
            ticks: 0,
        }
    }

    async fn run(mut self) {
        self.open_journal();
        for wanted in self.interest.wanted() {
            self.watch(wanted);
        }
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = self.reports.recv_many(&mut batch, REPORTS) => self.take(&mut batch),
                command = self.commands.recv() => match command {
                    Some(Command::Reload(answer)) => self.reload(answer),
                    None => return self.end(),
                },
                _ = tick.tick() => self.tick(),
            }
            self.tell();
        }
    }

    fn open_journal(&mut self) {
        let Some(path) = &self.state else {
            return;
        };
        match Journal::open(path) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => tracing::warn!(
                "{error}; until then a start without the API server has nothing new to go by"
            ),
        }
    }

    /// Takes what this node heard last in place of what the API server does not say.
    fn remember(&mut self) {
        let Some(path) = &self.state else {
            return;
        };
        let ledger = &mut self.ledger;
        match journal::remembered(path, |found| ledger.remember(found)) {
            Ok(age) => self.remembered = age,
            Err(error) => tracing::warn!("{error}"),
        }
        self.want_others();
    }

    fn watch(&mut self, wanted: Wanted) {
        let client = self.connected.client.clone();
        let task = watch::follow(client, wanted.clone(), self.epoch, self.sender.clone());
        let before = self.watches.insert(wanted, tokio::spawn(task));
        if let Some(before) = before {
            before.abort();
        }
    }

    /// Watches what the objects that are known say is to be watched, and nothing else.
    fn want_others(&mut self) {
        let (new, old) = self.ledger.want_others(&self.interest);
        for wanted in old {
            if let Some(task) = self.watches.remove(&wanted) {
                task.abort();
            }
        }
        for wanted in new {
            self.watch(wanted);
        }
    }

    fn take(&mut self, batch: &mut Vec<Report>) {
        let mut mentions_others = false;
        for report in batch.drain(..) {
            if report.epoch < self.epoch {
                continue;
            }
            let kind = report.wanted.kind;
            mentions_others |= kind.mentions_others();
            if let News::Object(found) = &report.news {
                self.note(found);
            }
            for (namespace, name) in self.ledger.take(report) {
                if let Some(journal) = &mut self.journal {
                    journal.gone(kind, &namespace, &name);
                }
            }
        }
        if mentions_others {
            self.want_others();
        }
    }

    /// Takes note of what is of use beside the objects themselves.
    fn note(&mut self, found: &Found) {
        self.learn_servers(found);
        if let Some(journal) = &mut self.journal {
            journal.object(found);
        }
    }

    /// The endpoints of `default/kubernetes` are the API servers themselves.
    fn learn_servers(&self, found: &Found) {
        let body = found.manifest.objects.first().map(|object| &object.body);
        let Some(Body::EndpointSlice(slice)) = body else {
            return;
        };
        if found.namespace == "default" && service_of(slice) == Some("kubernetes") {
            self.connected.dialer.learn(addresses(slice).into_iter());
        }
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        let is_late = !self.has_told && self.began.elapsed() >= GRACE;
        if is_late && self.remembered.is_none() && !self.ledger.is_settled() {
            self.go_without();
        }
        if !self.ticks.is_multiple_of(HEARD) {
            return;
        }
        if self.journal.is_none() && self.state.is_some() {
            self.open_journal();
            if self.journal.is_some() {
                // It lacks what was heard meanwhile.
                self.list_anew();
            }
        }
        if self.is_heard() {
            if let Some(journal) = &mut self.journal {
                journal.heard();
            }
            self.write();
        }
    }

    /// The API server does not answer at the start.
    fn go_without(&mut self) {
        if !self.has_looked_back {
            self.has_looked_back = true;
            self.remember();
        }
        if let Some(age) = self.remembered {
            tracing::warn!(
                "the API server does not answer; going by what was heard {} s ago",
                age.as_secs()
            );
            return;
        }
        let troubles = self.ledger.troubles();
        let is_due = !self.has_complained || self.ticks.is_multiple_of(HEARD);
        if is_due && !troubles.is_empty() {
            self.has_complained = true;
            for trouble in troubles {
                tracing::warn!("nothing to go by yet: {trouble:#}");
            }
        }
    }

    /// Whether what is in force is what the API server says.
    fn is_heard(&self) -> bool {
        self.has_told && self.remembered.is_none() && !self.ledger.is_out()
    }

    /// Tells what is new, as soon as it is a whole state.
    fn tell(&mut self) {
        let is_settled = self.ledger.is_settled();
        if is_settled && (self.remembered.take().is_some() || !self.has_told) {
            tracing::info!(
                server = self
                    .connected
                    .dialer
                    .server()
                    .map(|server| server.to_string()),
                "the API server's objects are known"
            );
            if let Some(journal) = &mut self.journal {
                journal.heard();
            }
        }
        if !(is_settled || self.has_told || self.remembered.is_some()) {
            return self.show();
        }
        let news = self.ledger.news();
        if !news.is_empty() {
            self.has_told = true;
            self.changes.tell(news);
            self.write();
        }
        if is_settled {
            for answer in self.waiting.drain(..) {
                // The one who asked may have stopped waiting.
                let _ = answer.send(());
            }
        }
        self.show();
    }

    fn write(&mut self) {
        let objects = self
            .ledger
            .standings()
            .iter()
            .map(|kind| kind.objects)
            .sum();
        let Some(journal) = &mut self.journal else {
            return;
        };
        if let Err(error) = journal.write(objects) {
            tracing::warn!("{error}; a start without the API server will have nothing to go by");
            self.journal = None;
        }
    }

    fn reload(&mut self, answer: oneshot::Sender<()>) {
        self.waiting.push(answer);
        self.list_anew();
    }

    fn list_anew(&mut self) {
        self.epoch += 1;
        self.ledger.unsettle();
        let all: Vec<_> = self.watches.keys().cloned().collect();
        for wanted in all {
            self.watch(wanted);
        }
    }

    fn show(&self) {
        let kinds = self.ledger.standings().into_iter();
        let kinds = kinds.map(|kind| KindStatus {
            kind: kind.what,
            objects: kind.objects,
            resource_version: kind.version,
            is_known: kind.is_complete,
        });
        let server = self.connected.dialer.server();
        let api_server = ApiServerStatus {
            server: server.map(|server| server.to_string()),
            is_heard: self.is_heard(),
            remembered: self.remembered.map(|age| age + self.began.elapsed()),
            kinds: kinds.collect(),
            troubles: self.ledger.troubles(),
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.api_server = Some(api_server);
    }

    fn end(&mut self) {
        for (_, task) in std::mem::take(&mut self.watches) {
            task.abort();
        }
        self.write();
    }
}

fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get("kubernetes.io/service-name").map(String::as_str)
}

fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten();
    let ports: Vec<_> = ports
        .filter_map(|port| u16::try_from(port.port?).ok())
        .collect();
    let addresses = slice.endpoints.iter().flat_map(|one| &one.addresses);
    let addresses = addresses.filter_map(|text| text.parse().ok());
    addresses
        .flat_map(|address| {
            ports
                .iter()
                .map(move |port| SocketAddr::new(address, *port))
        })
        .collect()
}
