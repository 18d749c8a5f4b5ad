//! A testbed with a stand-in for nodegate, and how to look at it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use nodegate_programs::Program;
use nodegate_testbed::{Binaries, Options, Testbed, ps::PodAddress};
use serde_json::Value;

use crate::stand_in::STAND_IN;

pub(crate) const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{image: whoami}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}], externalIPs: [192.168.96.50, 192.168.96.51]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{image: istio/tcp-echo-server, args: ['9000', one]}]}
";

/// A directory with a stand-in and manifests.
pub(crate) struct Scene {
    directory: tempfile::TempDir,
    nodegate: PathBuf,
}

impl Scene {
    pub(crate) fn new(nodegate: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let nodegate = directory.path().join(nodegate);
        symlink(std::env::current_exe()?, &nodegate)?;
        let scene = Self {
            directory,
            nodegate,
        };
        fs::create_dir(scene.path("manifests"))?;
        scene.write("manifests/web.yaml", WEB)?;
        Ok(scene)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }

    pub(crate) fn options(&self, name: &str) -> Options {
        let binaries = Binaries {
            nodegate: self.nodegate.clone(),
            pod: Path::new(env!("CARGO_BIN_EXE_testbed-node")).with_file_name("testbed-pod"),
        };
        Options {
            nodes: Some(2),
            ..Options::new(name, binaries, vec![self.path("manifests")])
        }
    }
}

pub(crate) fn up(name: &str) -> anyhow::Result<(Scene, Testbed)> {
    let scene = Scene::new(STAND_IN)?;
    let testbed = Testbed::up(&scene.options(name))?;
    Ok((scene, testbed))
}

/// The limit of a wait in seconds, for the command lines of curl and nc.
pub(crate) fn limit() -> String {
    patience::limit().as_secs().to_string()
}

/// The same for what must not come.
pub(crate) fn silence() -> String {
    patience::silence().as_secs_f64().to_string()
}

/// All addresses and routes of a host.
pub(crate) fn state(testbed: &Testbed, host: &str) -> anyhow::Result<String> {
    let mut state = String::new();
    for arguments in [&["addr"][..], &["route"], &["-6", "route"]] {
        state += &text(&testbed.exec(host, Program::Ip, arguments)?);
    }
    Ok(state)
}

/// The variables of a host's processes, a line each.
pub(crate) fn environment(testbed: &Testbed, host: &str) -> anyhow::Result<String> {
    let variables = testbed.exec(host, Program::Cat, ["/proc/self/environ"])?;
    Ok(text(&variables).replace('\0', "\n"))
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The only pod whose name begins so on a node.
pub(crate) fn row(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<PodAddress> {
    let pods = testbed.ps()?.pods;
    pods.into_iter()
        .find(|pod| pod.name.starts_with(prefix) && pod.node == node)
        .ok_or_else(|| anyhow::anyhow!("no {prefix} on {node}"))
}

pub(crate) fn address(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<String> {
    Ok(row(testbed, prefix, node)?.address.to_string())
}

pub(crate) fn pod_on(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<String> {
    let pod = row(testbed, prefix, node)?;
    Ok(format!("pod/{}/{}", pod.namespace, pod.name))
}

/// An object that nodegate sees, by the beginning of its file's name.
pub(crate) fn manifests(testbed: &Testbed, prefix: &str) -> anyhow::Result<Vec<Value>> {
    let mut files: Vec<PathBuf> = fs::read_dir(testbed.manifests())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix)
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| Ok(serde_yaml::from_str(&fs::read_to_string(file)?)?))
        .collect()
}
