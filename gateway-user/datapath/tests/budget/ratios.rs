//! Time that is judged: never in seconds, always beside something that was measured in the same moments.
//!
//! Short bursts of one and the other take turns, and the least of each counts, so that both find the
//! machine's quiet moments; while a ratio is above its bound, more are taken.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::time::{Kind, Timer, Yardstick};

/// Runs in a burst: about a millisecond.
const REPEAT: u32 = 5_000;
/// Bursts of each, at least and at most.
const ROUNDS: usize = 60;
const MOST_ROUNDS: usize = 3_000;

/// How much more of the reference program's time than recorded a packet may take. It is not for changes of
/// some per cent, which counts find: from one CPU model to another, ratios differ by a third. It finds
/// what can't be counted, as memory that is far away, or a lock that is waited for.
const DEARER: f64 = 1.5;
/// How much dearer 30,000 Services may be than 10: caches are finite, walks are not allowed.
const GROWTH: f64 = 2.0;

pub(crate) const FEW: u32 = 10;
pub(crate) const MANY: u32 = 30_000;

/// Names in the recorded figures.
const BESIDE_REFERENCE: [(&str, Kind); 4] = [
    ("for no Service", Kind::NoService),
    ("of a known flow", Kind::Known),
    ("first of a flow", Kind::New),
    ("first of a flow, to a node port", Kind::NodePort),
];

const GROWING: [Kind; 3] = [Kind::Known, Kind::New, Kind::NewClient];

/// A packet's time as a share of the reference program's, by name.
pub(crate) type Ratios = BTreeMap<String, f64>;

/// Measures the ratios, for longer if they are above the recorded ones' bounds.
pub(crate) fn beside_reference(recorded: &Ratios) -> anyhow::Result<Ratios> {
    let (mut timer, mut yardstick) = (Timer::new(FEW)?, Yardstick::new()?);
    let mut ratios = Ratios::new();
    for round in 0..MOST_ROUNDS {
        yardstick.take(REPEAT)?;
        for (name, kind) in BESIDE_REFERENCE {
            timer.take(kind, REPEAT)?;
            let ratio = timer.cost(kind) / yardstick.cost();
            // Of more digits none is true.
            ratios.insert(name.to_owned(), (ratio * 1000.0).round() / 1000.0);
        }
        if round >= ROUNDS && above(&ratios, recorded).is_empty() {
            break;
        }
    }
    println!("the reference program: {:.0} ns", yardstick.cost());
    Ok(ratios)
}

/// What is above its bound, one line for each.
fn above(ratios: &Ratios, recorded: &Ratios) -> Vec<String> {
    let judged = ratios.iter().filter_map(|(name, ratio)| {
        let most = recorded.get(name)? * DEARER;
        (*ratio > most).then(|| format!("{name}: {ratio:.2} of the reference, at most {most:.2}"))
    });
    judged.collect()
}

/// Compares with the recorded ratios.
pub(crate) fn judge(recorded: &Ratios) -> anyhow::Result<()> {
    let ratios = beside_reference(recorded)?;
    for (name, ratio) in &ratios {
        let recorded = recorded.get(name).copied().unwrap_or(f64::NAN);
        println!("packet {name}: {ratio:.3} of that, recorded {recorded:.3}");
    }
    let above = above(&ratios, recorded);
    ensure!(above.is_empty(), "{}", above.join("\n"));
    Ok(())
}

/// Compares many Services with few.
pub(crate) fn growth() -> anyhow::Result<()> {
    let (mut few, mut many) = (Timer::new(FEW)?, Timer::new(MANY)?);
    let mut above = Vec::new();
    for round in 0..MOST_ROUNDS {
        above.clear();
        for kind in GROWING {
            few.take(kind, REPEAT)?;
            many.take(kind, REPEAT)?;
            let growth = many.cost(kind) / few.cost(kind);
            if growth > GROWTH {
                above.push(format!(
                    "{kind:?}: {growth:.2} times as dear, at most {GROWTH}"
                ));
            }
        }
        if round >= ROUNDS && above.is_empty() {
            break;
        }
    }
    for kind in GROWING {
        let growth = many.cost(kind) / few.cost(kind);
        println!("{kind:?}: with {MANY} Services {growth:.2} times what it is with {FEW}");
    }
    ensure!(above.is_empty(), "{}", above.join("\n"));
    Ok(())
}
