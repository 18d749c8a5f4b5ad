//! A worker's thread: one runtime, its listening sockets, and what is done with every tick.

use std::{
    collections::HashSet,
    io,
    net::{self, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use nodegate_observe::Tap;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    accept::{ByProtocol, Sockets},
    clock::{TICK, ticks},
    config::Config,
    counters::WorkerIndex,
    fronts::FrontsAcceptor,
    http::{HttpAcceptor, HttpPool},
    options::Options,
    overload::{self, Refusal},
    tcp::TcpAcceptor,
    tls::TlsAcceptor,
    worker::Worker,
};

/// How often a draining worker looks whether its last connection has ended.
const LOOK: Duration = Duration::from_millis(10);

/// What a worker is told. Answers go to the `oneshot`s.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept connections from this socket.
    Listen(u16, net::TcpListener),
    /// Close the socket of this port, once everything that waits there has been accepted, and let its
    /// HTTP connections finish.
    Unlisten(u16, oneshot::Sender<()>),
    /// A new configuration is in force. HTTP connections of these ports have to finish, because their
    /// ports speak something else now, and idle connections to these endpoints are closed, because no cluster has
    /// them any more.
    Applied(Vec<u16>, Arc<HashSet<SocketAddr>>, oneshot::Sender<()>),
    /// Stop accepting, finish what is open, and end: at the deadline at the latest.
    Drain(Instant),
}

/// A worker at work.
struct Running {
    worker: Rc<Worker>,
    pool: Rc<HttpPool>,
    sockets: Sockets,
}

/// Starts a worker's thread. It ends when it is told to, or when its commands have no sender any more.
pub(crate) fn spawn(
    index: usize,
    config: Arc<ArcSwap<Config>>,
    options: Arc<Options>,
    tap: Tap,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<thread::JoinHandle<()>> {
    // The thread reports whether it has a runtime, so that a failure is reported by `spawn`.
    let (ready, started) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("proxy-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    let index = WorkerIndex {
                        index,
                        count: options.workers.get(),
                    };
                    let worker = Rc::new(Worker::new(index, config, options, tap));
                    runtime.block_on(Running::new(worker).run(commands));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
    match started.recv() {
        Ok(result) => result.map(|()| thread),
        Err(_) => Err(io::Error::other("the thread ended before it was ready")),
    }
}

impl Running {
    fn new(worker: Rc<Worker>) -> Self {
        let pool = Rc::new(HttpPool::default());
        let acceptor = ByProtocol {
            http: HttpAcceptor::new(Rc::clone(&worker), Rc::clone(&pool)),
            tcp: TcpAcceptor::new(Rc::clone(&worker)),
            tls: TlsAcceptor::new(
                Rc::clone(&worker),
                HttpAcceptor::new(Rc::clone(&worker), Rc::clone(&pool)),
                TcpAcceptor::new(Rc::clone(&worker)),
            ),
        };
        Self {
            sockets: Sockets::new(
                Rc::clone(&worker),
                Box::new(FrontsAcceptor::new(Rc::clone(&worker), acceptor)),
            ),
            worker,
            pool,
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let deadlines = Rc::clone(&self.worker.deadlines);
        task::spawn_local(async move { deadlines.watch().await });
        let mut sweeps = time::interval(TICK);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Drain(deadline)) => return self.drain(deadline).await,
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                _ = sweeps.tick() => self.sweep(),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Listen(port, socket) => self.sockets.open(port, socket),
            Command::Unlisten(port, done) => {
                self.sockets.close(port).await;
                self.worker.connections.finish(Some(port));
                // The receiver is gone if the apply was given up; the work is done all the same.
                let _ = done.send(());
            }
            Command::Applied(finish, gone, done) => {
                for port in finish {
                    self.worker.connections.finish(Some(port));
                }
                self.pool.forget(&gone);
                let _ = done.send(());
            }
            // Ends the loop in `run`.
            Command::Drain(_) => {}
        }
    }

    /// What is done with every tick.
    fn sweep(&self) {
        let now = self.worker.clock.advance();
        let options = &self.worker.options;
        let (idle, head) = (ticks(options.idle_timeout), ticks(options.header_timeout));
        self.worker.connections.sweep(now, idle, head);
        self.pool.sweep(now);
        if self.worker.index.index == 0 {
            // It is that of all of them.
            overload::memory::look(options.max_memory);
        }
        if overload::is_pressing() && self.worker.connections.shed(now) {
            Refusal::Stalled.note();
        }
    }

    async fn drain(mut self, deadline: Instant) {
        self.sockets.close_all().await;
        let connections = &self.worker.connections;
        let mut looks = time::interval(LOOK);
        while Instant::now() < deadline {
            connections.finish(None);
            if connections.len() == 0 {
                return;
            }
            looks.tick().await;
        }
        tracing::warn!(
            connections = connections.len(),
            "the deadline cuts connections off"
        );
    }
}
