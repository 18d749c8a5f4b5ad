//! Ports of clients that are used again, by another way to the same backend.

use anyhow::ensure;
use nodegate_model::service::IpFamily;

use crate::{
    agent::{Probe, Seen, Via},
    compare::{Tally, answers},
    flows::{Source, destinations},
    generate::{config, endpoints, service},
    sides::{Lanes, Load, Sides},
};

/// How often each way is taken from one port.
const ROUNDS: usize = 6;
/// The first of the ports, of which no other trial's agents have any.
const FIRST_PORT: u16 = 33_000;

/// Everybody, from a port each, to one backend by all of its frontends in turn: whoever is reached at all is reached
/// every time, and both nodes show the backend the same clients.
pub(crate) fn ways_in_turn(sides: &mut Sides) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for (number, backends) in [(30, endpoints(1, 0)), (31, endpoints(0, 1))] {
        let only = service("reused", number, backends);
        let load = Load {
            services: vec![only.clone()],
            config: config(true, false),
            rules: None,
        };
        sides.load(&load)?;
        let mut lanes = Lanes::new();
        for family in IpFamily::ALL {
            for (source, port) in Source::ALL.into_iter().zip(FIRST_PORT..) {
                let ways = destinations(&only, family).into_iter();
                // Those on which everybody is let in.
                let ways = ways.filter(|(what, to)| {
                    let asked = what.ends_with(":p cluster IP") || what.ends_with(" node port");
                    asked && !to.ip().is_loopback()
                });
                let probes: Vec<_> = ways
                    .map(|(_, to)| Probe {
                        port: Some(port),
                        ..source.probe(to, Via::Tcp, 1)
                    })
                    .collect();
                let rounds = std::iter::repeat_n(probes, ROUNDS);
                lanes.push((source.hooks(), rounds.flatten().collect()));
            }
        }
        let (theirs, ours) = sides.run(&lanes, patience::limit())?;
        for (((_, probes), theirs), ours) in lanes.iter().zip(&theirs).zip(&ours) {
            for ((probe, theirs), ours) in probes.iter().zip(theirs).zip(ours) {
                let reached = |seen: &Seen| answers(seen).count() == 1;
                ensure!(
                    reached(theirs) && reached(ours),
                    "{probe:?}: kube-proxy {theirs:?}, nodegate {ours:?}"
                );
            }
            tally.flows += probes.len();
            tally.attempts += probes.len();
        }
    }
    Ok(tally)
}
