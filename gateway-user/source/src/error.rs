//! Why there is nothing to read from.

use std::{io, path::PathBuf};

/// Why there is nothing to read from.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path is not there, or may not be read.
    #[error(
        "cannot read manifests from {path}: {source} (fix: a directory or file that is there)",
        path = path.display()
    )]
    Unreadable {
        /// The path, as it was named to us.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no program that reads rules.
    #[error(
        "cannot read this node's rules: there is no {missing} (fix: install iptables, the package that \
         kube-proxy's image has too, or use --source manifests)"
    )]
    NoIptables {
        /// The programs that were looked for.
        missing: String,
    },
    /// The programs that read rules fail.
    #[error(
        "cannot read this node's rules (it needs root, in the node's network namespace): {told}"
    )]
    Save {
        /// What each of them says.
        told: String,
    },
    /// kube-proxy has written nothing.
    #[error(
        "there are no rules of kube-proxy here: {tried} print no chain KUBE-SERVICES (fix: run on a node \
         where kube-proxy runs in iptables mode, and after its start; its nftables and ipvs modes \
         have no such chains)"
    )]
    NoRules {
        /// The programs that were tried.
        tried: String,
    },
    /// The rules make no sense.
    #[error("kube-proxy's rules cannot be used: {0}")]
    Rules(String),
    /// It is not known how to reach the API server.
    #[error(
        "cannot use {what} to reach the API server: {told} (fix: --kubeconfig FILE, or a pod with a ServiceAccount)"
    )]
    Access {
        /// The kubeconfig, or the pod's ServiceAccount.
        what: String,
        /// What is wrong with it.
        told: String,
    },
    /// The API server does not answer.
    #[error(
        "the API server does not answer: {told} (fix: see that it runs, or name another with --api-server)"
    )]
    Unreachable {
        /// What was said instead.
        told: String,
    },
    /// The thread that watches cannot be started.
    #[error("cannot start watching for changes: {0}")]
    Thread(#[source] io::Error),
    /// The thread that watches has ended.
    #[error("changes are no longer watched: the watcher has stopped")]
    Stopped,
}
