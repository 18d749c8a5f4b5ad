//! Who we are to the API server, and how it is reached.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use http::Uri;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::ServiceBuilder;

use super::dial::Dialer;
use crate::error::SourceError;

/// A name that the certificates of all API servers have (kubeadm, k3s, RKE2, kOps and Cluster API put it
/// in), whichever of them is reached by whichever address.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Set in every pod, by kubelet.
const HOST_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// The token of the pod's ServiceAccount.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to reach the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig, whose current context counts; none: the pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// Where to connect in place of what the kubeconfig or the pod's environment says. The cluster IP that
    /// stands there leads nowhere on a node without kube-proxy before nodegate runs.
    pub servers: Vec<Server>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name or an address, of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A text that is no [`Server`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no server (fix: HOST:PORT, such as 192.0.2.10:6443 or [2001:db8::10]:6443)")]
pub struct NotAServer(String);

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
    pub(super) async fn client(&self) -> Result<Connected, SourceError> {
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

// === impl Server ===

impl Server {
    fn of(url: &Uri) -> Self {
        let secure = url.scheme_str() != Some("http");
        let host = url.host().unwrap_or_default();
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        }
    }
}

impl FromStr for Server {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        let wrong = || NotAServer(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_bare_ipv6 = bare.is_none() && host.contains(':');
        let host = bare.unwrap_or(host);
        if host.is_empty() || is_bare_ipv6 || host.contains(['/', '[', ']']) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or_else(wrong)?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for text in ["192.0.2.10:6443", "[2001:db8::10]:6443", "api.example:443"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        for text in [
            "192.0.2.10",
            "2001:db8::10:6443",
            "https://api.example:443",
            "api.example:0",
            "api.example:99999",
            ":6443",
        ] {
            let error = text.parse::<Server>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn a_url_names_its_server() {
        let server = |url: &str| Server::of(&url.parse().unwrap()).to_string();
        assert_eq!(server("https://10.96.0.1"), "10.96.0.1:443");
        assert_eq!(server("https://[fd00::1]:6443/prefix"), "[fd00::1]:6443");
    }
}
