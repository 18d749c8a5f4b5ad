//! What /proc tells of a process that connects.

use std::{fs, net::IpAddr};

use nodegate_programming::decision::ProcessFacts;

/// What is known of a process; of one that has ended already, nothing.
pub(crate) fn facts(pid: u32) -> ProcessFacts {
    ProcessFacts {
        command: command(pid),
        address: namespace_address(pid),
    }
}

fn command(pid: u32) -> Option<String> {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(command.trim_end().to_owned())
}

/// The first address of the process's network namespace: a pod's address, or the node's.
fn namespace_address(pid: u32) -> Option<IpAddr> {
    first_local(&fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).ok()?)
}

/// In /proc/net/fib_trie, a local address is a line `|-- 10.10.1.4` before one with
/// `/32 host LOCAL` (net/ipv4/fib_trie.c).
fn first_local(trie: &str) -> Option<IpAddr> {
    let mut leaf = None;
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<IpAddr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf.filter(|address| !address.is_loopback())
        {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_command() {
        assert!(facts(std::process::id()).command.is_some());
    }

    #[test]
    fn the_first_address_that_is_not_loopback() {
        let trie = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.10.1.0
        /24 link UNICAST
     |-- 10.10.1.13
        /32 host LOCAL
";
        assert_eq!(first_local(trie), Some("10.10.1.13".parse().unwrap()));
        assert_eq!(first_local("Main:\n"), None);
    }
}
