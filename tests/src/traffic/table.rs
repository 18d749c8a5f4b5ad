//! A table of routes as it is in front of a shop: so many virtual hosts, of which each has a route for
//! a prefix and a user agent, to two destinations, 90 to 10, within two seconds.

use std::fmt::Write as _;

/// What all ask for.
pub const PATH: &str = "/api/items/1?page=2";

/// Who is asked for.
pub fn hosts(count: usize) -> Vec<String> {
    (0..count)
        .map(|host| format!("shop-{host}.example.com"))
        .collect()
}

/// Manifests: a Gateway on a port, the two destinations on ports of loopback, and the hosts.
pub fn manifests(listen: u16, endpoints: &[u16], hosts: &[String]) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: web, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {listen}, name: http, protocol: HTTP}}
      hosts: ['*/*']
"
    );
    for (version, port) in endpoints.iter().enumerate() {
        // Writing to a String doesn't fail.
        let _ = write!(
            text,
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web-v{version}, namespace: default}}
spec:
  hosts: [web-v{version}.example]
  resolution: STATIC
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: 127.0.0.1}}]
"
        );
    }
    for (index, host) in hosts.iter().enumerate() {
        let _ = write!(
            text,
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop-{index}, namespace: default}}
spec:
  hosts: [{host}]
  gateways: [web]
  http:
    - match:
        - uri: {{prefix: /api/}}
          headers: {{user-agent: {{prefix: traffic/}}}}
      route:
        - destination: {{host: web-v0.example}}
          weight: 90
        - destination: {{host: web-v1.example}}
          weight: 10
      timeout: 2s
"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_its_route() {
        let hosts = hosts(3);
        let manifests = manifests(80, &[1, 2], &hosts);
        for host in &hosts {
            assert!(manifests.contains(&format!("hosts: [{host}]")));
        }
        assert_eq!(manifests.matches("kind: VirtualService").count(), 3);
        assert_eq!(manifests.matches("kind: ServiceEntry").count(), 2);
    }
}
