//! What a gateway does with a request: listener, virtual host, route by route, destination.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, uri::PathAndQuery};
use serde::Serialize;

use nodegate_compile::GatewayIdentity;
use nodegate_model::{
    gateway::{
        CorsPolicy, Gateway, HeaderOperations, HttpAction, HttpRoute, HttpRoutes, ListenerProtocol,
        RouteKind, RouteOrigin, TcpRoute, VirtualHost,
    },
    service::ServicePort,
};
use nodegate_observe::ResponseFlag;
use nodegate_resources::Resources;
use nodegate_route::{
    Query, Rewrite, edge, explain,
    headers::join_lines,
    path,
    redirect::{self, Requested},
};
use nodegate_values::spelling::nearest;

mod action;
mod routes;
mod secure;
mod shares;

pub(super) use action::Doings;
pub use secure::Secured;
use shares::shares;

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
    /// Of a client that speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsAsked>,
}

/// What a client asks for in its TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsAsked {
    /// A name (SNI); none: only an address was known.
    pub server_name: Option<String>,
}

/// What the gateway does.
#[derive(Debug, Serialize)]
pub struct Routed {
    /// The port that it listens on.
    pub listener: u16,
    /// How TLS is spoken there; none in the clear, and if no server is for the client's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Secured>,
    /// What was asked; none of a TCP listener, and if nothing was.
    pub request: Option<Request>,
    /// How it got on with the routes; none of a TCP listener.
    pub http: Option<Http>,
    /// The VirtualService whose route is taken.
    pub origin: Option<RouteOrigin>,
    /// A route of another object that would take the request, too, if it were not behind that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<RouteOrigin>,
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
    /// The path in the form in which it is matched, if that is another.
    pub normal_path: Option<String>,
    /// The virtual host's routes up to the one that matches, or all of them.
    pub routes: Vec<Tried>,
    /// What the route does, if one matches.
    pub action: Option<Action>,
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

/// What a route does with requests.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// Passing on, redirecting, or answering.
    #[serde(flatten)]
    pub action: HttpAction,
    /// Changes of headers.
    #[serde(skip_serializing_if = "HeaderOperations::is_empty")]
    pub headers: HeaderOperations,
    /// Failing on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<nodegate_model::gateway::Fault>,
    /// Who may use the answers in a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsPolicy>,
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
    /// Names that are resolved to further endpoints when the gateway runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
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
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum End {
    /// An endpoint answers.
    Endpoint,
    /// There was no request: only a connection.
    Unasked,
    /// The gateway answers itself, because the route says so.
    Answer {
        /// The route's, or that of the redirection.
        status: u16,
        /// Why.
        text: String,
    },
    /// The gateway answers itself, because it must.
    Status {
        /// 400, 404 or 503, or a fault's.
        status: u16,
        /// Envoy's letters; none of a request that is malformed.
        flag: Option<ResponseFlag>,
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
    /// The gateway pod.
    pub identity: &'k GatewayIdentity,
}

/// Explains what the gateway does at its port `listener`; none if it does not listen there.
pub fn route(known: &Known<'_>, listener: u16, request: Option<&Request>) -> Option<Routed> {
    let mut listeners = known.gateway.listeners.iter();
    let found = listeners.find(|candidate| candidate.port == listener)?;
    let mut routed = match &found.protocol {
        ListenerProtocol::Tcp(route) => tcp(known, listener, route),
        ListenerProtocol::Http(routes) => match request {
            Some(request) if request.tls.is_some() => Routed {
                request: Some(request.clone()),
                end: secure::on_a_plain_port(),
                ..http(known, listener, routes, None)
            },
            _ => http(known, listener, routes, request),
        },
        ListenerProtocol::Tls(tls) => secure::route(known, listener, tls, request),
    };
    if let (End::Endpoint, Some(fault)) = (&routed.end, fault(&routed)) {
        routed.end = fault;
    }
    Some(routed)
}

/// What becomes of each connection.
fn tcp(known: &Known<'_>, listener: u16, route: &TcpRoute) -> Routed {
    Routed {
        listener,
        tls: None,
        request: None,
        http: None,
        origin: Some(route.origin.clone()),
        behind: None,
        destinations: shares(known, &route.destinations),
        end: End::Endpoint,
    }
}

fn http(
    known: &Known<'_>,
    listener: u16,
    routes: &HttpRoutes,
    request: Option<&Request>,
) -> Routed {
    let hosts = routes.virtual_hosts.iter();
    let http = Http {
        name: routes.name.clone(),
        virtual_host: None,
        domains: hosts.flat_map(|host| host.domains.clone()).collect(),
        normal_path: None,
        routes: Vec::new(),
        action: None,
        rewritten_path: None,
    };
    let mut routed = Routed {
        listener,
        tls: None,
        request: request.cloned(),
        http: None,
        origin: None,
        behind: None,
        destinations: Vec::new(),
        end: End::Unasked,
    };
    let http = match request {
        None => http,
        Some(request) => match Parsed::of(request) {
            Ok(parsed) => matched(known, routes, &parsed, http, &mut routed),
            Err(text) => {
                routed.end = malformed(text);
                http
            }
        },
    };
    routed.http = Some(http);
    routed
}

/// Makes a client's headers those by which the gateway looks for a route. Of the client's address nothing
/// is known here but that there is one.
fn as_routed(headers: &mut HeaderMap, scheme: &'static str) {
    join_lines(headers);
    edge::leave_connection(headers, None);
    edge::strip_control(headers, false);
    for (name, value) in [
        (edge::X_FORWARDED_PROTO, scheme),
        (edge::X_REQUEST_ID, "00000000-0000-4000-8000-000000000000"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

// === impl Request ===

impl Request {
    /// `https` of a client that speaks TLS.
    fn scheme(&self) -> &'static str {
        match self.tls {
            None => "http",
            Some(_) => "https",
        }
    }
}

/// A request as the proxy sees it.
struct Parsed<'r> {
    request: &'r Request,
    method: Method,
    /// Normalized path, and query.
    target: PathAndQuery,
    headers: HeaderMap,
}

impl<'r> Parsed<'r> {
    fn of(request: &'r Request) -> Result<Self, String> {
        let Request {
            method,
            path,
            headers,
            ..
        } = request;
        let bad_path = || format!("`{path}` is no path that a request can have");
        let uri: Uri = path.parse().map_err(|_| bad_path())?;
        let uri = path::normalize(&uri)
            .map_err(|_| bad_path())?
            .unwrap_or(uri);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            map.append(name, value);
        }
        as_routed(&mut map, request.scheme());
        Ok(Self {
            request,
            method: Method::try_from(method.as_str()).map_err(|error| error.to_string())?,
            target: uri.path_and_query().cloned().ok_or_else(bad_path)?,
            headers: map,
        })
    }

    fn query(&self) -> Query<'_> {
        Query {
            host: &self.request.host,
            path: self.target.path(),
            query: self.target.query(),
            method: &self.method,
            scheme: self.request.scheme(),
            headers: &self.headers,
        }
    }

    fn requested(&self) -> Requested<'_> {
        Requested {
            scheme: self.request.scheme(),
            authority: &self.request.host,
            target: self.target.as_str(),
        }
    }
}

/// Asks the matcher.
fn matched(
    known: &Known<'_>,
    routes: &HttpRoutes,
    parsed: &Parsed<'_>,
    mut http: Http,
    routed: &mut Routed,
) -> Http {
    let query = parsed.query();
    http.normal_path =
        (parsed.request.path != parsed.target.as_str()).then(|| parsed.target.as_str().to_owned());
    let explanation = explain(routes, &query);
    let Some(index) = explanation.virtual_host else {
        routed.end = no_host(&parsed.request.host, &http.domains);
        return http;
    };
    http.virtual_host = Some(routes::host(&routes.virtual_hosts[index], &query));
    http.routes = routes::tried(&explanation, &query);
    if explanation.tls_required {
        let location = redirect::https_location(parsed.requested());
        routed.end = End::Answer {
            status: 301,
            text: format!("sent to {location}, since the Gateway has httpsRedirect"),
        };
        return http;
    }
    let Some(route) = explanation.found() else {
        routed.end = no_route(&http);
        return http;
    };
    routed.origin = Some(route.origin.clone());
    routed.behind = behind(routes, index, explanation.tried.len(), route, &query);
    routed.destinations = shares(known, route.destinations());
    routed.end = end(route, parsed.requested());
    http.rewritten_path = Rewrite::of(route)
        .and_then(|rewrite| rewrite.apply(&parsed.target).ok())
        .map(|path| path.to_string());
    http.action = Some(Action {
        action: route.action.clone(),
        headers: route.headers.clone(),
        fault: route.fault.clone(),
        cors: route.cors.clone(),
    });
    http
}

/// The first route behind those that were tried that matches, too, and is of another object. What takes
/// everything is no surprise there.
fn behind(
    routes: &HttpRoutes,
    index: usize,
    tried: usize,
    taken: &HttpRoute,
    query: &Query<'_>,
) -> Option<RouteOrigin> {
    let host = &routes.virtual_hosts[index];
    let others = host.routes.iter().skip(tried).filter(|route| {
        let (own, other) = (&taken.origin, &route.origin);
        (&own.namespace, &own.name) != (&other.namespace, &other.name)
            && !route.matches.is_catch_all()
    });
    let rest = HttpRoutes {
        name: routes.name.clone(),
        virtual_hosts: vec![VirtualHost {
            routes: others.cloned().collect(),
            ..host.clone()
        }],
    };
    let found = explain(&rest, query).found()?.origin.clone();
    Some(found)
}

/// What the route itself has an end for.
fn end(route: &HttpRoute, requested: Requested<'_>) -> End {
    let place = Place::http(&route.origin);
    let abort = route.fault.as_ref().and_then(|fault| fault.abort.as_ref());
    if let Some(abort) = abort
        && abort.percentage.millionths() > 0
    {
        let (status, _) = abort.status.for_request(false);
        return End::Status {
            status,
            flag: Some(ResponseFlag::FaultInjected),
            text: format!("the fault policy of {place}"),
            share: f64::from(abort.percentage.millionths()) / 1e6,
        };
    }
    match &route.action {
        HttpAction::Forward(_) => End::Endpoint,
        HttpAction::Redirect(to) => End::Answer {
            status: to.status,
            text: format!("{place} sends to {}", redirect::location(to, requested)),
        },
        HttpAction::DirectResponse(response) if route.origin.kind != RouteKind::VirtualService => {
            End::Status {
                status: response.status,
                flag: None,
                text: format!(
                    "{place} is not enforced by this version, and so everything is refused \
                     (--unenforced-policies refuse)"
                ),
                share: 1.0,
            }
        }
        HttpAction::DirectResponse(response) => End::Answer {
            status: response.status,
            text: format!("{place} answers itself"),
        },
    }
}

fn malformed(text: String) -> End {
    End::Status {
        status: 400,
        flag: None,
        text,
        share: 1.0,
    }
}

fn no_host(host: &str, domains: &[String]) -> End {
    let name = host.split(':').next().unwrap_or_default();
    let hint = match nearest(name, domains) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        // Nobody has said which.
        None if domains.is_empty() => {
            "; this listener has none at all (fix: a VirtualService with the host, bound to the Gateway)"
                .to_owned()
        }
        None if name.parse::<IpAddr>().is_ok() => format!(
            "; the domains are {} (fix: --host with one of them)",
            domains.join(", ")
        ),
        None => format!(
            "; the domains are {} (fix: name it among the hosts of a VirtualService and of its \
             Gateway)",
            domains.join(", ")
        ),
    };
    End::Status {
        status: 404,
        flag: Some(ResponseFlag::NoRoute),
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
            Place::http(&route.origin),
            route.condition,
            route.misses.as_deref().unwrap_or_default()
        ),
        None => format!("the virtual host {host} has no routes"),
    };
    End::Status {
        status: 404,
        flag: Some(ResponseFlag::NoRoute),
        text,
        share: 1.0,
    }
}

/// `http[1] of VirtualService simple/simple`
pub(super) struct Place<'p> {
    /// `http`, `tcp` or `tls`: the list of routes.
    section: &'static str,
    origin: &'p RouteOrigin,
}

impl<'p> Place<'p> {
    pub(super) fn http(origin: &'p RouteOrigin) -> Self {
        Self::of("http", origin)
    }

    pub(super) fn tcp(origin: &'p RouteOrigin) -> Self {
        Self::of("tcp", origin)
    }

    pub(super) fn of(section: &'static str, origin: &'p RouteOrigin) -> Self {
        Self { section, origin }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RouteOrigin {
            kind,
            namespace,
            name,
            index,
        } = self.origin;
        match kind {
            RouteKind::VirtualService => {
                write!(f, "{}[{index}] of {kind} {namespace}/{name}", self.section)
            }
            RouteKind::AuthorizationPolicy | RouteKind::RequestAuthentication => {
                write!(f, "{kind} {namespace}/{name}")
            }
        }
    }
}

/// The worst of what the destinations come to.
fn fault(routed: &Routed) -> Option<End> {
    let faulty = || {
        let shares = routed.destinations.iter();
        shares.filter_map(|share| Some((share, share.fault.as_ref()?)))
    };
    let (first, fault) = faulty().next()?;
    let (flag, share) = (fault.flag, faulty().map(|(share, _)| share.share).sum());
    let text = match fault.fix.as_str() {
        "" => format!("{}: {}", first.cluster, fault.text),
        fix => format!("{}: {} (fix: {fix})", first.cluster, fault.text),
    };
    Some(match routed.http {
        Some(_) => End::Status {
            status: 503,
            flag: Some(flag),
            text,
            share,
        },
        None => End::Closed { flag, text, share },
    })
}

#[cfg(test)]
mod tests;
