//! Where a running nodegate has its Services and all else from.

use std::path::PathBuf;

use nodegate_admin::status::{KindStatus, KubernetesStatus, RulesStatus, SourceStatus};
use nodegate_source::{
    SourceError,
    combined::Sources,
    iptables::KubeProxyRules,
    kubernetes::{ApiServer, access::Access, interest::Interest},
    source::{ApiServerStatus, Source, Status},
    watch::Manifests,
};

/// What to read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The API server, if it is read.
    pub kubernetes: Option<KubernetesOptions>,
    /// The directory of manifests, if there is one.
    pub manifests: Option<PathBuf>,
    /// Where versions are kept that are in force although newer ones were refused; none: nowhere.
    pub kept: Option<PathBuf>,
    /// Take Services from this node's iptables rules; manifests are for the proxy then.
    pub rules: bool,
}

/// How to read an API server.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// How it is reached.
    pub access: Access,
    /// Where the last state is kept; none: nowhere.
    pub state: Option<PathBuf>,
}

/// Reads what there is, and follows it.
pub(super) fn start(
    options: SourceOptions,
    interest: Interest,
    node: &str,
) -> Result<Sources, SourceError> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let Some(KubernetesOptions { access, state }) = options.kubernetes {
        sources.push(Box::new(ApiServer {
            access,
            interest,
            state,
        }));
    }
    if let Some(path) = options.manifests {
        sources.push(Box::new(Manifests::new(vec![path])));
    }
    if options.rules {
        sources.push(Box::new(KubeProxyRules::of_node(node)));
    }
    Sources::start(sources, options.kept)
}

/// How the sources stand, in the words of the admin socket.
pub(super) fn status(sources: &Sources) -> SourceStatus {
    let mut told = SourceStatus {
        kubernetes: None,
        directory: None,
        rules: None,
    };
    for status in sources.status() {
        let Status {
            read,
            services,
            api_server,
            ..
        } = status;
        if let Some(api_server) = api_server {
            told.kubernetes = Some(kubernetes(read, api_server));
        } else if let Some(services) = services {
            told.rules = Some(RulesStatus {
                programs: read,
                services,
            });
        } else {
            told.directory = read.into_iter().next().map(PathBuf::from);
        }
    }
    told
}

fn kubernetes(read: Vec<String>, api_server: ApiServerStatus) -> KubernetesStatus {
    let kinds = api_server.kinds.into_iter().map(|kind| KindStatus {
        kind: kind.kind,
        objects: kind.objects,
        known: kind.is_known,
    });
    let troubles = api_server.troubles.iter().map(ToString::to_string);
    KubernetesStatus {
        identity: read.into_iter().next().unwrap_or_default(),
        server: api_server.server,
        heard: api_server.is_heard,
        remembered: api_server.remembered.map(|age| age.as_secs()),
        kinds: kinds.collect(),
        troubles: troubles.collect(),
    }
}
