//! What the kernel programs report, with names.

use std::collections::BTreeMap;

use gateway_common::event::{Event, Hook};
use nodegate_programming::{
    decision::{ProcessFacts, TracedDecision},
    identity::PortKey,
};

use super::process;

/// What the kernel reports, with names.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// As it came.
    pub event: Event,
    /// The same with names.
    pub decision: TracedDecision,
}

impl Report {
    /// Puts names to an event. Looks into /proc for the process, so call it soon.
    pub fn new(event: Event, names: &BTreeMap<u32, PortKey>) -> Self {
        let facts = match event.pid {
            0 => ProcessFacts::default(),
            pid => process::facts(pid),
        };
        Self {
            event,
            decision: TracedDecision::new(&event, names, facts),
        }
    }

    /// Whether it is no decision, but tells from where the socket of an earlier one connects.
    pub fn is_connected(&self) -> bool {
        self.event.hook == Hook::Connected as u8
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, UNSPECIFIED};

    use super::*;

    #[test]
    fn the_process_is_looked_up() {
        let event = Event {
            hook: Hook::Connect4 as u8,
            pid: std::process::id(),
            time: 0,
            netns: 0,
            cookie: 0,
            source: UNSPECIFIED,
            destination: UNSPECIFIED,
            backend_address: UNSPECIFIED,
            source_port: 0,
            destination_port: 0,
            backend_port: 0,
            protocol: TCP,
            verdict: 0,
            reason: 0,
            flags: 0,
            service: 0,
            backend: 0,
            interface: 0,
            masquerade: 0,
            reserved: 0,
        };
        let process = Report::new(event, &BTreeMap::new()).decision.process;
        let process = process.unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(process.command.is_some());
    }
}
