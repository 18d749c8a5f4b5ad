//! Of several processes, the one that may write: the holder of a Lease.
//!
//! As client-go's leader election: a holder renews the Lease; another process takes it when it has seen no
//! renewal for as long as the Lease says, by its own clock.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use nodegate_source::kubernetes::trouble::Trouble;

/// client-go's defaults.
const DURATION: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);

/// A process that wants to lead.
pub(super) struct Candidate {
    pub(super) leases: Api<Lease>,
    /// Name of the Lease.
    pub(super) lease: String,
    /// Name of this process, such as that of its pod.
    pub(super) identity: String,
}

/// What was seen of the Lease, and since when it has been so.
struct Seen {
    renewed: Option<Timestamp>,
    since: Instant,
}

// === impl Candidate ===

impl Candidate {
    /// Tries for as long as somebody wants to know whether this process leads.
    pub(super) async fn run(self, leads: watch::Sender<bool>) {
        let mut seen: Option<Seen> = None;
        let mut renewed = Instant::now();
        let mut told = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(holds) => {
                    if holds {
                        renewed = Instant::now();
                    }
                    leads.send_if_modified(|leads| std::mem::replace(leads, holds) != holds);
                }
                Err(error) => {
                    let trouble = Trouble::of_client(&error);
                    if told.as_ref() != Some(&trouble) {
                        self.complain(&trouble);
                        told = Some(trouble);
                    }
                    // Nobody else takes it sooner.
                    if renewed.elapsed() >= DURATION {
                        leads.send_if_modified(|leads| std::mem::replace(leads, false));
                    }
                }
            }
            tokio::select! {
                () = leads.closed() => return,
                () = time::sleep(RETRY) => {}
            }
        }
    }

    fn complain(&self, trouble: &Trouble) {
        let (lease, what) = (&self.lease, trouble.told());
        if matches!(trouble, Trouble::Forbidden(_)) {
            tracing::warn!(
                "the Lease {lease}: {what} (fix: add the rule {{apiGroups: [coordination.k8s.io], resources: \
                 [leases], verbs: [create, get, update]}} to its role)"
            );
        } else {
            tracing::debug!("the Lease {lease}: {what}");
        }
    }

    /// Takes or renews the Lease if that may be; says whether this process holds it.
    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.lease).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.lease.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.held()),
            };
            return taken(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holds = spec.holder_identity.as_deref() == Some(&self.identity);
        let renewed = spec.renew_time.as_ref().map(|time| time.0);
        let last = seen.get_or_insert_with(|| Seen {
            renewed,
            since: Instant::now(),
        });
        if last.renewed != renewed {
            *last = Seen {
                renewed,
                since: Instant::now(),
            };
        }
        let is_free = spec.holder_identity.is_none_or(|holder| holder.is_empty());
        if !holds && !is_free && last.since.elapsed() < DURATION {
            return Ok(false);
        }
        lease.spec = Some(self.held());
        // With the version that was read: of two that try, one gets it.
        let parameters = PostParams::default();
        let replaced = self.leases.replace(&self.lease, &parameters, &lease).await;
        taken(replaced)
    }

    fn held(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }
    }
}

/// Whether the write was ours; another process's is no error.
fn taken(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
