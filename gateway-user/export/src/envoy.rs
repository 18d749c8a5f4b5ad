//! The model as a static bootstrap of Envoy (API v3), set up as Istio's gateways are: what Envoy does
//! with it is what this proxy should do.
//!
//! Left out is what would make Envoy do something else than this proxy by design: tracing, access
//! logs.

mod chain;
mod cluster;
mod route;
mod tls;

use std::{net::IpAddr, time::Duration};

use nodegate_model::gateway::{
    Destination, Gateway, HttpRoutes, Listener, ListenerProtocol, TcpRoute,
};
use serde_json::{Value, json};

/// Where Envoy listens, and what the manifests do not say of it.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The address of all listeners.
    pub listen: IpAddr,
    /// The port of the admin interface, on the loopback address.
    pub admin_port: u16,
    /// Whether streams of HTTP/2 may become WebSockets (RFC 8441).
    pub extended_connect: bool,
}

/// The bootstrap.
pub fn bootstrap(gateway: &Gateway, options: ExportOptions) -> Value {
    let listeners: Vec<_> = gateway
        .listeners
        .iter()
        .map(|of| listener(gateway, of, options))
        .collect();
    let clusters: Vec<_> = gateway
        .clusters
        .values()
        .map(|of| cluster::cluster(of))
        .collect();
    let mut bootstrap = json!({
        "node": {"id": "nodegate", "cluster": "nodegate"},
        "admin": {"address": address(IpAddr::from([127, 0, 0, 1]), options.admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        // As in Istio's own bootstrap: expressions as large as ours may be, and fragments are dropped
        // (`extractRuntimeFlags` of istio's pkg/bootstrap).
        "layered_runtime": {"layers": [{
            "name": "static",
            "static_layer": {
                "re2.max_program_size.error_level": 32768,
                "envoy.reloadable_features.http_reject_path_with_fragment": false,
            },
        }]},
    });
    drop_nulls(&mut bootstrap);
    bootstrap
}

fn listener(gateway: &Gateway, listener: &Listener, options: ExportOptions) -> Value {
    let (filters, chains) = match &listener.protocol {
        ListenerProtocol::Http(routes) => {
            let filter = http(gateway, routes, options.extended_connect);
            (Value::Null, json!([{"filters": [filter]}]))
        }
        ListenerProtocol::Tcp(route) => {
            let filter = tcp(gateway, route, listener.port);
            (Value::Null, json!([{"filters": [filter]}]))
        }
        ListenerProtocol::Tls(tls) => (
            chain::inspector(),
            tls.chains
                .iter()
                .map(|of| chain::chain(gateway, of, listener.port, options))
                .collect(),
        ),
    };
    json!({
        "name": format!("{}_{}", options.listen, listener.port),
        "address": address(options.listen, listener.port),
        "listener_filters": filters,
        "filter_chains": chains,
    })
}

/// `buildGatewayHTTPFilterChainOpts` and `buildHTTPConnectionManager` of istio's
/// pilot/pkg/networking/core.
fn http(gateway: &Gateway, routes: &HttpRoutes, extended_connect: bool) -> Value {
    let filter = |name: &str, kind: &str| {
        let config = json!({"@type": kind});
        json!({"name": name, "typed_config": config})
    };
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": routes.name,
            "server_name": "istio-envoy",
            "use_remote_address": true,
            "normalize_path": true,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "stream_idle_timeout": "0s",
            "proxy_100_continue": true,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": extended_connect.then(|| json!({"allow_connect": true})),
            "route_config": route::configuration(gateway, routes),
            "http_filters": [
                filter("envoy.filters.http.fault", &kind("filters.http.fault.v3.HTTPFault")),
                filter("envoy.filters.http.cors", &kind("filters.http.cors.v3.Cors")),
                filter("envoy.filters.http.router", &kind("filters.http.router.v3.Router")),
            ],
        },
    })
}

fn tcp(gateway: &Gateway, route: &TcpRoute, port: u16) -> Value {
    let to = |destination: &Destination| json!({"name": destination.cluster, "weight": destination.weight});
    let (cluster, weighted) = match route.destinations.as_slice() {
        [only] => (json!(only.cluster), Value::Null),
        all => (
            Value::Null,
            json!({"clusters": all.iter().map(to).collect::<Vec<_>>()}),
        ),
    };
    let first = route.destinations.first();
    let first = first.and_then(|first| gateway.clusters.get(&first.cluster));
    let limits = first.map(|cluster| &cluster.policy.limits);
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": format!("tcp.{port}"),
            "cluster": cluster,
            "weighted_clusters": weighted,
            "idle_timeout": limits.map(|limits| duration(limits.tcp_idle_timeout)),
            "max_downstream_connection_duration": limits
                .and_then(|limits| limits.max_connection_duration)
                .map(duration),
        },
    })
}

/// The type of an extension's configuration.
fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn address(address: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": address.to_string(), "port_value": port}})
}

/// `google.protobuf.Duration` in JSON.
fn duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    if nanoseconds == 0 {
        format!("{seconds}s")
    } else {
        format!("{seconds}.{nanoseconds:09}s")
    }
}

/// What is not given is not written.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
