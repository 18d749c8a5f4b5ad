//! Instructions that nodegate executes itself for a request: what valgrind counts for many requests,
//! less what it counts for few.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use nodegate_programs::Program;

use super::{Programs, Proxy, ProxyBench, Table, Traffic};
use crate::setup;

/// Requests of the two runs.
const RUNS: [u64; 2] = [2_000, 12_000];

/// Counts.
pub(super) fn count(
    bench: &ProxyBench,
    programs: &Programs,
    table: &Table,
    traffic: &mut Traffic,
) -> anyhow::Result<u64> {
    setup::program(Program::Valgrind)?;
    let mut counts = [0; RUNS.len()];
    for (count, requests) in counts.iter_mut().zip(RUNS) {
        let file = table.directory.join("callgrind.out");
        let counted = |nodegate: Command| {
            let out = format!("--callgrind-out-file={}", file.display());
            Program::Valgrind.around(["--tool=callgrind", &out], &nodegate)
        };
        let proxy = Proxy::start_changed(counted, programs, table, bench.proxy_cpu)?;
        traffic.verified(&bench.questions(&proxy, requests), "nodegate")?;
        proxy.end()?;
        *count = total(&file)?;
        eprintln!("{requests} requests: {count} instructions");
    }
    Ok((counts[1] - counts[0]) / (RUNS[1] - RUNS[0]))
}

/// The sum in callgrind's output.
fn total(file: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let sum = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .context("callgrind has written no total")?;
    Ok(sum.trim().parse()?)
}
