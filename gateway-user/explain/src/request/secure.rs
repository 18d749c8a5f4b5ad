//! What a gateway does at a port of TLS: which server takes the connection, and what is inside.

use nodegate_model::gateway::{
    ChainProtocol, ClientCertificates, DownstreamTls, TlsChain, TlsListener, TlsVersion,
};
use nodegate_observe::ResponseFlag;
use nodegate_route::{RouteTable, SniTable};
use nodegate_values::spelling::nearest;
use serde::Serialize;

use super::{End, Known, Request, Routed, http, tcp};

/// How TLS is spoken over a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secured {
    /// The server's chain: `https.443.https.web.shop`
    pub chain: String,
    /// The names that the server is for; empty: all.
    pub server_names: Vec<String>,
    /// Whether TLS goes on as it is.
    pub passed_on: bool,
    /// In words.
    pub how: String,
}

/// What becomes of a connection that asks for a name.
pub(super) fn route(
    known: &Known<'_>,
    listener: u16,
    tls: &TlsListener,
    request: Option<&Request>,
) -> Routed {
    let closed = |end| Routed {
        listener,
        tls: None,
        request: request.cloned(),
        http: None,
        origin: None,
        behind: None,
        destinations: Vec::new(),
        end,
    };
    let Some(asked) = request.and_then(|request| request.tls.as_ref()) else {
        return closed(match request {
            None => End::Unasked,
            Some(_) => closing(
                "the client speaks plain text, and this is a port of TLS (fix: https://)"
                    .to_owned(),
            ),
        });
    };
    let name = asked.server_name.as_deref();
    let place = SniTable::new(tls).find(name);
    let Some(chain) = place.and_then(|place| tls.chains.get(place)) else {
        return closed(closing(no_server(tls, name)));
    };
    let mut routed = match &chain.protocol {
        ChainProtocol::Https { routes, .. } => http(known, listener, routes, request),
        ChainProtocol::Tls { route, .. } | ChainProtocol::Passthrough(route) => {
            tcp(known, listener, route)
        }
    };
    if let Some((name, reason)) = chain.protocol.tls().and_then(DownstreamTls::lacks) {
        routed.end = closing(format!("Secret {name} {reason}"));
        routed.destinations.clear();
    } else if is_not_found(&routed)
        && let Some(other) = served_beside(tls, chain, request)
    {
        routed.end = End::Status {
            status: 421,
            flag: Some(ResponseFlag::NoRoute),
            text: format!(
                "the connection asked for {}, and the host is one of {}: it wants a connection of its own",
                name.unwrap_or("no name"),
                other.name
            ),
            share: 1.0,
        };
    }
    routed.tls = Some(Secured {
        chain: chain.name.clone(),
        server_names: chain.server_names.clone(),
        passed_on: chain.protocol.tls().is_none(),
        how: how(&chain.protocol),
    });
    routed
}

/// How a client that speaks TLS is answered at a port in the clear.
pub(super) fn on_a_plain_port() -> End {
    End::Status {
        status: 400,
        flag: Some(ResponseFlag::DownstreamProtocolError),
        text: "the client speaks TLS, and this is a port in the clear (fix: http://, or a server of the Gateway with protocol HTTPS)".to_owned(),
        share: 1.0,
    }
}

fn closing(text: String) -> End {
    End::Closed {
        flag: ResponseFlag::NoRoute,
        text,
        share: 1.0,
    }
}

fn no_server(tls: &TlsListener, name: Option<&str>) -> String {
    let all: Vec<String> = tls
        .chains
        .iter()
        .flat_map(|chain| chain.server_names.clone())
        .collect();
    let served = format!("the servers of this port are for {}", all.join(", "));
    let Some(name) = name else {
        return format!("the client asks for no name (SNI), and {served} (fix: use a name)");
    };
    match nearest(name, &all) {
        Some(nearest) => format!("no server of this port is for {name}; did you mean {nearest}?"),
        None => format!(
            "no server of this port is for {name}: {served} (fix: name it among the hosts of a Gateway's server)"
        ),
    }
}

fn is_not_found(routed: &Routed) -> bool {
    let http = routed.http.as_ref();
    http.is_some_and(|http| http.virtual_host.is_none())
        && matches!(routed.end, End::Status { status: 404, .. })
}

/// Another server of the port that has the request's host.
fn served_beside<'t>(
    tls: &'t TlsListener,
    chain: &TlsChain,
    request: Option<&Request>,
) -> Option<&'t TlsChain> {
    let host = &request?.host;
    let mut others = tls.chains.iter().filter(|other| other.name != chain.name);
    others.find(|other| {
        let routes = other.protocol.http();
        routes.is_some_and(|routes| RouteTable::new(routes.clone()).has_host(host))
    })
}

fn how(protocol: &ChainProtocol) -> String {
    let Some(tls) = protocol.tls() else {
        return "TLS is passed on as it is".to_owned();
    };
    let clients = match tls.clients {
        ClientCertificates::Unasked => "the gateway shows a certificate",
        ClientCertificates::Optional(_) => {
            "the gateway shows a certificate, and the client may show one"
        }
        ClientCertificates::Required(_) => "both show a certificate",
    };
    let versions = match (tls.oldest, tls.newest) {
        (TlsVersion::V13, _) => "TLS 1.3",
        (_, TlsVersion::V12) => "TLS 1.2",
        _ => "TLS 1.2 or 1.3",
    };
    format!("{versions} ends here: {clients}")
}
