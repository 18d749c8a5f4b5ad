//! The state of a running nodegate as metrics, in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;

use super::status::Status;

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// All metrics.
pub fn text(status: &Status) -> String {
    let mut text = Text::default();
    text.family(
        "nodegate_info",
        "gauge",
        "What runs here.",
        [(
            vec![
                ("version", status.version.as_str()),
                ("role", &status.role),
                ("node", &status.node),
            ],
            1.0,
        )],
    );
    text.number(
        "nodegate_ready",
        "gauge",
        "Whether the first Snapshot has been applied by all.",
        f64::from(u8::from(status.ready)),
    );
    text.number(
        "nodegate_snapshot_generation",
        "gauge",
        "Generation of the last published Snapshot.",
        status.snapshot.generation as f64,
    );
    if let Some(datapath) = &status.datapath {
        text.number(
            "nodegate_datapath_generation",
            "gauge",
            "Generation of the Snapshot that the maps hold.",
            datapath.applied as f64,
        );
        if let Some(age) = datapath.heartbeat_age {
            text.number(
                "nodegate_datapath_heartbeat_age_seconds",
                "gauge",
                "Time since the redirector last wrote a sign of life into its maps.",
                age,
            );
        }
        text.number(
            "nodegate_datapath_failures",
            "gauge",
            "What could not be written into the maps.",
            datapath.failures.len() as f64,
        );
        let elements = datapath.elements.iter();
        text.family(
            "nodegate_datapath_map_elements",
            "gauge",
            "Elements in the maps.",
            elements.map(|(map, count)| (vec![("map", map.as_str())], *count as f64)),
        );
        if let Some(flows) = datapath.flows {
            let states = [
                ("places", flows.places),
                ("recorded", flows.recorded),
                ("established", flows.established),
            ];
            text.family(
                "nodegate_datapath_flows",
                "gauge",
                "Flows of packets: how many there is room for, are recorded, are established.",
                states.map(|(state, count)| (vec![("what", state)], count as f64)),
            );
            text.number(
                "nodegate_datapath_flow_buckets_full",
                "gauge",
                "Parts of the flow table in which no new flow finds room.",
                flows.full_buckets as f64,
            );
        }
        let decisions = datapath.decisions.iter();
        text.family(
            "nodegate_datapath_decisions_total",
            "counter",
            "Decisions by reason since the maps were made.",
            decisions.map(|(reason, count)| (vec![("reason", reason.as_str())], *count as f64)),
        );
        let shares = datapath.shares.iter();
        text.family(
            "nodegate_datapath_shifted_connections_total",
            "counter",
            "Connections that the kernel sent to the destinations of TCP routes.",
            shares.map(|share| {
                let labels = vec![
                    ("service", share.service.as_str()),
                    ("destination", share.destination.as_str()),
                ];
                (labels, share.connections as f64)
            }),
        );
    }
    if let Some(proxy) = &status.proxy {
        text.number(
            "nodegate_proxy_generation",
            "gauge",
            "Generation of the Snapshot that all workers have applied.",
            proxy.applied as f64,
        );
        let refused = proxy.refused.iter();
        text.family(
            "nodegate_proxy_refused_total",
            "counter",
            "Connections and requests that were refused so that others go on.",
            refused.map(|(reason, count)| (vec![("reason", reason.as_str())], *count as f64)),
        );
    }
    text.0
}

#[derive(Default)]
struct Text(String);

type Labels<'l> = Vec<(&'static str, &'l str)>;

impl Text {
    fn number(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help, [(Vec::new(), value)]);
    }

    fn family<'l>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{} {value}", braced(&labels));
        }
    }
}

fn braced(labels: &Labels<'_>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels = labels.iter();
    let labels: Vec<_> = labels
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    format!("{{{}}}", labels.join(","))
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    value.replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::{DatapathStatus, FlowsStatus, ShareStatus, SnapshotStatus, SourceStatus};

    #[test]
    fn a_redirector_tells_its_heartbeat_and_its_decisions() {
        let status = Status {
            schema: 1,
            version: "1.0.0".into(),
            role: "redirector".into(),
            node: "a\"b".into(),
            pid: 1,
            ready: true,
            source: SourceStatus {
                kubernetes: None,
                directory: None,
                rules: None,
            },
            snapshot: SnapshotStatus {
                generation: 7,
                services: 1,
                listeners: 0,
                clusters: 0,
            },
            datapath: Some(DatapathStatus {
                applied: 6,
                pin_dir: "/sys/fs/bpf/nodegate".into(),
                uplinks: vec!["eth0".into()],
                left_out: Vec::new(),
                elements: BTreeMap::from([("services".into(), 3)]),
                decisions: BTreeMap::from([("chosen".into(), 12), ("clash".into(), 0)]),
                shares: vec![ShareStatus {
                    service: "istio-system/gw:tcp".into(),
                    destination: "outbound|9000|v1|tcp-echo".into(),
                    connections: 8,
                }],
                flows: Some(FlowsStatus {
                    places: 64,
                    recorded: 9,
                    established: 8,
                    full_buckets: 1,
                }),
                heartbeat_age: Some(1.5),
                failures: Vec::new(),
            }),
            proxy: None,
            diagnostics: Vec::new(),
        };
        let text = text(&status);
        for line in [
            "nodegate_info{version=\"1.0.0\",role=\"redirector\",node=\"a\\\"b\"} 1",
            "nodegate_ready 1",
            "nodegate_snapshot_generation 7",
            "nodegate_datapath_generation 6",
            "# TYPE nodegate_datapath_heartbeat_age_seconds gauge",
            "nodegate_datapath_heartbeat_age_seconds 1.5",
            "nodegate_datapath_map_elements{map=\"services\"} 3",
            "nodegate_datapath_flows{what=\"places\"} 64",
            "nodegate_datapath_flows{what=\"established\"} 8",
            "nodegate_datapath_flow_buckets_full 1",
            "# TYPE nodegate_datapath_decisions_total counter",
            "nodegate_datapath_decisions_total{reason=\"chosen\"} 12",
            "nodegate_datapath_decisions_total{reason=\"clash\"} 0",
            "nodegate_datapath_shifted_connections_total{service=\"istio-system/gw:tcp\",destination=\"outbound|9000|v1|tcp-echo\"} 8",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} in {text}");
        }
        assert!(!text.contains("nodegate_proxy"), "{text}");
    }
}
