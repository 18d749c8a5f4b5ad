//! Routes of connections: which endpoint a port leads to, what goes through, how it ends, and what is written down.

use super::{
    Options,
    case::Case,
    finding::Finding,
    generate::tcp,
    judge,
    parts::{Part, Tally},
    request::Request,
    shares::{are_alike, endpoints},
    stage::{Pair, Question, Stage},
};

/// How many connections are made where some may go elsewhere than others.
const CONNECTIONS: usize = 60;
/// How many cases there are at a time: each has two ports.
const BATCH: u64 = 100;

/// A case, with its name and number.
type Named = (String, u64, Case);

/// Compares a case for every five others.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Tcp);
    let all = options.cases.div_ceil(5).max(10);
    let mut number = 0;
    while number < all {
        let next = all.min(number + BATCH);
        let cases = (number..next).map(|number| {
            let name = format!("t{number}");
            (name, number, tcp(options.seed, number))
        });
        batch(stage, options, &cases.collect::<Vec<_>>(), &mut tally)?;
        number = next;
    }
    Ok(tally)
}

fn batch(
    stage: &mut Stage,
    options: &Options,
    cases: &[Named],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let named: Vec<_> = cases
        .iter()
        .map(|(name, _, case)| (name.clone(), case))
        .collect();
    let there = stage.apply(&named)?.there;
    let (weighted, plain): (Vec<_>, Vec<_>) = cases
        .iter()
        .filter(|(name, ..)| there.contains(name))
        .partition(|(.., case)| is_weighted(case));
    tally.add("cases", there.len());
    tally.add("refused by Istio", cases.len() - there.len());
    one_way(stage, options, &plain, tally)?;
    by_weight(stage, &weighted, tally)
}

/// Cases whose connections all go the same way.
fn one_way(
    stage: &Stage,
    options: &Options,
    cases: &[&Named],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut asked: Vec<_> = cases
        .iter()
        .flat_map(|named| {
            named
                .2
                .requests
                .iter()
                .map(move |request| (*named, request))
        })
        .collect();
    tally.add("connections", asked.len());
    let mut pairs = ask(stage, &asked)?;
    // What does not differ again was not the configuration's doing.
    asked = asked
        .into_iter()
        .zip(&pairs)
        .filter(|((_, request), pair)| !judge(request, pair).unknown.is_empty())
        .map(|(asked, _)| asked)
        .collect();
    pairs = ask(stage, &asked)?;
    for (((name, number, case), request), pair) in asked.into_iter().zip(pairs) {
        let divergences = judge(request, &pair).unknown;
        if divergences.is_empty() {
            continue;
        }
        let finding = Finding {
            number: *number,
            case: case.clone(),
            request: request.clone(),
            divergences,
            pair,
        };
        let aspects = finding.aspects().into_iter().collect::<Vec<_>>().join(", ");
        let index = tally.unknown.len();
        let file = finding.write(options.seed, index, &options.directory.join("tcp"))?;
        tally.differs(format!("{name}: {aspects}: {}", file.display()));
    }
    Ok(())
}

fn ask(stage: &Stage, asked: &[(&Named, &Request)]) -> anyhow::Result<Vec<Pair>> {
    let questions: Vec<_> = asked
        .iter()
        .map(|((name, ..), request)| Question { name, request })
        .collect();
    stage.ask_all(&questions)
}

/// Cases of which weights decide: nodegate's shares are exact, and Istio's must be likely if they are the same.
fn by_weight(stage: &Stage, cases: &[&Named], tally: &mut Tally) -> anyhow::Result<()> {
    let plain = |request: &&Request| request.headers.is_empty();
    let asked: Vec<_> = cases
        .iter()
        .flat_map(|named| {
            let requests = named.2.requests.iter().filter(plain);
            requests.map(move |request| (*named, request))
        })
        .collect();
    let many: Vec<_> = asked
        .iter()
        .flat_map(|one| std::iter::repeat_n(*one, CONNECTIONS))
        .collect();
    tally.add("connections", many.len());
    let pairs = ask(stage, &many)?;
    for (((name, ..), request), pairs) in asked.into_iter().zip(pairs.chunks(CONNECTIONS)) {
        let counts = endpoints(pairs);
        if !are_alike(&counts) {
            let [istio, nodegate] = counts;
            let port = request.port.unwrap_or_default();
            tally.differs(format!(
                "{name}, port {port}: {istio:?} with Istio, {nodegate:?} with nodegate"
            ));
        }
    }
    Ok(())
}

/// Whether a route has several destinations.
fn is_weighted(case: &Case) -> bool {
    let routes = case
        .objects
        .iter()
        .filter_map(|object| object["spec"]["tcp"].as_array());
    let mut destinations = routes
        .flatten()
        .filter_map(|route| route["route"].as_array());
    destinations.any(|destinations| destinations.len() > 1)
}
