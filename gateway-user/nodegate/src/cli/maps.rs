//! `nodegate maps`: what the loaded maps hold.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use nodegate_datapath::{
    clock,
    contents::{
        AffinityRow, BackendRow, CounterRow, DaemonRow, FlowRow, Pins, ServiceRow, ShareRow,
        SocketRow,
    },
};
use serde::Serialize;

use super::{Output, attachment::PinDir};

/// Show what the loaded maps hold: names of Services, addresses as text.
///
/// Reads the pins and nothing else: it works while no nodegate runs. Needs root, or CAP_BPF and a way
/// into the BPF file system.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate maps                the daemon, frontends, backends and counters
  nodegate maps daemon         when it was last alive
  nodegate maps conntrack      the flows that are translated packet by packet
  nodegate maps services -o json |
    jq '.services[] | select(.kind == \"node port\")'
  nodegate maps --pin-dir /sys/fs/bpf/nodegate

Exit status: 0 success, 2 nothing is pinned there or it cannot be read.")]
pub struct Maps {
    /// Which map [default: daemon, services, backends and counters]
    #[arg(value_enum)]
    map: Option<Which>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    pins: PinDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Who writes the maps, and when it was last alive
    Daemon,
    /// Frontends: cluster IPs, node ports, external and load balancer IPs
    Services,
    /// Endpoints behind them
    Backends,
    /// Destinations of TCP routes that the kernel follows, and what each got
    Shares,
    /// Flows that are translated packet by packet
    Conntrack,
    /// Clients that stay with a backend
    Affinity,
    /// Sockets that were redirected
    Sockets,
    /// Decisions by reason
    Counters,
}

/// What is shown of the maps.
#[derive(Debug, Default, Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<Vec<DaemonRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Vec<ServiceRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backends: Option<Vec<BackendRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<Vec<ShareRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conntrack: Option<Vec<FlowRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<Vec<AffinityRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<Vec<SocketRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<Vec<CounterRow>>,
}

/// A row of a table.
trait Row {
    /// The columns' names.
    const HEADER: &'static [&'static str];

    /// As many as there are columns.
    fn cells(&self) -> Vec<String>;
}

impl Maps {
    /// Reads and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let shown = Shown::read(&Pins::open(&self.pins.path)?, self.map)?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            Output::Json => {
                serde_json::to_writer_pretty(&mut out, &shown)?;
                writeln!(out)?;
            }
            Output::Text => out.write_all(shown.text().as_bytes())?,
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Shown {
    fn read(pins: &Pins, map: Option<Which>) -> anyhow::Result<Self> {
        let now = clock::monotonic()?;
        let wanted = match map {
            Some(map) => vec![map],
            None => vec![
                Which::Daemon,
                Which::Services,
                Which::Backends,
                Which::Counters,
            ],
        };
        let mut shown = Self::default();
        for map in wanted {
            match map {
                Which::Daemon => shown.daemon = Some(pins.daemon()?.into_iter().collect()),
                Which::Services => shown.services = Some(pins.services()?),
                Which::Backends => shown.backends = Some(pins.backends()),
                Which::Shares => shown.shares = Some(pins.shares()?),
                Which::Conntrack => shown.conntrack = Some(pins.conntrack(now)?),
                Which::Affinity => shown.affinity = Some(pins.affinity(now)?),
                Which::Sockets => shown.sockets = Some(pins.sockets()?),
                Which::Counters => shown.counters = Some(pins.counters()?),
            }
        }
        Ok(shown)
    }

    fn text(&self) -> String {
        let tables = [
            self.daemon.as_deref().map(table),
            self.services.as_deref().map(table),
            self.backends.as_deref().map(table),
            self.shares.as_deref().map(table),
            self.conntrack.as_deref().map(table),
            self.affinity.as_deref().map(table),
            self.sockets.as_deref().map(table),
            self.counters.as_deref().map(table),
        ];
        let tables: Vec<_> = tables.into_iter().flatten().collect();
        tables.join("\n")
    }
}

fn table<R: Row>(rows: &[R]) -> String {
    super::table::table(R::HEADER, rows.iter().map(Row::cells))
}

/// What is empty shows as a dash.
fn dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn mark(is_so: bool) -> String {
    if is_so { "yes" } else { "-" }.to_owned()
}

impl Row for DaemonRow {
    const HEADER: &'static [&'static str] = &["PID", "LAST ALIVE", "AFTER", "GENERATION", "LAYOUT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pid.to_string(),
            format!("{}s ago", self.idle),
            format!("{}s", self.ran),
            self.generation.to_string(),
            self.schema.to_string(),
        ]
    }
}

impl Row for ServiceRow {
    const HEADER: &'static [&'static str] = &[
        "SERVICE",
        "KIND",
        "FRONTEND",
        "PROTO",
        "POLICY",
        "CLUSTER",
        "LOCAL",
        "AFFINITY",
        "RANGES",
        "ID",
        "GENERATION",
    ];

    fn cells(&self) -> Vec<String> {
        let affinity = match self.affinity {
            0 => String::new(),
            seconds => format!("{seconds}s"),
        };
        vec![
            dash(&self.service),
            self.kind.to_owned(),
            self.frontend.clone(),
            dash(&self.protocol),
            self.policy.to_owned(),
            self.cluster.to_string(),
            self.local.to_string(),
            dash(&affinity),
            mark(self.source_ranges),
            self.id.to_string(),
            self.generation.to_string(),
        ]
    }
}

impl Row for BackendRow {
    const HEADER: &'static [&'static str] = &[
        "SERVICE", "BACKEND", "PROTO", "HERE", "CLUSTER", "LOCAL", "ID",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            dash(&self.service),
            self.address.to_string(),
            self.protocol.clone(),
            mark(self.on_this_node),
            mark(self.cluster),
            mark(self.local),
            self.id.to_string(),
        ]
    }
}

impl Row for ShareRow {
    const HEADER: &'static [&'static str] = &["SERVICE", "DESTINATION", "CONNECTIONS"];

    fn cells(&self) -> Vec<String> {
        vec![
            dash(&self.service),
            self.destination.clone(),
            self.connections.to_string(),
        ]
    }
}

impl Row for FlowRow {
    const HEADER: &'static [&'static str] = &[
        "PROTO", "CLIENT", "FRONTEND", "BACKEND", "SEEN AS", "SERVICE", "IDLE", "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            if self.source_port == self.client.port() {
                dash("")
            } else {
                format!(":{}", self.source_port)
            },
            dash(&self.service),
            format!("{}s", self.idle),
            self.state.to_owned(),
        ]
    }
}

impl Row for AffinityRow {
    const HEADER: &'static [&'static str] = &["SERVICE", "CLIENT", "BACKEND", "IDLE"];

    fn cells(&self) -> Vec<String> {
        let gone = || "gone".to_owned();
        vec![
            dash(&self.service),
            self.client.clone(),
            self.backend
                .map_or_else(gone, |backend| backend.to_string()),
            format!("{}s", self.idle),
        ]
    }
}

impl Row for SocketRow {
    const HEADER: &'static [&'static str] = &[
        "SOCKET",
        "PROTO",
        "FRONTEND",
        "BACKEND",
        "DIRECTION",
        "SERVICE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.socket.to_string(),
            self.protocol.clone(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.direction.to_owned(),
            dash(&self.service),
        ]
    }
}

impl Row for CounterRow {
    const HEADER: &'static [&'static str] = &["REASON", "COUNT", "MEANING"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reason.to_owned(),
            self.count.to_string(),
            self.text.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_cells_as_columns() {
        let counter = CounterRow {
            reason: "chosen",
            count: 12,
            text: "backend chosen",
        };
        assert_eq!(
            table(&[counter]),
            "REASON   COUNT   MEANING\nchosen   12      backend chosen\n"
        );
        let daemon = DaemonRow {
            pid: 4711,
            idle: 14,
            ran: 3600,
            generation: 7,
            schema: 4,
        };
        assert_eq!(
            table(&[daemon]),
            "PID    LAST ALIVE   AFTER   GENERATION   LAYOUT\n\
             4711   14s ago      3600s   7            4\n"
        );
        let affinity = AffinityRow {
            service: String::new(),
            client: "192.0.2.1".into(),
            backend: None,
            idle: 3,
        };
        assert_eq!(
            table(&[affinity]),
            "SERVICE   CLIENT      BACKEND   IDLE\n-         192.0.2.1   gone      3s\n"
        );
    }

    #[test]
    fn maps_that_were_not_asked_for_are_left_out() {
        let shown = Shown {
            counters: Some(Vec::new()),
            ..Shown::default()
        };
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json, serde_json::json!({"counters": []}));
        assert_eq!(shown.text(), "REASON   COUNT   MEANING\n");
    }
}
