//! The cases by hand of the tests against Envoy, given to Istio: there Envoy gets what nodegate exports, here what istiod
//! makes of the same objects. What their scripts expect of Envoy must hold here, too.
//!
//! Not here are scripts that Istio's objects are not enough for: those of endpoints that answer byte by byte or break off
//! (`answers`, `failures`), of endpoints in TLS, with files of certificates on the gateways' hosts (`tls`), and what Istio's
//! webhook refuses (`unadmitted`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use ::scripts::Step;
use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    Options,
    case::Case,
    compare::Outcome,
    finding::Finding,
    ground::{GATEWAY, PORT, address},
    judge,
    names::{LABEL, PLACEHOLDER},
    parts::{Part, Tally},
    request::Request,
    stage::{Pair, Question, Stage},
};

/// What all of them share.
const BASE: &str = "base";

/// Those that are asked here.
const SCRIPTS: [&str; 16] = [
    "cors", "direct", "edge", "fault", "fft", "headers", "hosts", "hygiene", "match", "order",
    "passed", "redirect", "retry", "rewrite", "simple", "workshop",
];

/// Ports of gateways and endpoints, by the names that the files have for them.
const PORTS: [(&str, u16); 6] = [
    ("port", PORT),
    ("tls-port", 8443),
    ("echo", 9001),
    ("echo-http2", 9008),
    ("v1", 9005),
    ("v2", 9006),
];

/// Where nobody listens: endpoints that refuse, and those that no script here is about.
const NOBODY: u16 = 9099;

/// Endpoints that have other names here.
const ENDPOINTS: [(&str, &str); 2] = [("echo", "alpha"), ("echo-http2", "delta")];

/// Differences of [docs/differences.md](../../../docs/differences.md) that no option takes away, and that chance does
/// not come upon: of these steps only what Istio does is looked at.
const LEFT: [&str; 9] = [
    "absolute-target-without-path",
    "endpoint-syntax",
    "http-version",
    "lenient-syntax",
    "named-in-connection",
    "repeated-content-length",
    "rewritten-path",
    "target-characters",
    "transfer-coding",
];

/// Asks all of them.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Scripts);
    let case = Case {
        objects: objects()?,
        requests: Vec::new(),
    };
    // Under the name that stands for a name: nothing is called otherwise than in the files.
    let applied = stage.apply(&[(PLACEHOLDER.into(), &case)])?;
    for refusal in applied.refusals {
        tally.differs(format!("Istio refuses: {refusal}"));
    }
    let mut asked = Vec::new();
    for name in SCRIPTS {
        let file = format!("{name}.http");
        let steps = ::scripts::parse(&file, &read(&file)?)?;
        asked.extend(steps.into_iter().map(|step| (request(&step), step)));
    }
    tally.add("scripts", SCRIPTS.len());
    tally.add("objects", case.objects.len());
    tally.add("requests", asked.len());
    let wrong = ask(stage, asked.iter().collect())?;
    // What is chance does not come twice.
    let again = wrong.into_iter().map(|(asked, ..)| asked).collect();
    for ((request, step), wrong, pair) in ask(stage, again)? {
        let finding = Finding {
            number: 0,
            case: case.clone(),
            request: request.clone(),
            divergences: judge(request, &pair).unknown,
            pair,
        };
        let place = options.directory.join("scripts");
        let file = finding.write(options.seed, tally.unknown.len(), &place)?;
        tally.differs(format!(
            "{}: {}: {}",
            step.place,
            wrong.join("; "),
            file.display()
        ));
    }
    Ok(tally)
}

/// A request, and what is expected of it.
type Asked = (Request, Step);

/// Asks both, and gives those of which something is wrong.
fn ask<'a>(
    stage: &Stage,
    asked: Vec<&'a Asked>,
) -> anyhow::Result<Vec<(&'a Asked, Vec<String>, Pair)>> {
    let questions: Vec<_> = asked
        .iter()
        .map(|(request, _)| Question {
            name: PLACEHOLDER,
            request,
        })
        .collect();
    let pairs = stage.ask_all(&questions)?;
    let judged = asked.into_iter().zip(pairs).map(|(asked, pair)| {
        let (request, step) = asked;
        let mut wrong = unexpected(step, &pair[0]);
        if !step
            .differs
            .iter()
            .any(|name| LEFT.contains(&name.as_str()))
        {
            let unknown = judge(request, &pair).unknown;
            wrong.extend(unknown.into_iter().map(|found| found.aspect));
        }
        (asked, wrong, pair)
    });
    Ok(judged.filter(|(_, wrong, _)| !wrong.is_empty()).collect())
}

/// What a script expects otherwise than it is with Istio.
fn unexpected(step: &Step, istio: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    if istio.status != step.status {
        wrong.push(format!(
            "Istio answers {} and not {}",
            istio.status, step.status
        ));
    }
    let report = istio.reports.last();
    let target = report.and_then(|report| report.message.start.split(' ').nth(1));
    if step.target.is_some() && step.target.as_deref() != target {
        wrong.push(format!("Istio's endpoint sees the target {target:?}"));
    }
    let endpoint = report.map(|report| report.endpoint);
    let expected = step.endpoint.as_deref().map(|name| {
        let mut other = ENDPOINTS.iter();
        other
            .find(|(own, _)| *own == name)
            .map_or(name, |(_, here)| here)
    });
    if expected.is_some() && expected != endpoint {
        wrong.push(format!("Istio's endpoint is {endpoint:?}"));
    }
    wrong
}

/// The objects of all files, but for the Gateway that is there already.
fn objects() -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for name in [BASE].iter().chain(&SCRIPTS) {
        let text = filled(&read(&format!("{name}.yaml"))?);
        let text = text.replace("address: 127.0.0.1", &format!("address: {}", address()));
        for document in serde_yaml::Deserializer::from_str(&text) {
            let mut object = Value::deserialize(document).with_context(|| (*name).to_owned())?;
            object["metadata"]["labels"] = json!({LABEL: "case"});
            objects.push(object);
        }
    }
    objects.retain(|object| object["metadata"]["name"] != GATEWAY);
    Ok(objects)
}

/// The request of a step: its bytes, and as far as they are a request, what it is.
fn request(step: &Step) -> Request {
    let text = filled(&step.request);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target, version) = (word(), word(), word());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let is_host = |name: &str| name.eq_ignore_ascii_case("host");
    let host = headers.iter().find(|(name, _)| is_host(name));
    let port = PORTS.iter().find(|(name, _)| *name == step.port);
    let encoding = |(name, _): &(String, String)| name.eq_ignore_ascii_case("transfer-encoding");
    Request {
        method,
        target,
        version: ["HTTP/1.0", "HTTP/1.1"]
            .into_iter()
            .find(|own| *own == version)
            .unwrap_or_default(),
        host: host.map(|(_, host)| host.clone()).unwrap_or_default(),
        port: port.map(|(_, port)| *port),
        is_chunked: headers.iter().any(encoding),
        body: (!body.is_empty()).then(|| body.to_owned()),
        raw: Some(::scripts::bytes(&text)),
        headers,
        ..Request::default()
    }
}

/// The text with ports in the place of their names, and so many letters in the place of `a*NUMBER`.
fn filled(text: &str) -> String {
    let mut pieces = text.split("{{");
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        let port = PORTS.iter().find(|(own, _)| *own == name);
        let length = name
            .strip_prefix("a*")
            .and_then(|length| length.parse().ok());
        filled += &match length {
            Some(length) => "a".repeat(length),
            None => port.map_or(NOBODY, |(_, port)| *port).to_string(),
        };
        filled += rest;
    }
    filled
}

fn read(name: &str) -> anyhow::Result<String> {
    let file = place().join(name);
    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

/// Where the files are.
fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway-user/nodegate/tests/envoy/cases")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_read() {
        let objects = objects().unwrap();
        assert!(objects.len() > 30);
        let text = json!(objects).to_string();
        assert!(
            !text.contains("{{") && !text.contains("127.0.0.1\""),
            "{text}"
        );
        for name in SCRIPTS {
            let file = format!("{name}.http");
            assert!(
                !::scripts::parse(&file, &read(&file).unwrap())
                    .unwrap()
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_request_is_its_bytes_with_its_name() {
        let steps = ::scripts::parse(
            "a.http",
            "### 200\nGET /a HTTP/1.0\nHost: a.test:{{port}}\nx: \\x80\n",
        );
        let request = request(&steps.unwrap()[0]);
        assert_eq!((&*request.method, &*request.host), ("GET", "a.test:8080"));
        assert_eq!(
            request.bytes("", "7"),
            b"GET /a HTTP/1.0\r\nx-differential: 7\r\nHost: a.test:8080\r\nx: \x80\r\n\r\n"
        );
    }
}
