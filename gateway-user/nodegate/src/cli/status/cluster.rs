//! `nodegate status --cluster`: how all nodegates of a cluster stand, by their own reports.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::bail;
use nodegate_source::kubernetes::{
    access::Access,
    report::{self, Changed, Received, SILENCE},
};
use serde_json::json;

use crate::cli::{Output, Plural, table::table};

const HEADER: [&str; 7] = [
    "NODE",
    "ROLE",
    "VERSION",
    "GENERATION",
    "STATE",
    "HEARD",
    "FAULTS",
];

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// An object, as `virtualservice/shop/web`, or `node/node1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    kind: String,
    namespace: String,
    name: String,
}

/// A text that names no object.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no object (fix: KIND/NAMESPACE/NAME, such as virtualservice/shop/web)")]
pub(super) struct NotAnObject(String);

impl FromStr for Object {
    type Err = NotAnObject;

    fn from_str(text: &str) -> Result<Self, NotAnObject> {
        let parts: Vec<_> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, name] => (kind, "", name),
            [kind, namespace, name] => (kind, namespace, name),
            _ => return Err(NotAnObject(text.to_owned())),
        };
        if kind.is_empty() || name.is_empty() {
            return Err(NotAnObject(text.to_owned()));
        }
        Ok(Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Shows all of them.
pub(super) fn show(access: &Access, output: Output) -> anyhow::Result<ExitCode> {
    let received = crate::cli::block_on(async { Ok(report::received(access).await?) })?;
    if received.is_empty() {
        bail!(
            "no nodegate reports to this cluster (fix: --report-to NAMESPACE on `nodegate run`, as deploy/ has it)"
        );
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(&received))?),
        Output::Text => print(&received),
    }
    let is_good =
        |one: &Received| one.age < SILENCE && one.report.ready && one.report.fault_count == 0;
    Ok(if received.iter().all(is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until all that report have the object as it is now in force.
pub(super) fn wait(access: &Access, object: &Object, limit: Duration) -> anyhow::Result<ExitCode> {
    crate::cli::block_on(async {
        let Object {
            kind,
            namespace,
            name,
        } = object;
        let changed = report::changed(access, kind, namespace, name).await?;
        let began = Instant::now();
        loop {
            let received = report::received(access).await?;
            let behind = behind(&received, &changed)?;
            if behind.is_empty() {
                println!("in force on all nodes");
                return Ok(ExitCode::SUCCESS);
            }
            if began.elapsed() >= limit {
                println!("not in force on {}", behind.join(", "));
                return Ok(ExitCode::FAILURE);
            }
            tokio::time::sleep(PAUSE.min(limit)).await;
        }
    })
}

/// Those that watch the kind and do not have the change; those that are gone do not count.
fn behind(received: &[Received], changed: &Changed) -> anyhow::Result<Vec<String>> {
    let live = received.iter().filter(|one| one.age < SILENCE);
    let versions = live.filter_map(|one| {
        let version = one.report.resource_versions.get(changed.plural)?;
        Some((&one.report, *version))
    });
    let versions: Vec<_> = versions.collect();
    if versions.is_empty() {
        bail!(
            "no nodegate that runs reports on {} (fix: `nodegate status --cluster` shows which report)",
            changed.plural
        );
    }
    Ok(versions
        .into_iter()
        .filter(|(_, version)| *version < changed.resource_version)
        .map(|(report, _)| format!("{} ({})", report.node, report.role))
        .collect())
}

fn as_json(received: &[Received]) -> serde_json::Value {
    let nodes = received.iter().map(|one| {
        json!({
            "report": one.report,
            "ageSeconds": one.age.as_secs(),
            "silent": one.age >= SILENCE,
        })
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

fn print(received: &[Received]) {
    let rows = received.iter().map(|Received { report, age }| {
        let state = match (report.ready, *age < SILENCE) {
            (_, false) => "silent",
            (true, true) => "ready",
            (false, true) => "not ready",
        };
        vec![
            report.node.clone(),
            report.role.clone(),
            report.version.clone(),
            report.generation.to_string(),
            state.to_owned(),
            format!("{} s ago", age.as_secs()),
            report.fault_count.to_string(),
        ]
    });
    print!("{}", table(&HEADER, rows));
    for (fault, count) in faults(received) {
        println!("{fault} ({})", Plural(count, "nodegate"));
    }
}

/// Each message once, and how many say it.
fn faults(received: &[Received]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for fault in received.iter().flat_map(|one| &one.report.faults) {
        *counts.entry(fault.as_str()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use nodegate_source::kubernetes::report::Report;

    use super::*;

    fn received(node: &str, version: u64, age: u64) -> Received {
        Received {
            report: Report {
                node: node.into(),
                role: "proxy".into(),
                resource_versions: BTreeMap::from([("virtualservices".into(), version)]),
                ..Report::default()
            },
            age: Duration::from_secs(age),
        }
    }

    #[test]
    fn those_that_live_and_lack_the_change_are_behind() {
        let changed = Changed {
            plural: "virtualservices",
            resource_version: 7,
        };
        let all = [
            received("a", 7, 0),
            received("b", 6, 0),
            received("c", 1, 99),
        ];
        assert_eq!(behind(&all, &changed).unwrap(), ["b (proxy)"]);
        let others = Changed {
            plural: "services",
            ..changed
        };
        let error = behind(&all, &others).unwrap_err();
        assert!(error.to_string().contains("reports on services"), "{error}");
    }

    #[test]
    fn objects_have_a_kind_and_a_name() {
        let object: Object = "virtualservice/shop/web".parse().unwrap();
        assert_eq!((&*object.namespace, &*object.name), ("shop", "web"));
        assert_eq!("node/one".parse::<Object>().unwrap().namespace, "");
        for wrong in ["web", "a/b/c/d", "/b/c", "a/b/"] {
            let error = wrong.parse::<Object>().unwrap_err();
            assert!(error.to_string().contains("KIND/"), "{wrong}");
        }
    }
}
