//! What a gateway does with a request: listener, virtual host, route by route, destination.

use std::net::SocketAddr;

use http::uri::PathAndQuery;
use serde::Serialize;

use crate::{
    model::{
        gateway::{Destination, Gateway, HttpRoutes, ListenerProtocol, RouteOrigin},
        service::ServicePort,
    },
    observe::ResponseFlag,
    resources::{
        Resources, istio,
        lookup::{Destinations, service_of},
        manifest::nearest,
    },
    route::{Query, Table},
};

mod routes;

/// What is asked of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// The `Host` header, or `:authority`.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Other headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// What the gateway does.
#[derive(Debug, Serialize)]
pub struct Routed {
    /// The port that it listens on.
    pub listener: u16,
    /// What was asked; none of a TCP listener, and if nothing was.
    pub request: Option<Request>,
    /// How it got on with the routes; none of a TCP listener.
    pub http: Option<Http>,
    /// The VirtualService whose route is taken.
    pub origin: Option<RouteOrigin>,
    /// Where to: one of them.
    pub destinations: Vec<Share>,
    /// How it ends.
    pub end: End,
}

/// Virtual host and routes.
#[derive(Debug, Serialize)]
pub struct Http {
    /// `http.8080`
    pub name: String,
    /// The virtual host that the request's host leads to.
    pub virtual_host: Option<Host>,
    /// All domains of the listener.
    pub domains: Vec<String>,
    /// The virtual host's routes up to the one that matches, or all of them.
    pub routes: Vec<Tried>,
    /// The path as the endpoint sees it, if it is another.
    pub rewritten_path: Option<String>,
}

/// A virtual host.
#[derive(Debug, Serialize)]
pub struct Host {
    /// `simple.baihl.io:80`
    pub name: String,
    /// The domain of it that is the request's host.
    pub domain: String,
    /// Why this one.
    pub why: String,
}

/// A route that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Its name; empty when unnamed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which VirtualService it comes from.
    pub origin: RouteOrigin,
    /// Its condition.
    pub condition: String,
    /// What misses; none of the one that matches.
    pub misses: Option<String>,
    /// Whether it is the one that would match if the request were only a little different.
    pub nearest: bool,
}

/// A share of the traffic.
#[derive(Debug, Serialize)]
pub struct Share {
    /// `outbound|80|v1|simple.simple.svc.cluster.local`
    pub cluster: String,
    /// Between 0 and 1.
    pub share: f64,
    /// Where to: one of them.
    pub endpoints: Vec<SocketAddr>,
    /// Why there is none.
    pub fault: Option<Fault>,
}

/// Why a destination answers nothing.
#[derive(Debug, Serialize)]
pub struct Fault {
    /// Envoy's letters.
    pub flag: ResponseFlag,
    /// In words.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// How a request ends.
#[derive(Debug, Serialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum End {
    /// An endpoint answers.
    Endpoint,
    /// There was no request: only a connection.
    Unasked,
    /// The gateway answers itself.
    Status {
        /// 404 or 503.
        status: u16,
        /// Envoy's letters.
        flag: ResponseFlag,
        /// Why.
        text: String,
        /// How much of the traffic gets this answer: between 0 and 1.
        share: f64,
    },
    /// The connection is closed (TCP).
    Closed {
        /// Envoy's letters.
        flag: ResponseFlag,
        /// Why.
        text: String,
        /// How much of the traffic: between 0 and 1.
        share: f64,
    },
}

/// What is known, to explain by.
#[derive(Debug)]
pub struct Known<'k> {
    /// What the gateway pod serves.
    pub gateway: &'k Gateway,
    /// The objects.
    pub resources: &'k Resources,
    /// All Services.
    pub services: &'k [ServicePort],
}

/// Explains what the gateway does at its port `listener`; none if it does not listen there.
pub fn route(known: &Known<'_>, listener: u16, request: Option<&Request>) -> Option<Routed> {
    let mut listeners = known.gateway.listeners.iter();
    let found = listeners.find(|candidate| candidate.port == listener)?;
    let mut routed = match &found.protocol {
        ListenerProtocol::Tcp(route) => Routed {
            listener,
            request: None,
            http: None,
            origin: Some(route.origin.clone()),
            destinations: shares(known, &route.destinations),
            end: End::Endpoint,
        },
        ListenerProtocol::Http(routes) => http(known, listener, routes, request),
    };
    if let (End::Endpoint, Some(fault)) = (&routed.end, fault(&routed)) {
        routed.end = fault;
    }
    Some(routed)
}

fn http(
    known: &Known<'_>,
    listener: u16,
    routes: &HttpRoutes,
    request: Option<&Request>,
) -> Routed {
    let hosts = routes.virtual_hosts.iter();
    let mut http = Http {
        name: routes.name.clone(),
        virtual_host: None,
        domains: hosts.flat_map(|host| host.domains.clone()).collect(),
        routes: Vec::new(),
        rewritten_path: None,
    };
    let routed = |http, origin, destinations, end| Routed {
        listener,
        request: request.cloned(),
        http: Some(http),
        origin,
        destinations,
        end,
    };
    let Some(request) = request else {
        return routed(http, None, Vec::new(), End::Unasked);
    };
    let path = request.path.split('?').next().unwrap_or_default();
    let query = Query {
        host: &request.host,
        path,
    };
    let table = Table::new(routes.clone());
    let found = table.find(query);
    let virtual_host = match found {
        Ok(found) => Some(found.virtual_host),
        Err(miss) => miss.virtual_host(),
    };
    let Some(index) = virtual_host else {
        let end = no_host(&request.host, &http.domains);
        return routed(http, None, Vec::new(), end);
    };
    let virtual_host = table.virtual_host(index);
    http.virtual_host = Some(routes::host(virtual_host, query));
    http.routes = routes::tried(virtual_host, query, found.ok().map(|found| found.route));
    let Ok(found) = found else {
        let end = no_route(&http);
        return routed(http, None, Vec::new(), end);
    };
    http.rewritten_path = table.rewrite(found).and_then(|rewrite| {
        let original: PathAndQuery = request.path.parse().ok()?;
        Some(rewrite.apply(&original).ok()?.to_string())
    });
    let route = table.route(found);
    let destinations = shares(known, &route.destinations);
    routed(
        http,
        Some(route.origin.clone()),
        destinations,
        End::Endpoint,
    )
}

fn no_host(host: &str, domains: &[String]) -> End {
    let name = host.split(':').next().unwrap_or_default();
    let hint = match nearest(name, domains) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => format!("; the domains are {}", domains.join(", ")),
    };
    End::Status {
        status: 404,
        flag: ResponseFlag::NoRoute,
        text: format!("no virtual host is for the host `{host}`{hint}"),
        share: 1.0,
    }
}

fn no_route(http: &Http) -> End {
    let host = http.virtual_host.as_ref().map_or("", |host| &host.name);
    let nearest = http.routes.iter().find(|route| route.nearest);
    let text = match nearest {
        Some(route) => format!(
            "no route of the virtual host {host} matches; the nearest is {}, which asks for {}: {}",
            Place(&route.origin),
            route.condition,
            route.misses.as_deref().unwrap_or_default()
        ),
        None => format!("the virtual host {host} has no routes"),
    };
    End::Status {
        status: 404,
        flag: ResponseFlag::NoRoute,
        text,
        share: 1.0,
    }
}

/// `http[1] of VirtualService simple/simple`
pub(super) struct Place<'p>(pub(super) &'p RouteOrigin);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RouteOrigin {
            namespace,
            name,
            index,
        } = self.0;
        write!(f, "http[{index}] of VirtualService {namespace}/{name}")
    }
}

fn shares(known: &Known<'_>, destinations: &[Destination]) -> Vec<Share> {
    let sum: u64 = destinations.iter().map(|to| u64::from(to.weight)).sum();
    let share = |destination: &Destination| match sum {
        // A single one gets all, whatever its weight.
        0 => 1.0 / destinations.len() as f64,
        sum => f64::from(destination.weight) / sum as f64,
    };
    destinations
        .iter()
        .map(|destination| {
            let cluster = known.gateway.clusters.get(&destination.cluster);
            let endpoints = cluster.map(|cluster| cluster.endpoints.clone());
            let fault = match &endpoints {
                None => Some(unknown(known, &destination.cluster)),
                Some(endpoints) if endpoints.is_empty() => Some(empty(known, &destination.cluster)),
                Some(_) => None,
            };
            Share {
                cluster: destination.cluster.clone(),
                share: share(destination),
                endpoints: endpoints.unwrap_or_default(),
                fault,
            }
        })
        .collect()
}

/// The worst of what the destinations come to.
fn fault(routed: &Routed) -> Option<End> {
    let faulty = || {
        let shares = routed.destinations.iter();
        shares.filter_map(|share| Some((share, share.fault.as_ref()?)))
    };
    let (first, fault) = faulty().next()?;
    let (flag, share) = (fault.flag, faulty().map(|(share, _)| share.share).sum());
    let text = format!("{}: {}", first.cluster, fault.text);
    Some(match routed.http {
        Some(_) => End::Status {
            status: 503,
            flag,
            text,
            share,
        },
        None => End::Closed { flag, text, share },
    })
}

/// Port, subset and host of a cluster: `outbound|80|v1|simple.simple.svc.cluster.local`.
fn parts(cluster: &str) -> Option<(u16, &str, &str)> {
    let mut parts = cluster.strip_prefix("outbound|")?.splitn(3, '|');
    let port = parts.next()?.parse().ok()?;
    Some((port, parts.next()?, parts.next()?))
}

/// Why there is no such cluster.
fn unknown(known: &Known<'_>, cluster: &str) -> Fault {
    let destinations = Destinations::of(known.resources.objects.values());
    let miss = parts(cluster).and_then(|(port, subset, host)| {
        let destination = istio::Destination {
            host: host.to_owned(),
            subset: subset.to_owned(),
            port: Some(istio::PortSelector {
                number: port.into(),
            }),
        };
        destinations.miss(&destination, "")
    });
    let (text, fix) = match miss {
        Some(miss) => (miss.message, miss.fix),
        None => ("the gateway has no such cluster".to_owned(), String::new()),
    };
    Fault {
        flag: ResponseFlag::NoCluster,
        text,
        fix,
    }
}

/// Why a cluster has no endpoints.
fn empty(known: &Known<'_>, cluster: &str) -> Fault {
    let found = parts(cluster).and_then(|(port, subset, host)| {
        let (namespace, name) = service_of(host)?;
        let service = known.services.iter().find(|service| {
            service.name.namespace == namespace && service.name.name == name && service.port == port
        })?;
        Some((service, subset))
    });
    let Some((service, subset)) = found else {
        return Fault {
            flag: ResponseFlag::NoHealthyUpstream,
            text: "it has no endpoints".to_owned(),
            fix: "see that pods with the Service's labels are there and ready".to_owned(),
        };
    };
    let (all, ready) = (
        service.endpoints.len(),
        service.endpoints.iter().filter(|e| e.ready).count(),
    );
    let name = &service.name;
    let (text, fix) = match (all, ready) {
        (0, _) => (
            format!("Service {name} has no endpoints"),
            "see that pods with the labels of its selector are there",
        ),
        (_, 0) => (
            format!("none of the {all} endpoints of Service {name} is ready"),
            "see why the pods are not ready",
        ),
        _ => (
            format!(
                "none of the {ready} ready endpoints of Service {name} has the labels of subset \
                 {subset}"
            ),
            "compare the labels of the pods with those of the subset in the DestinationRule",
        ),
    };
    Fault {
        flag: ResponseFlag::NoHealthyUpstream,
        text,
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests;
