//! HAProxy's configuration for the table of routes that the others have as manifests, with the same work
//! on headers. There are two: as an expert writes this table, in which all routes but for their hosts are
//! alike, and as one writes any table, rule by rule.

use std::{fmt::Write as _, net::SocketAddr};

use nodegate_testbed::traffic::USER_AGENT;

/// The work on headers that is the same for all routes.
const HEADERS: &str = "  http-request del-header x-envoy- -m beg
  http-request del-header x-request-id
  http-request set-header x-forwarded-proto http
  http-request set-header x-envoy-external-address %[src]
  http-request set-header x-envoy-attempt-count 1
  http-request set-header x-envoy-expected-rq-timeout-ms 2000
  http-response set-header x-envoy-upstream-service-time %Tr
  http-response set-header server istio-envoy
";

/// The configuration with a map of the hosts, and the rest once for all.
pub(super) fn configuration(listen: SocketAddr, endpoints: &[u16], hosts_file: &str) -> String {
    let agent = agent();
    let mut text = beginning(listen);
    let _ = write!(
        text,
        "  http-request set-var(txn.host) req.hdr(host),field(1,:),lower,map_str({hosts_file})
  acl known var(txn.host) -m found
  acl api path_beg /api/
  acl agent req.hdr(user-agent) -m beg {agent}/
  http-request return status 404 unless known api agent
"
    );
    text.push_str(HEADERS);
    text.push_str("  http-request set-header x-envoy-decorator-operation %[var(txn.host)]\n");
    text.push_str("  default_backend web\n");
    text.push_str(&backend("web", endpoints));
    text
}

/// The configuration with a rule and a backend for each route.
pub(super) fn rules(listen: SocketAddr, endpoints: &[u16], hosts: &[String]) -> String {
    let agent = agent();
    let mut text = beginning(listen);
    text.push_str(HEADERS);
    for (index, host) in hosts.iter().enumerate() {
        // Writing to a String doesn't fail.
        let _ = writeln!(
            text,
            "  use_backend shop-{index} if {{ req.hdr(host),field(1,:) -i {host} }} \
             {{ path_beg /api/ }} {{ req.hdr(user-agent) -m beg {agent}/ }}"
        );
    }
    for index in 0..hosts.len() {
        text.push_str(&backend(&format!("shop-{index}"), endpoints));
        let _ = writeln!(
            text,
            "  http-request set-header x-envoy-decorator-operation shop-{index}:80/api/*"
        );
    }
    text
}

fn agent() -> &'static str {
    USER_AGENT.split('/').next().unwrap_or_default()
}

fn beginning(listen: SocketAddr) -> String {
    format!(
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
"
    )
}

fn backend(name: &str, endpoints: &[u16]) -> String {
    let mut text = format!("backend {name}\n  balance roundrobin\n");
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
        let hosts = ["a.example".into(), "b.example".into()];
        let text = rules(([127, 0, 0, 1], 80).into(), &[81, 82], &hosts);
        assert_eq!(text.matches("use_backend").count(), 2);
        assert_eq!(
            text.matches("  server v1 127.0.0.1:82 weight 10\n").count(),
            2
        );
    }
}
