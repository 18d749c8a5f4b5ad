//! Kinds that say where requests go, or whether they may, and that this version does not apply.
//!
//! Whoever writes one counts on it.

use nodegate_values::diagnostic::Severity;
use serde_yaml::Value;

/// What to write in place of a rule of Istio 0.1 to 0.7.
pub(super) const ROUTE_RULE_FIX: &str =
    "a VirtualService, with the tags as subsets of a DestinationRule";

/// What is to be said about an object of another API, and what to do instead; none for what is no
/// business of a gateway's.
pub(super) fn left_out(
    group: &str,
    kind: &str,
) -> Option<(Severity, &'static str, Option<&'static str>)> {
    Some(match (group, kind) {
        ("networking.istio.io", "EnvoyFilter") | ("extensions.istio.io", "WasmPlugin") => (
            Severity::Warning,
            "is not applied: there is no Envoy here",
            None,
        ),
        ("", "Endpoints") => (
            Severity::Warning,
            "is not read: endpoints are in EndpointSlices, which a cluster makes of it",
            Some("an EndpointSlice with the label kubernetes.io/service-name"),
        ),
        ("networking.istio.io", "WorkloadGroup") => (
            Severity::Warning,
            "is not read by this version: no machine is registered by it",
            Some("write a WorkloadEntry for each machine"),
        ),
        (
            "networking.istio.io"
            | "security.istio.io"
            | "telemetry.istio.io"
            | "extensions.istio.io",
            "Sidecar" | "ProxyConfig" | "PeerAuthentication" | "Telemetry",
        ) => (Severity::Info, "has no effect on this gateway", None),
        ("gateway.networking.k8s.io", _) => (
            Severity::Info,
            "is of the Gateway API, which this version does not read",
            Some("Istio's Gateway and VirtualService"),
        ),
        ("networking.k8s.io" | "extensions", "Ingress") => (
            Severity::Info,
            "is not read",
            Some("Istio's Gateway and VirtualService"),
        ),
        _ => return None,
    })
}

/// What is to be said of Istio's own configuration, a ConfigMap of the root namespace.
pub(super) fn mesh_config(
    group: &str,
    kind: &str,
    value: &Value,
) -> Option<(Severity, &'static str, Option<&'static str>)> {
    let metadata = value.get("metadata")?;
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    let name = text("name")?;
    let is_it = (group, kind, text("namespace")) == ("", "ConfigMap", Some("istio-system"))
        && (name == "istio" || name.starts_with("istio-"))
        && value.get("data")?.get("mesh").is_some();
    is_it.then_some((
        Severity::Info,
        "the mesh's configuration is not read",
        Some("options of `nodegate run`"),
    ))
}

/// What is wrong with a rule as Istio 0.1 to 0.7 had them, with neither `apiVersion` nor `kind`.
pub(super) fn route_rule(value: &Value) -> Option<String> {
    let kind = value.get("type")?.as_str()?;
    let is_rule = value.get("apiVersion").is_none()
        && matches!(
            kind,
            "route-rule" | "destination-policy" | "ingress-rule" | "egress-rule"
        );
    let name = value
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    is_rule.then(|| format!("`{name}` is a {kind} of Istio 0.1 to 0.7, which is not read"))
}
