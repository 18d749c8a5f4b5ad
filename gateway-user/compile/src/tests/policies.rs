//! Policies that nobody enforces.

use nodegate_model::gateway::HttpAction;

use super::{gateway::HTTP, *};
use crate::Unenforced;

fn policy(kind: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn compiled(policy: &str, unenforced: Unenforced) -> (Vec<String>, Vec<String>) {
    let tcp = "{port: {number: 90, name: tcp, protocol: TCP}, hosts: ['*']}";
    let routes = "  http:\n  - route: [{destination: {host: app}}]\n  tcp:\n  - match: [{port: 90}]\n    route: [{destination: {host: app}}]\n";
    let texts = [
        gateway::gateway("g", &format!("{HTTP}, {tcp}")),
        gateway::routes("v", "'*'", "g", routes),
        gateway::service("app", "{port: 80}"),
        policy.to_owned(),
    ];
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let resources = Cluster::with(&texts).resources();
    let identity = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway-0".into(),
        labels: [("istio".into(), "ingressgateway".into())].into(),
        unenforced,
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&identity), &ServiceScope::All);
    let told = compiled.diagnostics.iter().map(ToString::to_string);
    let told = told.collect();
    let snapshot = Publisher::default().publish(compiled);
    let status = snapshot.gateway.listeners.iter().find_map(status);
    let mut made = listeners(&snapshot);
    if let (Some(status), Some(last)) = (status, made.last_mut()) {
        *last = format!("{last} {status}");
    }
    (told, made)
}

/// What the first route answers itself.
fn status(listener: &Listener) -> Option<u16> {
    let ListenerProtocol::Http(routes) = &listener.protocol else {
        return None;
    };
    match &routes.virtual_hosts.first()?.routes.first()?.action {
        HttpAction::DirectResponse(with) => Some(with.status),
        _ => None,
    }
}

#[test]
fn one_for_the_gateway_is_an_error_and_may_close_it() {
    let served = [
        "80 http.80",
        "80 *:80 [*] /* default/v#0 -> outbound|80||app.default.svc.cluster.local*1",
        "90 tcp default/v#0 -> outbound|80||app.default.svc.cluster.local*1",
    ];
    let refused = ["80 http.80", "80 *:80 [*] /* istio-system/p#0 -> 403"];
    for (kind, spec, what) in [
        ("AuthorizationPolicy", "{}", "it keeps nobody out"),
        (
            "AuthorizationPolicy",
            "{action: DENY, selector: {matchLabels: {istio: ingressgateway}}, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
            "it keeps nobody out",
        ),
        (
            "RequestAuthentication",
            "{jwtRules: [{issuer: a}]}",
            "no token is looked at",
        ),
    ] {
        let text = policy(kind, "istio-system", spec);
        let (told, made) = compiled(&text, Unenforced::Pass);
        assert_eq!(
            told,
            [format!(
                "error: 3.yaml:1: {kind} istio-system/p: not enforced by this version, and it is for this gateway: {what} (fix: `nodegate run --unenforced-policies refuse` answers 403 instead; else remove it, and keep such traffic away from this gateway)"
            )]
        );
        assert_eq!(made, served);
        let (told, made) = compiled(&text, Unenforced::Refuse);
        assert!(told[0].contains("answered with 403"), "{told:?}");
        assert_eq!(made, refused);
    }
}

#[test]
fn one_for_pods_is_told_and_one_that_restricts_nothing_is_not() {
    let of_pods = policy(
        "AuthorizationPolicy",
        "shop",
        "{selector: {matchLabels: {app: web}}}",
    );
    let (told, made) = compiled(&of_pods, Unenforced::Refuse);
    assert_eq!(
        told,
        [
            "info: 3.yaml:1: AuthorizationPolicy shop/p: is for no gateway: between pods nothing is enforced by this version"
        ]
    );
    assert_eq!(made.len(), 3);
    let open = policy("AuthorizationPolicy", "istio-system", "{rules: [{}]}");
    let (told, made) = compiled(&open, Unenforced::Refuse);
    assert_eq!((told.len(), made.len()), (0, 3), "{told:?}");
}
