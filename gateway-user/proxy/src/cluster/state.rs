//! A cluster at work: it chooses an endpoint for each request and learns from what becomes of it.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use nodegate_model::gateway::{Cluster, OutlierDetection};

use super::{
    balance::Balancer, endpoint::EndpointState, hash::Hashing, limits::Limits,
    outlier::Observation, tiers::Tiers,
};
use crate::{
    counters::{Counted, Counters, WorkerIndex},
    tls::ClientTls,
};

/// How often another endpoint is drawn when one has been tried already (Envoy's
/// `host_selection_retry_max_attempts`, as Istio sets it).
const REDRAWS: usize = 5;

/// A cluster and how it is doing.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) model: Arc<Cluster>,
    /// In the model's order.
    endpoints: Vec<Arc<EndpointState>>,
    balancer: Balancer,
    /// Priorities and localities; none: all endpoints are equally near.
    tiers: Option<Tiers>,
    /// How many endpoints are avoided.
    ejected: Arc<AtomicU32>,
    limits: Arc<Limits>,
    /// How endpoints are spoken to; none: in the clear.
    tls: Option<Arc<ClientTls>>,
    counters: Arc<Counters>,
}

/// An endpoint at work on one request or connection.
#[derive(Debug)]
pub(crate) struct Engaged {
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
}

impl ClusterState {
    /// Goes on from the state of a cluster of the same name, if there was one.
    pub(crate) fn new(model: &Arc<Cluster>, previous: Option<&Self>) -> Self {
        let known: HashMap<SocketAddr, &Arc<EndpointState>> = previous
            .into_iter()
            .flat_map(|previous| &previous.endpoints)
            .map(|endpoint| (endpoint.address, endpoint))
            .collect();
        let endpoints: Vec<_> = model
            .endpoints
            .iter()
            .map(|endpoint| match known.get(&endpoint.address) {
                Some(known) => Arc::clone(known),
                None => Arc::new(EndpointState::new(endpoint.address)),
            })
            .collect();
        let now = Instant::now();
        let ejected = endpoints
            .iter()
            .filter(|endpoint| endpoint.health.is_ejected(now))
            .count();
        let tiers = Tiers::new(model);
        Self {
            balancer: Balancer::new(
                model,
                tiers.as_ref(),
                previous.map(|previous| &previous.balancer),
            ),
            tiers,
            ejected: Arc::new(AtomicU32::new(ejected as u32)),
            limits: Limits::new(
                &model.policy.limits,
                previous.map(|previous| &previous.limits),
            ),
            tls: model.policy.tls.as_ref().map(|policy| {
                ClientTls::new(policy, previous.and_then(|previous| previous.tls.as_ref()))
            }),
            counters: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.counters)),
            model: Arc::clone(model),
            endpoints,
        }
    }

    /// Chooses an endpoint and puts it to work; none if there is none that may be used. With a hash,
    /// consistent hashing chooses; endpoints in `avoid` have been tried before.
    pub(crate) fn engage(
        self: &Arc<Self>,
        hash: Option<u64>,
        avoid: &[SocketAddr],
    ) -> Option<Engaged> {
        let index = self.choose(hash, avoid)?;
        let endpoint = Arc::clone(&self.endpoints[index]);
        endpoint.begin();
        Some(Engaged {
            cluster: Arc::clone(self),
            endpoint,
        })
    }

    /// How much may be under way: a request is admitted there.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// How endpoints are spoken to; none: in the clear.
    pub(crate) fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// What has become of requests and connections to the cluster.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Addresses of the endpoints.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// Whether endpoints are spoken to in HTTP/2; `client` says whether the client speaks that.
    pub(crate) fn speaks_http2(&self, client: bool) -> bool {
        let limits = &self.model.policy.limits;
        if limits.use_client_protocol {
            return client;
        }
        self.model.http2 || limits.upgrade_to_http2
    }

    fn outliers(&self) -> Option<&OutlierDetection> {
        self.model.policy.outliers.as_ref()
    }

    /// Which endpoints may be used: none if all may.
    fn usable(&self) -> Option<Cow<'_, [usize]>> {
        let Some(tiers) = &self.tiers else {
            return self.not_ejected().map(Cow::Owned);
        };
        let random = fastrand::u64(..);
        let Some(outliers) = self.outliers() else {
            return Some(tiers.of_locality(random, 0, |_| true));
        };
        let now = Instant::now();
        let healthy = |at: usize| !self.endpoints[at].health.is_ejected(now);
        Some(tiers.of_locality(random, outliers.min_health_percent, healthy))
    }

    /// Index of the next endpoint.
    fn choose(&self, hash: Option<u64>, avoid: &[SocketAddr]) -> Option<usize> {
        let hashing = self.balancer.hashing();
        // A request without a key goes to any endpoint.
        let hash = hash.unwrap_or_else(|| fastrand::u64(..));
        let mut index = None;
        for attempt in 0..=REDRAWS {
            index = if let Some(hashing) = hashing {
                hashing.find(&self.usable_by_hash(hashing, hash), hash, attempt)
            } else {
                let usable = self.usable();
                self.balancer.choose(&self.endpoints, usable.as_deref())
            };
            if index.is_none_or(|index| !avoid.contains(&self.endpoints[index].address)) {
                break;
            }
        }
        index
    }

    /// Which endpoints have a part in consistent hashing.
    fn usable_by_hash<'s>(&'s self, hashing: &'s Hashing, hash: u64) -> Cow<'s, [usize]> {
        let Some(tiers) = &self.tiers else {
            let usable = self.not_ejected().map(Cow::Owned);
            return usable.unwrap_or(Cow::Borrowed(hashing.all()));
        };
        let Some(outliers) = self.outliers() else {
            return tiers.of_priority(hash, 0, |_| true);
        };
        let now = Instant::now();
        let healthy = |at: usize| !self.endpoints[at].health.is_ejected(now);
        tiers.of_priority(hash, outliers.min_health_percent, healthy)
    }

    fn not_ejected(&self) -> Option<Vec<usize>> {
        let outliers = self.outliers()?;
        if self.ejected.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = Instant::now();
        let usable: Vec<usize> = (0..self.endpoints.len())
            .filter(|&index| !self.endpoints[index].health.is_ejected(now))
            .collect();
        let avoided = self.endpoints.len() - usable.len();
        self.ejected.store(avoided as u32, Ordering::Relaxed);
        // Envoy's panic mode: when too few are left, all are used, because the rest would only be
        // overwhelmed.
        let panic =
            usable.len() * 100 < usize::from(outliers.min_health_percent) * self.endpoints.len();
        (avoided > 0 && !panic).then_some(usable)
    }

    fn observe(&self, endpoint: &EndpointState, observation: Observation) {
        let Some(outliers) = self.outliers() else {
            return;
        };
        let now = Instant::now();
        if !endpoint.health.observe(outliers, observation, now) {
            return;
        }
        let others = self
            .endpoints
            .iter()
            .filter(|other| other.health.is_ejected(now))
            .count();
        // Not a single one, if that is more than the share (Envoy: DetectorImpl::ejectHost, where
        // `always_eject_one_host` is false unless it is set, and Istio does not set it).
        let share = (others + 1) * 100;
        if share <= usize::from(outliers.max_ejection_percent) * self.endpoints.len() {
            let period = endpoint.health.eject(outliers, now);
            self.ejected.store(others as u32 + 1, Ordering::Relaxed);
            tracing::info!(
                cluster = self.model.name,
                endpoint = %endpoint.address,
                ?period,
                "endpoint fails too often and is avoided"
            );
        }
    }
}

impl Engaged {
    /// The endpoint's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The cluster that the endpoint is of.
    pub(crate) fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }

    /// There is a connection to the endpoint, over which it will be asked. Where failures to reach it are
    /// counted by themselves, that is none, whatever comes next (Envoy: UpstreamRequest::onPoolReady).
    pub(crate) fn reached(&self) {
        if self
            .cluster
            .outliers()
            .is_some_and(|outliers| outliers.split)
        {
            self.cluster.observe(&self.endpoint, Observation::Connected);
        }
    }

    /// Says what came of asking the endpoint.
    pub(crate) fn observe(&self, worker: WorkerIndex, observation: Observation) {
        let counted = match observation {
            Observation::Status(status) => Counted::Status(status),
            Observation::Failed => Counted::Failed,
            Observation::Connected => Counted::Opened,
        };
        self.cluster.counters.add(worker, counted);
        self.cluster.observe(&self.endpoint, observation);
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        self.endpoint.end();
    }
}

#[cfg(test)]
mod tests;
