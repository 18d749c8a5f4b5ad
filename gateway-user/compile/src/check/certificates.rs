//! Certificates that servers show: whether they can be used now, and whether another Gateway shows the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use nodegate_resources::{
    Resources,
    istio::{Gateway, own_secret, words::ServerTlsMode},
    lookup::selects,
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};
use x509_parser::{pem::Pem, prelude::X509Certificate};

use crate::{GatewayIdentity, secret};

/// A server that shows the certificate of a Secret.
struct Shown<'r> {
    object: &'r Object,
    /// Place in `spec.servers`.
    server: usize,
    credential: &'r str,
}

/// Tells of certificates that no client takes at this moment, and of those that several Gateways have.
pub(super) fn report(resources: &Resources, pods: &[GatewayIdentity]) -> Vec<Diagnostic> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs().cast_signed());
    let mut found = Vec::new();
    for pod in pods {
        let shown = resources
            .gateways()
            .filter(|(_, gateway)| selects(&gateway.spec.selector, Some(&pod.labels)))
            .flat_map(|(object, gateway)| shown(object, gateway));
        for shown in shown {
            let Some(name) = own_secret(shown.credential, &pod.namespace) else {
                continue;
            };
            let held = resources.secret(&pod.namespace, name);
            let Some((chain, _)) = held.and_then(secret::identity) else {
                // The compiler tells of these.
                continue;
            };
            if let Some(trouble) = trouble(&chain, now) {
                let message = format!(
                    "the certificate of Secret {}/{name} {trouble}",
                    pod.namespace
                );
                let fix = "put a good one into the Secret".to_owned();
                found.push(shown.report(Severity::Error, message, fix));
            }
        }
    }
    found.extend(twice(resources));
    found
}

/// The servers of a Gateway at which TLS ends, with each of their credentials.
fn shown<'r>(object: &'r Object, gateway: &'r Gateway) -> impl Iterator<Item = Shown<'r>> {
    let servers = gateway.spec.servers.iter().enumerate();
    let servers = servers.filter_map(|(index, server)| Some((index, server.tls.as_ref()?)));
    let ending = servers.filter(|(_, tls)| tls.mode().is_ok_and(ServerTlsMode::ends_here));
    ending.flat_map(move |(server, tls)| {
        tls.credentials().map(move |credential| Shown {
            object,
            server,
            credential,
        })
    })
}

/// Why nobody takes the first certificate of a text; `now` in seconds since 1970.
fn trouble(text: &[u8], now: i64) -> Option<String> {
    let mut blocks = Pem::iter_from_buffer(text).flatten();
    let Some(block) = blocks.find(|block| block.label == "CERTIFICATE") else {
        return Some("is none in PEM".to_owned());
    };
    let certificate: X509Certificate<'_> = match block.parse_x509() {
        Ok(certificate) => certificate,
        Err(_) => return Some("can't be read".to_owned()),
    };
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Some(format!("has expired: {}", validity.not_after));
    }
    if now < validity.not_before.timestamp() {
        return Some(format!("is not valid before {}", validity.not_before));
    }
    None
}

/// Tells of Gateways of the same pods that show the same certificate. With a wildcard in it, browsers take one
/// connection for the hosts of both.
fn twice(resources: &Resources) -> Vec<Diagnostic> {
    type Place<'r> = (&'r BTreeMap<String, String>, &'r str);
    let mut holders: BTreeMap<Place<'_>, Vec<Shown<'_>>> = BTreeMap::new();
    for (object, gateway) in resources.gateways() {
        for shown in shown(object, gateway) {
            let place = (&gateway.spec.selector, shown.credential);
            holders.entry(place).or_default().push(shown);
        }
    }
    let mut found = Vec::new();
    for ((_, credential), holders) in holders {
        let names: BTreeSet<_> = holders.iter().map(|shown| &shown.object.key).collect();
        if names.len() < 2 {
            continue;
        }
        for shown in &holders {
            let others: Vec<_> = names
                .iter()
                .filter(|name| **name != &shown.object.key)
                .map(ToString::to_string)
                .collect();
            let message = format!(
                "{} shows the certificate of Secret {credential}, too: a browser that takes one connection for the hosts of both is told to make another one (421)",
                others.join(", ")
            );
            let fix = "one Gateway for all hosts of a certificate saves that".to_owned();
            found.push(shown.report(Severity::Info, message, fix));
        }
    }
    found
}

// === impl Shown ===

impl Shown<'_> {
    fn report(&self, severity: Severity, message: String, fix: String) -> Diagnostic {
        let path = format!("spec.servers[{}].tls.credentialName", self.server);
        self.object.report(severity, path, message, fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_certificate_is_told() {
        assert_eq!(trouble(b"hush", 0).as_deref(), Some("is none in PEM"));
        let block = b"-----BEGIN CERTIFICATE-----\naHVzaA==\n-----END CERTIFICATE-----\n";
        assert_eq!(trouble(block, 0).as_deref(), Some("can't be read"));
    }

    #[test]
    fn certificates_have_their_time() {
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let year = 365 * 24 * 3600;
        let at = |years: i64| trouble(pem.as_bytes(), years * year);
        assert_eq!(at(2020 - 1970 + 1), None);
        assert!(at(2022 - 1970).unwrap().starts_with("has expired"));
        assert!(at(2019 - 1970).unwrap().starts_with("is not valid before"));
    }
}
