//! HAProxy's configuration for the table of routes that the others have as manifests, with the same work
//! on headers.

use std::{fmt::Write as _, net::SocketAddr};

use nodegate_testbed::traffic::USER_AGENT;

/// The configuration.
pub(super) fn configuration(listen: SocketAddr, endpoints: &[u16], hosts_file: &str) -> String {
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

/// The table of hosts, and what their routes are called.
pub(super) fn table(hosts: &[String]) -> String {
    hosts
        .iter()
        .enumerate()
        .fold(String::new(), |mut text, (index, host)| {
            let _ = writeln!(text, "{host} shop-{index}:80/api/*");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_in_the_table() {
        let table = table(&["a.example".into(), "b.example".into()]);
        assert_eq!(
            table,
            "a.example shop-0:80/api/*\nb.example shop-1:80/api/*\n"
        );
    }

    #[test]
    fn endpoints_have_their_weights() {
        let text = configuration(([127, 0, 0, 1], 80).into(), &[81, 82], "hosts.map");
        assert!(text.contains("server v0 127.0.0.1:81 weight 90\n"));
        assert!(text.contains("server v1 127.0.0.1:82 weight 10\n"));
        assert!(text.contains("hdr(user-agent) -m beg traffic/"));
    }
}
