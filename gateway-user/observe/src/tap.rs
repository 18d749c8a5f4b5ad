//! Hands records to subscribers; costs one load when there are none.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::record::Record;

/// Where records go in. Clones are the same tap.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    shared: Arc<Shared>,
}

/// Where records come out.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    subscriber: Arc<Subscriber>,
    records: mpsc::Receiver<Arc<Record>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether there is any subscriber; kept apart so that asking costs one load.
    active: AtomicBool,
    subscribers: ArcSwap<Vec<Arc<Subscriber>>>,
}

#[derive(Debug)]
struct Subscriber {
    records: mpsc::Sender<Arc<Record>>,
    dropped: AtomicU64,
}

impl Tap {
    /// Whether there is a subscriber. To be asked before a record is made.
    pub fn is_active(&self) -> bool {
        self.shared.active.load(Ordering::Relaxed)
    }

    /// Gives a record to every subscriber. One that is behind by its whole buffer misses it.
    pub fn send(&self, record: Record) {
        let subscribers = self.shared.subscribers.load();
        if subscribers.is_empty() {
            return;
        }
        let record = Arc::new(record);
        for subscriber in subscribers.iter() {
            if subscriber.records.try_send(Arc::clone(&record)).is_err() {
                subscriber.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Listens from now on, with room for `buffer` records (at least one).
    pub fn subscribe(&self, buffer: usize) -> Subscription {
        let (sender, records) = mpsc::channel(buffer.max(1));
        let subscriber = Arc::new(Subscriber {
            records: sender,
            dropped: AtomicU64::new(0),
        });
        self.shared.change(|subscribers| {
            subscribers.push(Arc::clone(&subscriber));
        });
        Subscription {
            shared: Arc::clone(&self.shared),
            subscriber,
            records,
        }
    }
}

impl Shared {
    fn change(&self, change: impl Fn(&mut Vec<Arc<Subscriber>>)) {
        self.subscribers.rcu(|subscribers| {
            let mut subscribers = Vec::clone(subscribers);
            change(&mut subscribers);
            subscribers
        });
        // Whoever changes last sets the flag from what it sees, which is the last state or a later
        // one: a store that comes late is repeated until the two agree.
        loop {
            let active = !self.subscribers.load().is_empty();
            self.active.store(active, Ordering::SeqCst);
            if self.subscribers.load().is_empty() != active {
                return;
            }
        }
    }
}

impl Subscription {
    /// The next record. Waits until there is one.
    pub async fn recv(&mut self) -> Arc<Record> {
        match self.records.recv().await {
            Some(record) => record,
            // Not reached: `subscriber` holds a sender. A subscription without senders has no records.
            None => std::future::pending().await,
        }
    }

    /// The next record, if there is one already.
    pub fn try_recv(&mut self) -> Option<Arc<Record>> {
        self.records.try_recv().ok()
    }

    /// How many records were lost because this subscription was behind.
    pub fn dropped(&self) -> u64 {
        self.subscriber.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.change(|subscribers| {
            subscribers.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ConnectionRecord, ConnectionState, ResponseFlags, RouteDecision};

    fn record(listener: u16) -> Record {
        Record::Connection(Box::new(ConnectionRecord {
            upstream_local: None,
            time: jiff::Timestamp::UNIX_EPOCH,
            client: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], listener).into(),
            listener,
            server_name: None,
            state: ConnectionState::Opened,
            decision: RouteDecision::default(),
            flags: ResponseFlags::default(),
            details: "".into(),
            duration: Duration::ZERO,
            bytes_received: 0,
            bytes_sent: 0,
        }))
    }

    fn listener(record: &Record) -> u16 {
        match record {
            Record::Connection(record) => record.listener,
            Record::Request(record) => record.listener,
        }
    }

    #[tokio::test]
    async fn active_while_somebody_listens() {
        let tap = Tap::default();
        assert!(!tap.is_active());
        let mut first = tap.subscribe(4);
        let second = tap.subscribe(4);
        tap.send(record(1));
        drop(second);
        assert!(tap.is_active());
        tap.send(record(2));
        assert_eq!(listener(&*first.recv().await), 1);
        assert_eq!(listener(&*first.recv().await), 2);
        drop(first);
        assert!(!tap.is_active());
    }

    #[tokio::test]
    async fn slow_subscribers_lose_records_and_are_told() {
        let tap = Tap::default();
        let mut slow = tap.subscribe(2);
        for port in 0..5 {
            tap.send(record(port));
        }
        assert_eq!(slow.dropped(), 3);
        assert_eq!(listener(&*slow.recv().await), 0);
        assert_eq!(listener(&*slow.recv().await), 1);
    }
}
