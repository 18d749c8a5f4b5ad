//! Which objects are taken: what istiod's webhook, the API server's schemas, nodegate's webhook and `nodegate check`
//! say of the same objects, most of which have something wrong in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::{Program, own};
use serde_json::{Deserializer, Value, json};

use super::{
    Options,
    case::Case,
    generate::faulty,
    stage::{Stage, reasons},
    taken::{self, Verdict},
};
use crate::{cluster::CONTROL_PLANE, process};

/// Where nodegate's controller answers, on the control plane's host.
const WEBHOOK: &str = "127.0.0.1:9443";
/// The controller's namespace.
const NAMESPACE: &str = "nodegate-system";

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// How many objects were judged.
    pub objects: usize,
    /// How many Istio refuses.
    pub refused: usize,
    /// Known differences, by name: how many objects.
    pub known: BTreeMap<&'static str, usize>,
    /// How many objects are judged otherwise for what is not known, by what was said.
    pub unknown: BTreeMap<String, usize>,
    /// One object of each, and where it is written.
    pub files: Vec<PathBuf>,
}

/// An object, what was done to it, and what is said of it.
struct Judged {
    number: u64,
    object: Value,
    what: String,
    verdict: Verdict,
}

/// Hears all of them about as many objects as are wanted.
pub fn verdicts(stage: &Stage, options: &Options) -> anyhow::Result<Verdicts> {
    let controller = start(stage)?;
    let mut report = Verdicts::default();
    let mut number = 0;
    let mut judged = Ok(());
    while number < options.cases && judged.is_ok() {
        let count = options.batch.min(options.cases - number);
        (options.say)(&format!(
            "objects {number} to {} of {}",
            number + count - 1,
            options.cases
        ));
        judged = batch(stage, options, number..number + count, &mut report);
        number += count;
    }
    // It would write on the objects that others generate.
    kill(controller, Signal::SIGTERM).context("ending nodegate's controller")?;
    judged.map(|()| report)
}

/// Starts nodegate's controller, and waits until it answers.
fn start(stage: &Stage) -> anyhow::Result<Pid> {
    let cluster = stage.cluster();
    let state = cluster.names().state();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.apply(&namespace.to_string())?;
    let mut command = own(stage.nodegate());
    command
        .args(["controller", "--namespace", NAMESPACE, "--webhook", WEBHOOK])
        .arg("--kubeconfig")
        .arg(state.join("pki/admin.conf"));
    let command = cluster.enter(CONTROL_PLANE, command)?;
    let pid = process::detach(command, &state.join("logs/nodegate-controller.log"))?;
    let ready = format!("https://{WEBHOOK}/healthz/ready");
    let answers = patience::try_until(|| -> anyhow::Result<_> {
        let asked = ["--silent", "--insecure", "--fail", &ready];
        let output = cluster.exec(CONTROL_PLANE, Program::Curl, asked)?;
        Ok(output.status.success().then_some(()))
    });
    answers.context("nodegate's webhook does not answer")?;
    Ok(pid)
}

fn batch(
    stage: &Stage,
    options: &Options,
    numbers: std::ops::Range<u64>,
    report: &mut Verdicts,
) -> anyhow::Result<()> {
    let made = numbers.map(|number| {
        let (object, what) = faulty(options.seed, number);
        let case = Case {
            objects: vec![object],
            requests: Vec::new(),
        };
        let object = case.objects(&format!("v{number}")).swap_remove(0);
        (number, object, what)
    });
    let made: Vec<_> = made.collect();
    let objects: Vec<&Value> = made.iter().map(|(_, object, _)| object).collect();
    let istio = of_istio(stage, &objects)?;
    let webhook = of_webhook(stage, &objects)?;
    let check = of_check(stage, &objects)?;
    let verdicts = istio.into_iter().zip(webhook).zip(check);
    for ((number, object, what), ((istio, webhook), check)) in made.into_iter().zip(verdicts) {
        let verdict = Verdict {
            istio,
            webhook,
            check,
        };
        let judged = Judged {
            number,
            object,
            what,
            verdict,
        };
        note(&judged, options, report)?;
    }
    Ok(())
}

fn note(judged: &Judged, options: &Options, report: &mut Verdicts) -> anyhow::Result<()> {
    report.objects += 1;
    report.refused += usize::from(judged.verdict.istio.is_some());
    let Some(signature) = judged.verdict.difference() else {
        return Ok(());
    };
    if let Some(known) = taken::known(&judged.verdict, &judged.object) {
        *report.known.entry(known.name).or_default() += 1;
        return Ok(());
    }
    let index = report.unknown.len();
    let count = report.unknown.entry(signature).or_default();
    *count += 1;
    if *count == 1 && report.files.len() < options.most {
        let file = options
            .directory
            .join(format!("{}-verdict-{index}.yaml", options.seed));
        fs::create_dir_all(&options.directory)?;
        fs::write(&file, judged.text(options.seed)?)
            .with_context(|| format!("writing {}", file.display()))?;
        report.files.push(file);
    }
    Ok(())
}

impl Judged {
    /// YAML that can be applied, with all else as comments.
    fn text(&self, seed: u64) -> anyhow::Result<String> {
        let mut text = format!("# seed {seed}, object {}: {}\n", self.number, self.what);
        let said = [
            ("Istio", &self.verdict.istio),
            ("nodegate's webhook", &self.verdict.webhook),
            ("nodegate check", &self.verdict.check),
        ];
        for (who, said) in said {
            let said = said.as_deref().unwrap_or("takes it");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# {who}: {}", said.replace('\n', " "));
        }
        Ok(text + &serde_yaml::to_string(&self.object)?)
    }
}

/// Why the API server with Istio's webhook refuses each object, if it does.
fn of_istio(stage: &Stage, objects: &[&Value]) -> anyhow::Result<Vec<Option<String>>> {
    let file = stage.cluster().names().state().join("verdicts.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(&file, list.to_string()).with_context(|| format!("writing {}", file.display()))?;
    let mut kubectl = stage.cluster().kubectl()?;
    kubectl
        .args(["create", "--dry-run=server", "--validate=false"])
        .args(["-o", "name", "-f"])
        .arg(&file);
    let output = process::output(kubectl)?;
    let taken = String::from_utf8_lossy(&output.stdout);
    let taken: BTreeSet<_> = taken.lines().collect();
    let said = String::from_utf8_lossy(&output.stderr);
    let mut reasons = reasons(&said).into_iter();
    let verdicts = objects.iter().map(|object| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = word(&object["kind"]).to_lowercase();
        let name = word(&object["metadata"]["name"]);
        let is_taken = taken.contains(format!("{kind}.networking.istio.io/{name}").as_str());
        (!is_taken).then(|| reasons.next().unwrap_or_default())
    });
    let verdicts: Vec<_> = verdicts.collect();
    ensure!(
        reasons.next().is_none() && verdicts.iter().flatten().all(|reason| !reason.is_empty()),
        "kubectl create says other things than one for each refused object: {said}"
    );
    Ok(verdicts)
}

/// Why nodegate's webhook refuses each object, if it does.
fn of_webhook(stage: &Stage, objects: &[&Value]) -> anyhow::Result<Vec<Option<String>>> {
    let state = stage.cluster().names().state();
    let mut config = String::new();
    for (index, object) in objects.iter().enumerate() {
        let file = state.join(format!("review-{index}.json"));
        fs::write(&file, review(index, object).to_string())?;
        let separator = if index == 0 { "" } else { "next\n" };
        let _ = writeln!(
            config,
            "{separator}silent\nshow-error\ninsecure\nurl = \"https://{WEBHOOK}/validate\"\n\
             data-binary = \"@{}\"",
            file.display()
        );
    }
    let file = state.join("reviews.curl");
    fs::write(&file, config)?;
    let asked = ["--config".as_ref(), file.as_os_str()];
    let output = stage.cluster().exec(CONTROL_PLANE, Program::Curl, asked)?;
    let answers = Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let answers: Result<Vec<_>, _> = answers.collect();
    let said = || {
        let [said, complaint] = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        format!("nodegate's webhook: {said}{complaint}")
    };
    let answers = answers.with_context(said)?;
    ensure!(answers.len() == objects.len(), said());
    let verdicts = answers.into_iter().map(|answer| {
        let response = &answer["response"];
        let message = response["status"]["message"].as_str().unwrap_or_default();
        (response["allowed"] != true).then(|| message.to_owned())
    });
    Ok(verdicts.collect())
}

/// What the API server would ask (admission.k8s.io/v1).
fn review(index: usize, object: &Value) -> Value {
    let kind = json!({"group": "networking.istio.io", "version": "v1", "kind": object["kind"]});
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": format!("{index}"),
            "kind": kind,
            "resource": {"group": "networking.istio.io", "version": "v1", "resource": "any"},
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": {},
            "dryRun": true,
            "object": object,
        },
    })
}

/// The errors that `nodegate check` has for each object alone.
fn of_check(stage: &Stage, objects: &[&Value]) -> anyhow::Result<Vec<Option<String>>> {
    let directory = stage.cluster().names().state().join("verdicts");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    for (index, object) in objects.iter().enumerate() {
        fs::write(directory.join(format!("{index}.json")), object.to_string())?;
    }
    let mut check = own(stage.nodegate());
    check.args(["check", "-o", "json"]).arg(&directory);
    let output = process::output(check)?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "nodegate check: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let mut errors = BTreeMap::<String, Vec<String>>::new();
    for diagnostic in report["diagnostics"].as_array().into_iter().flatten() {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if word(&diagnostic["severity"]) == "error" {
            let file = word(&diagnostic["location"]["file"]);
            let said = format!(
                "{}: {}",
                word(&diagnostic["field"]),
                word(&diagnostic["message"])
            );
            errors.entry(file).or_default().push(said);
        }
    }
    let verdicts = (0..objects.len()).map(|index| {
        let file = directory.join(format!("{index}.json"));
        let errors = errors.get(&file.display().to_string())?;
        Some(errors.join("; "))
    });
    Ok(verdicts.collect())
}
