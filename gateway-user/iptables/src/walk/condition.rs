//! Whether a condition of a rule holds for a packet, and what to say about it.

use std::net::IpAddr;

use super::{Progress, Walker};
use crate::rules::{Address, Not, Part, RecentAction};

/// What is to be said about a condition that holds: nothing, if it speaks for itself.
type Holds = Option<Option<String>>;

impl Walker<'_> {
    /// None if the condition does not hold.
    pub(super) fn holds(&self, part: &Part, progress: &Progress) -> Holds {
        let packet = self.packet;
        let is = |not: Not, condition: bool| condition == (not == Not::Is);
        let said = |holds: bool, text: String| holds.then_some(Some(text));
        let silent = |holds: bool| holds.then_some(None);
        let destination = progress.way.translated.unwrap_or(packet.destination);
        match part {
            Part::Source(not, address) => {
                let holds = is(*not, contains(address, packet.source));
                said(holds, within(*not, "the source", packet.source, address))
            }
            Part::Destination(not, address) => {
                let holds = is(*not, contains(address, destination.ip()));
                said(
                    holds,
                    within(*not, "the destination", destination.ip(), address),
                )
            }
            Part::InInterface(not, name) => {
                let interface = packet.interface.as_deref().unwrap_or_default();
                let text = match (not, packet.interface.is_some()) {
                    (Not::Is, _) => format!("it comes in by {name}"),
                    (Not::Not, true) => format!("it does not come in by {name}"),
                    (Not::Not, false) => "a process of this node sends it".to_owned(),
                };
                said(is(*not, is_interface(name, interface)), text)
            }
            // Which device a packet leaves by is the routing's business; kube-proxy never asks.
            Part::OutInterface(..) | Part::Other(_) => None,
            Part::Protocol(not, name) => silent(is(*not, name == packet.protocol.lowercase())),
            Part::DestinationPort(not, first, last) => {
                let port = destination.port();
                let holds = is(*not, (*first..=*last).contains(&port));
                let protocol = packet.protocol.lowercase();
                said(holds, format!("the {protocol} port is {port}"))
            }
            Part::Module(_) | Part::Comment(_) | Part::Account(_) | Part::Random(_) => silent(true),
            Part::ConnectionState(not, states) => {
                let translated = progress.way.translated.is_some();
                let has = |state: &str| state == "NEW" || (state == "DNAT" && translated);
                silent(is(*not, states.split(',').any(has)))
            }
            Part::SourceType(not, kind) => {
                let local = self.is_own(packet.source);
                let text = own(local, packet.source);
                said(is(*not, local == (kind == "LOCAL")), text)
            }
            Part::DestinationType(not, kind) => {
                let local = self.is_own(destination.ip());
                let text = own(local, destination.ip());
                said(is(*not, local == (kind == "LOCAL")), text)
            }
            Part::Mark(not, value, mask) => {
                let text = match not {
                    Not::Is => "it is marked for masquerading",
                    Not::Not => "it is not marked for masquerading",
                };
                said(is(*not, progress.mark & mask == *value), text.to_owned())
            }
            // The client is a new one.
            Part::Recent(recent) => silent(matches!(recent.action, RecentAction::Set)),
        }
    }
}

fn contains(address: &Address, ip: IpAddr) -> bool {
    address.net.contains(&ip)
}

fn within(not: Not, what: &str, ip: IpAddr, address: &Address) -> String {
    let net = address.net;
    match not {
        Not::Is if net.prefix_len() == net.max_prefix_len() => format!("{what} is {ip}"),
        Not::Is => format!("{what} {ip} is in {net}"),
        Not::Not => format!("{what} {ip} is not in {net}"),
    }
}

fn own(local: bool, ip: IpAddr) -> String {
    if local {
        format!("{ip} is an address of this node")
    } else {
        format!("{ip} is no address of this node")
    }
}

/// A `+` at the end of the rule's name stands for anything.
fn is_interface(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == wanted,
    }
}
