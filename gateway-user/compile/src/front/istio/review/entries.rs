//! ServiceEntries that speak of one port of one host, and not of one protocol.

use std::collections::BTreeMap;

use nodegate_resources::{Resources, object::Object};
use nodegate_values::diagnostic::{Diagnostic, Severity};

/// A port of an entry.
struct Said<'r> {
    object: &'r Object,
    index: usize,
    protocol: String,
}

pub(super) fn report(resources: &Resources, diagnostics: &mut Vec<Diagnostic>) {
    let mut ports: BTreeMap<(String, i64), Vec<Said<'_>>> = BTreeMap::new();
    for (object, entry) in resources.service_entries() {
        for host in entry.spec.read_hosts() {
            for (index, port) in entry.spec.ports.iter().enumerate() {
                let said = ports.entry((host.clone(), port.number)).or_default();
                said.push(Said {
                    object,
                    index,
                    protocol: port.protocol.to_ascii_uppercase(),
                });
            }
        }
    }
    for ((host, number), said) in ports {
        for one in &said {
            let Some(other) = said.iter().find(|other| other.protocol != one.protocol) else {
                continue;
            };
            let message = format!(
                "port {number} of `{host}` is {} here and {} in {}: the oldest that a gateway sees counts",
                shown(&one.protocol),
                shown(&other.protocol),
                other.object.key
            );
            let path = format!("spec.ports[{}].protocol", one.index);
            let fix = "say the same in both".to_owned();
            diagnostics.push(one.object.report(Severity::Warning, path, message, fix));
        }
    }
}

fn shown(protocol: &str) -> &str {
    if protocol.is_empty() {
        "of no protocol"
    } else {
        protocol
    }
}
