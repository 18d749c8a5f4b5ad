//! What is wrong with the objects that a request's way is made of, where it does not end well: the messages of
//! `nodegate check` about them.

use nodegate_resources::{ResourceKind, lookup::full_host};
use nodegate_route::is_in_domain;
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

use crate::request::{End, Known, Routed};

/// As many messages as an answer has.
const MESSAGES: usize = 6;

/// The messages about VirtualServices that have the request's host, and about those that are refused, of which
/// nobody knows what they are for.
pub(super) fn about(known: &Known<'_>, found: &[Diagnostic], routed: &Routed) -> Vec<String> {
    let (Some(request), End::Status { .. }) = (&routed.request, &routed.end) else {
        return Vec::new();
    };
    let has_host = |key: &ObjectKey| {
        let all = known.resources.virtual_services();
        let mut its = all.filter(|(object, _)| object.key == *key);
        its.any(|(object, service)| {
            let mut hosts = service.spec.read_hosts();
            hosts.any(|host| is_in_domain(&request.host, &full_host(&host, &object.key.namespace)))
        })
    };
    let kind = ResourceKind::VirtualService;
    let is_refused = |key: &ObjectKey| {
        let is_one = *key == kind.key(&key.namespace, &key.name);
        is_one && known.resources.objects.get(key).is_none()
    };
    let all = known.resources.diagnostics.iter().chain(found);
    let about = all.filter(|it| {
        let key = it.object.as_ref();
        let is_bad = it.severity == Severity::Error;
        key.is_some_and(|key| has_host(key) || is_bad && is_refused(key))
    });
    let mut told = Vec::new();
    for diagnostic in about {
        let text = diagnostic.to_string();
        if !told.contains(&text) {
            told.push(text);
        }
    }
    let more = told.len().saturating_sub(MESSAGES);
    told.truncate(MESSAGES);
    if more > 0 {
        told.push(format!("{more} more messages: nodegate check"));
    }
    told
}
