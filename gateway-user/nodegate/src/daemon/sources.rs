//! Where a running nodegate has its Services and all else from.

use std::path::PathBuf;

use nodegate_admin::status::{RulesStatus, SourceStatus};
use nodegate_source::{
    SourceError,
    combined::Sources,
    iptables::KubeProxyRules,
    source::{Source, Status},
    watch::Manifests,
};

/// What to read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The directory of manifests, if there is one.
    pub manifests: Option<PathBuf>,
    /// Take Services from this node's iptables rules; manifests are for the proxy then.
    pub rules: bool,
}

/// Reads what there is, and follows it.
pub(super) fn start(options: SourceOptions, node: &str) -> Result<Sources, SourceError> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let Some(path) = options.manifests {
        sources.push(Box::new(Manifests::new(vec![path])));
    }
    if options.rules {
        sources.push(Box::new(KubeProxyRules::of_node(node)));
    }
    Sources::start(sources)
}

/// How the sources stand, in the words of the admin socket.
pub(super) fn status(sources: &Sources) -> SourceStatus {
    let mut told = SourceStatus {
        directory: None,
        rules: None,
    };
    for Status { read, services, .. } in sources.status() {
        match services {
            Some(services) => {
                told.rules = Some(RulesStatus {
                    programs: read,
                    services,
                });
            }
            None => told.directory = read.into_iter().next().map(PathBuf::from),
        }
    }
    told
}
