//! The table of `cargo xtask bench packet`: what packets cost on this machine, judged by nobody.

use crate::time::{Kind, Timer};

const SIZES: [u32; 3] = [10, 1_000, 30_000];

const COLUMNS: [(&str, Kind); 6] = [
    ("NO SERVICE", Kind::NoService),
    ("KNOWN FLOW", Kind::Known),
    ("NEW FLOW", Kind::New),
    ("… NODE PORT", Kind::NodePort),
    ("… NEW CLIENT", Kind::NewClient),
    // The last: the Service is broken after it.
    ("… STALE", Kind::Stale),
];

/// How often, and how many runs each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) calls: usize,
    pub(crate) repeat: u32,
}

pub(crate) fn print(effort: Effort) -> anyhow::Result<()> {
    let names = COLUMNS.map(|(name, _)| format!("{name:>13}"));
    println!("{:>10} {}   (ns per packet)", "SERVICES", names.join(" "));
    let mut measuring = f64::INFINITY;
    for size in SIZES {
        let mut timer = Timer::new(size)?;
        let mut row = Vec::new();
        for (_, kind) in COLUMNS {
            if kind == Kind::Stale {
                timer.make_stale()?;
            }
            for _ in 0..effort.calls {
                timer.take(kind, effort.repeat)?;
            }
            row.push(format!("{:>13.0}", timer.cost(kind)));
        }
        println!("{size:>10} {}", row.join(" "));
        measuring = measuring.min(timer.measuring());
    }
    println!("measuring itself: {measuring:.0} ns, subtracted from each");
    Ok(())
}
