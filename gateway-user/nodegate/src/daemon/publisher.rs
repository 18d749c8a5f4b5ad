//! Resources to Snapshots.

use std::sync::Arc;

use nodegate_compile::{Compiled, GatewayIdentity, NodeIdentity, Publisher, ServiceScope, compile};
use nodegate_model::Published;
use nodegate_resources::Resources;
use nodegate_source::{combined::Inputs, rules::Rules};
use nodegate_values::diagnostic::{self, Diagnostic, Severity};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// For whom Snapshots are made.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    pub(super) node: NodeIdentity,
    pub(super) gateway: Option<GatewayIdentity>,
    pub(super) services: ServiceScope,
}

impl Compiler {
    /// Services come from the rules if there is such a source.
    fn compile(&self, resources: &Resources, rules: Option<&Rules>) -> Compiled {
        let gateway = self
            .gateway
            .as_ref()
            .map(|identity| labelled(identity, resources));
        let compiled = compile(resources, &self.node, gateway.as_ref(), &self.services);
        match rules {
            Some(rules) => {
                compiled.with_services(&rules.services, &rules.diagnostics, &self.services)
            }
            None => compiled,
        }
    }
}

/// The identity with the labels of the gateway's own Pod, once that is known.
fn labelled(identity: &GatewayIdentity, resources: &Resources) -> GatewayIdentity {
    let labels = resources
        .pod(&identity.namespace, &identity.name)
        .and_then(|pod| pod.metadata.labels.clone());
    GatewayIdentity {
        labels: labels.unwrap_or_else(|| identity.labels.clone()),
        ..identity.clone()
    }
}

/// Makes a Snapshot of every change, until the sources are gone or nobody wants Snapshots any more.
pub(super) async fn publish(
    compiler: Compiler,
    mut inputs: watch::Receiver<Arc<Inputs>>,
    published: watch::Sender<Published>,
) {
    let compiler = Arc::new(compiler);
    let mut publisher = Publisher::default();
    let mut told = Vec::new();
    loop {
        let current = inputs.borrow_and_update().clone();
        let version = current.version;
        let worker = Arc::clone(&compiler);
        // Ten thousands of objects take a while; the control runtime has others to serve.
        match tokio::task::spawn_blocking(move || {
            worker.compile(&current.resources, current.rules.as_deref())
        })
        .await
        {
            Ok(compiled) => {
                let snapshot = publisher.publish(compiled);
                tell(&told, &snapshot.diagnostics);
                told.clone_from(&snapshot.diagnostics);
                published.send_replace(Published {
                    version,
                    snapshot: Some(snapshot),
                });
            }
            Err(error) => error!(%error, "compiling; the last Snapshot stays in force"),
        }
        tokio::select! {
            changed = inputs.changed() => if changed.is_err() { return },
            () = published.closed() => return,
        }
    }
}

/// Logs what was not wrong before.
fn tell(before: &[Diagnostic], after: &[Diagnostic]) {
    for diagnostic in diagnostic::news(before, after) {
        match diagnostic.severity {
            // The log says how bad it is itself.
            Severity::Error => error!("{diagnostic:#}"),
            Severity::Warning => warn!("{diagnostic:#}"),
            Severity::Info => info!("{diagnostic:#}"),
        }
    }
}
