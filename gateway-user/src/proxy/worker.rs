//! A worker: one thread, one runtime, its own listening sockets and upstream connections. Nothing on
//! the request path is shared between workers but the configuration and its turn counters.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io::{self, Write as _},
    net::{self, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use httpdate::HttpDate;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::{self, JoinHandle},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    config::{Config, Protocol},
    connections::{Connections, Tick},
    deadlines::Deadlines,
    http as serving,
    options::Options,
    pool::Pool,
    tcp,
};
use crate::observe::Tap;

/// Length of a tick.
const SWEEP: Duration = Duration::from_secs(1);
/// How long accepting waits when the process has no file descriptors left.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// Spare memory: pieces of a kind, headers of one, bytes of one.
const MAX_SPARE: usize = 64;
const MAX_SPARE_HEADERS: usize = 64;
const MAX_SPARE_BUFFER: usize = 16 * 1024;

/// What a worker is told. Answers go to the `oneshot`s.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept connections from this socket.
    Listen(u16, net::TcpListener),
    /// Close the socket of this port, once it has accepted what waits there, and let its HTTP
    /// connections finish.
    Unlisten(u16, oneshot::Sender<()>),
    /// A new configuration is in force; HTTP connections of these ports have to finish, because
    /// their ports speak TCP now.
    Applied(Vec<u16>, oneshot::Sender<()>),
    /// Stop accepting, finish what is open, and end: at the deadline at the latest.
    Drain(Instant),
}

/// What a worker's tasks share.
#[derive(Debug)]
pub(crate) struct Worker {
    config: Arc<ArcSwap<Config>>,
    pub(crate) options: Arc<Options>,
    pub(crate) tap: Tap,
    pub(crate) pool: Rc<Pool>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) deadlines: Rc<Deadlines>,
    now: Cell<Tick>,
    /// What `date` says.
    date: Cell<[u8; 29]>,
    spare: RefCell<Spare>,
    accepting: RefCell<HashMap<u16, Accepting>>,
}

/// Memory that the next request can use.
#[derive(Debug, Default)]
struct Spare {
    headers: Vec<HeaderMap>,
    buffers: Vec<Vec<u8>>,
}

/// A socket that is being accepted from.
#[derive(Debug)]
struct Accepting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts a worker's thread. It ends when it is told to, or when nobody can tell it anything more.
pub(crate) fn spawn(
    index: usize,
    config: Arc<ArcSwap<Config>>,
    options: Arc<Options>,
    tap: Tap,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<thread::JoinHandle<()>> {
    // Made here, so that its failure is the starter's; it is driven on the worker's thread only.
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
                    let worker = Rc::new(Worker {
                        config,
                        options,
                        tap,
                        pool: Rc::default(),
                        connections: Rc::default(),
                        deadlines: Rc::default(),
                        now: Cell::new(0),
                        date: Cell::new(date()),
                        spare: RefCell::default(),
                        accepting: RefCell::default(),
                    });
                    runtime.block_on(worker.run(commands));
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

impl Worker {
    /// The configuration that is in force. Not to be held over an await.
    pub(crate) fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// The time, to the second, as `date` says it (RFC 9110, section 5.6.7).
    pub(crate) fn date(&self) -> [u8; 29] {
        self.date.get()
    }

    /// No headers, and room for some.
    pub(crate) fn take_headers(&self) -> HeaderMap {
        self.spare.borrow_mut().headers.pop().unwrap_or_default()
    }

    /// An empty buffer.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().buffers.pop().unwrap_or_default()
    }

    /// Takes back what isn't needed any more.
    pub(crate) fn give_back(&self, mut headers: HeaderMap, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.headers.len() < MAX_SPARE && (1..=MAX_SPARE_HEADERS).contains(&headers.capacity())
        {
            headers.clear();
            spare.headers.push(headers);
        }
        if spare.buffers.len() < MAX_SPARE && buffer.capacity() <= MAX_SPARE_BUFFER {
            buffer.clear();
            spare.buffers.push(buffer);
        }
    }

    /// The current tick.
    pub(crate) fn now(&self) -> Tick {
        self.now.get()
    }

    async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let deadlines = Rc::clone(&self.deadlines);
        task::spawn_local(async move { deadlines.watch().await });
        let mut sweeps = time::interval(SWEEP);
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

    async fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Listen(port, socket) => self.listen(port, socket),
            Command::Unlisten(port, done) => {
                self.unlisten(port).await;
                self.connections.finish(Some(port));
                // Nobody waits if the apply was given up; the work is done all the same.
                let _ = done.send(());
            }
            Command::Applied(finish, done) => {
                for port in finish {
                    self.connections.finish(Some(port));
                }
                let endpoints: HashSet<SocketAddr> = self.config().endpoints().collect();
                self.pool.retain(&endpoints);
                let _ = done.send(());
            }
            // Ends the loop in `run`.
            Command::Drain(_) => {}
        }
    }

    fn listen(self: &Rc<Self>, port: u16, socket: net::TcpListener) {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(port, %error, "a worker can't watch its listening socket");
                return;
            }
        };
        let stop = CancellationToken::new();
        let task = task::spawn_local(Rc::clone(self).accept(port, listener, stop.clone()));
        self.accepting
            .borrow_mut()
            .insert(port, Accepting { stop, task });
    }

    async fn unlisten(&self, port: u16) {
        let accepting = self.accepting.borrow_mut().remove(&port);
        if let Some(Accepting { stop, task }) = accepting {
            stop.cancel();
            // It can only end in the way that it was told to.
            let _ = task.await;
        }
    }

    async fn accept(self: Rc<Self>, port: u16, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.serve(port, stream, address),
                Err(error) => self.accept_failed(port, &error).await,
            }
        }
        // The kernel has finished handshakes for us that nobody else can take over: closing the
        // socket would reset them.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, address)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.serve(port, stream, address);
            }
        }
    }

    async fn accept_failed(&self, port: u16, error: &io::Error) {
        use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
        // Anything else is about the one connection that was to be accepted (accept(2)).
        if let Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) = error.raw_os_error() {
            tracing::warn!(port, %error, "connections wait: raise the limit of open files");
            time::sleep(OUT_OF_FILES).await;
        }
    }

    fn serve(self: &Rc<Self>, port: u16, stream: TcpStream, address: SocketAddr) {
        let Some(listener) = self.config().listener(port).cloned() else {
            return;
        };
        // Without it small messages would only wait longer.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else {
            return;
        };
        // An IPv4 client of a socket for both families.
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let addresses = (canonical(address), canonical(local));
        let worker = Rc::clone(self);
        // Before its task first runs, so that whoever ends the port's connections finds this one.
        let gentle = matches!(listener.protocol, Protocol::Http(_));
        let registration = self.connections.register(port, gentle, self.now());
        match listener.protocol {
            Protocol::Http(_) => {
                task::spawn_local(serving::serve(
                    worker,
                    stream,
                    addresses,
                    listener,
                    registration,
                ));
            }
            Protocol::Tcp(_) => {
                task::spawn_local(tcp::serve(
                    worker,
                    stream,
                    addresses,
                    listener,
                    registration,
                ));
            }
        }
    }

    fn sweep(&self) {
        let now = self.now.get().wrapping_add(1);
        self.now.set(now);
        self.date.set(date());
        let ticks = |time: Duration| {
            let ticks = time.as_secs() / SWEEP.as_secs();
            Tick::try_from(ticks).unwrap_or(Tick::MAX).max(1)
        };
        let (idle, head) = (self.options.idle_timeout, self.options.header_timeout);
        self.connections.sweep(now, ticks(idle), ticks(head));
        self.pool.sweep(now);
    }

    async fn drain(self: Rc<Self>, deadline: Instant) {
        let ports: Vec<u16> = self.accepting.borrow().keys().copied().collect();
        for port in ports {
            self.unlisten(port).await;
        }
        let mut turns = time::interval(Duration::from_millis(10));
        while Instant::now() < deadline {
            self.connections.finish(None);
            if self.connections.len() == 0 {
                return;
            }
            turns.tick().await;
        }
        tracing::warn!(
            connections = self.connections.len(),
            "the deadline cuts connections off"
        );
    }
}

/// The time as `date` says it.
fn date() -> [u8; 29] {
    let mut text = [b' '; 29];
    // That is always so long.
    let _ = write!(&mut text[..], "{}", HttpDate::from(SystemTime::now()));
    text
}
