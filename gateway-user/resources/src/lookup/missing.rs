//! Why a destination leads nowhere: what it names is not there.

use nodegate_values::spelling::nearest;

use super::{Destinations, SERVICES, full_host, is_host_within, service_host};
use crate::{
    istio::{Destination, ServiceEntry},
    validate::is_good_subset,
};

/// Why a destination leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDestination {
    /// Below `destination`: `host`, `port.number` or `subset`.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

// === impl Destinations ===

impl Destinations<'_> {
    /// Why a destination in a VirtualService of `namespace` leads nowhere; none if it leads somewhere.
    pub fn miss(&self, destination: &Destination, namespace: &str) -> Option<NoDestination> {
        let named = full_host(&destination.host, namespace);
        let host = self.meant(named.clone());
        if let Some((_, entry)) = self.entries.get(&host).and_then(|entries| entries.first())
            && self.service(&host).is_none()
        {
            return self.miss_in_entry(destination, &host, entry);
        }
        let Some(service) = self.service(&host) else {
            if host != named {
                return Some(NoDestination {
                    field: "host",
                    message: format!(
                        "`{named}` is another name for `{host}`, which neither a Service nor a ServiceEntry has"
                    ),
                    fix: format!("create a ServiceEntry for `{host}`"),
                });
            }
            return Some(self.no_host(&destination.host, &host, namespace));
        };
        let ports: Vec<i64> = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .map(|port| port.port.into())
            .collect();
        no_port(destination, "Service", &host, &ports)
            .or_else(|| self.no_subset(&destination.subset, &host))
    }

    fn miss_in_entry(
        &self,
        destination: &Destination,
        host: &str,
        entry: &ServiceEntry,
    ) -> Option<NoDestination> {
        let ports: Vec<_> = entry.spec.read_ports().map(|port| port.number).collect();
        no_port(destination, "ServiceEntry", host, &ports)
            .or_else(|| self.no_subset(&destination.subset, host))
    }

    fn no_host(&self, host: &str, full: &str, namespace: &str) -> NoDestination {
        let short = !host.contains('.');
        let own = self
            .services
            .keys()
            .filter(|(its, _)| *its == namespace)
            .map(|(_, name)| *name);
        let near = if short { nearest(host, own) } else { None };
        let near = near.or_else(|| {
            // `name.namespace` is not completed by Istio, and a short name only in its own namespace.
            let wanted = if short { host } else { host.split('.').next()? };
            let everywhere = self
                .services
                .keys()
                .map(|(its, name)| service_host(its, name));
            nearest(&format!("{host}{SERVICES}"), everywhere.clone())
                .or_else(|| nearest(full, everywhere.clone()))
                .or_else(|| {
                    everywhere
                        .into_iter()
                        .find(|host| host.split('.').next() == Some(wanted))
                })
        });
        NoDestination {
            field: "host",
            message: format!("no Service has the host `{full}`"),
            fix: match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "create the Service, or name one that there is".into(),
            },
        }
    }

    fn no_subset(&self, subset: &str, host: &str) -> Option<NoDestination> {
        if subset.is_empty() {
            return None;
        }
        let mut names = Vec::new();
        for (pattern, rules) in self.rules.values().flatten() {
            for (object, rule) in rules.iter().filter(|_| is_host_within(host, pattern)) {
                let subsets = rule.spec.subsets.iter();
                let good = subsets.filter(|subset| is_good_subset(object, subset));
                names.extend(good.map(|subset| subset.name.as_str()));
            }
        }
        if names.contains(&subset) {
            return None;
        }
        Some(NoDestination {
            field: "subset",
            message: format!("no DestinationRule for `{host}` has a subset `{subset}`"),
            fix: if names.is_empty() {
                format!("create a DestinationRule for `{host}` with this subset")
            } else {
                format!("its subsets are {}", names.join(", "))
            },
        })
    }
}

fn no_port(
    destination: &Destination,
    kind: &str,
    host: &str,
    ports: &[i64],
) -> Option<NoDestination> {
    let port = destination.port.as_ref()?;
    if ports.contains(&port.number) {
        return None;
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    Some(NoDestination {
        field: "port.number",
        message: format!("the {kind} `{host}` has no port {}", port.number),
        fix: format!("its ports are {}", ports.join(", ")),
    })
}
