//! Routes.

use data_encoding::BASE64;
use nodegate_model::gateway::{
    AbortStatus, Balancing, CorsPolicy, Destination, DirectResponse, Fault, Forward, Gateway,
    HashKey, HeaderChanges, HeaderMatch, HeaderOperations, HttpAction, HttpRoute, HttpRoutes,
    PathMatch, PathRewrite, Redirect, RetryPolicy, RouteKind, RouteMatch, ValueMatch, VirtualHost,
};
use nodegate_values::percentage::Percentage;
use serde_json::{Map, Value, json};

use super::{duration, kind};

/// Envoy's RouteConfiguration.
pub(super) fn configuration(gateway: &Gateway, routes: &HttpRoutes) -> Value {
    let hosts: Vec<_> = routes
        .virtual_hosts
        .iter()
        .map(|host| virtual_host(gateway, host))
        .collect();
    json!({
        "name": routes.name,
        "virtual_hosts": hosts,
        "validate_clusters": false,
        "ignore_port_in_host_matching": true,
        "max_direct_response_body_size_bytes": 1_048_576,
    })
}

fn virtual_host(gateway: &Gateway, host: &VirtualHost) -> Value {
    let routes: Vec<_> = host.routes.iter().map(|of| route(gateway, of)).collect();
    json!({
        "name": host.name,
        "domains": host.domains,
        "include_request_attempt_count": true,
        "require_tls": host.require_tls.then_some("ALL"),
        "routes": routes,
    })
}

fn route(gateway: &Gateway, route: &HttpRoute) -> Value {
    let origin = &route.origin;
    let (api, kind) = match origin.kind {
        RouteKind::VirtualService => ("networking.istio.io/v1", "virtual-service"),
        RouteKind::AuthorizationPolicy => ("security.istio.io/v1", "authorization-policy"),
        RouteKind::RequestAuthentication => ("security.istio.io/v1", "request-authentication"),
    };
    let config = format!(
        "/apis/{api}/namespaces/{}/{kind}/{}",
        origin.namespace, origin.name
    );
    let mut all = operations(&route.headers);
    all.insert("name".into(), json!(route.name));
    all.insert("match".into(), matches(&route.matches));
    all.insert(
        "metadata".into(),
        json!({"filter_metadata": {"istio": {"config": config}}}),
    );
    let (field, action) = match &route.action {
        HttpAction::Forward(to) => ("route", forward(gateway, to)),
        HttpAction::Redirect(to) => ("redirect", redirect(to)),
        HttpAction::DirectResponse(with) => ("direct_response", direct_response(with)),
    };
    all.insert(field.into(), action);
    all.insert(
        "typed_per_filter_config".into(),
        json!({
            "envoy.filters.http.fault": route.fault.as_ref().map(fault),
            "envoy.filters.http.cors": route.cors.as_ref().map(cors),
        }),
    );
    Value::Object(all)
}

fn matches(matches: &RouteMatch) -> Value {
    let (path, prefix, regex) = match &matches.path {
        PathMatch::Exact(path) => (json!(path), Value::Null, Value::Null),
        PathMatch::Prefix(prefix) => (Value::Null, json!(prefix), Value::Null),
        PathMatch::Regex(regex) => (Value::Null, Value::Null, json!({"regex": regex})),
    };
    let mut headers: Vec<_> = matches.headers.iter().map(header).collect();
    for (name, wanted) in [
        (":method", &matches.method),
        (":authority", &matches.authority),
        (":scheme", &matches.scheme),
    ] {
        headers.extend(wanted.iter().map(|wanted| value(name, wanted)));
    }
    let query = matches
        .query
        .iter()
        .map(|query| value(&query.name, &query.value));
    json!({
        "path": path,
        "prefix": prefix,
        "safe_regex": regex,
        "case_sensitive": !matches.ignore_case,
        "headers": headers,
        "query_parameters": query.collect::<Vec<_>>(),
    })
}

fn header(header: &HeaderMatch) -> Value {
    let mut matcher = value(header.name.as_str(), &header.value);
    if header.invert {
        matcher["invert_match"] = json!(true);
        if header.value != ValueMatch::Present {
            matcher["treat_missing_header_as_empty"] = json!(true);
        }
    }
    matcher
}

fn value(name: &str, wanted: &ValueMatch) -> Value {
    match wanted {
        ValueMatch::Present => json!({"name": name, "present_match": true}),
        wanted => json!({"name": name, "string_match": string(wanted)}),
    }
}

fn string(wanted: &ValueMatch) -> Value {
    match wanted {
        ValueMatch::Exact(exact) => json!({"exact": exact}),
        ValueMatch::Prefix(prefix) => json!({"prefix": prefix}),
        ValueMatch::Regex(regex) => json!({"safe_regex": {"regex": regex}}),
        ValueMatch::Present => json!({"safe_regex": {"regex": "(?s).*"}}),
    }
}

fn forward(gateway: &Gateway, forward: &Forward) -> Value {
    let (cluster, weighted) = match forward.destinations.as_slice() {
        [only] if only.headers.is_empty() && only.authority.is_none() => {
            (json!(only.cluster), Value::Null)
        }
        all => {
            let all: Vec<_> = all.iter().map(weighted_cluster).collect();
            (Value::Null, json!({"clusters": all}))
        }
    };
    let (prefix, regex) = match &forward.rewrite {
        None => (Value::Null, Value::Null),
        Some(PathRewrite::Matched(to)) => (json!(to), Value::Null),
        Some(PathRewrite::Regex {
            pattern,
            substitution,
        }) => {
            let regex = json!({"pattern": {"regex": pattern}, "substitution": substitution});
            (Value::Null, regex)
        }
    };
    let mirrors = forward.mirrors.iter().map(|mirror| {
        json!({
            "cluster": mirror.cluster,
            "runtime_fraction": {"default_value": percentage(mirror.percentage)},
            "trace_sampled": false,
            "disable_shadow_host_suffix_append": true,
        })
    });
    let timeout = forward.timeout.map_or_else(|| "0s".to_owned(), duration);
    json!({
        "cluster": cluster,
        "weighted_clusters": weighted,
        "prefix_rewrite": prefix,
        "regex_rewrite": regex,
        "host_rewrite_literal": forward.authority,
        "timeout": timeout,
        "max_grpc_timeout": timeout,
        "retry_policy": forward.retry.as_ref().map(retry_policy),
        "request_mirror_policies": mirrors.collect::<Vec<_>>(),
        "hash_policy": hash_policies(gateway, forward),
    })
}

fn weighted_cluster(destination: &Destination) -> Value {
    let mut all = operations(&destination.headers);
    all.insert("name".into(), json!(destination.cluster));
    all.insert("weight".into(), json!(destination.weight));
    all.insert("host_rewrite_literal".into(), json!(destination.authority));
    Value::Object(all)
}

fn retry_policy(policy: &RetryPolicy) -> Value {
    let on: Vec<_> = policy.on.names().collect();
    let predicates = policy.ignore_previous_hosts.then(|| {
        json!([{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": kind("retry.host.previous_hosts.v3.PreviousHostsPredicate")},
        }])
    });
    json!({
        "retry_on": on.join(","),
        "num_retries": policy.attempts,
        "per_try_timeout": policy.per_try_timeout.map(duration),
        "retriable_status_codes": policy.status_codes,
        "retry_back_off": {"base_interval": duration(policy.base_backoff)},
        "retry_host_predicate": predicates,
        "host_selection_retry_max_attempts": 5,
    })
}

/// Envoy has the key at the route, Istio at the destination.
fn hash_policies(gateway: &Gateway, forward: &Forward) -> Vec<Value> {
    let mut policies = Vec::new();
    for destination in &forward.destinations {
        let cluster = gateway.clusters.get(&destination.cluster);
        if let Some(Balancing::ConsistentHash { key, .. }) =
            cluster.map(|cluster| &cluster.policy.balancing)
        {
            policies.push(match key {
                HashKey::Header(name) => json!({"header": {"header_name": name.as_str()}}),
                HashKey::Cookie {
                    name,
                    path,
                    ttl,
                    attributes,
                } => {
                    let attributes = attributes.iter();
                    let attributes =
                        attributes.map(|(name, value)| json!({"name": name, "value": value}));
                    json!({"cookie": {
                        "name": name,
                        "path": path,
                        "ttl": ttl.map(duration),
                        "attributes": some(attributes.collect()),
                    }})
                }
                HashKey::SourceIp => json!({"connection_properties": {"source_ip": true}}),
                HashKey::Query(name) => json!({"query_parameter": {"name": name}}),
            });
        }
    }
    policies
}

/// What is empty is left out.
fn some(values: Vec<Value>) -> Option<Value> {
    (!values.is_empty()).then_some(Value::Array(values))
}

fn redirect(redirect: &Redirect) -> Value {
    json!({
        "scheme_redirect": redirect.scheme,
        "host_redirect": redirect.authority,
        "port_redirect": redirect.port,
        "path_redirect": redirect.path,
        "prefix_rewrite": redirect.prefix.as_ref().map(|change| &change.replacement),
        "response_code": match redirect.status {
            302 => "FOUND",
            303 => "SEE_OTHER",
            307 => "TEMPORARY_REDIRECT",
            308 => "PERMANENT_REDIRECT",
            _ => "MOVED_PERMANENTLY",
        },
    })
}

fn direct_response(response: &DirectResponse) -> Value {
    let body =
        (!response.body.is_empty()).then(|| json!({"inline_bytes": BASE64.encode(&response.body)}));
    json!({"status": response.status, "body": body})
}

fn fault(fault: &Fault) -> Value {
    let delay = fault.delay.as_ref().map(|delay| {
        json!({
            "fixed_delay": duration(delay.duration),
            "percentage": percentage(delay.percentage),
        })
    });
    let abort = fault.abort.as_ref().map(|abort| {
        let (http, grpc) = match abort.status {
            AbortStatus::Http(status) => (Some(status), None),
            AbortStatus::Grpc(status) => (None, Some(status)),
        };
        json!({
            "http_status": http,
            "grpc_status": grpc,
            "percentage": percentage(abort.percentage),
        })
    });
    json!({
        "@type": kind("filters.http.fault.v3.HTTPFault"),
        "delay": delay,
        "abort": abort,
    })
}

fn cors(policy: &CorsPolicy) -> Value {
    json!({
        "@type": kind("filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": policy.allow_origins.iter().map(string).collect::<Vec<_>>(),
        "allow_methods": policy.allow_methods,
        "allow_headers": policy.allow_headers,
        "expose_headers": policy.expose_headers,
        "max_age": policy.max_age.map(|age| age.to_string()),
        "allow_credentials": policy.allow_credentials,
        "forward_not_matching_preflights": policy.forward_unmatched_preflights,
        "filter_enabled": {"default_value": percentage(Percentage::ALL)},
    })
}

/// The four fields that routes and weighted clusters have in common.
fn operations(operations: &HeaderOperations) -> Map<String, Value> {
    let mut all = Map::new();
    for (direction, changes) in [
        ("request", &operations.request),
        ("response", &operations.response),
    ] {
        let HeaderChanges { remove, add } = changes;
        let add = add.iter().map(|change| {
            json!({
                "header": {"key": change.name.as_str(), "value": change.value},
                "append_action": if change.append {
                    "APPEND_IF_EXISTS_OR_ADD"
                } else {
                    "OVERWRITE_IF_EXISTS_OR_ADD"
                },
            })
        });
        let add: Vec<_> = add.collect();
        let remove: Vec<_> = remove.iter().map(http::HeaderName::as_str).collect();
        all.insert(format!("{direction}_headers_to_add"), json!(add));
        all.insert(format!("{direction}_headers_to_remove"), json!(remove));
    }
    all
}

fn percentage(percentage: Percentage) -> Value {
    json!({"numerator": percentage.millionths(), "denominator": "MILLION"})
}
