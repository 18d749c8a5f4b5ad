//! What a real kube-proxy wrote for recorded objects, against nodegate given the same objects. Where
//! the recordings come from: `tests/golden/README.md`.

use fastrand::Rng;

use crate::{
    compare::{Tally, compare},
    flows,
    sides::{Load, Sides},
    support::{Recording, Set},
};

/// So many flows of each recording; chosen by chance, always the same ones.
const FLOWS: usize = 600;

/// The sets that can be replayed. Left out: a bit of the mark that nodegate does not have.
pub(crate) fn sets() -> Vec<Set> {
    let mut sets = crate::support::sets();
    sets.retain(|set| !set.name.ends_with("masquerade-bit"));
    sets
}

/// One recording.
pub(crate) fn run(sides: &mut Sides, set: &Set) -> anyhow::Result<Tally> {
    let recording = Recording::of(set);
    let mut rules = ["save.legacy", "save6.legacy"].map(|file| set.read(file));
    for text in &mut rules {
        // The bridge stands for the devices of the pods, which have no bridge here.
        *text = text.replace("-i cni0", "-i pod+");
    }
    let mut flows: Vec<_> = recording
        .services
        .iter()
        .enumerate()
        .flat_map(|(index, service)| flows::flows(service, index))
        .collect();
    Rng::with_seed(1).shuffle(&mut flows);
    flows.truncate(FLOWS);
    let load = Load {
        services: recording.services,
        config: recording.config,
        rules: Some(rules),
    };
    let (tally, _) = compare(sides, &load, &flows)?;
    Ok(tally)
}
