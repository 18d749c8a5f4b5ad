//! Who we are to the API server, and how it is reached.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::timeout;
use tower::ServiceBuilder;

use super::{dial::Dialer, server::Server};
use crate::error::SourceError;

/// A name that the certificates of all API servers have (kubeadm, k3s, RKE2, kOps and Cluster API put it
/// in), whichever of them is reached by whichever address.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Set in every pod, by kubelet.
const HOST_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// The token of the pod's ServiceAccount.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How long [`Access::reach`] waits for all servers together.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to reach the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig, whose current context counts; none: the pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// Where to connect in place of what the kubeconfig or the pod's environment says. The cluster IP that
    /// stands there leads nowhere on a node without kube-proxy before nodegate runs.
    pub servers: Vec<Server>,
}

/// An API server that answers.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Where.
    pub server: Option<Server>,
    /// Its version, such as `v1.36.3`.
    pub version: String,
}

/// What connects, and its client.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) dialer: Dialer,
}

// === impl Access ===

impl Access {
    /// Whether this process runs in a pod that has a ServiceAccount.
    pub fn is_in_pod() -> bool {
        env::var_os(HOST_VARIABLE).is_some() && Path::new(TOKEN).exists()
    }

    /// Makes a client; nothing is sent yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// Fails if there is neither a kubeconfig nor a ServiceAccount, or they cannot be read.
    pub(super) async fn connected(&self) -> Result<Connected, SourceError> {
        let mut config = self.config().await?;
        // What is slow is no fault of a watch; what is dead is noticed by the connection itself.
        config.read_timeout = None;
        let given = match &self.servers[..] {
            [] => vec![Server::of(&config.cluster_url)],
            servers => servers.to_vec(),
        };
        let dialer = Dialer::new(given);
        let client = client(&config, dialer.clone()).map_err(|error| SourceError::Access {
            what: self.to_string(),
            told: told(&error),
        })?;
        Ok(Connected { client, dialer })
    }

    /// Makes a client for who has something to write; nothing is sent yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// Fails if there is neither a kubeconfig nor a ServiceAccount, or they cannot be read.
    pub async fn client(&self) -> Result<Client, SourceError> {
        Ok(self.connected().await?.client)
    }

    /// Asks the API server for its version, where it would be asked at a start.
    ///
    /// # Errors
    /// Fails if it is not known how to reach the API server, or if it does not answer in time.
    pub async fn reach(&self) -> Result<Reached, SourceError> {
        let Connected { client, dialer } = self.connected().await?;
        let unreachable = |told| SourceError::Unreachable { told };
        match timeout(PATIENCE, client.apiserver_version()).await {
            Ok(Ok(version)) => Ok(Reached {
                server: dialer.server(),
                version: version.git_version,
            }),
            Ok(Err(error)) => Err(unreachable(told(&error))),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            ))),
        }
    }

    async fn config(&self) -> Result<Config, SourceError> {
        let failed = |error: &dyn std::error::Error| SourceError::Access {
            what: self.to_string(),
            told: told(error),
        };
        let Some(path) = &self.kubeconfig else {
            let mut config = Config::incluster_env().map_err(|error| failed(&error))?;
            config.tls_server_name = Some(SERVER_NAME.to_owned());
            return Ok(config);
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options);
        config.await.map_err(|error| failed(&error))
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kubeconfig {
            Some(path) => write!(f, "kubeconfig {}", path.display()),
            None => f.write_str("this pod's ServiceAccount"),
        }
    }
}

/// As `kube::client::ClientBuilder` makes it, with connections of our own.
fn client(config: &Config, dialer: Dialer) -> Result<Client, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(dialer)?;
    let http: legacy::Client<_, Body> = legacy::Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// An error with its causes, each of which is told once.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
