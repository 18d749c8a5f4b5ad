//! The routes of a listener, compiled for search.

use super::{
    host::{self, Hosts},
    predicate::{self, Query},
    rewrite::Rewrite,
};
use crate::model::gateway::{HttpRoute, HttpRoutes, VirtualHost};

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
            Self::NoRoute { virtual_host } => Some(virtual_host),
        }
    }
}

/// [`HttpRoutes`] compiled for search.
#[derive(Debug)]
pub struct Table {
    routes: HttpRoutes,
    hosts: Hosts,
    /// By virtual host and route.
    rewrites: Vec<Vec<Option<Rewrite>>>,
}

impl Table {
    /// Compiles routes.
    pub fn new(routes: HttpRoutes) -> Self {
        let mut hosts = Hosts::default();
        for (index, virtual_host) in routes.virtual_hosts.iter().enumerate() {
            for domain in &virtual_host.domains {
                hosts.insert(domain, index);
            }
        }
        let rewrites = routes
            .virtual_hosts
            .iter()
            .map(|virtual_host| virtual_host.routes.iter().map(Rewrite::of).collect())
            .collect();
        Self {
            routes,
            hosts,
            rewrites,
        }
    }

    /// The routes that this was compiled from.
    pub fn routes(&self) -> &HttpRoutes {
        &self.routes
    }

    /// Finds the route of a request: the virtual host by its host, then the first route that
    /// matches.
    // Envoy: RouteMatcher::route and VirtualHostImpl::getRouteFromEntries, which has no fall-through
    // to another virtual host.
    pub fn find(&self, query: &Query<'_>) -> Result<Match, Miss> {
        let virtual_host = self
            .hosts
            .find(&host::normalize(query.host))
            .ok_or(Miss::NoVirtualHost)?;
        self.routes.virtual_hosts[virtual_host]
            .routes
            .iter()
            .position(|route| predicate::check(&route.matches, query).is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::gateway::{PathMatch, RouteMatch},
        route::fixture::{query, route},
    };

    fn prefix(path: &str) -> HttpRoute {
        route(RouteMatch::path(PathMatch::Prefix(path.into())))
    }

    fn exact(path: &str) -> HttpRoute {
        route(RouteMatch::path(PathMatch::Exact(path.into())))
    }

    fn table(virtual_hosts: &[(&[&str], Vec<HttpRoute>)]) -> Table {
        Table::new(HttpRoutes {
            name: "http.8080".into(),
            virtual_hosts: virtual_hosts
                .iter()
                .map(|(domains, routes)| VirtualHost {
                    name: format!("{}:80", domains[0]),
                    domains: domains.iter().map(ToString::to_string).collect(),
                    routes: routes.clone(),
                    require_tls: false,
                })
                .collect(),
        })
    }

    #[test]
    fn prefixes_are_raw_and_exact_is_exact() {
        let table = table(&[(&["*"], vec![prefix("/fft"), exact("/metrics")])]);
        let none = Err(Miss::NoRoute { virtual_host: 0 });
        for (path, wanted) in [
            ("/fft", Ok(0)),
            ("/fftX", Ok(0)),
            ("/fft/x", Ok(0)),
            ("/FFT", none),
            ("/metrics", Ok(1)),
            ("/metrics/", none),
            ("/", none),
            ("*", none),
            ("", none),
        ] {
            let found = table.find(&query("192.168.170.137:30001", path));
            assert_eq!(found.map(|found| found.route), wanted, "{path:?}");
        }
    }

    #[test]
    fn first_route_wins_whatever_its_length() {
        let table = table(&[(&["*"], vec![prefix("/"), exact("/a"), prefix("/a/b")])]);
        for path in ["/", "/a", "/a/b/c"] {
            let found = table.find(&query("x", path)).unwrap();
            assert_eq!(found.route, 0, "{path:?}");
        }
    }

    #[test]
    fn no_fall_through_to_another_virtual_host() {
        let table = table(&[
            (&["*"], vec![prefix("/")]),
            (&["a.example"], vec![exact("/only")]),
        ]);
        let find = |host, path| table.find(&query(host, path));
        assert_eq!(
            find("A.example:31373", "/other"),
            Err(Miss::NoRoute { virtual_host: 1 })
        );
        assert_eq!(
            find("a.example", "/only"),
            Ok(Match {
                virtual_host: 1,
                route: 0
            })
        );
        assert_eq!(find("b.example", "/other").unwrap().virtual_host, 0);
    }

    #[test]
    fn unknown_host_has_no_virtual_host() {
        let table = table(&[(&["a.example", "*.b.example"], vec![prefix("/")])]);
        let find = |host| table.find(&query(host, "/"));
        assert_eq!(find("b.example"), Err(Miss::NoVirtualHost));
        assert_eq!(find("").unwrap_err().virtual_host(), None);
        assert_eq!(find("c.b.example:80").unwrap().virtual_host, 0);
    }
}
