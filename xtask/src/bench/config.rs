//! One table of routes, in the words of each proxy: so many virtual hosts, of which each has a route
//! for a prefix and a user agent, to two destinations, 90 to 10, within two seconds.

use std::{fmt::Write as _, net::SocketAddr};

use nodegate_testbed::traffic::USER_AGENT;

/// What all ask for.
pub(super) const PATH: &str = "/api/items/1?page=2";

/// Who is asked for.
pub(super) fn hosts(count: usize) -> Vec<String> {
    (0..count)
        .map(|host| format!("shop-{host}.example.com"))
        .collect()
}

/// Manifests, for nodegate and, exported, for Envoy.
pub(super) fn manifests(listen: u16, endpoints: &[u16], hosts: &[String]) -> String {
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

/// For HAProxy, which does the same work on headers.
pub(super) fn haproxy(listen: SocketAddr, endpoints: &[u16], hosts_file: &str) -> String {
    let agent = USER_AGENT.split('/').next().unwrap_or_default();
    let mut text = format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 10s
  timeout client 1h
  timeout server 2s
  timeout http-keep-alive 1h
  retries 2
  option forwardfor
  option http-keep-alive
  http-reuse always
frontend http
  bind {listen}
  unique-id-format %[uuid()]
  unique-id-header x-request-id
  http-request set-var(txn.host) req.hdr(host),field(1,:),lower,map_str({hosts_file})
  acl known var(txn.host) -m found
  acl api path_beg /api/
  acl agent req.hdr(user-agent) -m beg {agent}/
  http-request return status 404 unless known api agent
  http-request del-header x-envoy- -m beg
  http-request del-header x-request-id
  http-request set-header x-forwarded-proto http
  http-request set-header x-envoy-external-address %[src]
  http-request set-header x-envoy-decorator-operation %[var(txn.host)]
  http-request set-header x-envoy-attempt-count 1
  http-request set-header x-envoy-expected-rq-timeout-ms 2000
  http-response set-header x-envoy-upstream-service-time %Tr
  http-response set-header server istio-envoy
  default_backend web
backend web
  balance roundrobin
"
    );
    for (version, port) in endpoints.iter().enumerate() {
        let weight = if version == 0 { 90 } else { 10 };
        let _ = writeln!(text, "  server v{version} 127.0.0.1:{port} weight {weight}");
    }
    text
}

/// HAProxy's table of hosts, and what their routes are called.
pub(super) fn haproxy_hosts(hosts: &[String]) -> String {
    hosts.iter().enumerate().fold(String::new(), |mut text, (index, host)| {
        let _ = writeln!(text, "{host} shop-{index}:80/api/*");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_in_every_table() {
        let hosts = hosts(3);
        let manifests = manifests(80, &[1, 2], &hosts);
        let table = haproxy_hosts(&hosts);
        for host in &hosts {
            assert!(manifests.contains(&format!("hosts: [{host}]")));
            assert!(table.contains(&format!("{host} ")));
        }
        assert_eq!(manifests.matches("kind: ServiceEntry").count(), 2);
    }
}
