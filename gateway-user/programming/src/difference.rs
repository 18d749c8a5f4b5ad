//! What is different between the Service ports of two Snapshots.

use std::{cmp::Ordering, sync::Arc};

use nodegate_model::service::{Protocol, ServicePort, ServicePortName};

/// Service ports that only one of two Snapshots has. One that has changed is in both lists.
#[derive(Debug, Default)]
pub struct Difference<'s> {
    /// Those of the earlier one.
    pub gone: Vec<&'s Arc<ServicePort>>,
    /// Those of the later one.
    pub come: Vec<&'s Arc<ServicePort>>,
}

/// Compares two lists that are sorted by name and protocol. What they share is passed over at the price
/// of two pointers. None if the later list is not in order, or has a Service port twice.
pub fn difference<'s>(
    old: &'s [Arc<ServicePort>],
    new: &'s [Arc<ServicePort>],
) -> Option<Difference<'s>> {
    let mut difference = Difference::default();
    let (mut i, mut j) = (0, 0);
    loop {
        let order = match (old.get(i), new.get(j)) {
            (None, None) => return Some(difference),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                (i, j) = (i + 1, j + 1);
                continue;
            }
            (Some(a), Some(b)) => key(a).cmp(&key(b)),
        };
        let (is_old, is_new) = (order.is_le(), order.is_ge());
        if is_new && !is_in_order(new, j) {
            return None;
        }
        let is_same = is_old && is_new && old[i] == new[j];
        if is_old && !is_same {
            difference.gone.push(&old[i]);
        }
        if is_new && !is_same {
            difference.come.push(&new[j]);
        }
        i += usize::from(is_old);
        j += usize::from(is_new);
    }
}

/// Whether the list is sorted by name and protocol, and has no Service port twice.
pub fn is_sorted(services: &[Arc<ServicePort>]) -> bool {
    services.is_sorted_by(|a, b| key(a) < key(b))
}

fn is_in_order(services: &[Arc<ServicePort>], at: usize) -> bool {
    let around = at.saturating_sub(1)..services.len().min(at + 2);
    is_sorted(&services[around])
}

fn key(service: &ServicePort) -> (&ServicePortName, Protocol) {
    (&service.name, service.protocol)
}
