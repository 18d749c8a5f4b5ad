//! The recordings in `tests/golden`.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Parser;
use nodegate::cli::kube_proxy::KubeProxyFlags;
use nodegate_compile::{NodeIdentity, kube_proxy};
use nodegate_iptables::config::{KubeProxyArgs, KubeProxyConfig};
use nodegate_model::service::ServicePort;
use nodegate_resources::{Resources, admission::Store, manifest::Manifest};

/// The node on which everything was recorded.
const NODE: &str = "node-a";

/// A folder of recordings.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) name: String,
    directory: PathBuf,
}

/// What kube-proxy went by.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) services: Vec<ServicePort>,
    pub(crate) config: KubeProxyConfig,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: KubeProxyFlags,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The folders in one of the folders, by name.
pub(crate) fn folders(of: &str) -> Vec<Set> {
    let entries = fs::read_dir(root().join(of)).expect("the recordings");
    let mut sets: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .map(|directory| Set {
            name: directory
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            directory,
        })
        .collect();
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    sets
}

/// The sets that were recorded from a start of kube-proxy.
pub(crate) fn sets() -> Vec<Set> {
    let mut sets = folders("");
    sets.retain(|set| set.has("objects.yaml"));
    sets
}

// === impl Set ===

impl Set {
    fn has(&self, file: &str) -> bool {
        let packed = format!("{file}.gz");
        self.directory.join(file).exists() || self.directory.join(packed).exists()
    }

    /// A file of the set, unpacked.
    pub(crate) fn try_read(&self, file: &str) -> Option<String> {
        if !self.has(file) {
            return None;
        }
        let packed = self.directory.join(format!("{file}.gz"));
        if !packed.exists() {
            return Some(fs::read_to_string(self.directory.join(file)).expect("a recording"));
        }
        let mut text = String::new();
        flate2::read::GzDecoder::new(fs::File::open(packed).expect("a recording"))
            .read_to_string(&mut text)
            .expect("gzip");
        Some(text)
    }

    pub(crate) fn read(&self, file: &str) -> String {
        let text = self.try_read(file);
        text.unwrap_or_else(|| panic!("{}/{file} is missing", self.name))
    }

    /// The command line, without what has nothing to do with rules.
    fn args(&self) -> KubeProxyArgs {
        let flags = self.try_read("kube-proxy.flags").unwrap_or_else(|| {
            // The states of a set have them in common.
            fs::read_to_string(root().join("01-ingress-gateway/kube-proxy.flags")).expect("flags")
        });
        let flags = flags.lines().filter_map(|line| {
            let (name, value) = line.split_once('=').expect("name=value");
            let value = value.trim_matches(['"', '[', ']']);
            let about_time = name.ends_with("sync-period");
            (!value.is_empty() && !about_time).then(|| format!("{name}={value}"))
        });
        let mut words = vec![
            "kube-proxy".to_owned(),
            format!("--hostname-override={NODE}"),
        ];
        words.extend(flags);
        if self.name.ends_with("conntrack-liberal") {
            words.push("--conntrack-tcp-be-liberal".into());
        }
        Flags::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{error}"))
            .args
            .into()
    }

    fn resources(&self) -> Resources {
        let manifest = Manifest::parse(self.name.clone().into(), &self.read("objects.yaml"));
        let resources = Store::default().admit([&manifest], Vec::new());
        assert!(
            !nodegate_values::diagnostic::has_errors(&resources.diagnostics),
            "{}: {:#?}",
            self.name,
            resources.diagnostics
        );
        (*resources).clone()
    }
}

// === impl Recording ===

impl Recording {
    pub(crate) fn of(set: &Set) -> Self {
        let resources = set.resources();
        let node = NodeIdentity::named(NODE);
        Self {
            services: kube_proxy(&resources, &node, &mut Vec::new()),
            config: KubeProxyConfig::new(&set.args(), &resources).expect("a configuration"),
        }
    }
}
