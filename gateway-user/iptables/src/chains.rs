//! Names of kube-proxy's per-Service chains.
//!
//! A name is a prefix and the first 16 characters of the base32 of a SHA-256. What is hashed, and
//! in which order, is fixed by `portProtoHash` and `servicePortEndpointChainName` in Kubernetes'
//! pkg/proxy/iptables/proxier.go.

use std::net::SocketAddr;

use data_encoding::BASE32;
use nodegate_model::service::{Protocol, ServicePortName};
use sha2::{Digest as _, Sha256};

/// `KUBE-SVC-…`: the chain that picks one of the Service port's endpoints.
pub fn service(name: &ServicePortName, protocol: Protocol) -> String {
    chain("KUBE-SVC-", &[&name.to_string(), protocol.lowercase()])
}

/// `KUBE-EXT-…`: the chain for traffic to node ports, external IPs and load balancer IPs.
pub fn external(name: &ServicePortName, protocol: Protocol) -> String {
    chain("KUBE-EXT-", &[&name.to_string(), protocol.lowercase()])
}

/// `KUBE-SVL-…`: the chain that picks one of the Service port's endpoints on this node.
pub fn service_local(name: &ServicePortName, protocol: Protocol) -> String {
    chain("KUBE-SVL-", &[&name.to_string(), protocol.lowercase()])
}

/// `KUBE-FW-…`: the chain that lets in who may use the load balancer IPs.
pub fn firewall(name: &ServicePortName, protocol: Protocol) -> String {
    chain("KUBE-FW-", &[&name.to_string(), protocol.lowercase()])
}

/// `KUBE-SEP-…`: the chain that translates to one endpoint ("service endpoint").
pub fn endpoint(name: &ServicePortName, protocol: Protocol, endpoint: SocketAddr) -> String {
    chain(
        "KUBE-SEP-",
        &[
            &name.to_string(),
            protocol.lowercase(),
            &endpoint.to_string(),
        ],
    )
}

/// What the chains of a Service port begin with. `KUBE-XLB-` is what KUBE-EXT and KUBE-SVL were together
/// up to kube-proxy 1.23.
pub const PREFIXES: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
    "KUBE-XLB-",
];

/// Whether this is a chain of one Service port.
pub fn is_of_service(chain: &str) -> bool {
    PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// The 16 characters that are the same in all chains of a Service port, but for those of its
/// endpoints.
pub fn hash(chain: &str) -> Option<&str> {
    PREFIXES
        .iter()
        .find_map(|prefix| chain.strip_prefix(prefix))
}

fn chain(prefix: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let mut name = BASE32.encode(&hash.finalize());
    name.truncate(16);
    name.insert_str(0, prefix);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, name: &str, port: &str) -> ServicePortName {
        ServicePortName {
            namespace: namespace.into(),
            name: name.into(),
            port: port.into(),
        }
    }

    /// The chain that every Istio installation has.
    #[test]
    fn the_ingress_gateways_chain() {
        let http2 = name("istio-system", "istio-ingressgateway", "http2");
        assert_eq!(service(&http2, Protocol::Tcp), "KUBE-SVC-G6D3V5KS3PXPUEDS");
        assert_eq!(external(&http2, Protocol::Tcp), "KUBE-EXT-G6D3V5KS3PXPUEDS");
        assert_eq!(
            service_local(&http2, Protocol::Tcp),
            "KUBE-SVL-G6D3V5KS3PXPUEDS"
        );
        assert_eq!(firewall(&http2, Protocol::Tcp), "KUBE-FW-G6D3V5KS3PXPUEDS");
        let pod = "10.10.1.4:8080".parse().unwrap();
        assert_eq!(
            endpoint(&http2, Protocol::Tcp, pod),
            "KUBE-SEP-LAV34IONK7IOT5SV"
        );
    }

    /// Chains that every cluster has: they stand in many a bug report.
    #[test]
    fn the_chains_of_every_cluster() {
        let api = name("default", "kubernetes", "https");
        assert_eq!(service(&api, Protocol::Tcp), "KUBE-SVC-NPX46M4PTMTKRN6Y");
        let dns = name("kube-system", "kube-dns", "dns");
        assert_eq!(service(&dns, Protocol::Udp), "KUBE-SVC-TCOU7JCQXEZGVUNU");
        let dns = name("kube-system", "kube-dns", "dns-tcp");
        assert_eq!(service(&dns, Protocol::Tcp), "KUBE-SVC-ERIFXISQEP7F7OF4");
    }

    /// From `TestOverallIPTablesRules` in pkg/proxy/iptables/proxier_test.go.
    #[test]
    fn kube_proxys_own_test_cases() {
        let ns4 = name("ns4", "svc4", "p80");
        assert_eq!(service(&ns4, Protocol::Tcp), "KUBE-SVC-4SW47YFZTEDKD3PK");
        let first = "10.180.0.4:80".parse().unwrap();
        assert_eq!(
            endpoint(&ns4, Protocol::Tcp, first),
            "KUBE-SEP-UKSFD7AGPMPPLUHC"
        );
    }

    #[test]
    fn an_unnamed_port_leaves_no_colon() {
        let unnamed = name("ns1", "svc1", "");
        assert_eq!(unnamed.to_string(), "ns1/svc1");
        assert_eq!(
            service(&unnamed, Protocol::Tcp),
            "KUBE-SVC-AQI2S6QIMU7PVVRP"
        );
    }

    #[test]
    fn an_ipv6_endpoint_is_hashed_in_brackets() {
        let svc = name("ns1", "svc1", "p80");
        let v6 = "[fd00:10:180::1]:80".parse().unwrap();
        assert_eq!(
            endpoint(&svc, Protocol::Tcp, v6),
            "KUBE-SEP-OGYCNMB4EMRUSJ6N"
        );
    }
}
