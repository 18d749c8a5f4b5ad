//! Two answers side by side.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    client::Answer,
    pair::{Answers, Lines},
    upstream::Seen,
};

/// Headers of responses whose values are never the same: only that they are there is compared.
const VARYING: [&str; 2] = ["date", "x-envoy-upstream-service-time"];

/// What Envoy takes from answers where it writes traces, which the exported bootstrap doesn't have.
const TRACED: &str = "x-envoy-decorator-operation";

/// The same of requests, as the endpoint sees them.
const VARYING_UPSTREAM: [&str; 1] = ["x-request-id"];

/// Who asked, where a list of addresses says it last: for clients on the loopback interface Envoy
/// writes its own address instead (ConnectionManagerUtility::mutateRequestHeaders).
const CLIENTS: [&str; 1] = ["x-forwarded-for"];

/// Headers that endpoints see from one of the two only, and why.
const UPSTREAM_ONLY: [(&str, &str); 1] = [(
    "x-envoy-decorator-operation",
    "Envoy writes it for traces, and the bootstrap has no tracing",
)];

/// Something in which the two differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Divergence {
    /// `status`, `header location`, `upstream header x-a`, …
    pub(crate) aspect: String,
    pub(crate) envoy: String,
    pub(crate) nodegate: String,
}

/// All in which two answers differ.
pub(crate) fn compare(answers: &Answers) -> Vec<Divergence> {
    let Answers { envoy, nodegate } = answers;
    let mut found = Found::default();
    found.check("status", &envoy.status, &nodegate.status);
    found.check("interim", &envoy.interim, &nodegate.interim);
    found.check("cut", &envoy.cut, &nodegate.cut);
    let (seen, seen_too) = (seen(envoy), seen(nodegate));
    let echo = seen.is_some() && seen_too.is_some();
    found.headers("header", &headers(envoy, echo), &headers(nodegate, echo));
    match (&seen, &seen_too) {
        (Some(envoy), Some(nodegate)) => found.upstream(envoy, nodegate),
        _ => found.check(
            "body",
            &String::from_utf8_lossy(&envoy.body),
            &String::from_utf8_lossy(&nodegate.body),
        ),
    }
    found.0
}

/// All in which what was written down differs.
pub(crate) fn compare_lines(lines: &Lines) -> Vec<Divergence> {
    let mut found = Found::default();
    let (Some(envoy), Some(nodegate)) = (&lines.envoy, &lines.nodegate) else {
        found.check("log", &lines.envoy, &lines.nodegate);
        return found.0;
    };
    found.check("log status", &envoy.status, &nodegate.status);
    found.check("log flags", &envoy.flags, &nodegate.flags);
    found.check("log details", &envoy.details, &nodegate.details);
    found.check("log route", &envoy.route, &nodegate.route);
    found.check("log cluster", &envoy.cluster, &nodegate.cluster);
    found.check("log known", &envoy.known, &nodegate.known);
    found.0
}

/// All in which two requests differ, as endpoints have seen them.
pub(crate) fn compare_seen(envoy: &Seen, nodegate: &Seen) -> Vec<Divergence> {
    let mut found = Found::default();
    found.upstream(envoy, nodegate);
    found.0
}

/// What the endpoint saw, if the answer says.
pub(crate) fn seen(answer: &Answer) -> Option<Seen> {
    serde_json::from_slice(&answer.body).ok()
}

type Headers = BTreeMap<String, Vec<String>>;

/// Headers by name, values in their order. How long the endpoint's report is (or would be, for HEAD)
/// depends on what is compared for itself.
fn headers(answer: &Answer, echo: bool) -> Headers {
    let echo = echo || (answer.body.is_empty() && answer.is_of_endpoint());
    let mut headers = Headers::new();
    for (name, value) in &answer.headers {
        if echo && name == "content-length" {
            continue;
        }
        if name == TRACED {
            continue;
        }
        let varies = VARYING.contains(&name.as_str());
        let value = if varies { "(varies)" } else { value };
        headers
            .entry(name.clone())
            .or_default()
            .push(value.to_owned());
    }
    headers
}

#[derive(Default)]
struct Found(Vec<Divergence>);

impl Found {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, aspect: &str, envoy: &T, nodegate: &T) {
        if envoy != nodegate {
            self.0.push(Divergence {
                aspect: aspect.to_owned(),
                envoy: format!("{envoy:?}"),
                nodegate: format!("{nodegate:?}"),
            });
        }
    }

    fn headers(&mut self, what: &str, envoy: &Headers, nodegate: &Headers) {
        let names: BTreeSet<_> = envoy.keys().chain(nodegate.keys()).collect();
        for name in names {
            // Lines of one name are one list (RFC 9110, section 5.3).
            let list = |headers: &Headers| headers.get(name).map(|values| values.join(","));
            self.check(&format!("{what} {name}"), &list(envoy), &list(nodegate));
        }
    }

    fn upstream(&mut self, envoy: &Seen, nodegate: &Seen) {
        self.check("upstream endpoint", &envoy.endpoint, &nodegate.endpoint);
        self.check("upstream version", &envoy.version, &nodegate.version);
        self.check("upstream method", &envoy.method, &nodegate.method);
        self.check("upstream target", &envoy.target, &nodegate.target);
        self.check("upstream authority", &envoy.authority, &nodegate.authority);
        self.check("upstream body", &envoy.body, &nodegate.body);
        self.check("upstream tls", &envoy.tls, &nodegate.tls);
        let steady = |seen: &Seen| {
            let mut headers = seen.headers.clone();
            for (name, _) in UPSTREAM_ONLY {
                headers.remove(name);
            }
            for name in CLIENTS {
                for value in headers.get_mut(name).into_iter().flatten() {
                    let others = value.rfind(',').map_or(0, |comma| comma + 1);
                    value.replace_range(others.., "(client)");
                }
            }
            for name in VARYING_UPSTREAM {
                for value in headers.get_mut(name).into_iter().flatten() {
                    "(varies)".clone_into(value);
                }
            }
            headers
        };
        self.headers("upstream header", &steady(envoy), &steady(nodegate));
    }
}
