//! The programs that a cluster is made of: which Go modules they are, and where they are once built.
//!
//! Each group of them is a `go.mod` in `tests/parts`: what they require contradicts each other. They are
//! built once, into a directory of the user's cache whose name says of what; another checkout with the
//! same `go.mod` finds them there.

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use nodegate_programs::Program;
use sha2::{Digest as _, Sha256};

use crate::environment::Unmet;

mod build;

pub use build::{Progress, build};

/// Names the directory that the parts are built into, in place of the user's cache.
pub const VARIABLE: &str = "NODEGATE_PARTS";

/// For what parts are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A cluster.
    Cluster,
    /// A cluster, and [Kubernetes' own tests](crate::conformance) in it.
    Conformance,
    /// A cluster, and the test of the chart, which wants Helm.
    Chart,
    /// A cluster, and the servers that people's examples run in it.
    Samples,
    /// A cluster, and [Istio's control plane](super::Istio) beside it.
    Istio,
    /// No cluster: the public suites of [attacks](crate::attack).
    Attack,
}

/// What is built together.
#[derive(Debug)]
struct Group {
    name: &'static str,
    /// For what it is built; what a cluster is made of is there for all.
    purpose: Purpose,
    /// `go.mod`, `go.sum`, and what else stands beside them.
    sources: &'static [(&'static str, &'static str)],
    /// What go is told to build: `tool` is all that `go.mod` calls so.
    targets: &'static [&'static str],
    /// The module whose version is the group's.
    module: &'static str,
    /// The programs, by go's names for them, and what they are called here.
    programs: &'static [(&'static str, &'static str)],
    /// What is not made with Go, and stands beside them.
    beside: &'static [&'static str],
    /// Minutes that one CPU takes when nothing of it is cached.
    minutes: u32,
}

/// A group whose sources are in a directory of `tests/parts`.
macro_rules! sources {
    ($($directory:literal: $($file:literal),+);+) => {
        &[$($((
            $file,
            include_str!(concat!("../../parts/", $directory, "/", $file)),
        )),+),+]
    };
}

const GROUPS: [Group; 10] = [
    Group {
        name: "kubernetes",
        purpose: Purpose::Cluster,
        sources: sources!("kubernetes": "go.mod", "go.sum"),
        targets: &["tool"],
        module: KUBERNETES,
        programs: &[
            ("kube-apiserver", "kube-apiserver"),
            ("kube-controller-manager", "kube-controller-manager"),
            ("kube-proxy", "kube-proxy"),
            ("kube-scheduler", "kube-scheduler"),
            ("kubectl", "kubectl"),
            ("kubelet", "kubelet"),
            ("agnhost", AGNHOST),
        ],
        beside: &[PAUSE, AGNHOST_VERSION],
        minutes: 17,
    },
    Group {
        name: "etcd",
        purpose: Purpose::Cluster,
        sources: sources!("etcd": "go.mod", "go.sum"),
        targets: &["tool"],
        module: "go.etcd.io/etcd/server/v3",
        // A module's main package at its root is called after the last part of the path.
        programs: &[("server", "etcd")],
        beside: &[],
        minutes: 2,
    },
    Group {
        name: "containerd",
        purpose: Purpose::Cluster,
        sources: sources!("containerd": "go.mod", "go.sum"),
        targets: &["tool"],
        module: "github.com/containerd/containerd/v2",
        programs: &[
            ("containerd", "containerd"),
            ("containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ("ctr", "ctr"),
        ],
        beside: &[],
        minutes: 3,
    },
    Group {
        name: "cni",
        purpose: Purpose::Cluster,
        sources: sources!("cni": "go.mod", "go.sum"),
        targets: &["tool"],
        module: "github.com/containernetworking/plugins",
        programs: &[
            ("host-local", "host-local"),
            ("loopback", "loopback"),
            ("portmap", "portmap"),
            ("ptp", "ptp"),
        ],
        beside: &[],
        minutes: 1,
    },
    Group {
        name: "coredns",
        purpose: Purpose::Cluster,
        sources: sources!("coredns": "go.mod", "go.sum", "main.go"),
        targets: &["."],
        module: "github.com/coredns/coredns",
        programs: &[("coredns", "coredns")],
        beside: &[],
        minutes: 3,
    },
    Group {
        name: "helm",
        purpose: Purpose::Chart,
        sources: sources!("helm": "go.mod", "go.sum"),
        targets: &["tool"],
        module: "helm.sh/helm/v3",
        programs: &[("helm", "helm")],
        beside: &[],
        minutes: 4,
    },
    Group {
        name: "e2e",
        purpose: Purpose::Conformance,
        sources: sources!("e2e": "go.mod", "go.sum", "main.go"),
        targets: &[".", "k8s.io/kubernetes/test/images/regression-issue-74839"],
        module: KUBERNETES,
        programs: &[("e2e", "e2e"), (SERVER, SERVER)],
        beside: &[],
        // Beside the libraries that it shares with Kubernetes.
        minutes: 7,
    },
    Group {
        name: "samples",
        purpose: Purpose::Samples,
        sources: sources!("samples": "go.mod", "go.sum"),
        targets: &["tool"],
        module: ISTIO,
        programs: &[("src", TCP_ECHO)],
        beside: &[NGINX],
        minutes: 1,
    },
    Group {
        name: "istio",
        purpose: Purpose::Istio,
        sources: sources!("istio": "go.mod", "go.sum"),
        targets: &["tool"],
        module: ISTIO,
        programs: &[
            ("istioctl", "istioctl"),
            ("pilot-discovery", "pilot-discovery"),
        ],
        beside: &[ISTIO_KINDS, ISTIO_SAMPLES],
        minutes: 13,
    },
    Group {
        name: "h2spec",
        purpose: Purpose::Attack,
        sources: sources!("h2spec": "go.mod", "go.sum"),
        targets: &["tool"],
        module: "github.com/summerwind/h2spec",
        programs: &[("h2spec", "h2spec")],
        beside: &[],
        minutes: 1,
    },
];

/// The module that most of it is.
const KUBERNETES: &str = "k8s.io/kubernetes";
/// The module with Istio's control plane, and its samples.
const ISTIO: &str = "istio.io/istio";
/// The server and client of Kubernetes' own tests.
pub(super) const AGNHOST: &str = "agnhost";
/// The server of one of Kubernetes' own tests, which sends packets that belong to no connection.
pub(super) const SERVER: &str = "regression-issue-74839";
/// What holds a pod's namespaces: Kubernetes' own, compiled from its C.
pub(super) const PAUSE: &str = "pause";
/// The server on TCP of Istio's samples.
pub(super) const TCP_ECHO: &str = "tcp-echo-server";
/// The directory with what Debian's packages of nginx have.
pub(super) const NGINX: &str = "nginx";
/// The definitions of Istio's kinds, as its chart has them.
pub(super) const ISTIO_KINDS: &str = "crd-all.gen.yaml";
/// The directory with objects of Istio's own samples.
pub(crate) const ISTIO_SAMPLES: &str = "samples";
/// Which of them: what they say to a gateway, or may say to one.
pub(crate) const SAMPLES: [&str; 13] = [
    "bookinfo/networking/bookinfo-gateway.yaml",
    "bookinfo/networking/destination-rule-all.yaml",
    "bookinfo/networking/destination-rule-reviews.yaml",
    "bookinfo/networking/virtual-service-all-v1.yaml",
    "bookinfo/networking/virtual-service-reviews-test-v2.yaml",
    "bookinfo/networking/virtual-service-reviews-jason-v2-v3.yaml",
    "bookinfo/networking/virtual-service-reviews-80-20.yaml",
    "bookinfo/networking/virtual-service-reviews-v3.yaml",
    "bookinfo/networking/virtual-service-ratings-test-abort.yaml",
    "helloworld/helloworld-gateway.yaml",
    "httpbin/httpbin-gateway.yaml",
    "tcp-echo/tcp-echo-all-v1.yaml",
    "tcp-echo/tcp-echo-20-v2.yaml",
];
/// The file that says which version agnhost is of.
const AGNHOST_VERSION: &str = "agnhost.version";

/// All parts, built.
#[derive(Clone, Debug)]
pub struct Parts {
    cache: PathBuf,
}

impl Parts {
    /// The parts of a cluster, if all of them have been built.
    ///
    /// # Errors
    ///
    /// If one has not.
    pub fn find() -> Result<Self, Unmet> {
        Self::find_for(Purpose::Cluster)
    }

    /// The parts, if all of them have been built that a purpose needs.
    ///
    /// # Errors
    ///
    /// If one has not.
    pub fn find_for(purpose: Purpose) -> Result<Self, Unmet> {
        let cache = cache().map_err(|_| Unmet::Parts)?;
        let parts = Self { cache };
        let needs_cluster = purpose != Purpose::Attack;
        if needs_cluster && !parts.complete(Purpose::Cluster) {
            return Err(Unmet::Parts);
        }
        match purpose {
            _ if parts.complete(purpose) => Ok(parts),
            Purpose::Attack => Err(Unmet::H2spec),
            Purpose::Chart => Err(Unmet::Helm),
            Purpose::Samples => Err(Unmet::Samples),
            Purpose::Istio => Err(Unmet::Istio),
            Purpose::Cluster | Purpose::Conformance => Err(Unmet::Suite),
        }
    }

    /// The parts that are in a cache.
    pub(super) fn at(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// Whether all of them are there that a purpose needs.
    pub(super) fn complete(&self, purpose: Purpose) -> bool {
        groups(purpose).all(|group| group.place(&self.cache).is_dir())
    }

    /// Where all of them are.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A command that starts one of them.
    pub fn command(&self, program: Program) -> Command {
        program.at(self.program(program))
    }

    /// Where a program is.
    pub fn program(&self, program: Program) -> PathBuf {
        self.file(program.name())
    }

    /// Where a part is that nothing here starts itself.
    pub fn file(&self, name: &str) -> PathBuf {
        let has = |group: &&Group| {
            group.beside.contains(&name) || group.programs.iter().any(|(_, ours)| *ours == name)
        };
        match GROUPS.iter().find(has) {
            Some(group) => group.place(&self.cache).join(name),
            // The program is none of the parts: its start will say that it is missing.
            None => self.cache.join(name),
        }
    }

    /// The directories of all that a cluster is made of, and of Istio's programs.
    pub(super) fn directories(&self) -> impl Iterator<Item = PathBuf> {
        groups(Purpose::Istio).map(|group| group.place(&self.cache))
    }

    /// The version of agnhost, which is not Kubernetes'.
    pub(super) fn agnhost_version(&self) -> anyhow::Result<String> {
        let file = self.file(AGNHOST_VERSION);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().to_owned())
    }
}

/// The groups that a purpose needs.
fn groups(purpose: Purpose) -> impl Iterator<Item = &'static Group> {
    let is_needed = move |group: &&Group| {
        let is_of_cluster = group.purpose == Purpose::Cluster && purpose != Purpose::Attack;
        is_of_cluster || group.purpose == purpose
    };
    GROUPS.iter().filter(is_needed)
}

impl Group {
    /// `v1.36.3`, as `go.mod` says.
    fn version(&self) -> &'static str {
        let module = format!("{} v", self.module);
        let lines = self.sources.iter().flat_map(|(_, text)| text.lines());
        let lines = lines.map(|line| line.trim().trim_start_matches("require "));
        let mut required = lines.filter(|line| line.starts_with(&module));
        let version = required.next().and_then(|line| line.split(' ').nth(1));
        version.unwrap_or("unknown")
    }

    /// `kubernetes-v1.36.3-0123456789ab`: another one for every other way to build it.
    fn place(&self, cache: &Path) -> PathBuf {
        let mut digest = Sha256::new();
        for (name, text) in self.sources {
            digest.update(format!("{name}\0{text}\0"));
        }
        digest.update(self.flags().join("\0"));
        // Those that are not in go.mod.
        digest.update(self.targets.get(1..).unwrap_or_default().join("\0"));
        if self.beside.contains(&ISTIO_SAMPLES) {
            digest.update(SAMPLES.join("\0"));
        }
        digest.update(env::consts::ARCH);
        let hash = HEXLOWER.encode(&digest.finalize()[..6]);
        cache.join(format!("{}-{}-{hash}", self.name, self.version()))
    }

    /// What go build is told beside the target: nothing for debuggers, no paths of this machine.
    fn flags(&self) -> Vec<String> {
        let mut linker = "-s -w".to_owned();
        if self.module == KUBERNETES {
            // Without them it says that it is v0.0.0, and clients behave otherwise.
            let version = self.version();
            let mut numbers = version.trim_start_matches('v').split('.');
            let values = [
                ("gitVersion", version),
                ("gitMajor", numbers.next().unwrap_or_default()),
                ("gitMinor", numbers.next().unwrap_or_default()),
            ];
            for (name, value) in values {
                // Writing to a String cannot fail.
                let _ = write!(
                    linker,
                    " -X k8s.io/component-base/version.{name}={value} -X k8s.io/client-go/pkg/version.{name}={value}"
                );
            }
        }
        vec!["-trimpath".into(), format!("-ldflags={linker}")]
    }
}

/// The directory of the user's cache that the parts are in.
fn cache() -> anyhow::Result<PathBuf> {
    if let Some(directory) = env::var_os(VARIABLE) {
        return Ok(std::path::absolute(directory)?);
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => env::home_dir()
            .with_context(|| format!("HOME is not set: set it, or {VARIABLE}"))?
            .join(".cache"),
    };
    Ok(cache.join("nodegate/cluster"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_the_version_that_its_go_mod_requires() {
        for group in &GROUPS {
            let version = group.version();
            let digits = version.trim_start_matches('v').split('.');
            assert_eq!(digits.count(), 3, "{}: {version}", group.name);
        }
        assert!(GROUPS[0].flags()[1].contains("gitMinor=36"), "{GROUPS:?}");
    }

    #[test]
    fn kubernetes_own_tests_are_of_the_same_version_and_no_part_of_a_cluster() {
        let of = |name: &str| GROUPS.iter().find(|group| group.name == name).unwrap();
        assert_eq!(of("e2e").version(), of("kubernetes").version());
        assert!(groups(Purpose::Cluster).all(|group| group.name != "e2e"));
        let count = |purpose| groups(purpose).count();
        assert_eq!(count(Purpose::Conformance), count(Purpose::Cluster) + 1);
        assert!(groups(Purpose::Conformance).any(|group| group.name == "e2e"));
        // The libraries that both are made of come from the same release.
        let replaced = |name: &str| {
            let (_, text) = of(name).sources[0];
            let lines = text.lines().map(str::trim);
            lines
                .filter(|line| line.contains(" => "))
                .collect::<Vec<_>>()
        };
        assert_eq!(replaced("e2e"), replaced("kubernetes"));
    }

    #[test]
    fn every_program_of_the_table_that_is_a_module_is_built() {
        let parts = Parts { cache: "/".into() };
        let modules = Program::ALL.iter().copied();
        let modules =
            modules.filter(|program| program.origin() == nodegate_programs::Origin::Module);
        for program in modules {
            let place = parts.program(program);
            assert_eq!(place.components().count(), 3, "{}", place.display());
        }
    }

    #[test]
    fn what_go_is_to_build_are_the_programs() {
        for group in GROUPS.iter().filter(|group| group.targets == ["tool"]) {
            let (_, text) = group.sources[0];
            let tools = text.lines().map(str::trim).filter(|line| {
                line.starts_with("tool ") && !line.ends_with('(')
                    || line.starts_with(group.module) && !line.contains(" v")
            });
            assert_eq!(tools.count(), group.programs.len(), "{}", group.name);
        }
    }
}
