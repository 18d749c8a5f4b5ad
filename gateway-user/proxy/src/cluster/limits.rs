//! How much may be under way in a cluster at once.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use nodegate_model::gateway::{ConnectionLimits, RetryBudget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is under way, and how much of it may be.
///
/// A connection counts for as long as a request uses it. Idle ones don't: they are each worker's own
/// and may be closed at any time.
#[derive(Debug)]
pub(crate) struct Limits {
    max_requests: u32,
    max_pending: u32,
    max_retries: u32,
    retry_budget: Option<RetryBudget>,
    max_connections: Option<u32>,
    gauges: Arc<Gauges>,
}

#[derive(Debug)]
struct Gauges {
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    connections: Option<Arc<Semaphore>>,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// Of requests.
    Requests,
    /// Of connections, or of requests that wait for one.
    Connections,
    /// Of retries.
    Retries,
}

/// Room for a request. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Permit {
    gauges: Arc<Gauges>,
    /// Held until this is dropped.
    connection: Option<OwnedSemaphorePermit>,
}

/// Room for a retry.
#[derive(Debug)]
pub(crate) struct RetryPermit(Arc<Gauges>);

/// Counts a waiting request, for as long as it waits.
struct Waiting<'a>(&'a AtomicU32);

impl Limits {
    /// Goes on counting where the same limits were before.
    pub(crate) fn new(policy: &ConnectionLimits, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let gauges = previous
            .filter(|previous| previous.max_connections == policy.max_connections)
            .map(|previous| Arc::clone(&previous.gauges));
        Arc::new(Self {
            max_requests: policy.max_requests.unwrap_or(u32::MAX),
            max_pending: policy.max_pending_requests.unwrap_or(u32::MAX),
            max_retries: policy.max_retries.unwrap_or(u32::MAX),
            retry_budget: policy.retry_budget,
            max_connections: policy.max_connections,
            gauges: gauges.unwrap_or_else(|| {
                Arc::new(Gauges {
                    requests: AtomicU32::new(0),
                    pending: AtomicU32::new(0),
                    retries: AtomicU32::new(0),
                    connections: policy
                        .max_connections
                        .map(|max| Arc::new(Semaphore::new(max as usize))),
                })
            }),
        })
    }

    /// Waits until there is room for a request, unless too many wait already. Over HTTP/2 requests
    /// share connections, whose number doesn't matter then.
    pub(crate) async fn admit(&self, multiplexed: bool) -> Result<Permit, Overflow> {
        enter(&self.gauges.requests, self.max_requests, Overflow::Requests)?;
        // From here on the request is counted out again whatever happens.
        let mut permit = Permit {
            gauges: Arc::clone(&self.gauges),
            connection: None,
        };
        let Some(connections) = self.gauges.connections.as_ref().filter(|_| !multiplexed) else {
            return Ok(permit);
        };
        permit.connection = Arc::clone(connections).try_acquire_owned().ok();
        if permit.connection.is_none() {
            enter(
                &self.gauges.pending,
                self.max_pending,
                Overflow::Connections,
            )?;
            let _waiting = Waiting(&self.gauges.pending);
            let connection = Arc::clone(connections).acquire_owned().await;
            // Only a closed semaphore fails, and this one is never closed.
            permit.connection = Some(connection.map_err(|_| Overflow::Connections)?);
        }
        Ok(permit)
    }

    /// Room for a connection of its own: TCP. A connection doesn't wait for room.
    pub(crate) fn admit_connection(&self) -> Result<Permit, Overflow> {
        let connection = match &self.gauges.connections {
            Some(connections) => {
                let connection = Arc::clone(connections).try_acquire_owned();
                Some(connection.map_err(|_| Overflow::Connections)?)
            }
            None => None,
        };
        self.gauges.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            gauges: Arc::clone(&self.gauges),
            connection,
        })
    }

    /// How many retries a budget lets there be. What waits is counted as under way already.
    // Envoy: ResourceManagerImpl::RetryBudgetImpl::max.
    fn budgeted(&self, budget: RetryBudget) -> u32 {
        let under_way = u64::from(self.gauges.requests.load(Ordering::Relaxed));
        let share = under_way * u64::from(budget.percent.millionths()) / 1_000_000;
        budget.min_concurrency.max(share as u32)
    }

    /// Room for a retry.
    pub(crate) fn admit_retry(&self) -> Result<RetryPermit, Overflow> {
        let most = match self.retry_budget {
            Some(budget) => self.budgeted(budget),
            None => self.max_retries,
        };
        enter(&self.gauges.retries, most, Overflow::Retries)?;
        Ok(RetryPermit(Arc::clone(&self.gauges)))
    }
}

/// Counts one more, if there is room.
fn enter(gauge: &AtomicU32, max: u32, overflow: Overflow) -> Result<(), Overflow> {
    if gauge.fetch_add(1, Ordering::Relaxed) >= max {
        gauge.fetch_sub(1, Ordering::Relaxed);
        return Err(overflow);
    }
    Ok(())
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauges.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nodegate_values::percentage::Percentage;

    use super::*;

    fn limits(policy: &ConnectionLimits) -> Arc<Limits> {
        Limits::new(policy, None)
    }

    #[tokio::test]
    async fn one_works_one_waits_and_the_third_is_refused() {
        let limits = limits(&ConnectionLimits {
            max_connections: Some(1),
            max_pending_requests: Some(1),
            ..ConnectionLimits::default()
        });
        let first = limits.admit(false).await.unwrap();
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { limits.admit(false).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(
            limits.admit(false).await.map(drop),
            Err(Overflow::Connections)
        );
        // Requests that share a connection don't wait for one.
        assert!(limits.admit(true).await.is_ok());
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(limits.admit(false).await.is_ok());
        assert_eq!(limits.gauges.requests.load(Ordering::Relaxed), 0);
        assert_eq!(limits.gauges.pending.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_budget_grows_with_what_is_under_way() {
        let limits = limits(&ConnectionLimits {
            max_retries: Some(0),
            retry_budget: Some(RetryBudget {
                percent: Percentage::of_percent(25.0).unwrap(),
                min_concurrency: 1,
            }),
            ..ConnectionLimits::default()
        });
        let first = limits.admit_retry().unwrap();
        assert_eq!(limits.admit_retry().map(drop), Err(Overflow::Retries));
        let mut under_way = Vec::new();
        for _ in 0..11 {
            under_way.push(limits.admit(true).await.unwrap());
        }
        // A quarter of 11, and no more.
        let second = limits.admit_retry().unwrap();
        assert_eq!(limits.admit_retry().map(drop), Err(Overflow::Retries));
        drop((first, second, under_way));
        assert!(limits.admit_retry().is_ok());
    }

    #[tokio::test]
    async fn counts_outlive_configurations() {
        let policy = ConnectionLimits {
            max_requests: Some(1),
            ..ConnectionLimits::default()
        };
        let limits = Limits::new(&policy, None);
        let held = limits.admit(true).await.unwrap();
        let next = Limits::new(&policy, Some(&limits));
        assert_eq!(next.admit(true).await.map(drop), Err(Overflow::Requests));
        drop(held);
        assert!(next.admit(true).await.is_ok());
    }
}
