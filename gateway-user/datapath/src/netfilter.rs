//! What the kernel programs leave to netfilter: masquerading, refusing, and leave to pass a
//! forwarding policy that drops. They ask for it with marks on the first packet of a flow.
//!
//! The rules are those of kube-proxy's KUBE-POSTROUTING, KUBE-FORWARD and its REJECTs, in chains of
//! our own, a handful for all Services. Netfilter does them with its own conntrack and port
//! allocation, visible in `conntrack -L`. What kube-proxy has marked is left to its own chains.
//!
//! The tables are everybody's: a [`Keeper`] looks after our rules.

use std::{io::Write as _, process::Stdio};

use gateway_common::maps::{ACCEPT_MARK, MASQUERADE_MARK, REJECT_MARK};
use nodegate_programs::Program;

mod keeper;

pub use keeper::{Keeper, keep};

const POSTROUTING: &str = "NODEGATE-POSTROUTING";
const FORWARD: &str = "NODEGATE-FORWARD";
const INPUT: &str = "NODEGATE-INPUT";

/// Ports for the new sources. Below and above are none of the default node port range
/// (30000–32767): a reply to one of those would look like a new flow to the node port.
const PORTS: &str = "32768-60999";

const LOCALHOST: &str = "127.0.0.0/8";

/// Where one of our chains is called from. The call comes before other people's rules: in the filter
/// table a DROP may stand there, and in the nat table kube-proxy's KUBE-POSTROUTING, whose
/// `--random-fully` may choose a node port as the source of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    table: &'static str,
    chain: &'static str,
    ours: &'static str,
}

const PLACES: [Place; 3] = [
    Place {
        table: "nat",
        chain: "POSTROUTING",
        ours: POSTROUTING,
    },
    Place {
        table: "filter",
        chain: "FORWARD",
        ours: FORWARD,
    },
    Place {
        table: "filter",
        chain: "INPUT",
        ours: INPUT,
    },
];

/// By which the calls are known.
const COMMENT: &str = "nodegate: Service traffic";

/// Why the rules cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tool is not there.
    #[error("{tool} cannot be run: {source} (fix: install iptables)")]
    Tool {
        /// Which tool.
        tool: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The tool refuses.
    #[error("{tool}: {message}")]
    Refused {
        /// Which tool.
        tool: &'static str,
        /// What it says.
        message: String,
    },
}

/// The tools of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tools {
    iptables: Program,
    restore: Program,
}

/// IPv4.
pub const V4: Tools = Tools {
    iptables: Program::Iptables,
    restore: Program::IptablesRestore,
};

/// IPv6.
pub const V6: Tools = Tools {
    iptables: Program::Ip6tables,
    restore: Program::Ip6tablesRestore,
};

impl Place {
    /// What `iptables-restore --noflush` takes: the chain with its rules, and its call before all others
    /// in place of `calls` earlier ones. The whole takes effect at once.
    fn text(self, tools: Tools, calls: usize) -> String {
        let Self { table, ours, .. } = self;
        let rules = self.rules(tools);
        let call = self.call();
        // Declaring a chain empties it.
        let earlier = format!("-D {call}\n").repeat(calls);
        format!("*{table}\n:{ours} - [0:0]\n{rules}{earlier}-I {call}\nCOMMIT\n")
    }

    /// `POSTROUTING -m comment --comment … -j NODEGATE-POSTROUTING`
    fn call(self) -> String {
        let Self { chain, ours, .. } = self;
        format!("{chain} -m comment --comment \"{COMMENT}\" -j {ours}")
    }

    fn rules(self, tools: Tools) -> String {
        let of_localhost = tools == V4;
        match self.ours {
            POSTROUTING => {
                let marks = MASQUERADE_MARK | ACCEPT_MARK;
                // A socket that is bound to 127.0.0.1 and has connected to a node port.
                let localhost = if of_localhost {
                    format!("-A {POSTROUTING} -s {LOCALHOST} ! -o lo -j MASQUERADE\n")
                } else {
                    String::new()
                };
                format!(
                    "{localhost}\
                     -A {POSTROUTING} -m mark ! --mark {marks:#x}/{marks:#x} -j RETURN\n\
                     -A {POSTROUTING} -j MARK --xor-mark {marks:#x}\n\
                     -A {POSTROUTING} -p tcp -j MASQUERADE --to-ports {PORTS}\n\
                     -A {POSTROUTING} -p udp -j MASQUERADE --to-ports {PORTS}\n\
                     -A {POSTROUTING} -j MASQUERADE\n"
                )
            }
            FORWARD => format!(
                "-A {FORWARD} -m mark --mark {REJECT_MARK:#x}/{REJECT_MARK:#x} -j REJECT\n\
                 -A {FORWARD} -m mark --mark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x} -j ACCEPT\n\
                 -A {FORWARD} -m mark --mark {ACCEPT_MARK:#x}/{ACCEPT_MARK:#x} -j ACCEPT\n\
                 -A {FORWARD} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
            ),
            _ => {
                // What `route_localnet` lets in from other machines, as kube-proxy's KUBE-FIREWALL does.
                let localhost = if of_localhost {
                    format!(
                        "-A {INPUT} -d {LOCALHOST} ! -s {LOCALHOST} -m conntrack \
                         ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n"
                    )
                } else {
                    String::new()
                };
                format!(
                    "-A {INPUT} -m mark --mark {REJECT_MARK:#x}/{REJECT_MARK:#x} -j REJECT\n\
                     {localhost}"
                )
            }
        }
    }
}

/// Removes the rules. Fine if there are none, or no iptables.
pub fn remove(tools: Tools) {
    for Place { table, chain, ours } in PLACES {
        let call = [
            "-w",
            "5",
            "-t",
            table,
            "-D",
            chain,
            "-m",
            "comment",
            "--comment",
            COMMENT,
            "-j",
            ours,
        ];
        for arguments in [
            &call[..],
            &["-w", "5", "-t", table, "-F", ours],
            &["-w", "5", "-t", table, "-X", ours],
        ] {
            if run(tools.iptables, arguments, "").is_err() {
                break;
            }
        }
    }
}

/// Gives what the tool prints.
fn run(program: Program, arguments: &[&str], input: &str) -> Result<String, Error> {
    let tool = program.name();
    let failed = |source| Error::Tool { tool, source };
    let mut child = program
        .command()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused {
        tool,
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
