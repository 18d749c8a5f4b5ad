//! What routes do: `route`, `redirect`, `directResponse`, and everything beside.

use std::{collections::BTreeMap, time::Duration};

use nodegate_model::gateway::{
    AbortStatus, CorsPolicy, Destination, DirectResponse, Fault, FaultAbort, FaultDelay, Forward,
    HeaderAdd, HeaderChanges, HeaderOperations, HttpAction, Mirror, PathRewrite, PrefixChange,
    Redirect, RetryPolicy, ValueMatch,
};
use nodegate_resources::istio::{
    self, Percent,
    reading::{AbortWith, PathChange, changed_header, header_value, is_authority, whole_percent},
    words::{DerivedPort, UnmatchedPreflights, Word as _},
};
use nodegate_values::{percentage::Percentage, retry};

use super::{condition, error::Unreadable, site::RouteSite};
use crate::front::istio::{context::GatewayContext, destinations};

/// What a route does, and the header operations of the route itself.
pub(super) struct CompiledAction {
    pub(super) action: HttpAction,
    pub(super) headers: HeaderOperations,
}

pub(super) fn compile(
    route: &istio::HttpRoute,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Result<CompiledAction, Unreadable> {
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
    Ok(CompiledAction { action, headers })
}

/// `applyHTTPRouteDestination` of istio's pilot/pkg/networking/core/route.
fn forward(
    route: &istio::HttpRoute,
    authority: Option<String>,
    headers: &mut HeaderOperations,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Result<Forward, Unreadable> {
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
    Ok(Forward {
        rewrite: match rewrite {
            Some(rewrite) => path_rewrite(rewrite)?,
            None => None,
        },
        authority,
        timeout: timeout.filter(|timeout| *timeout != Duration::ZERO),
        retry: retry_policy(route.retries.as_ref(), hashed, timeout)?,
        mirrors: mirrors(route, site, context)?,
        destinations: to,
        weighted: route.route.len() > 1,
    })
}

/// None if the path stays.
fn path_rewrite(rewrite: &istio::Rewrite) -> Result<Option<PathRewrite>, Unreadable> {
    Ok(rewrite.path()?.map(|change| match change {
        PathChange::Matched(path) => PathRewrite::Matched(path.to_owned()),
        PathChange::Regex {
            pattern,
            substitution,
        } => PathRewrite::Regex {
            pattern,
            substitution,
        },
    }))
}

/// `ConvertPolicy` of istio's pilot/pkg/networking/core/route/retry: without any there is still the
/// default of two retries, of requests that cannot have reached anybody.
fn retry_policy(
    given: Option<&istio::Retries>,
    hashed: bool,
    timeout: Option<Duration>,
) -> Result<Option<RetryPolicy>, Unreadable> {
    let mut policy = RetryPolicy {
        ignore_previous_hosts: !hashed,
        ..RetryPolicy::default()
    };
    let Some(given) = given else {
        return Ok(Some(policy));
    };
    policy.attempts = given.attempts()?;
    if policy.attempts == 0 {
        return Ok(None);
    }
    if !given.retry_on.is_empty() {
        let conditions = retry::parse(&given.retry_on)?;
        policy.on = conditions.on;
        policy.status_codes = conditions.status_codes;
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
    Ok(Some(policy))
}

/// `MirrorPercent`, `MirrorPercentByPolicy`: without a percentage all requests are mirrored, with 0 none.
fn mirrors(
    route: &istio::HttpRoute,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Result<Vec<Mirror>, Unreadable> {
    let of = |given: Option<Percent>| given.map_or(Ok(Percentage::ALL), Percent::share);
    let single = match (route.mirror_percentage, route.mirror_percent) {
        (None, Some(percent)) => whole_percent(percent)?,
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
    Ok(mirrors)
}

/// `ApplyRedirect`
fn redirect(given: &istio::Redirect, server_port: u16) -> Result<Redirect, Unreadable> {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let derived = given.derive_port.as_deref().map(DerivedPort::read);
    let port = match (given.port()?, derived.transpose()?) {
        (Some(port), _) => Some(port),
        // Envoy cannot ask what port the client named, so it is that of the server.
        (None, Some(DerivedPort::Request)) => Some(server_port),
        (None, Some(DerivedPort::ProtocolDefault) | None) => None,
    };
    let scheme = if given.scheme.is_empty() {
        "http"
    } else {
        &given.scheme
    };
    let port = port.filter(|port| !matches!((*port, scheme), (80, "http") | (443, "https")));
    Ok(Redirect {
        status: given.status()?,
        scheme: some(&given.scheme),
        authority: some(&given.authority),
        port,
        path: some(&given.uri),
        prefix: some(&given.prefix_rewrite).map(|replacement| PrefixChange {
            // Known once the condition is.
            length: None,
            replacement,
        }),
    })
}

fn direct_response(given: &istio::DirectResponse) -> Result<DirectResponse, Unreadable> {
    Ok(DirectResponse {
        status: given.status()?,
        body: given.body()?,
    })
}

/// `TranslateFault`: without a percentage, no request is hit.
pub(super) fn fault(given: &istio::Fault) -> Result<Option<Fault>, Unreadable> {
    let delay = given.delay.as_ref().map(delay).transpose()?.flatten();
    let abort = given.abort.as_ref().map(abort).transpose()?;
    Ok((delay.is_some() || abort.is_some()).then_some(Fault { delay, abort }))
}

/// None without `fixedDelay`.
fn delay(given: &istio::Delay) -> Result<Option<FaultDelay>, Unreadable> {
    let percentage = match given.percentage {
        Some(percent) => percent.share()?,
        None => whole_percent(given.percent)?,
    };
    Ok(given.fixed_delay.map(|delay| FaultDelay {
        percentage,
        duration: delay.0,
    }))
}

fn abort(given: &istio::Abort) -> Result<FaultAbort, Unreadable> {
    let percentage = given.percentage.map(Percent::share).transpose()?;
    Ok(FaultAbort {
        percentage: percentage.unwrap_or_default(),
        status: match given.status()? {
            AbortWith::Http(status) => AbortStatus::Http(status),
            AbortWith::Grpc(status) => AbortStatus::Grpc(status),
        },
    })
}

/// `TranslateCORSPolicy`
pub(super) fn cors(given: &istio::CorsPolicy) -> Result<CorsPolicy, Unreadable> {
    let allow_origins = match (&given.allow_origins, &given.allow_origin) {
        (Some(origins), _) => origins
            .iter()
            .map(|origin| Ok(condition::value(origin.read()?)))
            .collect::<Result<_, Unreadable>>()?,
        (None, origins) => origins
            .iter()
            .flatten()
            .cloned()
            .map(ValueMatch::Exact)
            .collect(),
    };
    let unmatched = given.unmatched_preflights.as_deref();
    let unmatched = unmatched.map(UnmatchedPreflights::read).transpose()?;
    Ok(CorsPolicy {
        allow_origins,
        allow_methods: given.allow_methods.join(","),
        allow_headers: given.allow_headers.join(","),
        expose_headers: given.expose_headers.join(","),
        max_age: given.max_age.map(|age| age.0.as_secs()),
        allow_credentials: given.allow_credentials.unwrap_or_default(),
        forward_unmatched_preflights: unmatched != Some(UnmatchedPreflights::Ignore),
    })
}

/// The operations, and the host that they set (`TranslateHeadersOperations`).
fn operations(given: &istio::Headers) -> Result<(HeaderOperations, Option<String>), Unreadable> {
    let authority = |values: &BTreeMap<String, String>| {
        let mut hosts = values.iter().filter(|(name, _)| is_authority(name));
        hosts.next_back().map(|(_, host)| host.clone())
    };
    let request = &given.request;
    let operations = HeaderOperations {
        request: changes(request)?,
        response: changes(&given.response)?,
    };
    Ok((
        operations,
        authority(&request.set).or_else(|| authority(&request.add)),
    ))
}

/// What is set goes before what is added, each sorted by name.
fn changes(given: &istio::HeaderChanges) -> Result<HeaderChanges, Unreadable> {
    let mut add = Vec::new();
    for (values, append) in [(&given.set, false), (&given.add, true)] {
        for (name, value) in values {
            if let Some(name) = changed_header(name)? {
                let value = header_value(value)?;
                add.push(HeaderAdd {
                    name,
                    value,
                    append,
                });
            }
        }
    }
    let mut remove = Vec::new();
    for name in &given.remove {
        remove.extend(changed_header(name)?);
    }
    Ok(HeaderChanges { remove, add })
}
