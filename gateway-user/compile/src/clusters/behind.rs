//! What is behind a cluster of a Service: all that is to be known to look for it again when endpoints have
//! changed, and nothing else has.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ServicePort;
use nodegate_model::{
    gateway::{Cluster, Endpoint},
    service::{self, Protocol},
};
use nodegate_resources::{
    istio::Subset,
    lookup::{selects, service_of},
};

use super::{members::Members, placed::Placed};
use crate::{
    endpoints::{Endpoints, SliceTarget, View},
    placement::Placement,
    services::Labels,
};

/// What is behind a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Namespace and name of the Service.
    pub(crate) service: (String, String),
    /// Name of its port; empty if it has none.
    port: String,
    /// Which endpoints it is; none: all.
    subset: Option<Labels>,
    /// Endpoints that are in no EndpointSlice, each with its labels.
    beside: Vec<(Labels, Endpoint)>,
}

impl Behind {
    /// None if the host is none of a Service.
    pub(super) fn new(
        cluster: &str,
        host: &str,
        port: &ServicePort,
        subset: Option<&Subset>,
        beside: Members<'_>,
    ) -> Option<Self> {
        let (namespace, name) = service_of(host)?;
        Some(Self {
            cluster: cluster.to_owned(),
            service: (namespace.to_owned(), name.to_owned()),
            port: port.name.clone().unwrap_or_default(),
            subset: subset.map(|subset| subset.labels.clone()),
            beside: beside
                .endpoints
                .into_iter()
                .map(|(place, endpoint)| (place.labels.unwrap_or_default().into_owned(), endpoint))
                .collect(),
        })
    }

    /// Those that are in EndpointSlices and take traffic, as a gateway sees it.
    fn chosen<'r>(
        &self,
        endpoints: &Endpoints<'r>,
    ) -> impl Iterator<Item = (SliceTarget<'r>, u16)> {
        let (namespace, name) = &self.service;
        let port = (self.port.as_str(), Protocol::Tcp);
        let targets = endpoints.behind(namespace, name, port, View::Gateway);
        targets.into_iter().filter(|(target, _)| {
            let labels = target.pod.and_then(|pod| pod.metadata.labels.as_ref());
            let subset = self.subset.as_ref();
            target.is_ready() && subset.is_none_or(|subset| selects(subset, labels))
        })
    }

    /// Whether it has endpoints that are in no EndpointSlice.
    pub(crate) fn has_others(&self) -> bool {
        !self.beside.is_empty()
    }

    /// The cluster's endpoints in EndpointSlices as the datapath of `node` has them, each once.
    pub(crate) fn ready(&self, endpoints: &Endpoints<'_>, node: &str) -> Vec<service::Endpoint> {
        let chosen = self.chosen(endpoints);
        let chosen = chosen.map(|(target, port)| target.model(port, node));
        let mut all: Vec<_> = chosen.collect();
        all.sort_by_key(service::Endpoint::socket);
        all.dedup_by_key(|endpoint| endpoint.socket());
        all
    }

    /// The cluster's endpoints.
    pub(super) fn members<'r>(&'r self, endpoints: &Endpoints<'r>, http2: bool) -> Members<'r> {
        let placed = self.chosen(endpoints).map(|(target, port)| {
            let place = endpoints.place(&target);
            let endpoint = Endpoint {
                locality: place.locality.clone(),
                ..Endpoint::new((target.address, port).into())
            };
            (place, endpoint)
        });
        let beside = self.beside.iter().map(|(labels, endpoint)| {
            let place = Placement {
                locality: endpoint.locality.clone(),
                labels: Some(Cow::Borrowed(labels)),
                node: None,
            };
            (place, endpoint.clone())
        });
        Members {
            endpoints: placed.chain(beside).collect(),
            names: Vec::new(),
            http2,
        }
    }

    /// The cluster with its endpoints as they are now, for a gateway that is `here`.
    pub(crate) fn renewed(
        &self,
        cluster: &Cluster,
        endpoints: &Endpoints<'_>,
        here: &Placement<'_>,
    ) -> Cluster {
        let members = self.members(endpoints, cluster.http2);
        let Placed {
            endpoints,
            names,
            shares,
        } = Placed::new(members, &cluster.policy, here);
        Cluster {
            endpoints,
            names,
            shares,
            name: cluster.name.clone(),
            http2: cluster.http2,
            rule: cluster.rule.clone(),
            policy: cluster.policy.clone(),
        }
    }
}
