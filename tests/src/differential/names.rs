//! What generated objects are called.

/// Stands in a case for its name, so that the same case can be made under another one.
pub(super) const PLACEHOLDER: &str = "CASE";
/// The domain that all hosts are in.
pub(super) const DOMAIN: &str = "differential.test";
/// The label that tells generated objects from those that stay.
pub(super) const LABEL: &str = "differential";
