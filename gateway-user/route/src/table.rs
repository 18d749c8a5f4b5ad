//! The routes of a listener, compiled for search.

use super::{
    host::{self, Hosts},
    index::Index,
    predicate::{self, Failed, Query},
    rewrite::Rewrite,
};
use nodegate_model::gateway::{HttpRoute, HttpRoutes, VirtualHost};

/// The route that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Index into [`HttpRoutes::virtual_hosts`].
    pub virtual_host: usize,
    /// Index into [`VirtualHost::routes`].
    pub route: usize,
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No virtual host has this host among its domains.
    NoVirtualHost,
    /// The virtual host is for requests over TLS, and this one is not: it is sent there
    /// ([`redirect::https_location`](super::redirect::https_location)), whatever the routes say.
    TlsRequired {
        /// Index into [`HttpRoutes::virtual_hosts`].
        virtual_host: usize,
    },
    /// The virtual host has no route for this path. Other virtual hosts are not asked.
    NoRoute {
        /// Index into [`HttpRoutes::virtual_hosts`].
        virtual_host: usize,
    },
}

impl Miss {
    /// The virtual host that was found, if any.
    pub fn virtual_host(self) -> Option<usize> {
        match self {
            Self::NoVirtualHost => None,
            Self::NoRoute { virtual_host } | Self::TlsRequired { virtual_host } => {
                Some(virtual_host)
            }
        }
    }
}

/// How a route was found, or why none was.
#[derive(Debug)]
pub struct Explanation<'t> {
    /// The host as it was searched: lower case, without the port.
    pub host: String,
    /// The virtual host that was found, if any: an index into [`HttpRoutes::virtual_hosts`].
    pub virtual_host: Option<usize>,
    /// Whether the request is sent to `https`, whatever the routes say.
    pub tls_required: bool,
    /// Its routes up to the one that matches, or all of them.
    pub tried: Vec<Tried<'t>>,
}

/// A route that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'t> {
    /// The route.
    pub route: &'t HttpRoute,
    /// The condition that does not hold; none: it matches.
    pub failed: Option<Failed<'t>>,
}

/// [`HttpRoutes`] compiled for search.
#[derive(Debug)]
pub struct RouteTable {
    routes: HttpRoutes,
    hosts: Hosts,
    /// By virtual host.
    indexes: Vec<Index>,
    /// By virtual host and route.
    rewrites: Vec<Vec<Option<Rewrite>>>,
}

impl RouteTable {
    /// Compiles routes.
    pub fn new(routes: HttpRoutes) -> Self {
        let hosts = Hosts::of(&routes);
        let rewrites = routes
            .virtual_hosts
            .iter()
            .map(|virtual_host| virtual_host.routes.iter().map(Rewrite::of).collect())
            .collect();
        let indexes = routes
            .virtual_hosts
            .iter()
            .map(|virtual_host| Index::new(&virtual_host.routes))
            .collect();
        Self {
            routes,
            hosts,
            indexes,
            rewrites,
        }
    }

    /// The routes that this was compiled from.
    pub fn routes(&self) -> &HttpRoutes {
        &self.routes
    }

    /// Whether there is a virtual host for this `Host`.
    pub fn has_host(&self, host: &str) -> bool {
        self.hosts.find(&host::normalize(host)).is_some()
    }

    /// Finds the route of a request: the virtual host by its host, then the first route that
    /// matches.
    ///
    /// # Errors
    ///
    /// With what was missing: a virtual host, a route, or TLS where the virtual host asks for it.
    // Envoy: RouteMatcher::route and VirtualHostImpl::getRouteFromEntries, which has no fall-through
    // to another virtual host.
    pub fn find(&self, query: &Query<'_>) -> Result<Match, Miss> {
        let virtual_host = self
            .hosts
            .find(&host::normalize(query.host))
            .ok_or(Miss::NoVirtualHost)?;
        let VirtualHost {
            routes,
            require_tls,
            ..
        } = &self.routes.virtual_hosts[virtual_host];
        if *require_tls && query.scheme != "https" {
            return Err(Miss::TlsRequired { virtual_host });
        }
        self.indexes[virtual_host]
            .find(routes, query)
            .map(|route| Match {
                virtual_host,
                route,
            })
            .ok_or(Miss::NoRoute { virtual_host })
    }

    /// The virtual host of that index.
    ///
    /// # Panics
    ///
    /// If the index is not from this table.
    pub fn virtual_host(&self, index: usize) -> &VirtualHost {
        &self.routes.virtual_hosts[index]
    }

    /// The route that was found.
    ///
    /// # Panics
    ///
    /// If the match is not from this table.
    pub fn route(&self, found: Match) -> &HttpRoute {
        &self.routes.virtual_hosts[found.virtual_host].routes[found.route]
    }

    /// What the found route does to the path; none if it leaves the path alone.
    ///
    /// # Panics
    ///
    /// If the match is not from this table.
    pub fn rewrite(&self, found: Match) -> Option<&Rewrite> {
        self.rewrites[found.virtual_host][found.route].as_ref()
    }
}

/// Finds the route of a request as [`RouteTable::find`] does, but tries one after the other, and tells what
/// became of each.
pub fn explain<'t>(routes: &'t HttpRoutes, query: &Query<'_>) -> Explanation<'t> {
    let host = host::normalize(query.host).into_owned();
    let virtual_host = Hosts::of(routes).find(&host);
    let found = virtual_host.map(|index| &routes.virtual_hosts[index]);
    let tls_required = found.is_some_and(|host| host.require_tls && query.scheme != "https");
    let routes = found.map(|host| host.routes.as_slice()).unwrap_or_default();
    let mut tried = Vec::new();
    for route in routes.iter().filter(|_| !tls_required) {
        let failed = predicate::check(&route.matches, query).err();
        tried.push(Tried { route, failed });
        if failed.is_none() {
            break;
        }
    }
    Explanation {
        host,
        virtual_host,
        tls_required,
        tried,
    }
}

impl<'t> Explanation<'t> {
    /// The route that was found, if any.
    pub fn found(&self) -> Option<&'t HttpRoute> {
        let last = self.tried.last()?;
        last.failed.is_none().then_some(last.route)
    }
}

#[cfg(test)]
mod tests;
