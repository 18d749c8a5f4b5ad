//! The rules of `deploy/`'s roles: enough, and none too many.
//!
//! nodegate runs as processes on a node, each with a token of its ServiceAccount; one after the other rights are
//! taken away, and nodegate must name the one that is missing.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::own;
use nodegate_testbed::cluster::{Cluster, Options, parts::Parts};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{controller, deploy, services::options};

pub(crate) const NODE: &str = "node1";
/// On the node, a directory that is on this machine too.
pub(crate) const SHARED: &str = "/var/log";

/// A DestinationRule that wants a Secret of the gateway's namespace, and a Gateway that TCP routes may be for.
const WANTS_MORE: &str = "
apiVersion: v1
kind: Secret
metadata: {name: authority, namespace: istio-system}
stringData: {cacert: none}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secure, namespace: istio-system}
spec:
  host: secure.example
  trafficPolicy: {tls: {mode: SIMPLE, credentialName: authority}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tcp, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp, namespace: istio-system}
spec:
  hosts: ['*']
  gateways: [tcp]
  tcp: [{route: [{destination: {host: kubernetes.default.svc.cluster.local, port: {number: 443}}}]}]
";

/// A role whose rules are looked at, and who has it.
struct Account {
    role: &'static str,
    name: &'static str,
    namespace: &'static str,
}

const REDIRECTOR: Account = Account {
    role: "redirector",
    name: "nodegate-redirector",
    namespace: "nodegate-system",
};
const GATEWAY: Account = Account {
    role: "proxy",
    name: "nodegate-gateway",
    namespace: "istio-system",
};

/// A right that a rule gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'r> {
    rule: usize,
    pub(crate) resource: &'r str,
    pub(crate) verb: &'r str,
}

/// A nodegate that runs on the node until this is dropped.
struct Nodegate<'c> {
    cluster: &'c Cluster,
    account: &'c Account,
    child: Child,
}

pub(crate) fn all_are_needed(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 1,
        kube_proxy: None,
        // Where it does, watching is the only right that is asked for.
        streams_lists: false,
        ..options(name, parts)
    })?;
    let roles = install(&cluster)?;
    fs::copy(crate::nodegate()?, shared(&cluster).join("nodegate"))?;
    for account in [REDIRECTOR, GATEWAY] {
        let nodegate = Nodegate::start(&cluster, &account)?;
        nodegate.until(<[String]>::is_empty)?;
        let mut count = 0;
        for role in roles.iter().filter(|role| belongs(role, &account)) {
            count += nodegate.each_right_is_missed(role)?;
        }
        ensure!(count > 8, "{count} rights of {}", account.name);
    }
    secrets_are_few(&cluster)?;
    controller::rights_are_needed(&cluster, &roles)?;
    cluster.down()
}

/// Everything of `deploy/` that is no workload; gives the roles.
fn install(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let mut kubectl = cluster.kubectl()?;
    kubectl.arg("kustomize").arg(deploy::directory());
    let text = deploy::output(kubectl)?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects = documents
        .map(Value::deserialize)
        .collect::<Result<Vec<_>, _>>()?;
    let is_kind =
        |object: &Value, kinds: &[&str]| kinds.iter().any(|kind| object["kind"] == **kind);
    let objects = objects
        .into_iter()
        .filter(|object| !is_kind(object, &["DaemonSet", "Deployment", "Service"]))
        .collect::<Vec<_>>();
    let list = |items: &[Value]| json!({"apiVersion": "v1", "kind": "List", "items": items});
    cluster.apply(&list(&objects).to_string())?;
    let mut crds = cluster.kubectl()?;
    crds.args(["apply", "-k"])
        .arg(deploy::directory().join("crds"));
    deploy::output(crds)?;
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    cluster.ask(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        &limit,
    ])?;
    cluster.apply(WANTS_MORE)?;
    let roles = objects.into_iter();
    Ok(roles
        .filter(|object| is_kind(object, &["Role", "ClusterRole"]))
        .collect())
}

fn belongs(role: &Value, account: &Account) -> bool {
    role["metadata"]["name"] == account.name
}

/// The node's directory, on this machine.
pub(crate) fn shared(cluster: &Cluster) -> PathBuf {
    let node = cluster.names().state().join("hosts").join(NODE);
    node.join(SHARED.trim_start_matches('/'))
}

fn secrets_are_few(cluster: &Cluster) -> anyhow::Result<()> {
    for (account, namespace, expected) in [
        (REDIRECTOR, "istio-system", "no"),
        (REDIRECTOR, "nodegate-system", "no"),
        (GATEWAY, "istio-system", "yes"),
        (GATEWAY, "kube-system", "no"),
    ] {
        for verb in ["get", "list", "watch"] {
            // The gateway lists the one that it wants, by its name.
            let expected = if verb == "get" { "no" } else { expected };
            let who = format!(
                "--as=system:serviceaccount:{}:{}",
                account.namespace, account.name
            );
            let mut kubectl = cluster.kubectl()?;
            kubectl.args(["auth", "can-i", verb, "secrets", "-n", namespace, &who]);
            // "no" is a failure, too.
            let said = String::from_utf8(kubectl.output()?.stdout)?;
            ensure!(
                said.trim() == expected,
                "{verb} secrets of {namespace}, {who}: {said}"
            );
        }
    }
    Ok(())
}

// === impl Nodegate ===

impl<'c> Nodegate<'c> {
    fn start(cluster: &'c Cluster, account: &'c Account) -> anyhow::Result<Self> {
        let Account {
            role,
            name,
            namespace,
        } = account;
        let file = kubeconfig(cluster, namespace, name)?;
        let run = ["run", "--role", role, "--node-name", NODE];
        let mut run = command(cluster, account, &run)?;
        run.arg("--kubeconfig")
            .arg(file)
            .args(["--pod-namespace", namespace])
            .args(["--report-to", namespace])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = run.spawn().context("starting nodegate")?;
        Ok(Self {
            cluster,
            account,
            child,
        })
    }

    /// Takes each right of a role away and waits until nodegate says so; gives how many there are.
    fn each_right_is_missed(&self, role: &Value) -> anyhow::Result<usize> {
        let mut count = 0;
        for right in rights(role) {
            self.cluster.apply(&without(role, right).to_string())?;
            if (right.resource, right.verb) == ("leases", "create") {
                // Only what is not there has to be created.
                let lease = format!("lease/nodegate-{}-{NODE}", self.account.role);
                let delete = ["delete", "--ignore-not-found", "-n"];
                self.cluster
                    .ask(&[&delete[..], &[self.account.namespace, &lease]].concat())?;
            }
            let rule = format!("resources: [{}", right.resource);
            // Of Secrets several are wanted, by name.
            self.until(|complaints| {
                let mut named = complaints.iter();
                let all = named.all(|one| one.contains("add the rule") && one.contains(&rule));
                all && !complaints.is_empty()
            })
            .with_context(|| format!("without {right:?}"))?;
            count += 1;
        }
        self.cluster.apply(&role.to_string())?;
        self.until(<[String]>::is_empty)?;
        Ok(count)
    }

    /// Lets it ask for everything again until what it complains of is as it should be.
    fn until(&self, holds: impl Fn(&[String]) -> bool) -> anyhow::Result<()> {
        let mut last = String::new();
        patience::try_until(|| -> anyhow::Result<_> {
            let mut status = command(self.cluster, self.account, &["status", "--sync"])?;
            let output = status.output().context("nodegate status")?;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaints = last.lines().filter(|line| {
                ["error: ", "warning: "]
                    .iter()
                    .any(|severity| line.starts_with(severity))
            });
            let complaints: Vec<_> = complaints.map(ToOwned::to_owned).collect();
            Ok((output.status.success() && holds(&complaints)).then_some(()))
        })
        .with_context(|| format!("{}: {last}", self.account.name))
    }
}

impl Drop for Nodegate<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kubeconfig of a ServiceAccount, as the node sees it.
pub(crate) fn kubeconfig(
    cluster: &Cluster,
    namespace: &str,
    account: &str,
) -> anyhow::Result<String> {
    let token = cluster.ask(&["create", "token", "-n", namespace, account])?;
    let view = ["config", "view", "--raw", "--flatten", "-o", "json"];
    let mut kubeconfig: Value = serde_json::from_str(&cluster.ask(&view)?)?;
    for user in kubeconfig["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": token.trim()});
    }
    let file = format!("{account}.conf");
    fs::write(shared(cluster).join(&file), kubeconfig.to_string())?;
    Ok(format!("{SHARED}/{file}"))
}

/// nodegate on the node.
fn command(cluster: &Cluster, account: &Account, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = own(format!("{SHARED}/nodegate"));
    command
        .args(words)
        .args(["--admin", &format!("/run/{}.sock", account.name)]);
    cluster.enter(NODE, command)
}

/// Every right that a role gives.
pub(crate) fn rights(role: &Value) -> Vec<Right<'_>> {
    let mut rights = Vec::new();
    let rules = role["rules"].as_array().into_iter().flatten();
    for (index, rule) in rules.enumerate() {
        for resource in words(rule, "resources") {
            let verbs = words(rule, "verbs");
            rights.extend(verbs.map(|verb| Right {
                rule: index,
                resource,
                verb,
            }));
        }
    }
    rights
}

/// A list of words.
fn words<'r>(rule: &'r Value, field: &str) -> impl Iterator<Item = &'r str> + use<'r> {
    let all = rule[field].as_array().into_iter().flatten();
    all.filter_map(Value::as_str)
}

/// The role with all rights but one.
pub(crate) fn without(role: &Value, right: Right<'_>) -> Value {
    let mut role = role.clone();
    let Some(rules) = role["rules"].as_array_mut() else {
        return role;
    };
    let mut rest = rules[right.rule].clone();
    let retain = |rule: &mut Value, field: &str, keep: &dyn Fn(&str) -> bool| {
        if let Some(words) = rule[field].as_array_mut() {
            words.retain(|word| word.as_str().is_some_and(keep));
        }
    };
    // The same rule for the other resources, and for this one with the other verbs.
    retain(&mut rest, "resources", &|one| one == right.resource);
    retain(&mut rest, "verbs", &|one| one != right.verb);
    retain(&mut rules[right.rule], "resources", &|one| {
        one != right.resource
    });
    rules.push(rest);
    rules.retain(|rule| {
        ["resources", "verbs"].iter().all(|field| {
            rule[*field]
                .as_array()
                .is_some_and(|words| !words.is_empty())
        })
    });
    role
}
