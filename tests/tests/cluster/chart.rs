//! The chart says what the kustomizations say.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::cluster::parts::Parts;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::deploy;

/// Objects by kind, namespace and name.
type Objects = BTreeMap<String, Value>;

/// What helm's objects have beside those of others.
const LABELS: [&str; 3] = [
    "helm.sh/chart",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/instance",
];
const STAYS: &str = "helm.sh/resource-policy";

/// Where the API servers of the overlay are.
const SERVERS: &str = "192.0.2.10:6443,[2001:db8::10]:6443";

pub(crate) fn means_the_same(parts: &Parts) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let deploy = directory.path().join("deploy");
    copy(&deploy::directory(), &deploy)?;
    let overlays = deploy.join("overlays");
    let servers = overlays.join("instead-of-kube-proxy/api-server.env");
    fs::write(servers, format!("NODEGATE_API_SERVER={SERVERS}\n"))?;
    let servers = format!("apiServer={{{SERVERS}}}");
    for (kustomization, values) in [
        (deploy.clone(), &[][..]),
        (
            overlays.join("instead-of-kube-proxy"),
            &["services=all", &servers],
        ),
        (overlays.join("host-network"), &["gateway.hostNetwork=true"]),
        (
            overlays.join("beside-istio"),
            &[
                "namespaces.gateway.create=false",
                "service.enabled=false",
                "controller.admission.refused=warn",
            ],
        ),
    ] {
        let by_kustomize = kustomize(parts, &kustomization)?;
        let by_helm = helm(parts, &deploy, values)?;
        same(&by_kustomize, &by_helm)
            .with_context(|| format!("{} and {values:?}", kustomization.display()))?;
    }

    // What comes beside it, and what in place of the redirector.
    let mut all = kustomize(parts, &deploy)?;
    all.extend(kustomize(parts, &deploy.join("crds"))?);
    let by_helm = helm(parts, &deploy, &["crds.enabled=true"])?;
    same(&all, &by_helm).context("the custom resources")?;
    let mut all = kustomize(parts, &deploy)?;
    let redirector = all.remove("DaemonSet nodegate-system/nodegate-redirector");
    ensure!(redirector.is_some(), "{:?}", all.keys());
    all.extend(kustomize(parts, &deploy.join("cleanup"))?);
    let by_helm = helm(parts, &deploy, &["cleanup.enabled=true"])?;
    same(&all, &by_helm).context("the clean-up")?;

    refuses_unknown_values(parts, &deploy)
}

/// A word that is misspelt must not be silence.
fn refuses_unknown_values(parts: &Parts, deploy: &Path) -> anyhow::Result<()> {
    for (value, named) in [
        ("gateway.hostnetwork=true", "hostnetwork"),
        ("apiServer={192.0.2.10}", "apiServer"),
    ] {
        let error = helm(parts, deploy, &[value]).expect_err(value).to_string();
        ensure!(error.contains(named), "{value}: {error}");
    }
    Ok(())
}

fn same(one: &Objects, other: &Objects) -> anyhow::Result<()> {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(one) == names(other),
        "{:?} are not {:?}",
        names(one),
        names(other)
    );
    for (name, object) in one {
        let (kustomize, helm) = (object, &other[name]);
        ensure!(
            kustomize == helm,
            "{name}:\n{kustomize:#}\nby helm:\n{helm:#}"
        );
    }
    Ok(())
}

fn kustomize(parts: &Parts, directory: &Path) -> anyhow::Result<Objects> {
    let mut kubectl = parts.command(Program::Kubectl);
    kubectl.arg("kustomize").arg(directory);
    objects(&deploy::output(kubectl)?)
}

fn helm(parts: &Parts, deploy: &Path, values: &[&str]) -> anyhow::Result<Objects> {
    let mut helm = parts.command(Program::Helm);
    // Built as a module, it takes the cluster to be an old one.
    helm.args(["template", "nodegate", "--namespace", "kube-system"])
        .args(["--kube-version", "1.36"])
        .arg(deploy.join("chart"));
    for value in values {
        helm.args(["--set", value]);
    }
    objects(&deploy::output(helm)?)
}

/// The objects of a text, with what means the same said in the same way.
fn objects(text: &str) -> anyhow::Result<Objects> {
    let mut found = Objects::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut object = Value::deserialize(document)?;
        if object.is_null() {
            continue;
        }
        for (field, names) in [("labels", &LABELS[..]), ("annotations", &[STAYS])] {
            let metadata = object["metadata"].as_object_mut();
            let metadata = metadata.context("an object has metadata")?;
            forget(metadata, field, names);
        }
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let namespace = word("/metadata/namespace").map(|name| format!("{name}/"));
        let (kind, name) = (word("/kind"), word("/metadata/name"));
        let name = format!(
            "{} {}{}",
            kind.context("an object has a kind")?,
            namespace.unwrap_or_default(),
            name.context("an object has a name")?
        );
        let twice = found.insert(name.clone(), object);
        ensure!(twice.is_none(), "{name} is there twice");
    }
    say_all_in_env(&mut found);
    Ok(found)
}

/// Takes keys out of a field that is a map, and the field if nothing is left of it.
fn forget(fields: &mut Map<String, Value>, field: &str, keys: &[&str]) {
    let Some(Value::Object(map)) = fields.get_mut(field) else {
        return;
    };
    map.retain(|key, _| !keys.contains(&key.as_str()));
    if map.is_empty() {
        fields.remove(field);
    }
}

/// Puts what containers get of `ConfigMap`s among their variables, in the order of the names.
fn say_all_in_env(objects: &mut Objects) {
    let is_map = |name: &String, _: &mut Value| name.starts_with("ConfigMap ");
    let maps: Objects = objects.extract_if(.., is_map).collect();
    for object in objects.values_mut() {
        let namespace = object["metadata"]["namespace"].clone();
        let containers = object.pointer_mut("/spec/template/spec/containers");
        let Some(Value::Array(containers)) = containers else {
            continue;
        };
        for container in containers {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let from = container.remove("envFrom").unwrap_or_default();
            let mut env = match container.remove("env") {
                Some(Value::Array(env)) => env,
                _ => Vec::new(),
            };
            for source in from.as_array().into_iter().flatten() {
                let named = &source["configMapRef"]["name"];
                let map = maps.values().find(|map| {
                    let metadata = &map["metadata"];
                    metadata["name"] == *named && metadata["namespace"] == namespace
                });
                let data = map.and_then(|map| map["data"].as_object());
                env.extend(
                    data.into_iter()
                        .flatten()
                        .map(|(name, value)| serde_json::json!({"name": name, "value": value})),
                );
            }
            env.sort_by_key(|variable| variable["name"].to_string());
            container.insert("env".into(), Value::Array(env));
        }
    }
}

/// Copies a directory with what links in it lead to.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let from = entry?.path();
        let to = to.join(from.file_name().context("an entry has a name")?);
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}
