//! What the kernel programs leave to netfilter: masquerading, refusing, and leave to pass a
//! forwarding policy that drops. They ask for it with marks on the first packet of a flow.
//!
//! The rules are those of kube-proxy's KUBE-POSTROUTING, KUBE-FORWARD and its REJECTs, in chains of
//! our own, a handful for all Services. Netfilter does them with its own conntrack and port
//! allocation, visible in `conntrack -L`. What kube-proxy has marked is left to its own chains.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use gateway_common::maps::{ACCEPT_MARK, MASQUERADE_MARK, REJECT_MARK};

const POSTROUTING: &str = "NODEGATE-POSTROUTING";
const FORWARD: &str = "NODEGATE-FORWARD";
const INPUT: &str = "NODEGATE-INPUT";

/// Ports for the new sources. Below and above are none of the default node port range
/// (30000–32767): a reply to one of those would look like a new flow to the node port.
const PORTS: &str = "32768-60999";

/// Where our chains are called from: table, chain, ours, and how the call is added. Ours comes before
/// other people's rules: in the filter table a DROP may stand there, and in the nat table kube-proxy's
/// KUBE-POSTROUTING, whose `--random-fully` may choose a node port as the source of datagrams.
const JUMPS: [(&str, &str, &str, &str); 3] = [
    ("nat", "POSTROUTING", POSTROUTING, "-I"),
    ("filter", "FORWARD", FORWARD, "-I"),
    ("filter", "INPUT", INPUT, "-I"),
];

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
    iptables: &'static str,
    restore: &'static str,
}

/// IPv4.
pub const V4: Tools = Tools {
    iptables: "iptables",
    restore: "iptables-restore",
};

/// IPv6.
pub const V6: Tools = Tools {
    iptables: "ip6tables",
    restore: "ip6tables-restore",
};

/// Sets the rules, or sets them anew: doing it twice changes nothing.
pub fn install(tools: Tools) -> Result<(), Error> {
    // Declaring a chain empties it, and each table takes effect at once.
    run(tools.restore, &["-w", "5", "--noflush"], &rules())?;
    for (table, chain, ours, how) in JUMPS {
        if run(tools.iptables, &jump(table, "-C", chain, ours), "").is_err() {
            run(tools.iptables, &jump(table, how, chain, ours), "")?;
        }
    }
    Ok(())
}

fn rules() -> String {
    let ours = MASQUERADE_MARK | ACCEPT_MARK;
    format!(
        "*nat\n\
         :{POSTROUTING} - [0:0]\n\
         -A {POSTROUTING} -m mark ! --mark {ours:#x}/{ours:#x} -j RETURN\n\
         -A {POSTROUTING} -j MARK --xor-mark {ours:#x}\n\
         -A {POSTROUTING} -p tcp -j MASQUERADE --to-ports {PORTS}\n\
         -A {POSTROUTING} -p udp -j MASQUERADE --to-ports {PORTS}\n\
         -A {POSTROUTING} -j MASQUERADE\n\
         COMMIT\n\
         *filter\n\
         :{FORWARD} - [0:0]\n\
         :{INPUT} - [0:0]\n\
         -A {FORWARD} -m mark --mark {REJECT_MARK:#x}/{REJECT_MARK:#x} -j REJECT\n\
         -A {FORWARD} -m mark --mark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x} -j ACCEPT\n\
         -A {FORWARD} -m mark --mark {ACCEPT_MARK:#x}/{ACCEPT_MARK:#x} -j ACCEPT\n\
         -A {FORWARD} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A {INPUT} -m mark --mark {REJECT_MARK:#x}/{REJECT_MARK:#x} -j REJECT\n\
         COMMIT\n"
    )
}

/// Removes the rules. Fine if there are none, or no iptables.
pub fn remove(tools: Tools) {
    for (table, chain, ours, _) in JUMPS {
        for arguments in [
            &jump(table, "-D", chain, ours)[..],
            &["-w", "5", "-t", table, "-F", ours],
            &["-w", "5", "-t", table, "-X", ours],
        ] {
            if run(tools.iptables, arguments, "").is_err() {
                break;
            }
        }
    }
}

/// `-w 5 -t nat -A POSTROUTING -m comment --comment … -j NODEGATE-POSTROUTING`
fn jump<'a>(table: &'a str, how: &'a str, chain: &'a str, ours: &'a str) -> [&'a str; 12] {
    let comment = "nodegate: Service traffic";
    let [m, name, option] = ["-m", "comment", "--comment"];
    [
        "-w", "5", "-t", table, how, chain, m, name, option, comment, "-j", ours,
    ]
}

fn run(tool: &'static str, arguments: &[&str], input: &str) -> Result<(), Error> {
    let failed = |source| Error::Tool { tool, source };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Refused {
        tool,
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
