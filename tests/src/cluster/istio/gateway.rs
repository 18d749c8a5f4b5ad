//! Istio's gateway: an Envoy on a host of its own, which istiod tells what to do.

use std::fs;

use anyhow::Context as _;
use nodegate_programs::Program;
use serde_json::{Value, json};

use super::{DISCOVERY, Istio, NAMESPACE};
use crate::{
    cluster::{
        plan::{CONTROL, DOMAIN, GATEWAY, GATEWAY_ADDRESS},
        site::{Running, Site},
    },
    names::Host,
};

/// What the gateway's pod would be called.
const NAME: &str = "istio-ingressgateway";
/// Where Envoy tells of itself, on its own host.
const ADMIN: u16 = 15000;

/// Starts Envoy; istiod must be ready, as Envoy asks again only after a while.
pub(super) fn start(site: &Site, istio: &Istio) -> anyhow::Result<Running> {
    let file = site.names.state().join("gateway.json");
    let text = serde_json::to_string_pretty(&bootstrap(istio))?;
    fs::write(&file, text).context("writing the gateway's bootstrap")?;
    let mut command = Program::Envoy.at(&istio.envoy);
    command.arg("--config-path").arg(file);
    // It shares nothing with other Envoys of this machine.
    command.args(["--concurrency", "1", "--disable-hot-restart"]);
    // Whoever reads the access log need not wait ten seconds for it.
    command.args(["--file-flush-interval-msec", "100"]);
    site.launch(&host(), Program::Envoy.name(), command)
}

/// Waits until Envoy has got its first listeners and clusters, which may be none.
pub(super) fn wait(site: &Site, gateway: &Running) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{ADMIN}/ready");
    gateway.until("the gateway is not ready", || site.ask_from(&host(), &url))?;
    Ok(())
}

fn host() -> Host {
    Host::Node(GATEWAY.into())
}

/// What Istio's agent would write, as far as this needs it.
fn bootstrap(istio: &Istio) -> Value {
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let address = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let discovery = json!({"endpoint": {"address": address(&CONTROL.to_string(), DISCOVERY)}});
    let http2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "node": {
            "id": format!("router~{GATEWAY_ADDRESS}~{NAME}.{NAMESPACE}~{NAMESPACE}.svc.{DOMAIN}"),
            "cluster": format!("{NAME}.{NAMESPACE}"),
            "metadata": {
                "NAME": NAME,
                "NAMESPACE": NAMESPACE,
                "CLUSTER_ID": "Kubernetes",
                "LABELS": istio.labels,
            },
        },
        // `extractRuntimeFlags` of istio's pkg/bootstrap.
        "layered_runtime": {"layers": [{
            "name": "global config",
            "static_layer": {
                "re2.max_program_size.error_level": "32768",
                "envoy.reloadable_features.http_reject_path_with_fragment": false,
                "envoy.reloadable_features.fixed_heap_use_allocated": true,
                "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": false,
            },
        }]},
        "admin": {"address": address("127.0.0.1", ADMIN)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": http2,
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{"lb_endpoints": [discovery]}],
            },
        }]},
    })
}
