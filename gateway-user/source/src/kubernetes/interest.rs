//! Which kinds a role watches, and which objects of them.
//!
//! A role that does not need a kind does not ask for it, so that its ServiceAccount needs no right to it:
//! the redirector never sees a Secret.

use std::fmt;

use nodegate_resources::ResourceKind;
use serde::{Deserialize, Serialize};

/// For what objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// To redirect connections; none: they are not redirected here.
    pub redirector: Option<RedirectorInterest>,
    /// Whether requests are routed, or routes judged.
    pub routes: bool,
    /// The namespace whose Secrets are read if an object names them: that of the gateway's pod.
    pub secrets: Option<String>,
}

/// What a redirector wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectorInterest {
    /// The name of its node.
    pub node: String,
    /// Whether it has to tell Services in front of gateway pods from others.
    pub gateways: bool,
    /// Whether TCP routes of gateways are followed: what they are made of is watched as soon as a Gateway has a
    /// server for them.
    pub tcp_routes: bool,
}

/// A kind that is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) kind: WantedKind,
    pub(super) objects: Objects,
}

/// A kind, in the order in which people look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum WantedKind {
    Service,
    EndpointSlice,
    Node,
    Pod,
    Secret,
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    AuthorizationPolicy,
    RequestAuthentication,
}

/// Which objects of a kind are watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Objects {
    /// All, whole.
    All,
    /// All, of each its metadata alone.
    Metadata,
    /// One, in a namespace or, with an empty one, in none.
    One { namespace: String, name: String },
}

// === impl Interest ===

impl Interest {
    /// What is watched whatever the objects say; Secrets come as objects name them.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        use WantedKind as Kind;
        let serves = self.routes;
        let redirector = self.redirector.as_ref();
        let tells_gateways = redirector.is_some_and(|redirector| redirector.gateways);
        let node = match redirector {
            // The zones of all nodes with a gateway, beside the addresses and networks of this one.
            Some(_) if serves => Objects::All,
            Some(redirector) => Objects::One {
                namespace: String::new(),
                name: redirector.node.clone(),
            },
            None => Objects::Metadata,
        };
        let all = [
            (true, Kind::Service, Objects::All),
            (true, Kind::EndpointSlice, Objects::All),
            (true, Kind::Node, node),
            (serves || tells_gateways, Kind::Pod, Objects::Metadata),
            // By them a redirector knows the Services that must not be left out when its maps are full.
            (true, Kind::Gateway, Objects::All),
            (serves, Kind::VirtualService, Objects::All),
            (serves, Kind::DestinationRule, Objects::All),
            (serves, Kind::ServiceEntry, Objects::All),
            (serves, Kind::WorkloadEntry, Objects::All),
            (serves, Kind::AuthorizationPolicy, Objects::All),
            (serves, Kind::RequestAuthentication, Objects::All),
        ];
        let wanted = all.into_iter().filter(|(is_wanted, ..)| *is_wanted);
        wanted
            .map(|(_, kind, objects)| Wanted { kind, objects })
            .collect()
    }

    /// What is watched besides where a Gateway has a server of plain TCP.
    pub(super) fn wanted_of_tcp_routes(&self) -> Vec<Wanted> {
        use WantedKind as Kind;
        let follows = self.redirector.as_ref().is_some_and(|it| it.tcp_routes);
        if !follows || self.routes {
            return Vec::new();
        }
        let all = [
            (Kind::Pod, Objects::Metadata),
            (Kind::VirtualService, Objects::All),
            (Kind::DestinationRule, Objects::All),
            (Kind::ServiceEntry, Objects::All),
            (Kind::WorkloadEntry, Objects::All),
            (Kind::AuthorizationPolicy, Objects::All),
            (Kind::RequestAuthentication, Objects::All),
        ];
        all.map(|(kind, objects)| Wanted { kind, objects }).into()
    }
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn secret(namespace: &str, name: &str) -> Self {
        Self {
            kind: WantedKind::Secret,
            objects: Objects::One {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
        }
    }

    /// What a Role or ClusterRole must allow, as a rule of it.
    pub(super) fn rule(&self) -> String {
        let (group, plural) = (self.kind.group(), self.kind.plural());
        let names = match &self.objects {
            Objects::One { name, .. } => format!(", resourceNames: [{name}]"),
            Objects::All | Objects::Metadata => String::new(),
        };
        format!("{{apiGroups: [{group:?}], resources: [{plural}]{names}, verbs: [list, watch]}}")
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = self.kind.plural();
        match &self.objects {
            Objects::All | Objects::Metadata => f.write_str(plural),
            Objects::One { namespace, name } if namespace.is_empty() => {
                write!(f, "{plural} {name}")
            }
            Objects::One { namespace, name } => write!(f, "{plural} {namespace}/{name}"),
        }
    }
}

// === impl WantedKind ===

impl WantedKind {
    pub(super) const ALL: [Self; 12] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::Pod,
        Self::Secret,
        Self::Gateway,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
    ];

    /// Whether its objects say what else is to be watched.
    pub(super) fn mentions_others(self) -> bool {
        matches!(self, Self::Gateway | Self::DestinationRule)
    }

    /// The kind of this name, in singular or plural or as kubectl shortens it, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let singular = |kind: &Self| format!("{kind:?}").to_ascii_lowercase();
        let mut all = Self::ALL.into_iter();
        all.find(|kind| {
            kind.plural() == name || singular(kind) == name || kind.short() == Some(&*name)
        })
    }

    const fn short(self) -> Option<&'static str> {
        match self {
            Self::Service => Some("svc"),
            Self::Node => Some("no"),
            Self::Pod => Some("po"),
            Self::Gateway => Some("gw"),
            Self::VirtualService => Some("vs"),
            Self::DestinationRule => Some("dr"),
            Self::ServiceEntry => Some("se"),
            Self::WorkloadEntry => Some("we"),
            Self::AuthorizationPolicy => Some("ap"),
            Self::RequestAuthentication => Some("ra"),
            Self::EndpointSlice | Self::Secret => None,
        }
    }

    pub(super) const fn resource(self) -> ResourceKind {
        match self {
            Self::Service => ResourceKind::Service,
            Self::EndpointSlice => ResourceKind::EndpointSlice,
            Self::Node => ResourceKind::Node,
            Self::Pod => ResourceKind::Pod,
            Self::Secret => ResourceKind::Secret,
            Self::Gateway => ResourceKind::Gateway,
            Self::VirtualService => ResourceKind::VirtualService,
            Self::DestinationRule => ResourceKind::DestinationRule,
            Self::ServiceEntry => ResourceKind::ServiceEntry,
            Self::WorkloadEntry => ResourceKind::WorkloadEntry,
            Self::AuthorizationPolicy => ResourceKind::AuthorizationPolicy,
            Self::RequestAuthentication => ResourceKind::RequestAuthentication,
        }
    }

    pub(super) fn group(self) -> &'static str {
        self.resource().group()
    }

    pub(super) const fn plural(self) -> &'static str {
        self.resource().plural()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plurals(interest: &Interest) -> Vec<String> {
        interest.wanted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_redirector_wants_little_and_no_secrets() {
        let node = "node1".to_owned();
        let redirector = |gateways| Interest {
            redirector: Some(RedirectorInterest {
                node: node.clone(),
                gateways,
                tcp_routes: false,
            }),
            routes: false,
            secrets: None,
        };
        let least = ["services", "endpointslices", "nodes node1"];
        let less = plurals(&redirector(false));
        assert_eq!(less, [&least[..], &["gateways"]].concat());
        let more = plurals(&redirector(true));
        assert_eq!(more, [&least[..], &["pods", "gateways"]].concat());
    }

    #[test]
    fn a_redirector_that_follows_tcp_routes_wants_what_they_are_made_of() {
        let interest = |tcp_routes, routes| Interest {
            redirector: Some(RedirectorInterest {
                node: "node1".to_owned(),
                gateways: false,
                tcp_routes,
            }),
            routes,
            secrets: None,
        };
        let more = interest(true, false).wanted_of_tcp_routes();
        let kinds: Vec<_> = more.iter().map(|wanted| wanted.kind).collect();
        assert!(kinds.contains(&WantedKind::Pod) && kinds.contains(&WantedKind::VirtualService));
        assert!(!kinds.contains(&WantedKind::Secret));
        assert_eq!(interest(false, false).wanted_of_tcp_routes(), []);
        // Who serves has them anyway.
        assert_eq!(interest(true, true).wanted_of_tcp_routes(), []);
    }

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        for name in ["VirtualService", "virtualservices", "vs"] {
            assert_eq!(WantedKind::named(name), Some(WantedKind::VirtualService));
        }
        assert_eq!(WantedKind::named("deployment"), None);
    }

    #[test]
    fn a_rule_says_what_is_to_be_allowed() {
        assert_eq!(
            Wanted::secret("istio-system", "cert").rule(),
            r#"{apiGroups: [""], resources: [secrets], resourceNames: [cert], verbs: [list, watch]}"#
        );
    }
}
