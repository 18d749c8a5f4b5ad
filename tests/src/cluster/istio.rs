//! Istio beside the cluster, as the one to compare with: the real istiod, and a real Envoy as its gateway.
//!
//! istiod runs on the control plane's host, without TLS towards the gateway. The API server asks it about
//! every object of Istio's kinds, so that what Istio refuses is refused here.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;
use nodegate_programs::Program;
use serde_json::{Value, json};

use super::{
    base,
    parts::ISTIO_KINDS,
    pki::ISTIOD,
    plan::{CONTROL, DOMAIN},
    site::{Running, Site, control_plane},
};
use crate::process;

mod gateway;

/// Istio's own namespace, with its gateway in it.
const NAMESPACE: &str = "istio-system";
/// What Istio has that is left out here, and why.
pub const LEFT_OUT: &str = "this Envoy is a stock one, and no agent of Istio's stands beside it: without Istio's \
     own filters (istio.alpn, istio.stats, metadata exchange), automatic mTLS, certificates for workloads, and \
     credentials of Gateways";

/// Where istiod tells gateways what to do, in the clear.
const DISCOVERY: u16 = 15010;
/// Where it says whether it is ready; its own 8080 is a gateway's port, too.
const STATUS: u16 = 15080;
/// Where it says whether an object may be applied.
const VALIDATION: u16 = 15017;
/// Its own numbers.
const MONITORING: u16 = 15014;
/// What the API server calls it in refusals, as in Istio's chart.
const WEBHOOK: &str = "rev.validation.istio.io";

/// Istio as it is wanted.
#[derive(Clone, Debug)]
pub struct Istio {
    /// The Envoy that is the gateway.
    pub envoy: PathBuf,
    /// The gateway's labels, which Gateways select it by.
    pub labels: BTreeMap<String, String>,
    /// What the lines of its access log say, in Envoy's words; Istio's own format, where nothing is said.
    pub log_format: Option<String>,
}

impl Istio {
    /// A gateway with the labels that Istio's own has.
    pub fn new(envoy: PathBuf) -> Self {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Self {
            envoy,
            labels: [
                label("app", "istio-ingressgateway"),
                label("istio", "ingressgateway"),
            ]
            .into(),
            log_format: None,
        }
    }
}

/// Defines Istio's kinds, and starts istiod; the API server must be ready.
pub(super) fn start(site: &Site, server: &Running, istio: &Istio) -> anyhow::Result<Running> {
    let kinds = site.parts.file(ISTIO_KINDS);
    let kinds = fs::read_to_string(&kinds).with_context(|| kinds.display().to_string())?;
    // They are too long for what `apply` notes of an object in itself.
    base::feed(site, &["create", "-f", "-"], &kinds)?;
    server.until("Istio's kinds are not established", || established(site))?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()});
    base::apply(site, &list.to_string())?;

    let mesh = site.names.state().join("mesh.json");
    fs::write(&mesh, self::mesh(istio).to_string())
        .context("writing istiod's mesh configuration")?;
    let mut command = site.parts.command(Program::PilotDiscovery);
    command.args(arguments(site)).arg("--meshConfig").arg(mesh);
    for (name, value) in ENVIRONMENT {
        command.env(name, value);
    }
    site.launch(&control_plane(), ISTIOD, command)
}

/// Whether objects of all kinds that are defined may be made.
fn established(site: &Site) -> anyhow::Result<Option<()>> {
    let definitions = site.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")?;
    let definitions = definitions.unwrap_or_default();
    let is_established = |definition: &Value| {
        let conditions = definition["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|one| one["type"] == "Established" && one["status"] == "True")
    };
    let items = definitions["items"].as_array();
    let all = items.is_some_and(|items| items.iter().all(is_established));
    Ok(all.then_some(()))
}

/// Waits until istiod is ready and asked about objects, and starts the gateway, for which it is waited, too.
pub(super) fn complete(site: &Site, istiod: &Running, istio: &Istio) -> anyhow::Result<Running> {
    let ready = format!("http://127.0.0.1:{STATUS}/ready");
    istiod.until("istiod is not ready", || site.ask(&ready))?;
    let envoy = gateway::start(site, istio)?;
    base::apply(site, &webhook(site)?.to_string())?;
    istiod.until("istiod is not asked about objects", || refuses(site))?;
    gateway::wait(site, &envoy)?;
    Ok(envoy)
}

/// What istiod goes by beside its arguments.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("POD_NAMESPACE", NAMESPACE),
    ("POD_NAME", "istiod-0"),
    ("REVISION", "default"),
    // A stock Envoy has no such filter.
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    // It issues nothing, and keeps no keys in the cluster.
    ("ENABLE_CA_SERVER", "false"),
    // The configuration that asks it is complete: nothing is to be put in.
    ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
    ("INJECT_ENABLED", "false"),
];

fn arguments(site: &Site) -> Vec<String> {
    let pki = site.pki();
    let file = |path: PathBuf| path.display().to_string();
    let options = [
        ("kubeconfig", file(pki.kubeconfig(ISTIOD))),
        ("clusterID", "Kubernetes".into()),
        ("domain", DOMAIN.into()),
        ("grpcAddr", format!(":{DISCOVERY}")),
        // Nobody here has the certificates for it.
        ("secureGRPCAddr", String::new()),
        ("httpAddr", format!(":{STATUS}")),
        ("httpsAddr", format!(":{VALIDATION}")),
        ("monitoringAddr", format!(":{MONITORING}")),
        ("caCertFile", file(pki.authority())),
        ("tlsCertFile", file(pki.certificate(ISTIOD))),
        ("tlsKeyFile", file(pki.key(ISTIOD))),
    ];
    let options = options.into_iter();
    let options = options.map(|(name, value)| format!("--{name}={value}"));
    std::iter::once("discovery".into()).chain(options).collect()
}

/// The mesh as a gateway without Istio's own filters and without an agent can have it.
fn mesh(istio: &Istio) -> Value {
    json!({
        "trustDomain": DOMAIN,
        "accessLogFile": "/dev/stdout",
        // Empty, it is Istio's own.
        "accessLogFormat": istio.log_format.as_deref().unwrap_or_default(),
        "enableAutoMtls": false,
        "enablePrometheusMerge": false,
        "defaultProviders": {},
        "defaultConfig": {"discoveryAddress": format!("{CONTROL}:{DISCOVERY}")},
    })
}

/// Istio's namespace, and what takes out of listeners what a stock Envoy does not know.
fn objects() -> [Value; 2] {
    let filter = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "subFilter": {"name": "istio.alpn"},
    });
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "stock-envoy", "namespace": NAMESPACE},
            "spec": {"configPatches": [{
                "applyTo": "HTTP_FILTER",
                "match": {"listener": {"filterChain": {"filter": filter}}},
                "patch": {"operation": "REMOVE"},
            }]},
        }),
    ]
}

/// Lets the API server ask istiod. Istio's chart names a Service there, whose address the control plane
/// has no rules for.
fn webhook(site: &Site) -> anyhow::Result<Value> {
    let authority = site.pki().authority();
    let authority = fs::read(&authority).with_context(|| authority.display().to_string())?;
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": format!("istio-validator-{NAMESPACE}")},
        "webhooks": [{
            "name": WEBHOOK,
            "clientConfig": {
                "url": format!("https://{CONTROL}:{VALIDATION}/validate"),
                "caBundle": BASE64.encode(&authority),
            },
            "rules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": [
                    "security.istio.io",
                    "networking.istio.io",
                    "telemetry.istio.io",
                    "extensions.istio.io",
                ],
                "apiVersions": ["*"],
                "resources": ["*"],
            }],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    }))
}

/// Whether istiod refuses what is no Gateway: the API server goes by a new configuration with some delay.
fn refuses(site: &Site) -> anyhow::Result<Option<()>> {
    let nothing = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "without-servers", "namespace": NAMESPACE},
        "spec": {},
    });
    let file = site.names.state().join("without-servers.json");
    fs::write(&file, nothing.to_string()).context("writing a Gateway")?;
    let mut kubectl = site.enter(&control_plane(), site.parts.command(Program::Kubectl))?;
    kubectl.args(["create", "--dry-run=server", "-f"]).arg(file);
    let output = process::output(kubectl)?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains(WEBHOOK),
        "a Gateway without servers is refused by another: {}",
        said.trim()
    );
    Ok(said.contains("denied the request").then_some(()))
}
