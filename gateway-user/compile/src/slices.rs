//! Which EndpointSlices a Service has, and which a Pod is in.

use std::{borrow::Borrow, collections::HashMap, sync::Arc};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use nodegate_resources::Resources;

use crate::endpoints::{pod_of, service_of};

/// Namespace and name.
pub(crate) type Named = (String, String);

/// The EndpointSlices that belong to Services.
#[derive(Debug, Default)]
pub(crate) struct SliceIndex {
    /// The names of a Service's slices, which are in its namespace.
    of_service: HashMap<Named, Few<String>>,
    /// The slices that a Pod is in.
    with_pod: HashMap<Named, Few<Arc<Named>>>,
}

/// A sorted set that has one or two members most of the time, of which there are as many as pods.
type Few<T> = Vec<T>;

// === impl SliceIndex ===

impl SliceIndex {
    pub(crate) fn of(resources: &Resources) -> Self {
        let mut index = Self::default();
        for (object, slice) in resources.endpoint_slices() {
            index.put(&object.key.namespace, &object.key.name, slice);
        }
        index
    }

    /// Takes a slice in; gives the Service that it belongs to, if it counts at all.
    pub(crate) fn put(
        &mut self,
        namespace: &str,
        name: &str,
        slice: &EndpointSlice,
    ) -> Option<Named> {
        let service = (namespace.to_owned(), service_of(slice)?.to_owned());
        let its = self.of_service.entry(service.clone()).or_default();
        insert(its, name.to_owned());
        let own = Arc::new((namespace.to_owned(), name.to_owned()));
        for (its, pod) in slice
            .endpoints
            .iter()
            .filter_map(|one| pod_of(one, namespace))
        {
            let slices = self.with_pod.entry((its.to_owned(), pod.to_owned()));
            insert(slices.or_default(), Arc::clone(&own));
        }
        Some(service)
    }

    /// Takes a slice out; gives the Service that it belonged to.
    pub(crate) fn take(
        &mut self,
        namespace: &str,
        name: &str,
        slice: &EndpointSlice,
    ) -> Option<Named> {
        let service = (namespace.to_owned(), service_of(slice)?.to_owned());
        remove(&mut self.of_service, &service, name);
        let own = (namespace.to_owned(), name.to_owned());
        for (its, pod) in slice
            .endpoints
            .iter()
            .filter_map(|one| pod_of(one, namespace))
        {
            remove(&mut self.with_pod, &(its.to_owned(), pod.to_owned()), &own);
        }
        Some(service)
    }

    /// The names of a Service's slices, in order.
    pub(crate) fn of_service(&self, service: &Named) -> impl Iterator<Item = &str> {
        let names = self.of_service.get(service).into_iter().flatten();
        names.map(String::as_str)
    }

    /// Namespaces and names of the slices that a Pod is in.
    pub(crate) fn with_pod(&self, pod: &Named) -> impl Iterator<Item = &Named> {
        let slices = self.with_pod.get(pod).into_iter().flatten();
        slices.map(|slice| &**slice)
    }
}

fn insert<T: Ord>(set: &mut Few<T>, one: T) {
    if let Err(place) = set.binary_search(&one) {
        set.insert(place, one);
    }
}

/// Takes one of a key's out, and the key with the last.
fn remove<T, Q>(sets: &mut HashMap<Named, Few<T>>, key: &Named, one: &Q)
where
    T: Borrow<Q> + Ord,
    Q: Ord + ?Sized,
{
    if let Some(set) = sets.get_mut(key) {
        set.retain(|member| member.borrow() != one);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
