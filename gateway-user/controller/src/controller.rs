//! All that a controller does.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use kube::{Api, Client};
use nodegate_source::{SourceError, combined::Inputs, kubernetes::access::Access};
use nodegate_values::diagnostic::{Diagnostic, Severity};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    certificate::Keeper,
    conditions::Conditions,
    events::Reporter,
    faults::{self, Faults},
    leader::Candidate,
    review::{Refusal, Reviewer},
    webhook::Webhook,
};

/// The Lease of the one that may write.
const LEASE: &str = "nodegate-controller";

/// One of the cluster's controllers.
#[derive(Clone, Debug)]
pub struct Controller {
    /// How the API server is reached.
    pub access: Access,
    /// Where the Lease is by which one of several is chosen, and the webhook's certificate and Service.
    pub namespace: String,
    /// Name of this process among them.
    pub identity: String,
    /// Labels of nodegate's own gateway pods.
    pub gateway_labels: BTreeMap<String, String>,
    /// Whether and how objects are checked at admission.
    pub admission: Option<Admission>,
}

/// How objects are checked at admission.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Where the API server asks.
    pub address: SocketAddr,
    /// What happens to what nodegate would not serve.
    pub refusal: Refusal,
}

/// Why there is no controller.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// It is not known how to reach the API server.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The webhook's port cannot be had.
    #[error("cannot listen on {address}: {source} (fix: another --webhook ADDRESS:PORT)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Between two looks at all objects.
const PAUSE: Duration = Duration::from_secs(1);

/// Who writes on objects, and what was written last.
struct Writer {
    reporter: Reporter,
    conditions: Conditions,
    gateway_labels: BTreeMap<String, String>,
    told: Option<Faults>,
}

// === impl Controller ===

impl Controller {
    /// Works for as long as there are inputs.
    ///
    /// # Errors
    /// Fails if it is not known how to reach the API server, or if the webhook's port cannot be had.
    pub async fn run(
        self,
        mut inputs: watch::Receiver<Arc<Inputs>>,
    ) -> Result<(), ControllerError> {
        let client = self.access.client().await?;
        let candidate = Candidate {
            leases: Api::namespaced(client.clone(), &self.namespace),
            lease: LEASE.into(),
            identity: self.identity.clone(),
        };
        let (sender, mut leads) = watch::channel(false);
        if let Some(admission) = &self.admission {
            self.answer(admission, &client, inputs.clone(), leads.clone())
                .await?;
        }
        tokio::spawn(candidate.run(sender));
        let mut writer = Writer {
            reporter: Reporter {
                client: client.clone(),
                identity: self.identity,
            },
            conditions: Conditions::new(client),
            gateway_labels: self.gateway_labels,
            told: None,
        };
        let mut troubles = Vec::new();
        loop {
            let (leading, current) = (
                *leads.borrow_and_update(),
                inputs.borrow_and_update().clone(),
            );
            complain(&current, &mut troubles);
            if leading && current.version > 0 {
                writer.tell(&current).await;
                // Endpoints come and go all the time, and little is said of them.
                tokio::time::sleep(PAUSE).await;
            } else {
                // The one who leads may say other things meanwhile.
                writer.told = None;
            }
            tokio::select! {
                changed = inputs.changed() => if changed.is_err() { return Ok(()) },
                changed = leads.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Starts the webhook, and what looks after its certificate.
    async fn answer(
        &self,
        admission: &Admission,
        client: &Client,
        inputs: watch::Receiver<Arc<Inputs>>,
        leads: watch::Receiver<bool>,
    ) -> Result<(), ControllerError> {
        let address = admission.address;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ControllerError::Bind { address, source })?;
        let (sender, tls) = watch::channel(None);
        tokio::spawn(Keeper::new(client, &self.namespace).run(leads, sender));
        let labels = self.gateway_labels.clone();
        let webhook = Webhook {
            reviewer: Arc::new(Reviewer::new(labels, admission.refusal)),
            inputs,
            tls,
        };
        tokio::spawn(webhook.serve(listener));
        Ok(())
    }
}

/// Says what is wrong with no object, but with what can be read, unless that was said before.
fn complain(inputs: &Inputs, told: &mut Vec<Diagnostic>) {
    let diagnostics = inputs.resources.diagnostics.iter();
    let now = diagnostics.filter(|it| it.object.is_none() && it.location.is_none());
    let now: Vec<_> = now.cloned().collect();
    for diagnostic in now.iter().filter(|it| !told.contains(it)) {
        match diagnostic.severity {
            Severity::Info => info!("{diagnostic}"),
            Severity::Warning | Severity::Error => warn!("{diagnostic}"),
        }
    }
    *told = now;
}

// === impl Writer ===

impl Writer {
    async fn tell(&mut self, inputs: &Inputs) {
        let (resources, labels) = (Arc::clone(&inputs.resources), self.gateway_labels.clone());
        // Ten thousands of objects take a while; the webhook has others to answer.
        let found = tokio::task::spawn_blocking(move || faults::faults(&resources, &labels));
        let Ok(now) = found.await else {
            return;
        };
        let before = match self.told.take() {
            Some(told) => told,
            None => self.left_behind().await,
        };
        self.reporter.tell(&inputs.resources, &before, &now).await;
        self.conditions.tell(&inputs.resources, &before, &now).await;
        self.told = Some(now);
    }

    /// What the one before has written: on which objects, and no more. Each is written anew, or as mended.
    async fn left_behind(&mut self) -> Faults {
        let keys = self.conditions.faulty().await;
        keys.into_iter().map(|key| (key, Vec::new())).collect()
    }
}
