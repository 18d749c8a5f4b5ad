//! Which Secrets objects name: `credentialName` and its like.

use super::{DestinationRuleSpec, GatewaySpec, ServerTls, TrafficPolicy};

/// The names of the Secret that a `credentialName` means, and of the one beside it that may hold the
/// authorities (`GetCaCert` of istio's pilot/pkg/credentials/kube).
pub fn secret_names(credential: &str) -> [String; 2] {
    let name = credential.trim_start_matches("kubernetes://");
    [name.to_owned(), format!("{name}-cacert")]
}

/// The Secret that a server's `credentialName` means, if it is one of the gateway's own namespace: no other
/// is read, and nothing is said of it (`ParseResourceName` and `authorize` of istio's
/// pilot/pkg/model/credentials and pilot/pkg/xds).
pub fn own_secret<'c>(credential: &'c str, namespace: &str) -> Option<&'c str> {
    let name = credential.trim_start_matches("kubernetes://");
    match name.split_once('/') {
        None => Some(name),
        Some((its, name)) if its == namespace => Some(name),
        Some(_) => None,
    }
}

impl GatewaySpec {
    /// All credentials that its servers name.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        let settings = self.servers.iter().filter_map(|server| server.tls.as_ref());
        settings.flat_map(ServerTls::all_credentials)
    }
}

impl ServerTls {
    /// The credentials that are named, those of the clients' authorities too.
    fn all_credentials(&self) -> impl Iterator<Item = &str> {
        let authorities = [self.ca_cert_credential_name.as_str()];
        let authorities = authorities.into_iter().filter(|name| !name.is_empty());
        self.credentials().chain(authorities)
    }
}

impl DestinationRuleSpec {
    /// All credentials that it names.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        let of_subsets = self.subsets.iter().map(|subset| &subset.traffic_policy);
        let policies = of_subsets.chain([&self.traffic_policy]).flatten();
        policies.flat_map(TrafficPolicy::credentials)
    }
}

impl TrafficPolicy {
    fn credentials(&self) -> impl Iterator<Item = &str> {
        let ports = self.port_level_settings.iter();
        let of_ports = ports.filter_map(|settings| settings.tls.as_ref());
        let all = self.tls.iter().chain(of_ports);
        let names = all.map(|tls| tls.credential_name.as_str());
        names.filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_credentials_of_a_gateway_are_named() {
        let text = "{servers: [{tls: {mode: SIMPLE, credentialName: one, credentialNames: [not]}}, {tls: {mode: MUTUAL, credentialNames: [two, 'kubernetes://edge/three'], caCertCredentialName: four}}]}";
        let spec: GatewaySpec = serde_yaml::from_str(text).unwrap();
        let names: Vec<_> = spec.credentials().collect();
        assert_eq!(names, ["one", "two", "kubernetes://edge/three", "four"]);
    }

    #[test]
    fn no_secret_of_another_namespace_is_meant() {
        assert_eq!(own_secret("one", "edge"), Some("one"));
        assert_eq!(own_secret("kubernetes://one", "edge"), Some("one"));
        assert_eq!(own_secret("kubernetes://edge/one", "edge"), Some("one"));
        assert_eq!(own_secret("kubernetes://other/one", "edge"), None);
        assert_eq!(secret_names("one"), ["one", "one-cacert"]);
    }

    #[test]
    fn all_credentials_of_a_destination_rule_are_named() {
        let text = "{host: web, trafficPolicy: {tls: {mode: SIMPLE, credentialName: one}, portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE, credentialName: 'kubernetes://two'}}]}, subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE, credentialName: three}}}]}";
        let spec: DestinationRuleSpec = serde_yaml::from_str(text).unwrap();
        let names: Vec<_> = spec.credentials().collect();
        assert_eq!(names, ["three", "one", "kubernetes://two"]);
    }
}
