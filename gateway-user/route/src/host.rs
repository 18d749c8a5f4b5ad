//! Host names: what is compared of a `Host` header, and the search for the virtual host.

use std::borrow::Cow;

use nodegate_model::gateway::HttpRoutes;
use rustc_hash::FxHashMap;

/// The host as it is searched: lower case, without the port. IPv6 literals keep their brackets.
///
/// Allocates only if there is an upper-case letter.
// Envoy: Http::HeaderUtility::getPortStart and RouteMatcher::findVirtualHost, with
// ignore_port_in_host_matching, which Istio sets on every gateway route.
pub(super) fn normalize(host: &str) -> Cow<'_, str> {
    let host = match host.rfind(':') {
        // A colon inside brackets belongs to the address.
        Some(colon) if host.rfind(']').is_none_or(|bracket| bracket < colon) => &host[..colon],
        _ => host,
    };
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Domains to virtual hosts (by index). The keys come from the configuration and not from
/// clients, so the hash need not resist keys that are chosen to collide.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: FxHashMap<Box<str>, usize>,
    /// Suffixes without their `*`, by length; the longest length first.
    suffixes: Vec<(usize, FxHashMap<Box<str>, usize>)>,
    any: Option<usize>,
}

/// Whether a virtual host that has no other domain is the one for requests with this `Host`.
pub fn is_in_domain(host: &str, domain: &str) -> bool {
    let mut only = Hosts::default();
    only.insert(domain, 0);
    only.find(&normalize(host)).is_some()
}

impl Hosts {
    /// The domains of all virtual hosts.
    pub(super) fn of(routes: &HttpRoutes) -> Self {
        let mut hosts = Self::default();
        for (index, virtual_host) in routes.virtual_hosts.iter().enumerate() {
            for domain in &virtual_host.domains {
                hosts.insert(domain, index);
            }
        }
        hosts
    }

    /// Adds a domain: an exact name, `*suffix`, or `*`. The first virtual host to claim a domain
    /// keeps it.
    pub(super) fn insert(&mut self, domain: &str, virtual_host: usize) {
        let domain = domain.to_ascii_lowercase();
        match domain.strip_prefix('*') {
            Some("") => {
                self.any.get_or_insert(virtual_host);
            }
            Some(suffix) => {
                let at = self
                    .suffixes
                    .binary_search_by(|(length, _)| suffix.len().cmp(length))
                    .unwrap_or_else(|at| {
                        self.suffixes
                            .insert(at, (suffix.len(), FxHashMap::default()));
                        at
                    });
                self.suffixes[at]
                    .1
                    .entry(suffix.into())
                    .or_insert(virtual_host);
            }
            None => {
                self.exact
                    .entry(domain.into_boxed_str())
                    .or_insert(virtual_host);
            }
        }
    }

    /// Finds the virtual host of a normalized host: exact name, else longest suffix, else `*`.
    // Envoy: RouteMatcher::findVirtualHost, findWildcardVirtualHost. A suffix must leave at least
    // one character for the `*`: `*.foo.com` is neither `foo.com` nor `.foo.com`.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        if let Some(&found) = self.exact.get(host) {
            return Some(found);
        }
        for (length, suffixes) in &self.suffixes {
            let Some(start) = host.len().checked_sub(*length).filter(|&start| start > 0) else {
                continue;
            };
            // `get`: the byte may be inside of a character, and then it is no suffix of ours.
            if let Some(&found) = host.get(start..).and_then(|suffix| suffixes.get(suffix)) {
                return Some(found);
            }
        }
        self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_and_literals_stay() {
        for (given, wanted) in [
            ("simple.baihl.io", "simple.baihl.io"),
            ("simple.baihl.io:31373", "simple.baihl.io"),
            ("Simple.BAIHL.io:80", "simple.baihl.io"),
            ("simple.baihl.io:", "simple.baihl.io"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[FD00::A]:80", "[fd00::a]"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(normalize(given), wanted, "{given:?}");
        }
        assert!(matches!(normalize("a.example:80"), Cow::Borrowed(_)));
    }

    #[test]
    fn exact_then_longest_suffix_then_any() {
        let mut hosts = Hosts::default();
        for (index, domain) in ["*", "*.foo.com", "foo.com", "*.bar.foo.com", "*-a.foo.com"]
            .into_iter()
            .enumerate()
        {
            hosts.insert(domain, index);
        }
        for (host, wanted) in [
            ("foo.com", 2),
            ("x.foo.com", 1),
            ("x.y.foo.com", 1),
            ("bar.foo.com", 1),
            ("x.bar.foo.com", 3),
            ("x-a.foo.com", 4),
            // Nothing before the suffix.
            (".foo.com", 0),
            ("-a.foo.com", 1),
            ("foo.com.", 0),
            ("other", 0),
            ("", 0),
            ("ü.foo.com", 1),
            ("üoo.com", 0),
        ] {
            assert_eq!(hosts.find(host), Some(wanted), "{host:?}");
        }
    }

    #[test]
    fn without_a_wildcard_others_are_missed() {
        let mut hosts = Hosts::default();
        hosts.insert("*.foo.com", 0);
        assert_eq!(hosts.find("foo.com"), None);
        assert_eq!(hosts.find(".foo.com"), None);
        assert_eq!(hosts.find("a.foo.com"), Some(0));
    }

    #[test]
    fn first_claim_of_a_domain_stands() {
        let mut hosts = Hosts::default();
        hosts.insert("A.example", 3);
        hosts.insert("a.example", 4);
        assert_eq!(hosts.find("a.example"), Some(3));
    }
}
