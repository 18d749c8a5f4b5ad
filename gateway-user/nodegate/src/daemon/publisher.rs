//! Resources to Snapshots.

use std::sync::Arc;

use nodegate_compile::{
    Compiled, Compiler, GatewayIdentity, NodeIdentity, Publisher, ServiceScope,
};
use nodegate_model::{Published, service::ServicePort};
use nodegate_resources::{Resources, lookup::selects};
use nodegate_source::{combined::Inputs, rules::Rules};
use nodegate_values::diagnostic::{self, Diagnostic, Diagnostics, Severity};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// For whom Snapshots are made.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    pub(super) node: NodeIdentity,
    pub(super) gateway: Option<GatewayIdentity>,
    pub(super) services: ServiceScope,
    /// Whether connections are redirected here.
    pub(super) redirects: bool,
}

impl Audience {
    /// Services come from the rules if there is such a source.
    fn compile(
        &self,
        compiler: &mut Compiler,
        resources: &Arc<Resources>,
        rules: Option<&Rules>,
    ) -> Compiled {
        let gateway = self
            .gateway
            .as_ref()
            .map(|identity| labelled(identity, resources));
        let compiled = compiler.compile(resources, &self.node, gateway.as_ref(), &self.services);
        let compiled = match rules {
            Some(rules) => {
                compiled.with_services(&rules.services, &rules.diagnostics, &self.services)
            }
            None => compiled,
        };
        let compiled = match idleness(&compiled.services).filter(|_| self.redirects) {
            Some(idle) => compiled.with_diagnostics(&[idle]),
            None => compiled,
        };
        match gateway.and_then(|gateway| unchosen(&gateway, resources)) {
            Some(unchosen) => compiled.with_diagnostics(&[unchosen]),
            None => compiled,
        }
    }
}

/// Why a gateway serves nothing although there are Gateways.
fn unchosen(gateway: &GatewayIdentity, resources: &Resources) -> Option<Diagnostic> {
    let mut all = resources.gateways().peekable();
    all.peek()?;
    if all.any(|(_, of)| selects(&of.spec.selector, Some(&gateway.labels))) {
        return None;
    }
    let labels = gateway.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some(Diagnostic {
        severity: Severity::Warning,
        location: None,
        object: None,
        field: None,
        message: format!(
            "no Gateway selects this gateway, whose labels are {}: it serves nothing",
            labels.join(", ")
        ),
        fix: Some("the labels of this pod in the Gateway's selector, or --gateway-labels".into()),
    })
}

/// Why a redirector has nothing to do: who sees that it is ready would think that it serves.
fn idleness(services: &[Arc<ServicePort>]) -> Option<Diagnostic> {
    let message = |severity, message: String, fix: Option<&str>| Diagnostic {
        severity,
        location: None,
        object: None,
        field: None,
        message,
        fix: fix.map(str::to_owned),
    };
    if services.is_empty() {
        let text = "no Service is in scope (--services): nothing is redirected".to_owned();
        return Some(message(Severity::Info, text, None));
    }
    let is_reachable = |service: &Arc<ServicePort>| {
        let addresses = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        service.node_port.is_some() || addresses.iter().any(|addresses| !addresses.is_empty())
    };
    if services.iter().any(is_reachable) {
        return None;
    }
    let name = &services[0].name;
    let text = format!(
        "none of the Services in scope, such as {}/{}, has an address: nothing is redirected. It is the API \
         server that gives them cluster IPs; manifests as people write them have none",
        name.namespace, name.name
    );
    let fix = "--source kubernetes, manifests that `nodegate collect` wrote, or write clusterIP or nodePort";
    Some(message(Severity::Warning, text, Some(fix)))
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
    audience: Audience,
    mut inputs: watch::Receiver<Arc<Inputs>>,
    published: watch::Sender<Published>,
) {
    let audience = Arc::new(audience);
    let mut compiler = Compiler::default();
    let mut publisher = Publisher::default();
    let mut told = Diagnostics::default();
    // Until all sources have told what there is, what the kernel holds stays as it is.
    let whole = |inputs: &Arc<Inputs>| inputs.version > 0;
    if inputs.wait_for(whole).await.is_err() {
        return;
    }
    loop {
        let current = inputs.borrow_and_update().clone();
        let version = current.version;
        let audience = Arc::clone(&audience);
        // After a panic there is a new one, which knows nothing.
        let mut worker = std::mem::take(&mut compiler);
        // Ten thousands of objects take a while; the control runtime has others to serve.
        match tokio::task::spawn_blocking(move || {
            let rules = current.rules.as_deref();
            let compiled = audience.compile(&mut worker, &current.resources, rules);
            (worker, compiled)
        })
        .await
        {
            Ok((worker, compiled)) => {
                compiler = worker;
                let snapshot = publisher.publish(compiled);
                if !told.is(&snapshot.diagnostics) {
                    tell(&told, &snapshot.diagnostics);
                    told.clone_from(&snapshot.diagnostics);
                }
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

/// Logs what was not wrong before, and what is wrong no more.
fn tell(before: &[Diagnostic], after: &[Diagnostic]) {
    for mended in diagnostic::news(after, before) {
        if mended.severity > Severity::Info {
            info!("no longer: {mended:#}");
        }
    }
    for diagnostic in diagnostic::news(before, after) {
        match diagnostic.severity {
            // The log says how bad it is itself.
            Severity::Error => error!("{diagnostic:#}"),
            Severity::Warning => warn!("{diagnostic:#}"),
            Severity::Info => info!("{diagnostic:#}"),
        }
    }
}
