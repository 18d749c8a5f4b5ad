//! What is rendered, given to the real `iptables-restore`, against what is predicted that
//! `iptables-save` prints: legacy and nft, both families, for every recorded set of Services. And random
//! sets of Services, there and back: the rules that the kernel has say the same Services again.
//!
//! Each test has a network namespace of its own, which goes away with it. Needs root and both
//! iptables; without, every test is reported as ignored. `NODEGATE_ROUND_TRIPS=500` is for so many random
//! sets in place of 50, `NODEGATE_ROUND_TRIPS_SEED` for others.

#[path = "support/own.rs"]
mod own;
#[path = "support/random.rs"]
mod random;
#[path = "support/golden.rs"]
mod support;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{ExitCode, Output, Stdio},
    thread,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::{CloneFlags, unshare};
use nodegate_iptables::{
    config::KubeProxyConfig,
    diff::diff,
    normal,
    parse::parse,
    ports::ports,
    render::render,
    rules::{Dialect, Ruleset},
    services::{Services, of_model, of_rules},
};
use nodegate_model::service::{IpFamily, ServicePort};
use nodegate_programs::Program;

use own::without_own;
use random::Generator;
use support::{Recording, Set, sets};

/// The programs of a family.
#[derive(Clone, Copy)]
struct Programs {
    family: IpFamily,
    restore: Program,
    save: Program,
}

const PROGRAMS: [Programs; 4] = [
    Programs {
        family: IpFamily::V4,
        restore: Program::IptablesLegacyRestore,
        save: Program::IptablesLegacySave,
    },
    Programs {
        family: IpFamily::V4,
        restore: Program::IptablesNftRestore,
        save: Program::IptablesNftSave,
    },
    Programs {
        family: IpFamily::V6,
        restore: Program::Ip6tablesLegacyRestore,
        save: Program::Ip6tablesLegacySave,
    },
    Programs {
        family: IpFamily::V6,
        restore: Program::Ip6tablesNftRestore,
        save: Program::Ip6tablesNftSave,
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let possible = nix::unistd::geteuid().is_root()
        && PROGRAMS
            .iter()
            .all(|programs| run(programs.save, &["--version"], "").is_ok());
    if !possible {
        eprintln!("skipped: needs root, iptables-legacy and iptables-nft");
    }
    let mut trials = Vec::new();
    for set in sets() {
        for programs in PROGRAMS {
            let name = format!("{} {}", set.name, programs.restore.name());
            let set = set.clone();
            let trial = Trial::test(name, move || in_namespace(move || check(&set, programs)));
            trials.push(trial.with_ignored_flag(!possible));
        }
    }
    let (sets, seed) = (
        number("NODEGATE_ROUND_TRIPS", 50),
        number("NODEGATE_ROUND_TRIPS_SEED", 0x6e6f_6465),
    );
    for (kind, both) in [("legacy", [0, 2]), ("nft", [1, 3])] {
        // Several, so that all cores have something to do.
        for share in 0..SHARES {
            let name = format!("random sets {kind} {share}");
            let programs = both.map(|index| PROGRAMS[index]);
            let trial = Trial::test(name, move || round_trips(programs, sets, share, seed));
            trials.push(trial.with_ignored_flag(!possible));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Into so many tests the random sets are divided.
const SHARES: u64 = 5;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: `{text}` is no number")),
        Err(_) => default,
    }
}

/// A share of the random sets, each in a namespace of its own.
fn round_trips(programs: [Programs; 2], sets: u64, share: u64, seed: u64) -> Result<(), Failed> {
    let of_share = |number: &u64| number % SHARES == share;
    for number in (0..sets).filter(of_share) {
        let mut generator = Generator::new(seed.wrapping_add(number));
        let services = generator.set();
        let config = generator.config();
        in_namespace(move || round_trip(programs, &services, &config)).map_err(|failed| {
            let message = failed.message().unwrap_or("no message");
            format!("set {number} of seed {seed}: {message}")
        })?;
    }
    Ok(())
}

/// Services, rules, the kernel, rules, Services.
fn round_trip(
    programs: [Programs; 2],
    services: &[ServicePort],
    config: &KubeProxyConfig,
) -> Result<(), Failed> {
    let mut found = Vec::new();
    for programs in programs {
        let rendered = render(services, programs.family, config);
        restore(programs, &rendered.text(Dialect::Restore))?;
        restore(programs, &rest(&rendered))?;
        let text = String::from_utf8(run(programs.save, &[], "")?.stdout)?;
        let mut dump = parse(&text);
        if !dump.errors.is_empty() || dump.rulesets.len() != 1 {
            return Err(format!("{:?}", dump.errors).into());
        }
        found.push(dump.rulesets.remove(0));
    }
    let made = ports(&found, &config.node.name);
    if !made.broken.is_empty() {
        return Err(format!("not whole: {:#?}", made.broken).into());
    }
    for ruleset in &found {
        let expected = of_model(services, ruleset.family, config);
        let shown = without_own(of_rules(ruleset));
        same("what is shown", &expected, &shown)?;
        // As the source of Services, they lead to the same again.
        let again = of_model(&made.services, ruleset.family, config);
        same("what is made of it", &expected, &again)?;
        let difference = diff(services, config, ruleset);
        if !difference.is_empty() {
            return Err(format!("{difference:#?}").into());
        }
    }
    Ok(())
}

fn same(what: &str, expected: &Services, found: &Services) -> Result<(), Failed> {
    for key in expected.keys().chain(found.keys()) {
        let (expected, found) = (expected.get(key), found.get(key));
        if expected != found {
            return Err(format!("{what}: {key}: {expected:#?}\nnot {found:#?}").into());
        }
    }
    Ok(())
}

/// Runs in a thread with a network namespace that ends with it.
fn in_namespace(test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Result<(), Failed> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        test()
    });
    thread.join().map_err(|_| Failed::from("panicked"))?
}

fn check(set: &Set, programs: Programs) -> Result<(), Failed> {
    let Recording { services, config } = Recording::of(set);
    let config = KubeProxyConfig {
        // Counters would have to be made first, with a tool of their own.
        nfacct: false,
        ..config
    };
    let rendered = render(&services, programs.family, &config);
    restore(programs, &rendered.text(Dialect::Restore))?;
    restore(programs, &rest(&rendered))?;
    let dump = String::from_utf8(run(programs.save, &[], "")?.stdout)?;
    let (is, predicted) = (
        tables(&dump),
        tables(&normal::dump(&rendered).text(Dialect::Save)),
    );
    for (table, lines) in &predicted {
        let is = is.get(table).map(Vec::as_slice).unwrap_or_default();
        for (predicted, is) in lines.iter().zip(is) {
            if predicted != is {
                return Err(format!("{table}\n  predicted: {predicted}\n  is:        {is}").into());
            }
        }
        if is.len() != lines.len() {
            return Err(format!("{table}: {} lines for {}", is.len(), lines.len()).into());
        }
    }
    let read = parse(&dump);
    let difference = diff(&services, &config, &read.rulesets[0]);
    if !read.errors.is_empty() || !difference.is_empty() {
        return Err(format!("{:?} {difference:#?}", read.errors).into());
    }
    Ok(())
}

/// What kube-proxy makes beside what it hands to `iptables-restore`.
fn rest(rendered: &Ruleset) -> String {
    let mut text = String::new();
    for table in ["filter", "mangle", "nat"] {
        text.extend(["*", table, "\n:KUBE-PROXY-CANARY - [0:0]\n"]);
        let given = rendered.table(table);
        if table == "filter" && given.is_some_and(|table| table.chain("KUBE-FIREWALL").is_none()) {
            text += ":KUBE-FIREWALL - [0:0]\n";
        }
        for (chain, rule) in normal::jumps(table) {
            text += &rule.line(chain, Dialect::Restore);
            text.push('\n');
        }
        text += "COMMIT\n";
    }
    text
}

fn restore(programs: Programs, text: &str) -> Result<(), Failed> {
    run(
        programs.restore,
        &["-w", "60", "--noflush", "--counters"],
        text,
    )?;
    Ok(())
}

fn run(program: Program, arguments: &[&str], input: &str) -> Result<Output, Failed> {
    let mut child = program
        .command()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Dropped at once: that is the end of the input.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {message}", program.name()).into())
}

/// The lines of each table, without comments and counters.
fn tables(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            table.clone_into(&mut name);
        } else if !line.starts_with('#') {
            let line = line.split(" [").next().unwrap_or(line);
            tables
                .entry(name.clone())
                .or_default()
                .push(line.to_owned());
        }
    }
    tables
}
