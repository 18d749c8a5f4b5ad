//! What a route is called in traces.

use nodegate_model::gateway::{HttpRoute, PathMatch, VirtualHost};

/// What a route is called in traces: `nginx.simple.svc.cluster.local:80/simple/nginx*`.
// Istio: GetRouteOperation of pilot/pkg/networking/util; of several destinations it is none's, even if all but one
// have no weight.
pub(super) fn operation(virtual_host: &VirtualHost, route: &HttpRoute) -> String {
    let path = match &route.matches.path {
        PathMatch::Prefix(prefix) => format!("{prefix}*"),
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Regex(pattern) => pattern.as_str().to_owned(),
    };
    let weighted = route.action.forward().is_some_and(|to| to.weighted);
    if let [destination] = route.destinations()
        && !weighted
    {
        // outbound|80|v1|nginx.simple.svc.cluster.local
        let mut parts = destination.cluster.split('|').skip(1);
        if let (Some(port), Some(host)) = (parts.next(), parts.nth(1)) {
            return format!("{host}:{port}{path}");
        }
    }
    let port = virtual_host
        .name
        .rsplit_once(':')
        .map_or("80", |(_, port)| port);
    format!("{}:{port}{path}", route.origin.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{forward, prefix_route};

    #[test]
    fn operations_are_named_as_istio_names_them() {
        let name = "outbound|80|v1|nginx.simple.svc.cluster.local";
        let mut routes = [
            prefix_route("/simple/nginx", &[(name, 1)]),
            prefix_route("/", &[(name, 1), ("other", 1)]),
            prefix_route("/y", &[(name, 1)]),
        ];
        routes[1].matches.path = PathMatch::Exact("/x".into());
        // The other destination has no weight.
        forward(&mut routes[2]).weighted = true;
        let host = VirtualHost {
            name: "a.example:8000".into(),
            domains: Vec::new(),
            routes: Vec::new(),
            require_tls: false,
        };
        let names = routes.map(|route| operation(&host, &route));
        assert_eq!(
            names,
            [
                "nginx.simple.svc.cluster.local:80/simple/nginx*",
                "web:8000/x",
                "web:8000/y*"
            ]
        );
    }
}
