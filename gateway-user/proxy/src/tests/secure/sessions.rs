//! Sessions that go on.

use super::*;

/// Tickets of a client that shows them to whomever it talks to.
#[derive(Debug, Default)]
struct Careless {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
    session: Mutex<Option<Tls12ClientSessionValue>>,
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.session.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.session.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.session.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.lock().unwrap().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap().pop()
    }
}

#[tokio::test]
async fn sessions_go_on_at_every_worker_and_at_no_other_server() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(3), free_port());
    let identity = authority.issue(&["a.example", "b.example", "c.example"]);
    let chains = vec![
        https(&["a.example"], simple(&identity)),
        https(&["b.example"], simple(&identity)),
        https(&["c.example"], mutual(&identity, identities(&authority))),
    ];
    fixture.apply(serving(port, chains, &endpoint)).await;
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let mut client = Client::speaking(&authority, None, versions);
        client.config.resumption = Resumption::store(Arc::new(Careless::default()));
        let kind = async |name: &str| {
            let mut peer = Peer::of(client.connect(port, name).await.unwrap());
            peer.get(name, "/").await;
            peer.stream_of().get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(kind("a.example").await, HandshakeKind::Full);
        // The kernel spreads them over the workers.
        for _ in 0..12 {
            assert_eq!(kind("a.example").await, HandshakeKind::Resumed);
        }
        assert_eq!(kind("b.example").await, HandshakeKind::Full);
        assert_eq!(client.status(port, "c.example").await, None);
    }
}
