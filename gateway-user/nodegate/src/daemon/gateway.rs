//! Keeps the proxy in step with the Snapshots.

use std::time::Duration;

use nodegate_model::Published;
use nodegate_proxy::Proxy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How soon ports that could not be bound are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How far the proxy is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Generation of the Snapshot that all workers serve; 0 before the first.
    pub(super) applied: u64,
    /// Ports that it listens on.
    pub(super) listeners: Vec<u16>,
    /// Ports that it should listen on and cannot.
    pub(super) failures: Vec<String>,
}

/// Applies every Snapshot until told to stop, then lets requests finish.
pub(super) async fn follow(
    proxy: Proxy,
    mut published: watch::Receiver<Published>,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
    drain: Duration,
) {
    loop {
        let snapshot = published.borrow_and_update().snapshot.clone();
        let mut failed = false;
        if let Some(snapshot) = snapshot {
            let applied = proxy.apply(&snapshot).await;
            failed = !applied.failures.is_empty();
            if progress.borrow().applied != applied.generation {
                info!(generation = applied.generation, "proxy applied");
            }
            let unbound = |port| {
                applied
                    .failures
                    .iter()
                    .any(|failure| failure.port() == port)
            };
            let ports = snapshot
                .gateway
                .listeners
                .iter()
                .map(|listener| listener.port);
            progress.send_replace(Progress {
                applied: applied.generation,
                listeners: ports.filter(|port| !unbound(*port)).collect(),
                failures: applied.failures.iter().map(ToString::to_string).collect(),
            });
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(RETRY), if failed => {}
            () = stop.cancelled() => break,
        }
    }
    proxy.shutdown(drain).await;
}
