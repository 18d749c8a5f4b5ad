//! Passes a connection on to an endpoint, and bytes both ways.

use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::OptionFuture;
use nodegate_observe::ResponseFlag;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::TcpStream,
    time::{self, Sleep},
};

use super::{
    copy::{Common, Copy, Side},
    log::ConnectionLog,
    watched::Watched,
};
use crate::{
    accept::{Arrival, Transport},
    clock::ticks,
    cluster::{ClusterState, Engaged, Observation, Permit},
    config::{Config, Listener},
    connections::Order,
    pool::{self, ConnectError, PeerStream},
    tls::Inner,
    worker::Worker,
};

/// What is read at once, for each direction.
const BUFFER: usize = 64 * 1024;

/// Serves a connection until both directions are over.
pub(super) async fn serve<S: Transport>(worker: Rc<Worker>, arrival: Arrival<S>) {
    let Arrival {
        stream: mut client,
        peers,
        listener,
        registration,
        security,
    } = arrival;
    let mut log = ConnectionLog::new(&worker, peers, listener.port);
    let chain = security.as_ref().map(|security| {
        log.asked_for(security.server_name.clone());
        &*security.chain
    });
    let Some(cluster) = choose(&worker.config(), &listener, chain, &mut log) else {
        reset(client.tcp());
        return;
    };
    let Some((mut upstream, _engaged, _permit)) = connect(&cluster, &mut log).await else {
        reset(client.tcp());
        return;
    };
    let limits = &cluster.model.policy.limits;
    registration
        .handle
        .set_idle_limit(ticks(limits.tcp_idle_timeout));
    let longest = pin!(OptionFuture::from(
        limits.max_connection_duration.map(time::sleep)
    ));
    log.opened(upstream.tcp().local_addr().ok());

    let common = Common {
        worker: &worker,
        handle: &registration.handle,
        blame: &log.blame,
    };
    let ending =
        if let (Some((begun, client)), PeerStream::Clear(endpoint)) = (client.clear(), &upstream) {
            let client = Side {
                stream: client,
                bytes: &log.received,
                broken: ResponseFlag::DownstreamConnectionTermination,
            };
            let endpoint = Side {
                stream: endpoint,
                bytes: &log.sent,
                broken: ResponseFlag::UpstreamConnectionTermination,
            };
            let mut copy = Copy::new(client, endpoint, begun, common);
            until_over(common, longest, |cx| copy.poll(cx)).await
        } else {
            let mut client = Watched {
                stream: &mut client,
                handle: &registration.handle,
                worker: &worker,
                bytes: &log.received,
                broken: ResponseFlag::DownstreamConnectionTermination,
                blame: &log.blame,
            };
            let mut upstream = Watched {
                stream: &mut upstream,
                handle: &registration.handle,
                worker: &worker,
                bytes: &log.sent,
                broken: ResponseFlag::UpstreamConnectionTermination,
                blame: &log.blame,
            };
            // The end of either direction is passed on, and the other direction goes on.
            let mut copy = pin!(copy_bidirectional_with_sizes(
                &mut client,
                &mut upstream,
                BUFFER,
                BUFFER
            ));
            until_over(common, longest, |cx| copy.as_mut().poll(cx).map_ok(|_| ())).await
        };
    if let Err(error) = ending {
        log.broken(&error);
        // If one side broke off, the other one should not see a proper end.
        reset(client.tcp());
        reset(upstream.tcp());
    }
}

/// Copies until that is over, the connection is told to close, or has lived long enough.
async fn until_over(
    common: Common<'_>,
    mut longest: Pin<&mut OptionFuture<Sleep>>,
    mut copy: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
) -> io::Result<()> {
    poll_fn(|cx| match common.handle.order(cx) {
        Order::Serve | Order::Finish => {
            if let Poll::Ready(Some(())) = longest.as_mut().poll(cx) {
                return Poll::Ready(Ok(()));
            }
            copy(cx)
        }
        Order::Close => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
    })
    .await
}

/// Takes the next turn among the route's clusters.
fn choose(
    config: &Config,
    accepted_by: &Arc<Listener>,
    chain: Option<&str>,
    log: &mut ConnectionLog<'_>,
) -> Option<Arc<ClusterState>> {
    let current = config.listener(accepted_by.port);
    let mut listeners = current.into_iter().chain([accepted_by]);
    let tcp = listeners.find_map(|listener| listener.tcp(chain))?;
    log.set_counters(&tcp.counters);
    let chosen = tcp.target.choose();
    log.note(|decision| {
        decision.origin = Some(tcp.route.origin.clone());
        decision.cluster = Some(chosen.name.to_owned());
    });
    if chosen.cluster.is_none() {
        log.failed(ResponseFlag::NoCluster, "cluster_not_found");
    }
    chosen.cluster.cloned()
}

/// Takes the next turn among the cluster's endpoints, and connects.
async fn connect(
    cluster: &Arc<ClusterState>,
    log: &mut ConnectionLog<'_>,
) -> Option<(PeerStream, Engaged, Permit)> {
    let Ok(permit) = cluster.limits().admit_connection() else {
        log.failed(ResponseFlag::UpstreamOverflow, "overflow");
        return None;
    };
    let Some(engaged) = cluster.engage(None, &[]) else {
        log.failed(ResponseFlag::NoHealthyUpstream, "no_healthy_upstream");
        return None;
    };
    log.note(|decision| decision.endpoint = Some(engaged.address()));
    let worker = log.worker.index;
    // One try: the default of Envoy's `max_connect_attempts`.
    let error = match open(cluster, engaged.address()).await {
        Ok(stream) => {
            engaged.observe(worker, Observation::Connected);
            return Some((stream, engaged, permit));
        }
        Err(ConnectError::Io(error)) => error.to_string(),
        Err(ConnectError::Tls(error)) => format!("TLS_error:|{error}:TLS_error_end"),
        Err(ConnectError::Timeout) => io::Error::from(io::ErrorKind::TimedOut).to_string(),
    };
    engaged.observe(worker, Observation::Failed);
    log.failed(ResponseFlag::UpstreamConnectionFailure, &error);
    None
}

async fn open(cluster: &ClusterState, endpoint: SocketAddr) -> Result<PeerStream, ConnectError> {
    let limits = &cluster.model.policy.limits;
    let Some(tls) = cluster.tls() else {
        return pool::connect(endpoint, limits).await.map(PeerStream::Clear);
    };
    let name = tls.name(None, endpoint).map_err(ConnectError::Tls)?;
    pool::secure(endpoint, tls, name, Inner::Tcp, limits).await
}

/// Lets the stream end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // If the kernel refuses, the stream ends with a FIN.
    let _ = stream.set_zero_linger();
}
