//! Both gateways beside each other: what they are given, and what they are asked.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::own;
use serde_json::{Value, json};

use super::{
    case::Case,
    client,
    compare::Outcome,
    ground::{self, ENDPOINTS, Endpoint, PORT},
    names::{DOMAIN, LABEL},
    request::Request,
    upstream::Upstreams,
};
use crate::{
    cluster::{CONTROL_PLANE, Cluster, GATEWAY},
    names::Host,
    network, process,
};

/// How many requests are on their way at a time: most of the time that endpoints keep silent passes side by side.
const WORKERS: usize = 12;
/// The kinds that cases have objects of.
const KINDS: &str = "virtualservices.networking.istio.io,destinationrules.networking.istio.io,\
     serviceentries.networking.istio.io,gateways.networking.istio.io";

/// A cluster with Istio, and nodegate on the control plane's host.
#[derive(Debug)]
pub struct Stage {
    cluster: Cluster,
    /// nodegate's program.
    nodegate_program: PathBuf,
    /// nodegate.
    process: Pid,
    upstreams: Upstreams,
    istio: SocketAddr,
    nodegate: SocketAddr,
    /// How often something has been applied.
    generation: u64,
    /// How many requests have been made, each of which has a name of its own.
    asked: AtomicUsize,
}

/// What has become of cases that were to be applied.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Those of which all is there.
    pub(super) there: BTreeSet<String>,
    /// Why something is not: what Istio, or the API server, says.
    pub(super) refusals: Vec<String>,
}

/// A request for a case that is applied under a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) name: &'a str,
    pub(super) request: &'a Request,
}

/// What became of a request, with Istio and with nodegate.
pub(super) type Pair = [Outcome; 2];

impl Stage {
    /// Starts nodegate and endpoints in a cluster with Istio, and waits until both gateways serve.
    pub fn new(cluster: Cluster, nodegate: &Path) -> anyhow::Result<Self> {
        let namespace = cluster.names().netns(&Host::Client);
        let endpoints = ENDPOINTS.map(|Endpoint { name, port }| (name, port));
        let upstreams = Upstreams::start(&namespace, ground::address(), &endpoints)?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": ground::objects()});
        cluster.apply(&list.to_string())?;
        let process = start(&cluster, nodegate)?;
        let address = |host: &str| {
            let hosts = cluster.hosts();
            let found = hosts.iter().find(|(name, _)| name == host);
            found
                .map(|(_, addresses)| SocketAddr::new(addresses[0], PORT))
                .with_context(|| format!("there is no {host}: the cluster must have Istio"))
        };
        let (istio, ours) = (address(GATEWAY)?, address(CONTROL_PLANE)?);
        let mut stage = Self {
            cluster,
            nodegate_program: nodegate.to_owned(),
            process,
            upstreams,
            istio,
            nodegate: ours,
            generation: 0,
            asked: AtomicUsize::new(0),
        };
        stage.apply(&[])?;
        Ok(stage)
    }

    /// The cluster.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// nodegate's program.
    pub fn nodegate(&self) -> &Path {
        &self.nodegate_program
    }

    /// Lets another nodegate take the place of the one that runs.
    pub fn replace(&mut self, nodegate: &Path) -> anyhow::Result<()> {
        // It may have ended by itself.
        let _ = kill(self.process, Signal::SIGKILL);
        patience::until(|| kill(self.process, None).is_err().then_some(()))
            .context("nodegate does not end")?;
        self.process = start(&self.cluster, nodegate)?;
        nodegate.clone_into(&mut self.nodegate_program);
        self.apply(&[]).map(drop)
    }

    /// The cluster, to take down or to keep.
    pub fn into_cluster(self) -> Cluster {
        self.cluster
    }

    /// Puts cases, with their names, in the place of those before, and waits until both gateways go by them.
    pub(super) fn apply(&mut self, cases: &[(String, &Case)]) -> anyhow::Result<Applied> {
        let label = format!("{LABEL}=case");
        self.cluster
            .ask(&["delete", KINDS, "--selector", &label, "--wait=false"])?;
        let objects: Vec<_> = cases
            .iter()
            .map(|(name, case)| (name, case.objects(name)))
            .collect();
        let all: Vec<_> = objects.iter().flat_map(|(_, objects)| objects).collect();
        let refusals = if all.is_empty() {
            Vec::new()
        } else {
            self.create(&json!(all))?
        };
        let names = "jsonpath={range .items[*]}{.kind}/{.metadata.name}{\"\\n\"}{end}";
        let there = self
            .cluster
            .ask(&["get", KINDS, "--selector", &label, "-o", names])?;
        let there: BTreeSet<_> = there.lines().collect();
        let is_there = |object: &Value| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, name) = (word(&object["kind"]), word(&object["metadata"]["name"]));
            there.contains(format!("{kind}/{name}").as_str())
        };
        let whole = objects
            .iter()
            .filter(|(_, objects)| objects.iter().all(is_there));
        let whole = whole.map(|(name, _)| (*name).clone()).collect();
        self.synchronize()?;
        Ok(Applied {
            there: whole,
            refusals,
        })
    }

    /// Creates objects, and gives the complaints about those that are refused.
    fn create(&self, items: &Value) -> anyhow::Result<Vec<String>> {
        let file = self.cluster.names().state().join("cases.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&file, list.to_string())
            .with_context(|| format!("writing {}", file.display()))?;
        let mut kubectl = self.cluster.kubectl()?;
        // Each object is judged on its own, by the server.
        kubectl
            .args(["create", "--validate=false", "-o", "name", "-f"])
            .arg(file);
        let output = process::output(kubectl)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let complaints = reasons(&said);
        ensure!(
            output.status.success() || !complaints.is_empty(),
            "kubectl create: {}",
            said.trim()
        );
        Ok(complaints)
    }

    /// Waits until both gateways serve what was applied last: a route to a service's subset, each of them made
    /// after all others of its kind.
    fn synchronize(&mut self) -> anyhow::Result<()> {
        self.generation += 1;
        let name = format!("sync-{}", self.generation);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": sentinel(&name)});
        self.cluster.apply(&list.to_string())?;
        let request = Request {
            method: "GET".into(),
            target: "/".into(),
            version: "HTTP/1.1",
            host: format!("{name}.{DOMAIN}"),
            ..Request::default()
        };
        let namespace = self.cluster.names().netns(&Host::Client);
        for (who, address) in [("Istio", self.istio), ("nodegate", self.nodegate)] {
            let mut last = String::new();
            let served = network::inside(&namespace, || {
                Ok(patience::until(|| {
                    let outcome = client::ask(address, &request, "", "");
                    last = format!("{outcome:?}");
                    outcome
                        .is_ok_and(|outcome| outcome.status == 200)
                        .then_some(())
                }))
            })?;
            served.with_context(|| format!("{who} does not serve what is applied: {last}"))?;
        }
        self.upstreams.forget();
        Ok(())
    }

    /// Makes all requests, each of Istio and then of nodegate.
    pub(super) fn ask_all(&self, questions: &[Question<'_>]) -> anyhow::Result<Vec<Pair>> {
        let namespace = self.cluster.names().netns(&Host::Client);
        let first = self.asked.fetch_add(questions.len(), Ordering::Relaxed);
        let id = |index: usize| format!("{}", first + index);
        let next = AtomicUsize::new(0);
        // Threads are where the one is that starts them.
        let mut answered = network::inside(&namespace, || {
            let work = || -> anyhow::Result<Vec<(usize, Pair)>> {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(question) = questions.get(index) else {
                        return Ok(done);
                    };
                    done.push((index, self.both(question, &id(index))?));
                }
            };
            thread::scope(|scope| {
                let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
                let mut all = Vec::new();
                for worker in workers {
                    let done = worker
                        .join()
                        .map_err(|_| anyhow::anyhow!("a client panicked"))?;
                    all.extend(done?);
                }
                Ok(all)
            })
        })?;
        answered.sort_by_key(|(index, _)| *index);
        self.settle();
        let reported = answered
            .into_iter()
            .map(|(index, [mut istio, mut nodegate])| {
                istio.reports = self.upstreams.of(self.istio.ip(), &id(index));
                nodegate.reports = self.upstreams.of(self.nodegate.ip(), &id(index));
                [istio, nodegate]
            });
        let reported = reported.collect();
        self.upstreams.forget();
        Ok(reported)
    }

    /// Waits until nothing more comes to endpoints: copies for mirrors come after the answer.
    fn settle(&self) {
        let mut before = self.upstreams.count();
        loop {
            thread::sleep(patience::silence());
            let now = self.upstreams.count();
            if now == before {
                return;
            }
            before = now;
        }
    }

    fn both(&self, question: &Question<'_>, id: &str) -> anyhow::Result<Pair> {
        let ask = |who: &str, address| {
            client::ask(address, question.request, question.name, id)
                .with_context(|| format!("{who}, asked:\n{}", question.request.head(question.name)))
        };
        Ok([ask("Istio", self.istio)?, ask("nodegate", self.nodegate)?])
    }
}

/// Why objects were refused, each without where it stands and what it is called.
pub(super) fn reasons(said: &str) -> Vec<String> {
    let refusals = said.split("Error from server").skip(1);
    let reasons = refusals.map(|refusal| {
        let marks = ["configuration is invalid: ", "is invalid: "];
        let mut found = marks.iter().filter_map(|mark| refusal.split_once(mark));
        let reason = found.next().map_or(refusal, |(_, reason)| reason);
        reason.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    reasons.collect()
}

/// Starts nodegate as a gateway, which ends with the cluster.
fn start(cluster: &Cluster, nodegate: &Path) -> anyhow::Result<Pid> {
    let state = cluster.names().state();
    let mut command = own(nodegate);
    command
        .args(["run", "--role", "proxy", "--source", "kubernetes"])
        .args(["--node-name", CONTROL_PLANE, "--envoy-parity", "all"])
        .arg("--kubeconfig")
        .arg(state.join("pki/admin.conf"))
        .arg("--admin")
        .arg(state.join("nodegate.sock"));
    let command = cluster.enter(CONTROL_PLANE, command)?;
    process::detach(command, &state.join("logs/nodegate.log"))
}

/// A service, its subset and a route there. The route comes last: without the others it is of no use.
fn sentinel(name: &str) -> [Value; 3] {
    let host = format!("{name}.test");
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "default", "labels": {LABEL: "case"}},
            "spec": spec,
        })
    };
    let [Endpoint { port, .. }, ..] = ENDPOINTS;
    let endpoint = json!({
        "address": ground::address(),
        "ports": {"http": port},
        "labels": {"version": name},
    });
    let entry = json!({
        "hosts": [host],
        "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "endpoints": [endpoint],
    });
    let rule = json!({"host": host, "subsets": [{"name": "only", "labels": {"version": name}}]});
    let service = json!({
        "hosts": [format!("{name}.{DOMAIN}")],
        "gateways": [ground::GATEWAY],
        "http": [{"route": [{"destination": {"host": host, "subset": "only"}}]}],
    });
    [
        object("ServiceEntry", entry),
        object("DestinationRule", rule),
        object("VirtualService", service),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_their_reasons() {
        let said = "Error from server (Invalid): error when creating \"f\": VirtualService \"h1-1\" is invalid: \
                    spec.http[0].timeout: must be valid\n\
                    Error from server: error when creating \"f\": admission webhook denied the request: \
                    configuration is invalid: 2 errors occurred:\n\t* one\n\t* two\n\n";
        assert_eq!(
            reasons(said),
            [
                "spec.http[0].timeout: must be valid",
                "2 errors occurred: * one * two"
            ]
        );
    }
}
