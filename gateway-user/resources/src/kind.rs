//! The kinds of objects that nodegate reads.

use nodegate_values::{diagnostic::ObjectKey, spelling::nearest};

/// A kind that nodegate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// `v1` Service
    Service,
    /// `v1` Pod
    Pod,
    /// `v1` Node
    Node,
    /// `v1` Namespace
    Namespace,
    /// `v1` Secret
    Secret,
    /// `discovery.k8s.io` EndpointSlice
    EndpointSlice,
    /// `networking.istio.io` Gateway
    Gateway,
    /// `networking.istio.io` VirtualService
    VirtualService,
    /// `networking.istio.io` DestinationRule
    DestinationRule,
    /// `networking.istio.io` ServiceEntry
    ServiceEntry,
    /// `networking.istio.io` WorkloadEntry
    WorkloadEntry,
}

// === impl ResourceKind ===

impl ResourceKind {
    const ALL: [(&'static str, &'static str, Self); 11] = [
        ("", "Service", Self::Service),
        ("", "Pod", Self::Pod),
        ("", "Node", Self::Node),
        ("", "Namespace", Self::Namespace),
        ("", "Secret", Self::Secret),
        ("discovery.k8s.io", "EndpointSlice", Self::EndpointSlice),
        ("networking.istio.io", "Gateway", Self::Gateway),
        (
            "networking.istio.io",
            "VirtualService",
            Self::VirtualService,
        ),
        (
            "networking.istio.io",
            "DestinationRule",
            Self::DestinationRule,
        ),
        ("networking.istio.io", "ServiceEntry", Self::ServiceEntry),
        ("networking.istio.io", "WorkloadEntry", Self::WorkloadEntry),
    ];

    pub(crate) fn of(group: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(known_group, known, _)| (*known_group, *known) == (group, kind))
            .map(|(_, _, kind)| kind)
    }

    /// The kind that was probably meant; none for kinds that are nodegate's no business.
    pub(crate) fn misspelled(group: &str, kind: &str) -> Option<String> {
        let kinds = Self::ALL
            .into_iter()
            .filter(|(known, ..)| *known == group)
            .map(|(_, kind, _)| kind);
        nearest(kind, kinds)
    }

    /// The group that was probably meant. A Gateway or Service of another API is another
    /// thing.
    pub(crate) fn misplaced(group: &str, kind: &str) -> Option<&'static str> {
        let (right, ..) = Self::ALL.into_iter().find(|(_, known, _)| *known == kind)?;
        let others_have_it = matches!(kind, "Gateway" | "Service") && group.contains('.');
        (!others_have_it || nearest(group, [right]).is_some()).then_some(right)
    }

    pub(crate) const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Service
            | Self::Pod
            | Self::Node
            | Self::Namespace
            | Self::Secret
            | Self::EndpointSlice => &["v1"],
            Self::Gateway
            | Self::VirtualService
            | Self::DestinationRule
            | Self::ServiceEntry
            | Self::WorkloadEntry => &["v1", "v1beta1", "v1alpha3"],
        }
    }

    /// Whether its objects are in no namespace.
    pub(crate) const fn is_cluster_wide(self) -> bool {
        matches!(self, Self::Node | Self::Namespace)
    }

    /// Names an object of this kind.
    pub fn key(self, namespace: &str, name: &str) -> ObjectKey {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|(.., kind)| *kind == self);
        let (group, kind, _) = known.unwrap_or(("", "", self));
        ObjectKey {
            kind: kind.into(),
            group: group.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}
