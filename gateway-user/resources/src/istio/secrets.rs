//! Which Secrets objects name.

use super::{DestinationRuleSpec, TrafficPolicy};

/// The names of the Secret that a `credentialName` means, and of the one beside it that may hold the
/// authorities (`GetCaCert` of istio's pilot/pkg/credentials/kube).
pub fn secret_names(credential: &str) -> [String; 2] {
    let name = credential.trim_start_matches("kubernetes://");
    [name.to_owned(), format!("{name}-cacert")]
}

impl DestinationRuleSpec {
    /// The names of all Secrets that may be meant. They are in the gateway's namespace.
    pub fn secret_names(&self) -> impl Iterator<Item = String> {
        let of_subsets = self.subsets.iter().map(|subset| &subset.traffic_policy);
        let policies = of_subsets.chain([&self.traffic_policy]).flatten();
        let credentials = policies.flat_map(TrafficPolicy::credentials);
        credentials.flat_map(secret_names)
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
    fn all_secrets_of_a_destination_rule_are_named() {
        let text = "{host: web, trafficPolicy: {tls: {mode: SIMPLE, credentialName: one}, portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE, credentialName: 'kubernetes://two'}}]}, subsets: [{name: v1, trafficPolicy: {tls: {mode: SIMPLE, credentialName: three}}}]}";
        let spec: DestinationRuleSpec = serde_yaml::from_str(text).unwrap();
        let names: Vec<_> = spec.secret_names().collect();
        let expected = ["three", "one", "two"];
        let expected = expected.map(|name| [name.to_owned(), format!("{name}-cacert")]);
        assert_eq!(names, expected.concat());
    }
}
