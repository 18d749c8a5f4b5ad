//! What a running nodegate tells: HTTP on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /ready` | 200 once the first Snapshot is applied, else 503 |
//! | `GET /status` | [`status::Status`] as JSON |
//! | `GET /metrics` | the same as metrics, in Prometheus' text format |
//! | `POST /sync` | reads the source again, waits until all of it is applied, answers as `/status` |
//! | `GET /trace` | one line per decision for as long as the client stays; which and how: [`wanted::Wanted`] |
//! | `POST /explain` | what becomes of an [`Ask`](nodegate_explain::ask::Ask) as JSON; `?output=json` for JSON |
//! | `POST /kube-proxy` | with [`KubeProxyArgs`](nodegate_iptables::config::KubeProxyArgs) as JSON: the [`KubeProxyNode`](nodegate_iptables::node::KubeProxyNode) |

//!
//! What probes and Prometheus need of it is also on a TCP port: [`probe`].

pub mod client;
pub mod metrics;
pub mod probe;
pub mod server;
pub mod status;
pub mod trace;
pub mod wanted;

/// What only a redirector can answer was asked of a proxy.
#[derive(Debug, thiserror::Error)]
#[error("this nodegate is a proxy only: {what} is known where the redirector runs (fix: {fix})")]
pub struct ProxyOnly {
    /// What is not known here.
    pub what: &'static str,
    /// Where to ask instead.
    pub fix: &'static str,
}
