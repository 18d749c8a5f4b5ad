//! `cargo xtask bench`: what the proxy costs, beside others; what packets cost.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use nodegate_programs::Program;
use nodegate_testbed::{
    measure,
    traffic::{Questions, Tally, table},
};
use serde_json::{Value, json};

mod haproxy;
mod instructions;
mod packet;
mod proxies;
mod training;

use packet::PacketBench;
use proxies::{Kind, Programs, Proxy, Table};
pub(crate) use training::train;

use crate::{binaries, setup, table as printed};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask bench proxy                                     all three, about two minutes
  cargo xtask bench proxy --at-most haproxy=0.75 --at-most envoy=0.33
  cargo xtask bench proxy --proxies nodegate,relay            beside a relay that looks at nothing
  cargo xtask bench proxy --proxies nodegate,baseline --baseline ./nodegate-before
  cargo xtask bench proxy --instructions --idle               counted, not timed: no noise
  cargo xtask bench proxy -o json
  cargo xtask bench packet                                    nanoseconds of the kernel programs
  cargo xtask bench packet --long                             measured for longer, less noise";

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// CPU time per request of nodegate, HAProxy and Envoy with the same table of routes.
    ///
    /// Each has one thread that serves, on a CPU of its own; clients and endpoints are on another one.
    /// They take turns, round after round; a ratio is the median of the rounds' ratios. Every answer is
    /// looked at.
    Proxy(ProxyBench),
    /// Nanoseconds that the kernel programs take for a packet, with few Services and with many.
    ///
    /// The kernel measures (BPF_PROG_TEST_RUN), and the least of many short runs counts. Nothing is judged:
    /// what may not grow is counted by the test `budget`. Needs root.
    #[command(after_help = packet::EXAMPLES)]
    Packet(PacketBench),
}

/// What is compared, how often, and what is wanted.
#[derive(Debug, Args)]
pub(crate) struct ProxyBench {
    /// Which proxies
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "nodegate,haproxy,envoy"
    )]
    proxies: Vec<Kind>,
    /// Another nodegate binary, to compare with
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Rounds
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Requests per round and proxy
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Clients, each with a connection of its own
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Virtual hosts in the table
    #[arg(long, default_value_t = 200)]
    hosts: usize,
    /// The most that nodegate may cost, as a share of what the other one does: haproxy=0.75. Exit
    /// status 1 if it costs more
    #[arg(long, value_name = "PROXY=RATIO", value_parser = bound)]
    at_most: Vec<(Kind, f64)>,
    /// Count nodegate's own instructions per request, with valgrind
    #[arg(long)]
    instructions: bool,
    /// Measure nodegate's memory per idle connection
    #[arg(long)]
    idle: bool,
    /// CPU of the proxies
    #[arg(long, default_value_t = 1)]
    proxy_cpu: usize,
    /// CPU of clients and endpoints
    #[arg(long, default_value_t = 0)]
    traffic_cpu: usize,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// Clients and endpoints, in a process of their own.
#[derive(Debug)]
struct Traffic {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// CPU-seconds per 100,000 requests, round after round.
type Costs = BTreeMap<Kind, Vec<f64>>;

/// `haproxy=0.75`
fn bound(text: &str) -> Result<(Kind, f64), String> {
    let (name, ratio) = text.split_once('=').ok_or("not PROXY=RATIO")?;
    let kind = Kind::from_str(name, true)?;
    let ratio: f64 = ratio.parse().map_err(|_| "the ratio is no number")?;
    Ok((kind, ratio))
}

/// Runs it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<ExitCode> {
    match bench {
        Bench::Proxy(bench) => bench.run(),
        Bench::Packet(bench) => bench.run(),
    }
}

impl ProxyBench {
    fn run(&self) -> anyhow::Result<ExitCode> {
        self.check()?;
        let (programs, traffic) = self.programs()?;
        let directory = tempfile::tempdir()?;
        let mut traffic = Traffic::start(&traffic, self.traffic_cpu)?;
        let table = Table {
            directory: directory.path().to_owned(),
            endpoints: traffic.ports()?,
            hosts: table::hosts(self.hosts),
        };
        let mut result = json!({});
        let mut ok = true;
        if self.instructions {
            let count = instructions::count(self, &programs, &table, &mut traffic)?;
            result["instructionsPerRequest"] = count.into();
        }
        if self.idle {
            let bytes = self.idle_memory(&programs, &table, &mut traffic)?;
            result["bytesPerIdleConnection"] = bytes.into();
        }
        // Counting alone needs no rounds.
        if !(self.instructions || self.idle) || !self.at_most.is_empty() {
            let costs = self.compare(&programs, &table, &mut traffic)?;
            ok = self.within_bounds(&costs)?;
            result["requestsPerRound"] = self.requests.into();
            result["cpuSecondsPer100kRequests"] = Self::described(&costs);
        }
        self.print(&result);
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.requests > 0 && self.clients > 0 && self.hosts > 0,
            "nothing to measure: requests, clients and hosts must be above 0"
        );
        ensure!(
            self.baseline.is_some() || !self.proxies.contains(&Kind::Baseline),
            "which baseline? --baseline names the binary"
        );
        for (kind, _) in &self.at_most {
            ensure!(
                self.proxies.contains(kind) && self.proxies.contains(&Kind::Nodegate),
                "--at-most {}: it is not among --proxies, or nodegate isn't",
                kind.name()
            );
        }
        let cpus = thread::available_parallelism()?.get();
        ensure!(
            self.proxy_cpu != self.traffic_cpu && cpus > 1,
            "proxies and traffic need a CPU each: use a machine with two"
        );
        Ok(())
    }

    /// Builds and finds what is run: the proxies' programs, and the traffic's.
    fn programs(&self) -> anyhow::Result<(Programs, PathBuf)> {
        let measured = binaries::release()?;
        let mut programs = Programs {
            nodegate: measured.nodegate,
            relay: measured.relay,
            ..Programs::default()
        };
        if let Some(baseline) = &self.baseline {
            programs.baseline = std::path::absolute(baseline)?;
        }
        let haproxies = [Kind::Haproxy, Kind::HaproxyRules];
        if haproxies.iter().any(|kind| self.proxies.contains(kind)) {
            programs.haproxy = setup::program(Program::Haproxy)?;
        }
        if self.proxies.contains(&Kind::Envoy) {
            programs.envoy = setup::envoy()?;
        }
        Ok((programs, measured.traffic))
    }

    fn questions(&self, proxy: &Proxy, requests: u64) -> Questions {
        Questions {
            proxy: proxy.address,
            clients: self.clients,
            at_once: self.clients,
            requests,
            hosts: table::hosts(self.hosts),
            path: table::PATH.into(),
        }
    }

    fn compare(
        &self,
        programs: &Programs,
        table: &Table,
        traffic: &mut Traffic,
    ) -> anyhow::Result<Costs> {
        let mut proxies = Vec::new();
        for &kind in &self.proxies {
            let proxy = Proxy::start(kind, programs, table, self.proxy_cpu)
                .with_context(|| format!("starting {}", kind.name()))?;
            // Connections to endpoints, and whatever else is made the first time.
            let warm = self.questions(&proxy, self.requests.div_ceil(10));
            traffic.measure(&warm, kind)?;
            proxies.push((kind, proxy));
        }
        let mut costs = Costs::new();
        for round in 1..=self.rounds {
            let mut line = format!("round {round} of {}:", self.rounds);
            for (kind, proxy) in &proxies {
                let before = proxy.cpu_time()?;
                traffic.measure(&self.questions(proxy, self.requests), *kind)?;
                let took = proxy.cpu_time()?.saturating_sub(before).as_secs_f64();
                let cost = took * 100_000.0 / self.requests as f64;
                costs.entry(*kind).or_default().push(cost);
                // Writing to a String doesn't fail.
                let _ = write!(line, " {} {cost:.2}", kind.name());
            }
            eprintln!("{line}");
            // The next one's turn to be first: what comes after whom makes a difference, too.
            proxies.rotate_left(1);
        }
        Ok(costs)
    }

    /// Bytes that nodegate has for a connection of a client that asks nothing.
    fn idle_memory(
        &self,
        programs: &Programs,
        table: &Table,
        traffic: &mut Traffic,
    ) -> anyhow::Result<u64> {
        const CLIENTS: usize = 10_000;
        let proxy = Proxy::start(Kind::Nodegate, programs, table, self.proxy_cpu)?;
        let few = Questions {
            clients: self.clients,
            at_once: 1,
            ..self.questions(&proxy, 1000)
        };
        traffic.verified(&few, "nodegate")?;
        let before = proxy.memory()?;
        let many = Questions {
            clients: self.clients + CLIENTS,
            requests: 2 * (self.clients + CLIENTS) as u64,
            ..few
        };
        traffic.verified(&many, "nodegate")?;
        // What has been swept away by now doesn't count.
        thread::sleep(Duration::from_secs(3));
        let after = proxy.memory()?;
        Ok(after.saturating_sub(before) / CLIENTS as u64)
    }

    fn within_bounds(&self, costs: &Costs) -> anyhow::Result<bool> {
        let mut ok = true;
        for (kind, bound) in &self.at_most {
            let ratio = ratio(costs, *kind).context("nothing was measured")?;
            if ratio > *bound {
                eprintln!(
                    "nodegate costs {ratio:.3} of what {} does, and not at most {bound}",
                    kind.name()
                );
                ok = false;
            }
        }
        Ok(ok)
    }

    fn described(costs: &Costs) -> Value {
        let entries = costs.iter().map(|(kind, rounds)| {
            let described = json!({
                "median": median(rounds.clone()),
                "rounds": rounds,
                "nodegateRatio": ratio(costs, *kind),
            });
            (kind.name().to_owned(), described)
        });
        Value::Object(entries.collect())
    }

    fn print(&self, result: &Value) {
        if self.output == Format::Json {
            println!("{result}");
            return;
        }
        if let Some(costs) = result["cpuSecondsPer100kRequests"].as_object() {
            let number = |value: &Value, digits: usize| {
                let number = value.as_f64();
                number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
            };
            let rows = costs.iter().map(|(name, cost)| {
                let ratio = number(&cost["nodegateRatio"], 3);
                vec![name.clone(), number(&cost["median"], 3), ratio]
            });
            printed::print(&["PROXY", "CPU-S/100K", "NODEGATE'S SHARE"], rows);
        }
        if let Some(count) = result["instructionsPerRequest"].as_u64() {
            println!("{count} instructions of its own per request");
        }
        if let Some(bytes) = result["bytesPerIdleConnection"].as_u64() {
            println!("{bytes} bytes per idle connection of a client");
        }
    }
}

/// nodegate's cost as a share of another's: the median of what it was round by round.
fn ratio(costs: &Costs, other: Kind) -> Option<f64> {
    let (own, others) = (costs.get(&Kind::Nodegate)?, costs.get(&other)?);
    Some(median(
        own.iter()
            .zip(others)
            .map(|(own, other)| own / other)
            .collect(),
    ))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

impl Traffic {
    fn start(program: &Path, cpu: usize) -> anyhow::Result<Self> {
        let mut command = nodegate_programs::own(program);
        command
            .args(["v0", "v1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        measure::pin(&mut command, cpu)?;
        let mut process = command.spawn().context("starting the traffic")?;
        let questions = process.stdin.take().context("no way to ask")?;
        let answers = process.stdout.take().context("no way to hear")?;
        Ok(Self {
            process,
            questions,
            answers: BufReader::new(answers),
        })
    }

    fn ports(&mut self) -> anyhow::Result<Vec<u16>> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the traffic has ended, see above");
        }
        Ok(line)
    }

    fn run(&mut self, questions: &Questions) -> anyhow::Result<Tally> {
        serde_json::to_writer(&mut self.questions, questions)?;
        writeln!(self.questions)?;
        self.questions.flush()?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// A relay adds nothing that could be verified, but every request must have come through.
    fn measure(&mut self, questions: &Questions, kind: Kind) -> anyhow::Result<()> {
        if kind != Kind::Relay {
            self.verified(questions, kind.name())?;
            return Ok(());
        }
        let came: u64 = self.run(questions)?.endpoints.iter().sum();
        let asked = questions.requests;
        ensure!(
            came == asked,
            "relay: {came} of {asked} requests came through"
        );
        Ok(())
    }

    /// An answer that is wrong would cost what it likes.
    fn verified(&mut self, questions: &Questions, name: &str) -> anyhow::Result<Tally> {
        let tally = self.run(questions).with_context(|| name.to_owned())?;
        tally.verify().with_context(|| name.to_owned())?;
        let [first, second] = tally.endpoints[..] else {
            bail!("two endpoints and {} counts", tally.endpoints.len());
        };
        let share = second as f64 / (first + second) as f64;
        let even = (0.08..0.12).contains(&share) || first + second < 1000;
        ensure!(even, "{name}: {share} of the requests are not a tenth");
        Ok(tally)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // It may have ended by itself, which we have noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs() {
        let costs = Costs::from([
            (Kind::Nodegate, vec![1.0, 4.0, 3.0]),
            (Kind::Haproxy, vec![2.0, 4.0, 4.0]),
        ]);
        assert_eq!(ratio(&costs, Kind::Haproxy), Some(0.75));
        assert_eq!(ratio(&costs, Kind::Envoy), None);
        assert!((median(vec![3.0, 1.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn bounds_are_understood() {
        assert_eq!(bound("haproxy=0.75"), Ok((Kind::Haproxy, 0.75)));
        assert!(bound("haproxy").is_err());
        assert!(bound("squid=1").is_err());
        assert!(bound("envoy=x").is_err());
    }
}
