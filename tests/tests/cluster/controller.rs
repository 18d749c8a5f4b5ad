//! The rules of the controller's roles: enough, and none too many.
//!
//! It says in its log what it lacks. Everything that it may have to do is there to be done.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Child,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::cluster::Cluster;
use serde_json::{Value, json};

use crate::rights::{self, NODE, Right, SHARED};

const NAMESPACE: &str = "nodegate-system";
const NAME: &str = "nodegate-controller";
const CERTIFICATE: &str = "secret/nodegate-controller-certificate";

/// A controller on the node, until this is dropped.
struct Controller<'c> {
    cluster: &'c Cluster,
    child: Child,
    log: PathBuf,
}

pub(crate) fn rights_are_needed(cluster: &Cluster, roles: &[Value]) -> anyhow::Result<()> {
    let kubeconfig = rights::kubeconfig(cluster, NAMESPACE, NAME)?;
    let own_roles: Vec<_> = roles
        .iter()
        .filter(|role| role["metadata"]["name"] == NAME)
        .collect();
    ensure!(own_roles.len() == 2, "{} roles", own_roles.len());
    webhook_is_wanted(cluster)?;
    there_is_something_to_do(cluster, 0, None)?;
    let all = Controller::start(cluster, &kubeconfig)?;
    let condition = "jsonpath={.status.conditions[0].reason}";
    patience::try_until(|| -> anyhow::Result<_> {
        let reason = cluster.ask(&["get", "serviceentry", "bad", "-o", condition])?;
        Ok((reason == "Refused").then_some(()))
    })
    .context("a condition on the last object")?;
    there_is_a_certificate(cluster)?;
    let log = all.log()?;
    ensure!(!log.contains("add the rule"), "{log}");
    drop(all);
    let mut count = 0;
    for role in own_roles {
        for right in rights::rights(role) {
            count += 1;
            cluster.apply(&rights::without(role, right).to_string())?;
            there_is_something_to_do(cluster, count, Some(right))?;
            let controller = Controller::start(cluster, &kubeconfig)?;
            controller
                .misses(right)
                .with_context(|| format!("without {right:?}"))?;
            drop(controller);
            if (right.resource, right.verb) == ("secrets", "create") {
                cluster.apply(&role.to_string())?;
                let _all = Controller::start(cluster, &kubeconfig)?;
                there_is_a_certificate(cluster)?;
            }
        }
        cluster.apply(&role.to_string())?;
    }
    ensure!(count > 25, "{count} rights");
    Ok(())
}

fn there_is_a_certificate(cluster: &Cluster) -> anyhow::Result<()> {
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    let wait = ["wait", "--for=create", "-n", NAMESPACE, CERTIFICATE, &limit];
    cluster.ask(&wait).map(drop)
}

/// The configuration of `deploy/` is there; nobody answers, as the trial's controller is no pod, and so all
/// objects are taken.
fn webhook_is_wanted(cluster: &Cluster) -> anyhow::Result<()> {
    let configuration = [
        "get",
        "validatingwebhookconfiguration",
        "nodegate",
        "-o",
        "json",
    ];
    let known: Value = serde_json::from_str(&cluster.ask(&configuration)?)?;
    ensure!(known["webhooks"][0]["failurePolicy"] == "Ignore", "{known}");
    Ok(())
}

/// Objects that are refused, and say something else than before; a certificate to renew, and what has to be
/// created if the right to create it is looked at.
fn there_is_something_to_do(
    cluster: &Cluster,
    round: usize,
    right: Option<Right<'_>>,
) -> anyhow::Result<()> {
    let port = json!({"number": 70_000 + round, "name": "http", "protocol": "HTTP"});
    let redirect = json!({"redirect": {"redirectCode": 700 + round}});
    let pool = json!({"connectionPool": {"tcp": {"connectTimeout": format!("{round} beats")}}});
    let specs = [
        (
            "Gateway",
            json!({"servers": [{"port": port, "hosts": ["*"]}]}),
        ),
        (
            "VirtualService",
            json!({"hosts": ["*"], "http": [redirect]}),
        ),
        (
            "DestinationRule",
            json!({"host": "x", "trafficPolicy": pool}),
        ),
        (
            "ServiceEntry",
            json!({"hosts": [format!("bad {round}")], "ports": []}),
        ),
        ("WorkloadEntry", json!({"address": format!("bad {round}")})),
    ];
    for (kind, spec) in specs {
        let object = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": "bad", "namespace": "default"},
            "spec": spec,
        });
        cluster.apply(&object.to_string())?;
    }
    match right.map(|right| (right.resource, right.verb)) {
        Some(("secrets", "create")) => {
            cluster.ask(&["delete", "-n", NAMESPACE, CERTIFICATE])?;
        }
        Some(("leases", "create")) => {
            let lease = format!("lease/{NAME}");
            cluster.ask(&["delete", "-n", NAMESPACE, &lease])?;
        }
        Some(_) => {
            let due = "nodegate.io/renew-after-";
            cluster.ask(&["annotate", "-n", NAMESPACE, CERTIFICATE, due])?;
        }
        None => {}
    }
    Ok(())
}

// === impl Controller ===

impl<'c> Controller<'c> {
    /// The same identity as before, which need not wait for the Lease.
    fn start(cluster: &'c Cluster, kubeconfig: &str) -> anyhow::Result<Self> {
        // What we start enters the node, and its child is the controller, whose number there is told.
        let line = format!(
            "echo $$ > {SHARED}/controller.pid; exec {SHARED}/nodegate controller --namespace {NAMESPACE} \
             --identity one --webhook 127.0.0.1:9443 --kubeconfig {kubeconfig}"
        );
        let mut command = Program::Sh.by_name();
        command.args(["-c", &line]);
        let log = rights::shared(cluster).join("controller.log");
        let output = File::create(&log)?;
        let mut command = cluster.enter(NODE, command)?;
        command.stdout(output.try_clone()?).stderr(output);
        Ok(Self {
            cluster,
            child: command.spawn().context("starting a controller")?,
            log,
        })
    }

    fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let kill = format!("kill -9 $(cat {SHARED}/controller.pid)");
        // It may have ended.
        self.cluster.exec(NODE, Program::Sh, ["-c", &kill])?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it names the right.
    fn misses(&self, right: Right<'_>) -> anyhow::Result<()> {
        let mut last = String::new();
        patience::try_until(|| -> anyhow::Result<_> {
            last = self.log()?;
            let resource = format!("resources: [{}", right.resource);
            let named = last.lines().any(|line| {
                let rule = line.split("add the rule").nth(1);
                rule.is_some_and(|rule| rule.contains(&resource) && rule.contains(right.verb))
            });
            Ok(named.then_some(()))
        })
        .with_context(|| last.clone())
    }
}

impl Drop for Controller<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the controller does not end: {error:#}");
        }
    }
}
