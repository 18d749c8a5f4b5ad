//! Traffic on demand: `testbed-traffic NAME…` prints the ports of the endpoints of these names, as a
//! JSON list; then for each line with questions that comes it prints one with the tally.

use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, ensure};
use nodegate_testbed::{
    measure,
    traffic::{Questions, Traffic},
};
use serde::Serialize;

fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!names.is_empty(), "usage: testbed-traffic NAME...");
    measure::raise_file_limit()?;
    let mut traffic = Traffic::new(&names)?;
    say(&traffic.ports()?)?;
    for line in std::io::stdin().lock().lines() {
        let questions: Questions = serde_json::from_str(&line?).context("the questions")?;
        say(&traffic.run(&questions)?)?;
    }
    Ok(())
}

fn say(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
