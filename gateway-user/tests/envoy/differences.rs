//! In what this proxy differs from Envoy and means to.

/// A difference that is meant. Each is listed in `docs/differences.md`, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    /// As scripts name it: `differs:NAME`.
    pub(crate) name: &'static str,
    /// What may differ; all else must be the same.
    pub(crate) aspects: &'static [&'static str],
    /// Why.
    pub(crate) reason: &'static str,
}

/// All of them. One that no script shows any more fails the tests.
pub(crate) const DIFFERENCES: &[Difference] = &[];

/// The one with a name.
pub(crate) fn named(name: &str) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| difference.name == name)
}
