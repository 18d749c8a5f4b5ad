//! Making findings small: the same difference from fewer objects and a shorter request. Candidates for all
//! findings stand beside each other in each round.

use super::{
    case::Case,
    compare::Divergence,
    finding::Finding,
    judge,
    request::Request,
    shrink::{self, Place},
    stage::{Pair, Question, Stage},
};

/// How many parts of a case are tried at a time.
const PARTS: usize = 40;
/// After so many rounds it is small enough.
const ROUNDS: usize = 12;

/// A finding that is made smaller.
struct Shrinking<'f> {
    finding: &'f mut Finding,
    /// Parts that may still be left out.
    parts: Vec<Place>,
    /// Parts each of which could be left out in the last round.
    spare: Vec<Place>,
}

/// Makes findings as small as they get.
pub(super) fn minimize(stage: &mut Stage, findings: &mut [Finding]) -> anyhow::Result<()> {
    let mut shrinking: Vec<_> = findings
        .iter_mut()
        .map(|finding| Shrinking {
            parts: shrink::parts(&finding.case),
            spare: Vec::new(),
            finding,
        })
        .collect();
    for _ in 0..ROUNDS {
        if shrinking.iter().all(|one| one.candidates().is_empty()) {
            break;
        }
        round(stage, &mut shrinking)?;
    }
    requests(stage, findings)
}

/// Tries what may be left out of the cases.
fn round(stage: &mut Stage, shrinking: &mut [Shrinking<'_>]) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    for (index, one) in shrinking.iter().enumerate() {
        for (number, parts) in one.candidates().iter().enumerate() {
            let case = shrink::without(&one.finding.case, parts);
            cases.push((format!("m{index}-{number}"), index, case));
        }
    }
    let named: Vec<_> = cases
        .iter()
        .map(|(name, _, case)| (name.clone(), case))
        .collect();
    let there = stage.apply(&named)?.there;
    let questions = cases.iter().map(|(name, index, _)| Question {
        name,
        request: &shrinking[*index].finding.request,
    });
    let questions: Vec<_> = questions.collect();
    let pairs = stage.ask_all(&questions)?;
    let mut good = vec![Vec::new(); shrinking.len()];
    for ((name, index, _), pair) in cases.iter().zip(&pairs) {
        let finding = &shrinking[*index].finding;
        good[*index].push(there.contains(name) && is_the_same(finding, &finding.request, pair));
    }
    for (one, good) in shrinking.iter_mut().zip(good) {
        one.take(&good);
    }
    Ok(())
}

/// Whether what differed first in a finding still does; a status in the same way.
fn is_the_same(finding: &Finding, request: &Request, pair: &Pair) -> bool {
    let found = judge(request, pair).unknown;
    let first = finding.divergences.first();
    first.is_some_and(|first| {
        let is_same = |one: &Divergence| match first.aspect.as_str() {
            "status" => one == first,
            aspect => one.aspect == aspect,
        };
        found.iter().any(is_same)
    })
}

impl Shrinking<'_> {
    /// What is tried next: all that could be left out together, and half of it; or each part alone.
    fn candidates(&self) -> Vec<Vec<Place>> {
        if self.spare.len() > 1 {
            let halves = [self.spare.len(), self.spare.len() / 2, 1];
            return halves.map(|count| self.spare[..count].to_vec()).into();
        }
        let parts = self.parts.iter().take(PARTS);
        parts.map(|place| vec![place.clone()]).collect()
    }

    /// Takes the first candidate that is good.
    fn take(&mut self, good: &[bool]) {
        let candidates = self.candidates();
        let first = good.iter().position(|&good| good);
        if self.spare.len() > 1 {
            self.spare.clear();
            self.leave_out(first.map(|first| &candidates[first][..]));
            return;
        }
        let tried = candidates.len();
        let all: Vec<_> = candidates.into_iter().flatten().collect();
        let spare = all.iter().zip(good).filter(|(_, good)| **good);
        let spare: Vec<_> = spare.map(|(place, _)| place.clone()).collect();
        match spare.len() {
            0 => drop(self.parts.drain(..tried)),
            1 => self.leave_out(Some(&spare)),
            _ => self.spare = spare,
        }
    }

    fn leave_out(&mut self, parts: Option<&[Place]>) {
        let Some(parts) = parts else {
            // They could be left out a moment ago: the difference comes and goes.
            self.parts.clear();
            return;
        };
        self.finding.case = shrink::without(&self.finding.case, parts);
        self.parts = shrink::parts(&self.finding.case);
    }
}

/// Makes the requests small, and notes what becomes of them in the end.
fn requests(stage: &mut Stage, findings: &mut [Finding]) -> anyhow::Result<()> {
    let names: Vec<_> = (0..findings.len())
        .map(|index| format!("m{index}"))
        .collect();
    let cases: Vec<(String, Case)> = names
        .iter()
        .zip(findings.iter())
        .map(|(name, finding)| (name.clone(), finding.case.clone()))
        .collect();
    let named: Vec<_> = cases
        .iter()
        .map(|(name, case)| (name.clone(), case))
        .collect();
    stage.apply(&named)?;
    for (name, finding) in names.iter().zip(findings) {
        loop {
            let mut tried = finding.request.smaller();
            tried.push(finding.request.clone());
            let questions: Vec<_> = tried
                .iter()
                .map(|request| Question { name, request })
                .collect();
            let pairs = stage.ask_all(&questions)?;
            let mut good = tried.iter().zip(&pairs);
            let Some((request, pair)) =
                good.find(|(request, pair)| is_the_same(finding, request, pair))
            else {
                break;
            };
            let done = *request == finding.request;
            finding.divergences = judge(request, pair).unknown;
            finding.pair = pair.clone();
            finding.request = request.clone();
            if done {
                break;
            }
        }
    }
    Ok(())
}
