//! A worker's open connections from clients: so that they can be told to end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    task::{Context, Waker},
};

/// Time as a worker counts it: rises by one with every sweep.
pub(super) type Tick = u32;

/// What a connection should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Go on.
    Serve,
    /// HTTP: finish the request that is being served, then close. TCP goes on.
    Finish,
    /// Close now.
    Close,
}

/// The part of an open connection that others can reach.
#[derive(Debug)]
pub(super) struct Handle {
    port: u16,
    /// Whether finishing before closing makes a difference: HTTP.
    gentle: bool,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    /// Whether a request is being served. Always false for TCP.
    busy: Cell<bool>,
    /// When something last happened.
    active: Cell<Tick>,
}

/// All open connections of a worker.
#[derive(Debug, Default)]
pub(super) struct Connections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Handle>>>,
}

/// Keeps a connection registered while it lives.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    connections: Rc<Connections>,
    pub(super) handle: Rc<Handle>,
}

impl Connections {
    /// Registers a connection; a gentle one (HTTP) is told to finish before it is told to close.
    pub(super) fn register(self: &Rc<Self>, port: u16, gentle: bool, now: Tick) -> Registration {
        let handle = Rc::new(Handle {
            port,
            gentle,
            order: Cell::new(Order::Serve),
            waker: RefCell::new(None),
            busy: Cell::new(false),
            active: Cell::new(now),
        });
        let id = self.next.get();
        self.next.set(id + 1);
        self.open.borrow_mut().insert(id, Rc::clone(&handle));
        Registration {
            id,
            connections: Rc::clone(self),
            handle,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells the connections of a port, or all, to finish.
    pub(super) fn finish(&self, port: Option<u16>) {
        for handle in self.open.borrow().values() {
            if port.is_none_or(|port| port == handle.port) {
                handle.give(Order::Finish);
            }
        }
    }

    /// Ends connections on which nothing has happened for `limit` ticks: HTTP gently, and one limit
    /// later for good; TCP at once.
    pub(super) fn sweep(&self, now: Tick, limit: Tick) {
        for handle in self.open.borrow().values() {
            let idle = now.wrapping_sub(handle.active.get());
            // The first tick may have come right after whatever happened: it isn't a whole one.
            if handle.busy.get() || idle <= limit {
                continue;
            }
            if handle.gentle && handle.order.get() == Order::Serve {
                handle.give(Order::Finish);
                handle.active.set(now);
            } else {
                handle.give(Order::Close);
            }
        }
    }
}

impl Handle {
    /// What to do. The task is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// Says that something happened.
    pub(super) fn touch(&self, now: Tick) {
        self.active.set(now);
    }

    /// Says whether a request is being served.
    pub(super) fn set_busy(&self, busy: bool, now: Tick) {
        self.busy.set(busy);
        self.active.set(now);
    }

    fn give(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            if let Some(waker) = self.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
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

    fn order(registration: &Registration) -> Order {
        registration
            .handle
            .order(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn finishing_reaches_one_port_or_all() {
        let connections = Rc::new(Connections::default());
        let first = connections.register(80, true, 0);
        let second = connections.register(81, true, 0);
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
        let idle = connections.register(80, true, 0);
        let busy = connections.register(80, true, 0);
        busy.handle.set_busy(true, 0);
        let tcp = connections.register(31400, false, 0);
        connections.sweep(10, 10);
        assert_eq!((order(&idle), order(&tcp)), (Order::Serve, Order::Serve));
        connections.sweep(11, 10);
        assert_eq!(order(&tcp), Order::Close);
        assert_eq!((order(&idle), order(&busy)), (Order::Finish, Order::Serve));
        connections.sweep(21, 10);
        assert_eq!(order(&idle), Order::Finish);
        connections.sweep(22, 10);
        assert_eq!((order(&idle), order(&busy)), (Order::Close, Order::Serve));
    }
}
