//! A worker's open connections from clients: what each is doing, and the order that each is under to go
//! on or to end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::{Context, Waker},
};

use crate::{clock::Tick, http1::HeadFault, overload::Place};

/// What a connection should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// HTTP: finish the request that is being served, then close. TCP goes on.
    Finish,
    /// Close now.
    Close,
}

/// Why a client's head is refused before it is read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It has a fault.
    Fault(HeadFault),
    /// It has taken too long to come.
    SlowHead,
}

/// Whether more of a request's body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// No: all of it has been taken, or there is none.
    Over,
    /// Yes, or a part that has come has not been taken by the endpoint's side.
    Open,
    /// Yes, and every part that has come has been taken.
    Awaited,
}

/// The part of an open connection that is reached from outside its task: by the worker's sweeps and
/// orders, and by the requests that are served over it.
#[derive(Debug)]
pub(crate) struct Handle {
    port: u16,
    /// Whether finishing before closing makes a difference: HTTP.
    gentle: Cell<bool>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    /// How many requests are being served: over HTTP/1.1, one at most; over TCP, none.
    requests: Cell<u32>,
    /// Whether the client has been given the head of its response. HTTP/1.1 only.
    answered: Cell<bool>,
    /// Whether the request is in a version before HTTP/1.1.
    outdated: Cell<bool>,
    /// Whether more of a request's body is still to come. HTTP/1.1 only.
    body: Cell<BodyState>,
    /// Since when a head has been coming in.
    head_since: Cell<Option<Tick>>,
    /// When the client shut down its side.
    client_ended: Cell<Option<Tick>>,
    /// Whether the connection has ended, and its requests with it.
    over: Cell<bool>,
    rejection: Cell<Option<Rejection>>,
    /// Whether what comes next waits for the request that is being served. HTTP/1.1 only.
    held: Cell<bool>,
    /// Whether hyper serves it, which keeps buffers. HTTP/1.1 only.
    buffered: Cell<bool>,
    /// Whether everything that was written has been given to the kernel.
    flushed: Cell<bool>,
    /// When the connection was last in use.
    active: Cell<Tick>,
    /// For how long it may be idle, if that is shorter than the limit of all connections.
    idle_limit: Cell<Option<Tick>>,
}

/// Ticks for which a client that has shut down its sending side still gets its answer. A client that has
/// gone altogether looks the same, and few clients shut down their side after a request.
// Envoy takes both kinds for gone at once.
const END_LIMIT: Tick = 1;

/// All open connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Handle>>>,
}

/// Keeps a connection registered while it lives.
#[derive(Debug)]
pub(crate) struct Registration {
    id: u64,
    connections: Rc<Connections>,
    pub(crate) handle: Rc<Handle>,
    /// Among all of the process.
    _place: Option<Place>,
}

impl Connections {
    /// Registers a connection.
    pub(crate) fn register(
        self: &Rc<Self>,
        port: u16,
        now: Tick,
        place: Option<Place>,
    ) -> Registration {
        let handle = Rc::new(Handle {
            port,
            gentle: Cell::new(false),
            order: Cell::new(Order::Serve),
            waker: RefCell::new(None),
            requests: Cell::new(0),
            answered: Cell::new(false),
            outdated: Cell::new(false),
            body: Cell::new(BodyState::Over),
            head_since: Cell::new(None),
            client_ended: Cell::new(None),
            over: Cell::new(false),
            rejection: Cell::new(None),
            held: Cell::new(false),
            buffered: Cell::new(false),
            flushed: Cell::new(true),
            active: Cell::new(now),
            idle_limit: Cell::new(None),
        });
        let id = self.next.get();
        self.next.set(id + 1);
        self.open.borrow_mut().insert(id, Rc::clone(&handle));
        Registration {
            id,
            connections: Rc::clone(self),
            handle,
            _place: place,
        }
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells the connections of a port, or all, to finish.
    pub(crate) fn finish(&self, port: Option<u16>) {
        for handle in self.open.borrow().values() {
            if port.is_none_or(|port| port == handle.port) {
                handle.give(Order::Finish);
            }
        }
    }

    /// Ends connections that have been idle for `limit` ticks: gentle ones are told to finish, and to
    /// close one limit later; others are told to close at once. Refuses heads that have been coming in
    /// for `head_limit` ticks.
    pub(crate) fn sweep(&self, now: Tick, limit: Tick, head_limit: Tick) {
        for handle in self.open.borrow().values() {
            let idle = now.wrapping_sub(handle.active.get());
            // The first tick may have begun right after the connection's last use, and so is no whole
            // one: hence more than the limit, and not as many ticks as it.
            handle.sweep(now, head_limit);
            let limit = handle.idle_limit.get().map_or(limit, |own| own.min(limit));
            if handle.is_serving() || idle <= limit {
                continue;
            }
            if handle.gentle.get() && handle.order.get() == Order::Serve {
                handle.give(Order::Finish);
                handle.active.set(now);
            } else {
                handle.give(Order::Close);
            }
        }
    }
}

/// How many requests make a connection one that holds much.
const MANY: u32 = 100;

/// For so many ticks none of them has begun or ended.
const STALLED: Tick = 10;

impl Connections {
    /// Ends the connection that holds the most, if there is one whose many requests have made no progress lately:
    /// each of them keeps a connection to an endpoint that others need. Says whether there was one.
    pub(crate) fn shed(&self, now: Tick) -> bool {
        let open = self.open.borrow();
        let holds = open.values().filter(|handle| {
            handle.requests.get() >= MANY && now.wrapping_sub(handle.active.get()) > STALLED
        });
        let most = holds.max_by_key(|handle| handle.requests.get());
        if let Some(handle) = most {
            handle.give(Order::Close);
        }
        most.is_some()
    }
}

impl Handle {
    /// What the connection should do. The task that asks is woken when that changes.
    pub(crate) fn order(&self, cx: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// The connection is to finish what it serves before it is told to close: HTTP.
    pub(crate) fn set_gentle(&self) {
        self.gentle.set(true);
    }

    /// For how many ticks the connection may be idle from now on.
    pub(crate) fn set_idle_limit(&self, limit: Tick) {
        self.idle_limit.set(Some(limit));
    }

    /// The connection is in use.
    pub(crate) fn touch(&self, now: Tick) {
        self.active.set(now);
    }

    /// The listener's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A request is being served from now on.
    pub(crate) fn request_began(&self, now: Tick) {
        self.requests.set(self.requests.get() + 1);
        self.answered.set(false);
        self.head_since.set(None);
        self.active.set(now);
    }

    /// A request is no longer being served.
    pub(crate) fn request_ended(&self, now: Tick) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.active.set(now);
        if self.client_ended.get().is_some() || self.held.take() {
            self.wake();
        }
    }

    /// What the client sends next waits for the request that is being served: its end wakes the connection's task.
    pub(crate) fn hold(&self) {
        self.held.set(true);
    }

    /// The request is in a version before HTTP/1.1.
    pub(crate) fn set_outdated(&self) {
        self.outdated.set(true);
    }

    /// Whether the request is in a version before HTTP/1.1.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.get()
    }

    /// Whether any request is being served.
    pub(crate) fn is_serving(&self) -> bool {
        self.requests.get() > 0
    }

    /// The client is given the head of its response now.
    pub(crate) fn answered(&self) {
        self.answered.set(true);
    }

    /// Whether the client has sent its whole request and waits for the head of the response.
    fn is_waiting(&self) -> bool {
        self.is_serving() && !self.answered.get() && !self.body_is_open()
    }

    /// More of a request's body may come.
    pub(crate) fn body_open(&self) {
        self.body.set(BodyState::Open);
    }

    /// More of a request's body is waited for: every part that has come has been taken.
    pub(crate) fn body_awaited(&self) {
        if self.body.replace(BodyState::Awaited) != BodyState::Awaited
            && self.client_ended.get().is_some()
        {
            // The client has shut down its side: no more will come.
            self.wake();
        }
    }

    /// Nothing more of a request's body will come.
    pub(crate) fn body_over(&self) {
        self.body.set(BodyState::Over);
    }

    /// Whether more of a request's body may come.
    pub(crate) fn body_is_open(&self) -> bool {
        self.body.get() != BodyState::Over
    }

    /// A part of a head has come in.
    pub(crate) fn head_began(&self, now: Tick) {
        if self.head_since.get().is_none() {
            self.head_since.set(Some(now));
        }
    }

    /// What came in was not the head of a request (HTTP/2's preface).
    pub(crate) fn head_ended(&self) {
        self.head_since.set(None);
    }

    /// Whether a head has begun to come in and is no request yet.
    pub(crate) fn is_reading_head(&self) -> bool {
        self.head_since.get().is_some()
    }

    /// The client has shut down its side.
    pub(crate) fn client_ended(&self, now: Tick) {
        self.client_ended.set(Some(now));
    }

    /// The connection has ended, whichever side ended it.
    pub(crate) fn set_over(&self) {
        self.over.set(true);
    }

    /// Whether requests end because the connection does.
    pub(crate) fn ends_requests(&self) -> bool {
        self.over.get() || self.client_ended.get().is_some()
    }

    /// Whether a client that has shut down its side may be taken for gone: no request is being
    /// served, or the request is incomplete, or its answer has been taking too long. While the answer is
    /// being written, a client that has gone is found by the failing write.
    pub(crate) fn may_end(&self, now: Tick) -> bool {
        !self.is_serving() || self.body.get() == BodyState::Awaited || self.is_gone(now)
    }

    /// Whether a client that waits for its answer, or whose body is not being taken, has had its side
    /// shut down for too long.
    fn is_gone(&self, now: Tick) -> bool {
        let ended = self.client_ended.get();
        let late = ended.is_some_and(|ended| now.wrapping_sub(ended) > END_LIMIT);
        late && (self.is_waiting() || self.body_is_open())
    }

    /// The head that is coming in is refused.
    pub(crate) fn reject(&self, rejection: Rejection) {
        self.rejection.set(Some(rejection));
    }

    /// Why the head that is coming in is refused, if it is.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        self.rejection.get()
    }

    /// Whether to finish what is being served, and then close.
    pub(crate) fn is_finishing(&self) -> bool {
        self.order.get() != Order::Serve
    }

    /// Says whether hyper keeps buffers for the connection, which are given up once it rests.
    pub(crate) fn set_buffered(&self, buffered: bool) {
        self.buffered.set(buffered);
    }

    /// Says whether everything that was written has been given to the kernel.
    pub(crate) fn set_flushed(&self, flushed: bool) {
        self.flushed.set(flushed);
    }

    /// Whether no request is under way on the connection, and none has been for more than a tick.
    pub(crate) fn rests(&self, now: Tick) -> bool {
        self.flushed.get()
            && !self.is_serving()
            && !self.is_reading_head()
            && !self.body_is_open()
            && self.rejection.get().is_none()
            && self.client_ended.get().is_none()
            && now.wrapping_sub(self.active.get()) > 1
    }

    /// Refuses a head that takes too long, and wakes the connection's task if the client has gone or the
    /// buffers can be given up.
    fn sweep(&self, now: Tick, head_limit: Tick) {
        let slow = self
            .head_since
            .get()
            .is_some_and(|since| now.wrapping_sub(since) > head_limit);
        if slow && self.rejection.get().is_none() {
            self.reject(Rejection::SlowHead);
            self.wake();
        }
        if self.is_gone(now) || (self.buffered.get() && self.rests(now)) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The connection is to finish what it serves, and close.
    pub(crate) fn finish(&self) {
        self.give(Order::Finish);
    }

    /// The connection is to end now.
    pub(crate) fn close(&self) {
        self.give(Order::Close);
    }

    fn give(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            self.wake();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(connections: &Rc<Connections>, port: u16, gentle: bool, now: Tick) -> Registration {
        let registration = connections.register(port, now, None);
        if gentle {
            registration.handle.set_gentle();
        }
        registration
    }

    fn order(registration: &Registration) -> Order {
        registration
            .handle
            .order(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn finishing_reaches_one_port_or_all() {
        let connections = Rc::new(Connections::default());
        let first = register(&connections, 80, true, 0);
        let second = register(&connections, 81, true, 0);
        connections.finish(Some(80));
        assert_eq!(
            (order(&first), order(&second)),
            (Order::Finish, Order::Serve)
        );
        connections.finish(None);
        assert_eq!(order(&second), Order::Finish);
        drop(first);
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn idle_ones_finish_then_close_and_busy_ones_stay() {
        let connections = Rc::new(Connections::default());
        let idle = register(&connections, 80, true, 0);
        let busy = register(&connections, 80, true, 0);
        busy.handle.request_began(0);
        let tcp = register(&connections, 31400, false, 0);
        connections.sweep(10, 10, 60);
        assert_eq!((order(&idle), order(&tcp)), (Order::Serve, Order::Serve));
        connections.sweep(11, 10, 60);
        assert_eq!(order(&tcp), Order::Close);
        assert_eq!((order(&idle), order(&busy)), (Order::Finish, Order::Serve));
        connections.sweep(21, 10, 60);
        assert_eq!(order(&idle), Order::Finish);
        connections.sweep(22, 10, 60);
        assert_eq!((order(&idle), order(&busy)), (Order::Close, Order::Serve));
    }

    #[test]
    fn heads_may_not_come_for_ever() {
        let connections = Rc::new(Connections::default());
        let slow = register(&connections, 80, true, 0);
        let idle = register(&connections, 80, true, 0);
        slow.handle.head_began(5);
        connections.sweep(65, Tick::MAX, 60);
        assert_eq!(slow.handle.rejection(), None);
        connections.sweep(66, Tick::MAX, 60);
        assert_eq!(slow.handle.rejection(), Some(Rejection::SlowHead));
        assert_eq!(idle.handle.rejection(), None);
    }

    #[test]
    fn who_has_ended_is_gone_after_a_while() {
        let connections = Rc::new(Connections::default());
        let client = register(&connections, 80, true, 0).handle.clone();
        client.request_began(6);
        assert!(!client.may_end(9));
        client.client_ended(7);
        assert!(!client.may_end(7 + END_LIMIT));
        assert!(client.may_end(8 + END_LIMIT));
        client.answered();
        assert!(!client.may_end(8 + END_LIMIT), "writing finds out");
        client.request_ended(9);
        assert!(client.may_end(9));
    }

    #[test]
    fn who_ends_within_a_body_is_gone_once_all_of_it_is_taken() {
        let connections = Rc::new(Connections::default());
        let client = register(&connections, 80, true, 0).handle.clone();
        client.request_began(7);
        client.body_open();
        client.client_ended(7);
        assert!(!client.may_end(7), "it may be all that was to come");
        assert!(client.may_end(8 + END_LIMIT), "nobody takes it");
        client.body_awaited();
        assert!(client.may_end(7));
        client.body_over();
        assert!(!client.may_end(7));
    }

    #[test]
    fn who_holds_the_most_and_makes_no_progress_goes_first() {
        let connections = Rc::new(Connections::default());
        let open = [MANY - 1, MANY, 3 * MANY, 2 * MANY].map(|requests| {
            let registration = connections.register(80, 0, None);
            for _ in 0..requests {
                registration.handle.request_began(0);
            }
            registration
        });
        // The third one gets on.
        open[2].handle.touch(5);
        let cx = Context::from_waker(Waker::noop());
        let closed = || {
            open.each_ref()
                .map(|one| one.handle.order(&cx) == Order::Close)
        };
        assert!(!connections.shed(STALLED));
        assert!(connections.shed(STALLED + 1));
        assert_eq!(closed(), [false, false, false, true]);
        drop(open);
        assert!(!connections.shed(100));
    }
}
