//! Manifests: any text is read, admitted as far as it is right, and compiled.

use std::{collections::BTreeMap, path::PathBuf};

use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, compile};
use nodegate_export::envoy;
use nodegate_resources::{admission::Store, manifest::Manifest};
use nodegate_route::RouteTable;
use nodegate_values::diagnostic::{Diagnostic, Severity};

/// Goes the whole way from text to routes, as the daemon does with a file.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let manifest = Manifest::parse(PathBuf::from("fuzz.yaml"), text);
    // All that YAML 1.1 takes for the end of a line.
    let ends = ['\r', '\n', '\u{85}', '\u{2028}', '\u{2029}'];
    let lines = text.matches(ends).count() + 1;
    check(&manifest.diagnostics, lines);
    let resources = Store::default().admit([&manifest], Vec::new());
    check(&resources.diagnostics, lines);
    let gateway = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "istio-ingressgateway".into(),
        labels: BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]),
        ..GatewayIdentity::default()
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&gateway), &ServiceScope::All);
    check(&compiled.diagnostics, lines);
    // What validation accepts, the compiler can read.
    let unread = |diagnostic: &&Diagnostic| {
        diagnostic.severity == Severity::Error
            && diagnostic.message.ends_with("the route is left out")
    };
    assert_eq!(compiled.diagnostics.iter().find(unread), None);
    let options = envoy::ExportOptions {
        listen: [127, 0, 0, 1].into(),
        admin_port: 15000,
        extended_connect: true,
    };
    let _ = envoy::bootstrap(&compiled.gateway, options);
    for listener in compiled.gateway.listeners.iter() {
        if let nodegate_model::gateway::ListenerProtocol::Http(routes) = &listener.protocol {
            let _ = RouteTable::new(routes.clone());
        }
    }
}

fn check(diagnostics: &[Diagnostic], lines: usize) {
    for diagnostic in diagnostics {
        assert!(!diagnostic.message.is_empty());
        if let Some(location) = &diagnostic.location {
            let line = location.line;
            assert!(
                (1..=lines).contains(&line),
                "{diagnostic}: of {lines} lines"
            );
        }
    }
}
