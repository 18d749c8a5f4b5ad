//! The acceptor of ports on which clients speak TLS: it reads the name that a client asks for, ends TLS there or
//! lets it pass, and hands on what is inside.

use std::{future::poll_fn, io, pin::pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use nodegate_observe::ResponseFlag;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task, time,
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    hello::{self, Hello, NoHello, Replayed},
    peer, upstream,
};
use crate::{
    accept::{Acceptor, Arrival, Security, Transport},
    config::{Chain, Inner},
    connections::Order,
    http::HttpAcceptor,
    tcp::{ConnectionLog, TcpAcceptor},
    worker::Worker,
};

/// How long a handshake may take (`transport_socket_connect_timeout` of istio's gateways).
const LONGEST: Duration = Duration::from_secs(15);

/// How long a client that is refused is heard out.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes connections of TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsAcceptor {
    parts: Rc<Parts>,
}

#[derive(Debug)]
struct Parts {
    worker: Rc<Worker>,
    http: HttpAcceptor,
    tcp: TcpAcceptor,
}

/// Why a connection is not served.
struct Refused {
    /// Envoy's letters.
    flag: Option<ResponseFlag>,
    details: String,
}

/// What a client has begun with, and what is done with it.
struct Begun {
    stream: TcpStream,
    hello: Hello,
    chain: Arc<Chain>,
    server_name: Option<String>,
}

// === impl TlsAcceptor ===

impl TlsAcceptor {
    pub(crate) fn new(worker: Rc<Worker>, http: HttpAcceptor, tcp: TcpAcceptor) -> Self {
        Self {
            parts: Rc::new(Parts { worker, http, tcp }),
        }
    }
}

impl Acceptor for TlsAcceptor {
    fn accept(&self, arrival: Arrival) {
        let parts = Rc::clone(&self.parts);
        task::spawn_local(async move {
            let handle = Rc::clone(&arrival.registration.handle);
            let mut served = pin!(time::timeout(LONGEST, parts.serve(arrival)));
            // Nothing has been promised to a client yet: an order to finish ends it.
            poll_fn(|cx| match handle.order(cx) {
                Order::Serve => served.as_mut().poll(cx).map(|_| ()),
                Order::Finish | Order::Close => Poll::Ready(()),
            })
            .await;
        });
    }
}

// === impl Parts ===

impl Parts {
    /// Takes a connection as far as to what is inside, which is served in a task of its own.
    async fn serve(&self, arrival: Arrival) {
        let mut log = ConnectionLog::new(&self.worker, arrival.peers, arrival.listener.port);
        // Until more is known: this is what is left if the time is over.
        log.refused(None, "TLS_handshake_not_finished");
        let Arrival {
            mut stream,
            peers,
            listener,
            registration,
            security: _,
        } = arrival;
        let begun = match hello::read(&mut stream).await {
            Ok(hello) => {
                let server_name = hello.server_name();
                log.asked_for(server_name.clone());
                // As it is now, not as it was when the connection was accepted.
                let config = self.worker.config();
                let current = config.listener(listener.port).unwrap_or(&listener);
                let chain = current
                    .tls()
                    .and_then(|tls| tls.find(server_name.as_deref()));
                match chain.cloned() {
                    Some(chain) => Begun {
                        stream,
                        hello,
                        chain,
                        server_name,
                    },
                    None => return refuse(&stream, &mut log, &Refused::no_chain()),
                }
            }
            Err(missing) => return refuse(&stream, &mut log, &Refused::no_hello(missing)),
        };
        let arrived = |security| (peers, Arc::clone(&listener), security);
        match &Arc::clone(&begun.chain).inner {
            Inner::Passthrough(_) => {
                log.leave_to_others();
                let (stream, security) = begun.passed_on();
                let (peers, listener, security) = arrived(security);
                self.tcp.accept(Arrival {
                    stream,
                    peers,
                    listener,
                    registration,
                    security: Some(security),
                });
            }
            inner => match begun.ended().await {
                Err(refused) => log.refused(refused.flag, &refused.details),
                Ok((stream, security)) => {
                    log.leave_to_others();
                    let (peers, listener, security) = arrived(security);
                    let arrival = Arrival {
                        stream,
                        peers,
                        listener,
                        registration,
                        security: Some(security),
                    };
                    if matches!(inner, Inner::Http(..)) {
                        self.http.accept(arrival);
                    } else {
                        self.tcp.accept(arrival);
                    }
                }
            },
        }
    }
}

/// Ends a connection with a reset: nothing of it has been understood.
fn refuse(stream: &TcpStream, log: &mut ConnectionLog<'_>, refused: &Refused) {
    // If the kernel refuses, the stream ends with a FIN.
    let _ = stream.set_zero_linger();
    log.refused(refused.flag, &refused.details);
}

/// Reads what a refused client has sent meanwhile: a close would reset the connection, and the client would never
/// read why it is refused.
async fn hear_out(mut stream: TcpStream) {
    let mut unheard = [0; 4096];
    if stream.shutdown().await.is_ok() {
        while let Ok(1..) = stream.read(&mut unheard).await {}
    }
}

// === impl Begun ===

impl Begun {
    /// TLS goes on as it is.
    fn passed_on(self) -> (Replayed, Rc<Security>) {
        let security = Rc::new(Security {
            chain: Arc::clone(&self.chain.name),
            server_name: self.server_name,
            certificate: None,
        });
        (Replayed::new(self.hello.read, self.stream), security)
    }

    /// TLS ends here.
    async fn ended(self) -> Result<(TlsStream<TcpStream>, Rc<Security>), Refused> {
        let Some(tls) = self.chain.tls() else {
            return Err(Refused::no_chain());
        };
        let handshake = {
            let client = self.hello.accepted.client_hello();
            tls.handshake(client.alpn().into_iter().flatten())
        };
        let handshake = handshake.map_err(|error| Refused::unready(&error.to_string()))?;
        let start = StartHandshake::from_parts(self.hello.accepted, self.stream);
        let stream = match start.into_stream(handshake.config).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let _ = time::timeout(FAREWELL, hear_out(stream)).await;
                return Err(Refused::failed(&error));
            }
        };
        let (_, session) = stream.get_ref();
        // It is a header of requests.
        let shown = self.chain.http().and_then(|_| session.peer_certificates());
        let shown = shown.and_then(<[_]>::first);
        let security = Rc::new(Security {
            chain: Arc::clone(&self.chain.name),
            server_name: self.server_name,
            certificate: shown.and_then(|shown| peer::forwarded(shown, &handshake.uris)),
        });
        Ok((stream, security))
    }
}

// === impl Refused ===

impl Refused {
    /// No server of the port is for the name that was asked for.
    fn no_chain() -> Self {
        Self {
            flag: Some(ResponseFlag::NoRoute),
            details: "filter_chain_not_found".to_owned(),
        }
    }

    fn no_hello(missing: NoHello) -> Self {
        let (flag, details) = match missing {
            NoHello::Gone => (
                Some(ResponseFlag::DownstreamConnectionTermination),
                "gone_before_TLS".to_owned(),
            ),
            // Envoy: no filter chain is for what is no TLS.
            NoHello::Clear => (
                Some(ResponseFlag::NoRoute),
                "plain_text_on_a_port_of_TLS".to_owned(),
            ),
            NoHello::Bad(error) => (None, tls_error(&error.to_string())),
        };
        Self { flag, details }
    }

    /// The certificates can't be used.
    fn unready(error: &str) -> Self {
        Self {
            flag: None,
            details: tls_error(error),
        }
    }

    fn failed(error: &io::Error) -> Self {
        let reason = upstream::reason(error).unwrap_or_else(|| error.to_string());
        Self {
            flag: None,
            details: tls_error(&reason),
        }
    }
}

fn tls_error(reason: &str) -> String {
    format!("TLS_error:|{reason}:TLS_error_end")
}

impl Transport for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn clear(&mut self) -> Option<(Vec<u8>, &TcpStream)> {
        None
    }
}
