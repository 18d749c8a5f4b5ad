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
    /// `apps` Deployment
    Deployment,
    /// `apps` StatefulSet
    StatefulSet,
    /// `apps` DaemonSet
    DaemonSet,
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
    /// `security.istio.io` AuthorizationPolicy
    AuthorizationPolicy,
    /// `security.istio.io` RequestAuthentication
    RequestAuthentication,
}

// === impl ResourceKind ===

impl ResourceKind {
    const ALL: [(&'static str, &'static str, Self); 16] = [
        ("", "Service", Self::Service),
        ("", "Pod", Self::Pod),
        ("", "Node", Self::Node),
        ("", "Namespace", Self::Namespace),
        ("", "Secret", Self::Secret),
        ("discovery.k8s.io", "EndpointSlice", Self::EndpointSlice),
        ("apps", "Deployment", Self::Deployment),
        ("apps", "StatefulSet", Self::StatefulSet),
        ("apps", "DaemonSet", Self::DaemonSet),
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
        (
            "security.istio.io",
            "AuthorizationPolicy",
            Self::AuthorizationPolicy,
        ),
        (
            "security.istio.io",
            "RequestAuthentication",
            Self::RequestAuthentication,
        ),
    ];

    /// The kind with this name; none of one that nodegate does not read.
    pub fn of(group: &str, kind: &str) -> Option<Self> {
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
            | Self::EndpointSlice
            | Self::Deployment
            | Self::StatefulSet
            | Self::DaemonSet => &["v1"],
            Self::Gateway
            | Self::VirtualService
            | Self::DestinationRule
            | Self::ServiceEntry
            | Self::WorkloadEntry => &["v1", "v1beta1", "v1alpha3"],
            Self::AuthorizationPolicy | Self::RequestAuthentication => &["v1", "v1beta1"],
        }
    }

    /// Whether its objects are in no namespace.
    pub(crate) const fn is_cluster_wide(self) -> bool {
        matches!(self, Self::Node | Self::Namespace)
    }

    /// Whether it is defined by a custom resource definition.
    pub(crate) fn is_custom(self) -> bool {
        self.group().ends_with(".istio.io")
    }

    /// Whether its objects make pods.
    pub(crate) const fn makes_pods(self) -> bool {
        matches!(self, Self::Deployment | Self::StatefulSet | Self::DaemonSet)
    }

    fn words(self) -> (&'static str, &'static str) {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|(.., kind)| *kind == self);
        known.map_or(("", ""), |(group, kind, _)| (group, kind))
    }

    /// The group of the API that has it; empty for Kubernetes' core.
    pub fn group(self) -> &'static str {
        self.words().0
    }

    /// Its name in the API server's paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Pod => "pods",
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::Secret => "secrets",
            Self::EndpointSlice => "endpointslices",
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::DaemonSet => "daemonsets",
            Self::Gateway => "gateways",
            Self::VirtualService => "virtualservices",
            Self::DestinationRule => "destinationrules",
            Self::ServiceEntry => "serviceentries",
            Self::WorkloadEntry => "workloadentries",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::RequestAuthentication => "requestauthentications",
        }
    }

    /// Names an object of this kind.
    pub fn key(self, namespace: &str, name: &str) -> ObjectKey {
        let (group, kind) = self.words();
        ObjectKey {
            kind: kind.into(),
            group: group.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}
