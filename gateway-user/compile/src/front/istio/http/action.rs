//! What routes do: `route`, `redirect`, `directResponse`, and everything beside.

use std::{collections::BTreeMap, time::Duration};

use data_encoding::BASE64;
use nodegate_model::gateway::{
    AbortStatus, CorsPolicy, Destination, DirectResponse, Fault, FaultAbort, FaultDelay, Forward,
    HeaderAdd, HeaderChanges, HeaderOperations, HttpAction, Mirror, PathRewrite, Redirect, RetryOn,
    RetryPolicy, ValueMatch,
};
use nodegate_resources::istio::{self, Percent};
use nodegate_values::{
    format::Format,
    grpc,
    pattern::{Pattern, Substitution},
    percentage::Percentage,
    retry::{self, Entry},
};

use super::{condition, site::RouteSite};
use crate::front::istio::{context::GatewayContext, destinations};

/// What a route does, and the header operations of the route itself.
pub(super) struct Compiled {
    pub(super) action: HttpAction,
    pub(super) headers: HeaderOperations,
}

/// None if something cannot be read, which validation has told.
pub(super) fn compile(
    route: &istio::HttpRoute,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Option<Compiled> {
    let (mut headers, authority) = match &route.headers {
        Some(given) => operations(given)?,
        None => Default::default(),
    };
    let action = if let Some(given) = &route.redirect {
        HttpAction::Redirect(redirect(given, site.server.port)?)
    } else if let Some(given) = &route.direct_response {
        HttpAction::DirectResponse(direct_response(given)?)
    } else {
        let forward = forward(route, authority, &mut headers, site, context)?;
        HttpAction::Forward(Box::new(forward))
    };
    Some(Compiled { action, headers })
}

/// `applyHTTPRouteDestination` of istio's pilot/pkg/networking/core/route.
fn forward(
    route: &istio::HttpRoute,
    authority: Option<String>,
    headers: &mut HeaderOperations,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Option<Forward> {
    let rewrite = route.rewrite.as_ref();
    let rewritten = rewrite.map(|rewrite| rewrite.authority.clone());
    let mut authority = rewritten.filter(|host| !host.is_empty()).or(authority);
    let mut to = Vec::new();
    for (index, share) in
        destinations::of_route(&route.route, site.named_in(), &mut context.clusters)
    {
        let (operations, its_authority) = match &route.route[index].headers {
            Some(given) => operations(given)?,
            None => Default::default(),
        };
        to.push(Destination {
            headers: operations,
            authority: its_authority,
            ..share
        });
    }
    let mut hashed = false;
    if let [only] = to.as_mut_slice()
        && route.route.len() == 1
    {
        hashed = context.clusters.is_hashed(&only.cluster);
        // `processDestination`: what a single destination wants comes after what the route wants,
        // except for the host.
        headers.append(std::mem::take(&mut only.headers));
        authority = authority.or(only.authority.take());
    }
    let timeout = route.timeout.map(|timeout| timeout.0);
    Some(Forward {
        rewrite: match rewrite {
            Some(rewrite) => path_rewrite(rewrite)?,
            None => None,
        },
        authority,
        timeout: timeout.filter(|timeout| *timeout != Duration::ZERO),
        retry: retry_policy(route.retries.as_ref(), hashed, timeout),
        mirrors: mirrors(route, site, context)?,
        destinations: to,
    })
}

/// None within if the path stays.
#[expect(
    clippy::option_option,
    reason = "the outer one is about what cannot be read"
)]
fn path_rewrite(rewrite: &istio::Rewrite) -> Option<Option<PathRewrite>> {
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        let pattern = Pattern::new(&regex.matches).ok()?;
        let substitution = Substitution::new(&regex.rewrite, &pattern).ok()?;
        return Some(Some(PathRewrite::Regex {
            pattern,
            substitution,
        }));
    }
    let uri = rewrite.uri.as_ref().filter(|uri| !uri.is_empty());
    Some(uri.cloned().map(PathRewrite::Matched))
}

/// `ConvertPolicy` of istio's pilot/pkg/networking/core/route/retry: without any there is still the
/// default of two retries, of requests that cannot have reached anybody.
fn retry_policy(
    given: Option<&istio::Retries>,
    hashed: bool,
    timeout: Option<Duration>,
) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy {
        ignore_previous_hosts: !hashed,
        ..RetryPolicy::default()
    };
    let Some(given) = given else {
        return Some(policy);
    };
    policy.attempts = u32::try_from(given.attempts)
        .ok()
        .filter(|attempts| *attempts > 0)?;
    if !given.retry_on.is_empty() {
        policy.on = RetryOn::default();
        for entry in retry::entries(&given.retry_on) {
            match entry {
                Entry::Status(status) => {
                    policy.status_codes.push(status);
                    policy.on = policy.on.union(RetryOn::RETRIABLE_STATUS_CODES);
                }
                Entry::Condition(name) => {
                    policy.on = policy.on.union(RetryOn::named(name).unwrap_or_default());
                }
                Entry::Unknown(_) => {}
            }
        }
    }
    let of_all = timeout.filter(|timeout| *timeout != Duration::ZERO);
    // Envoy's FilterUtility::finalTimeout: one that is not shorter than that of all has no effect.
    policy.per_try_timeout = given
        .per_try_timeout
        .map(|timeout| timeout.0)
        .filter(|timeout| of_all.is_none_or(|all| *timeout < all));
    if let Some(ignore) = given.retry_ignore_previous_hosts {
        policy.ignore_previous_hosts = ignore;
    }
    if let Some(backoff) = given.backoff {
        policy.base_backoff = backoff.0.max(Duration::from_millis(1));
    }
    Some(policy)
}

/// `MirrorPercent`, `MirrorPercentByPolicy`: all unless told otherwise, and 0 is nobody.
fn mirrors(
    route: &istio::HttpRoute,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Option<Vec<Mirror>> {
    let of = |given: Option<Percent>| match given {
        Some(Percent { value }) => Percentage::of_percent(value),
        None => Some(Percentage::ALL),
    };
    let whole = |percent: i64| u32::try_from(percent).ok().map(f64::from);
    let single = match (route.mirror_percentage, route.mirror_percent) {
        (None, Some(percent)) => Percentage::of_percent(whole(percent)?)?,
        (given, _) => of(given)?,
    };
    let mut mirrors = Vec::new();
    let mut add = |to: &istio::Destination, percentage| {
        if percentage != Percentage::NONE {
            mirrors.push(Mirror {
                cluster: destinations::cluster(to, site.named_in(), &mut context.clusters),
                percentage,
            });
        }
    };
    if let Some(to) = &route.mirror {
        add(to, single);
    }
    for mirror in &route.mirrors {
        add(&mirror.destination, of(mirror.percentage)?);
    }
    Some(mirrors)
}

/// `ApplyRedirect`
fn redirect(given: &istio::Redirect, server_port: u16) -> Option<Redirect> {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let port = match given.port {
        Some(port) => Some(u16::try_from(port).ok()?),
        // Envoy cannot ask what port the client named, so it is that of the server.
        None if given.derive_port.as_deref() == Some("FROM_REQUEST_PORT") => Some(server_port),
        None => None,
    };
    let scheme = if given.scheme.is_empty() {
        "http"
    } else {
        &given.scheme
    };
    let port = port.filter(|port| !matches!((*port, scheme), (80, "http") | (443, "https")));
    Some(Redirect {
        status: match given.redirect_code {
            0 => 301,
            code => u16::try_from(code).ok()?,
        },
        scheme: some(&given.scheme),
        authority: some(&given.authority),
        port,
        path: some(&given.uri),
    })
}

fn direct_response(given: &istio::DirectResponse) -> Option<DirectResponse> {
    let body = match given.body.as_ref().map(|body| (&body.string, &body.bytes)) {
        Some((Some(text), _)) => text.clone().into_bytes(),
        Some((None, Some(bytes))) => BASE64.decode(bytes.as_bytes()).ok()?,
        _ => Vec::new(),
    };
    Some(DirectResponse {
        status: u16::try_from(given.status).ok()?,
        body,
    })
}

/// `TranslateFault`: without a percentage, nobody.
pub(super) fn fault(given: &istio::Fault) -> Option<Fault> {
    let of = |given: Option<Percent>| given.and_then(|given| Percentage::of_percent(given.value));
    let delay = given.delay.as_ref().and_then(|delay| {
        let whole = u32::try_from(delay.percent).ok().map(f64::from);
        let percentage = match delay.percentage {
            None => whole.and_then(Percentage::of_percent),
            given => of(given),
        };
        Some(FaultDelay {
            percentage: percentage.unwrap_or_default(),
            duration: delay.fixed_delay?.0,
        })
    });
    let abort = given.abort.as_ref().and_then(|abort| {
        let status = match (abort.http_status, &abort.grpc_status) {
            (Some(status), _) => AbortStatus::Http(u16::try_from(status).ok()?),
            (None, Some(name)) => AbortStatus::Grpc(grpc::code(name)?),
            (None, None) => return None,
        };
        Some(FaultAbort {
            percentage: of(abort.percentage).unwrap_or_default(),
            status,
        })
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

/// `TranslateCORSPolicy`
pub(super) fn cors(given: &istio::CorsPolicy) -> Option<CorsPolicy> {
    let allow_origins = match (&given.allow_origins, &given.allow_origin) {
        (Some(origins), _) => origins
            .iter()
            .map(condition::value)
            .collect::<Option<_>>()?,
        (None, origins) => origins
            .iter()
            .flatten()
            .cloned()
            .map(ValueMatch::Exact)
            .collect(),
    };
    Some(CorsPolicy {
        allow_origins,
        allow_methods: given.allow_methods.join(","),
        allow_headers: given.allow_headers.join(","),
        expose_headers: given.expose_headers.join(","),
        max_age: given.max_age.map(|age| age.0.as_secs()),
        allow_credentials: given.allow_credentials.unwrap_or_default(),
        forward_unmatched_preflights: given.unmatched_preflights.as_deref() != Some("IGNORE"),
    })
}

/// The operations, and the host that they set (`TranslateHeadersOperations`).
fn operations(given: &istio::Headers) -> Option<(HeaderOperations, Option<String>)> {
    let authority = |values: &BTreeMap<String, String>| {
        let mut hosts = values.iter().filter(|(name, _)| is_authority(name));
        hosts.next_back().map(|(_, host)| host.clone())
    };
    let request = &given.request;
    let operations = HeaderOperations {
        request: changes(request)?,
        response: changes(&given.response)?,
    };
    Some((
        operations,
        authority(&request.set).or_else(|| authority(&request.add)),
    ))
}

/// What is set goes before what is added, each sorted by name.
fn changes(given: &istio::HeaderChanges) -> Option<HeaderChanges> {
    let mut add = Vec::new();
    for (values, append) in [(&given.set, false), (&given.add, true)] {
        for (name, value) in values.iter().filter(|(name, _)| !is_internal(name)) {
            add.push(HeaderAdd {
                name: name.parse().ok()?,
                value: Format::new(value).ok()?,
                append,
            });
        }
    }
    let remove = given.remove.iter().filter(|name| !is_internal(name));
    Some(HeaderChanges {
        remove: remove
            .map(|name| name.parse().ok())
            .collect::<Option<_>>()?,
        add,
    })
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}
