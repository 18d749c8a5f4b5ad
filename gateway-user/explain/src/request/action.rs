//! What a route does beside leading somewhere, in words.

use std::{fmt::Display, time::Duration};

use super::Action;
use nodegate_model::gateway::{
    AbortStatus, Forward, HeaderChanges, HttpAction, PathRewrite, RetryPolicy,
};
use nodegate_values::duration::Interval;

/// A label and a text for each thing that a route does.
pub(crate) struct Doings(pub(crate) Vec<(&'static str, String)>);

impl Doings {
    /// All that is worth a line.
    pub(crate) fn of(action: &Action) -> Self {
        let mut all = Vec::new();
        if let Some(fault) = &action.fault {
            all.extend(fault.delay.as_ref().map(|delay| {
                let (share, time) = (delay.percentage, Interval(delay.duration));
                ("fault", format!("{share} of requests wait for {time}"))
            }));
            all.extend(fault.abort.as_ref().map(|abort| {
                let status = match abort.status {
                    AbortStatus::Http(status) => status.to_string(),
                    AbortStatus::Grpc(status) => format!("gRPC status {status}"),
                };
                let share = abort.percentage;
                ("fault", format!("{share} of requests get {status}"))
            }));
        }
        if let HttpAction::Forward(forward) = &action.action {
            forwarding(forward, &mut all);
        }
        for (changes, direction) in [
            (&action.headers.request, "request"),
            (&action.headers.response, "response"),
        ] {
            all.extend(changed(changes).map(|text| ("headers", format!("{direction}: {text}"))));
        }
        if let Some(cors) = &action.cors {
            let count = cors.allow_origins.len();
            let origins = if count == 1 { "origin" } else { "origins" };
            let text = format!("for {count} {origins}, methods {}", cors.allow_methods);
            all.push(("cors", text));
        }
        Self(all)
    }
}

fn forwarding(forward: &Forward, all: &mut Vec<(&'static str, String)>) {
    if let Some(PathRewrite::Regex { pattern, .. }) = &forward.rewrite {
        all.push(("rewrite", format!("what matches {pattern} is replaced")));
    }
    let authority = forward.authority.as_ref();
    all.extend(authority.map(|host| ("authority", format!("{host} (rewritten)"))));
    all.extend(forward.timeout.map(|time| ("timeout", seconds(time))));
    all.extend(
        forward
            .retry
            .as_ref()
            .map(|retry| ("retries", tries(retry))),
    );
    for mirror in &forward.mirrors {
        let text = format!(
            "{} of requests, to {}; those with a body over 1 MiB are not copied",
            mirror.percentage, mirror.cluster
        );
        all.push(("mirror", text));
    }
}

fn seconds(time: Duration) -> String {
    Interval(time).to_string()
}

/// `up to 2, 2s each, on 5xx,reset`
fn tries(retry: &RetryPolicy) -> String {
    let mut on: Vec<_> = retry.on.names().map(str::to_owned).collect();
    on.extend(retry.status_codes.iter().map(ToString::to_string));
    let each = retry
        .per_try_timeout
        .map(|time| format!(", {} each", seconds(time)));
    format!(
        "up to {}{}, on {}",
        retry.attempts,
        each.unwrap_or_default(),
        on.join(",")
    )
}

/// `set x-a=b, add x-c=d, remove x-e`; none if nothing is changed.
fn changed(changes: &HeaderChanges) -> Option<String> {
    let remove = changes.remove.iter().map(|name| format!("remove {name}"));
    let add = changes.add.iter().map(|add| {
        let verb = if add.append { "add" } else { "set" };
        pair(verb, &add.name, &add.value)
    });
    let all: Vec<_> = remove.chain(add).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn pair(verb: &str, name: &impl Display, value: &impl Display) -> String {
    format!("{verb} {name}={value}")
}
