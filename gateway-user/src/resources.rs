//! What users write: Kubernetes and Istio objects, with the place in the manifest that each came
//! from.

pub mod diagnostic;
