//! Makes the source of marked packets this node's: kube-proxy's KUBE-POSTROUTING, for nodes where
//! kube-proxy does not run.
//!
//! The kernel program marks the first packet of a connection from outside to a backend on another
//! node, whose replies have to come back through this one. Netfilter does the rest, with its own
//! conntrack and port allocation, visible in `conntrack -L`. On a node with kube-proxy its chain
//! comes first and clears the mark, and ours has nothing left to do.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use gateway_common::maps::MASQUERADE_MARK;

/// Our chain in the nat table.
const CHAIN: &str = "NODEGATE-POSTROUTING";
const COMMENT: &str = "nodegate: Service traffic that needs this node's source address";

/// Ports for the new sources. Below and above are none of the default node port range
/// (30000–32767): a reply to one of those would look like a new connection to the node port.
const PORTS: &str = "32768-60999";

/// Why the rules cannot be set or removed.
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

/// Sets the rules, or sets them anew: doing it twice changes nothing.
pub fn install() -> Result<(), Error> {
    let rules = format!(
        "*nat\n\
         :{CHAIN} - [0:0]\n\
         -A {CHAIN} -m mark ! --mark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x} -j RETURN\n\
         -A {CHAIN} -j MARK --xor-mark {MASQUERADE_MARK:#x}\n\
         -A {CHAIN} -p tcp -m comment --comment \"{COMMENT}\" -j MASQUERADE --to-ports {PORTS}\n\
         COMMIT\n"
    );
    // Declaring a chain empties it, and the whole text takes effect at once.
    run("iptables-restore", &["-w", "5", "--noflush"], &rules)?;
    if run("iptables", &jump("-C"), "").is_err() {
        run("iptables", &jump("-A"), "")?;
    }
    Ok(())
}

/// Removes the rules. Fine if there are none, or no iptables.
pub fn remove() {
    for arguments in [
        &jump("-D")[..],
        &["-w", "5", "-t", "nat", "-F", CHAIN],
        &["-w", "5", "-t", "nat", "-X", CHAIN],
    ] {
        if run("iptables", arguments, "").is_err() {
            return;
        }
    }
}

fn jump(action: &str) -> [&str; 12] {
    let rule = ["-m", "comment", "--comment", COMMENT, "-j", CHAIN];
    let [m, comment, option, text, j, chain] = rule;
    [
        "-w",
        "5",
        "-t",
        "nat",
        action,
        "POSTROUTING",
        m,
        comment,
        option,
        text,
        j,
        chain,
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
