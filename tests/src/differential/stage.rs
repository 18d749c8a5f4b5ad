//! Both gateways beside each other: what they are given, and what they are asked.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
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
    client::{self, Caller},
    compare::Outcome,
    ground::{self, ENDPOINTS, Endpoint, PORT},
    log::{self, Log},
    names::{DOMAIN, LABEL},
    request::Request,
    upstream::Upstreams,
};
use crate::{
    cluster::{CONTROL_PLANE, Cluster, GATEWAY, Istio},
    names::Host,
    network, process,
};

/// How many requests are on their way at a time: most of the time that endpoints keep silent passes side by side.
const WORKERS: usize = 12;
/// How often in a row nothing may have come before a line is taken for one that does not.
const QUIET: usize = 5;
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
    /// What both write down, Istio first.
    logs: [Log; 2],
    /// How often something has been applied.
    generation: AtomicU64,
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
        let logs = [istio_log(&cluster)?, nodegate_log(&cluster)?];
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
            logs,
            generation: AtomicU64::new(0),
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
        self.logs[1] = nodegate_log(&self.cluster)?;
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

    /// Puts objects in the place of those of the same names, and waits until both gateways go by them.
    pub(super) fn change(&self, items: &[Value]) -> anyhow::Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.cluster.apply(&list.to_string())?;
        self.synchronize()
    }

    /// Where Istio listens, and nodegate.
    pub(super) fn gateways(&self) -> [SocketAddr; 2] {
        [self.istio, self.nodegate]
    }

    /// Does something where the client is.
    pub(super) fn as_client<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        network::inside(&self.cluster.names().netns(&Host::Client), work)
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
    fn synchronize(&self) -> anyhow::Result<()> {
        let name = format!("sync-{}", self.generation.fetch_add(1, Ordering::Relaxed));
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
        self.forget()
    }

    /// Makes all requests, each of Istio and then of nodegate.
    pub(super) fn ask_all(&self, questions: &[Question<'_>]) -> anyhow::Result<Vec<Pair>> {
        let first = self.asked.fetch_add(questions.len(), Ordering::Relaxed);
        let id = |index: usize| format!("{}", first + index);
        let answered = self.spread(questions.len(), |index| {
            self.both(&questions[index], |who, address| {
                let Question { name, request } = questions[index];
                client::ask(address, request, name, &id(index)).with_context(|| who.to_owned())
            })
        })?;
        self.settle(answered.len())?;
        let reported =
            answered
                .into_iter()
                .enumerate()
                .map(|(index, [mut istio, mut nodegate])| {
                    istio.reports = self.upstreams.of(self.istio.ip(), &id(index));
                    nodegate.reports = self.upstreams.of(self.nodegate.ip(), &id(index));
                    istio.line = self.logs[0].of(istio.port);
                    nodegate.line = self.logs[1].of(nodegate.port);
                    [istio, nodegate]
                });
        let reported = reported.collect();
        self.forget()?;
        Ok(reported)
    }

    /// Makes each request so many times over one connection to each. Of outcomes there are statuses and reports.
    pub(super) fn repeat(
        &self,
        questions: &[Question<'_>],
        times: usize,
    ) -> anyhow::Result<Vec<[Vec<Outcome>; 2]>> {
        let count = questions.len() * times;
        let first = self.asked.fetch_add(count, Ordering::Relaxed);
        let ids = |index: usize| {
            let first = first + index * times;
            (first..first + times).map(|id| id.to_string())
        };
        let mut answered = self.spread(questions.len(), |index| {
            self.both(&questions[index], |who, address| {
                let Question { name, request } = questions[index];
                let mut caller = Caller::new(address);
                ids(index)
                    .map(|id| {
                        caller
                            .ask(request, name, &id)
                            .with_context(|| who.to_owned())
                    })
                    .collect::<anyhow::Result<Vec<_>>>()
            })
        })?;
        self.settle(0)?;
        for (index, pair) in answered.iter_mut().enumerate() {
            for (outcomes, gateway) in pair.iter_mut().zip([self.istio, self.nodegate]) {
                for (outcome, id) in outcomes.iter_mut().zip(ids(index)) {
                    outcome.reports = self.upstreams.of(gateway.ip(), &id);
                }
            }
        }
        self.forget()?;
        Ok(answered)
    }

    /// Does so many things, some at a time, where the client is.
    fn spread<T: Send>(
        &self,
        count: usize,
        job: impl Fn(usize) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let namespace = self.cluster.names().netns(&Host::Client);
        let next = AtomicUsize::new(0);
        // Threads are where the one is that starts them.
        let mut done = network::inside(&namespace, || {
            let work = || -> anyhow::Result<Vec<(usize, T)>> {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(done);
                    }
                    done.push((index, job(index)?));
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
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, one)| one).collect())
    }

    /// Forgets what endpoints have got and gateways written down.
    fn forget(&self) -> anyhow::Result<()> {
        self.upstreams.forget();
        for log in &self.logs {
            log.forget()?;
        }
        Ok(())
    }

    /// Waits until nothing more comes to endpoints and logs: copies for mirrors and lines come after the answer.
    /// Where lines of so many requests are missing they may never come, and are waited for longer.
    fn settle(&self, requests: usize) -> anyhow::Result<()> {
        let mut before = None;
        let mut quiet = 0;
        loop {
            thread::sleep(patience::silence());
            let [istio, nodegate] = &self.logs;
            let lines = [istio.read()?, nodegate.read()?];
            let now = Some((self.upstreams.count(), lines));
            quiet = if now == before { quiet + 1 } else { 0 };
            let is_whole = lines.iter().all(|lines| *lines >= requests);
            if quiet >= if is_whole { 1 } else { QUIET } {
                return Ok(());
            }
            before = now;
        }
    }

    /// Asks Istio, and then nodegate.
    fn both<T>(
        &self,
        question: &Question<'_>,
        ask: impl Fn(&str, SocketAddr) -> anyhow::Result<T>,
    ) -> anyhow::Result<[T; 2]> {
        let port = question.request.port.unwrap_or(PORT);
        let ask = |who: &str, address: SocketAddr| {
            ask(who, SocketAddr::new(address.ip(), port))
                .with_context(|| format!("asked:\n{}", question.request.head(question.name)))
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

/// The Istio that can be compared with: what it writes down about requests is read here.
pub fn peer(envoy: PathBuf) -> Istio {
    Istio {
        log_format: Some(log::format()),
        ..Istio::new(envoy)
    }
}

fn istio_log(cluster: &Cluster) -> anyhow::Result<Log> {
    let logs = cluster.logs()?;
    let own = logs.get("gateway.envoy");
    Log::open(own.context("there is no log of Envoy's: the cluster must have Istio")?)
}

fn nodegate_log(cluster: &Cluster) -> anyhow::Result<Log> {
    Log::open(&access_log(cluster))
}

/// Where nodegate writes requests down.
fn access_log(cluster: &Cluster) -> PathBuf {
    cluster.names().state().join("logs/nodegate.access.log")
}

/// Starts nodegate as a gateway, which ends with the cluster.
fn start(cluster: &Cluster, nodegate: &Path) -> anyhow::Result<Pid> {
    let state = cluster.names().state();
    let log = access_log(cluster);
    // It is there when it is opened here.
    File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut command = own(nodegate);
    command
        .args(["run", "--role", "proxy", "--source", "kubernetes"])
        .args(["--node-name", CONTROL_PLANE, "--envoy-parity", "all"])
        .arg("--kubeconfig")
        .arg(state.join("pki/admin.conf"))
        .arg("--admin")
        .arg(state.join("nodegate.sock"))
        .args(["--access-log-format", &log::format(), "--access-log-file"])
        .arg(log);
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
