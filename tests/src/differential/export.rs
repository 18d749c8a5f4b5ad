//! What `nodegate export envoy` writes beside what istiod has told Envoy: the names of virtual hosts, routes and
//! clusters, the domains, and which route leads where.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use serde_json::Value;

use super::{
    Options,
    generate::case,
    parts::{Part, Tally},
    stage::Stage,
};
use crate::{
    cluster::{CONTROL_PLANE, GATEWAY},
    process,
};

/// How many cases there are at a time.
const BATCH: u64 = 100;
/// What nodegate reads.
const KINDS: &str = "gateways.networking.istio.io,virtualservices.networking.istio.io,\
     destinationrules.networking.istio.io,serviceentries.networking.istio.io,services,endpointslices,namespaces";
/// A virtual host of Istio's where there is none, so that the configuration has one.
const NOTHING: &str = "blackhole";

/// What has a name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    /// Virtual hosts, by their domains.
    domains: BTreeMap<String, VirtualHost>,
    clusters: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct VirtualHost {
    /// If it is for one domain: Istio makes one of those that have the same routes, under the name of the first.
    name: Option<String>,
    /// In their order: name, and where it leads.
    routes: Vec<Route>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Route {
    name: String,
    /// The object that it comes from.
    origin: String,
    /// `route`, `redirect` or `direct_response`.
    action: &'static str,
    clusters: Vec<String>,
}

/// Compares a case for every ten others.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Export);
    let all = options.cases.div_ceil(10).max(10);
    let mut number = 0;
    while number < all {
        let next = all.min(number + BATCH);
        let cases: Vec<_> = (number..next)
            .map(|number| (format!("n{number}"), case(options.seed, number, 0)))
            .collect();
        let named: Vec<_> = cases
            .iter()
            .map(|(name, case)| (name.clone(), case))
            .collect();
        stage.apply(&named)?;
        let (istio, nodegate) = (told(stage)?, exported(stage)?);
        tally.add("domains", nodegate.domains.len());
        let routes = nodegate.domains.values().map(|host| host.routes.len());
        tally.add("routes", routes.sum());
        tally.add("clusters", nodegate.clusters.len());
        differences(&istio, &nodegate, &mut tally);
        number = next;
    }
    Ok(tally)
}

/// What istiod has told.
fn told(stage: &Stage) -> anyhow::Result<Names> {
    let arguments = ["--silent", "--fail", "http://127.0.0.1:15000/config_dump"];
    let output = stage.cluster().exec(GATEWAY, Program::Curl, arguments)?;
    ensure!(
        output.status.success(),
        "asking Envoy: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let dump: Value = serde_json::from_slice(&output.stdout).context("Envoy's config_dump")?;
    let mut names = Names::default();
    for config in items(&dump["configs"]) {
        for routes in items(&config["dynamic_route_configs"]) {
            names.configuration(&routes["route_config"]);
        }
        for cluster in items(&config["dynamic_active_clusters"]) {
            names.clusters.extend(text(&cluster["cluster"]["name"]));
        }
    }
    Ok(names)
}

/// What nodegate exports.
fn exported(stage: &Stage) -> anyhow::Result<Names> {
    let cluster = stage.cluster();
    let manifests = cluster.ask(&["get", KINDS, "--all-namespaces", "-o", "json"])?;
    let file = cluster.names().state().join("export.json");
    fs::write(&file, manifests).with_context(|| format!("writing {}", file.display()))?;
    let mut command = own(stage.nodegate());
    command.args(["export", "envoy", "--manifests"]).arg(&file);
    let output = process::output(cluster.enter(CONTROL_PLANE, command)?)?;
    // 1 is for objects that are refused; the rest is there.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "nodegate export: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let bootstrap: Value =
        serde_yaml::from_slice(&output.stdout).context("what nodegate exports")?;
    let resources = &bootstrap["static_resources"];
    let mut names = Names::default();
    for listener in items(&resources["listeners"]) {
        for chain in items(&listener["filter_chains"]) {
            for filter in items(&chain["filters"]) {
                names.configuration(&filter["typed_config"]["route_config"]);
            }
        }
    }
    for cluster in items(&resources["clusters"]) {
        names.clusters.extend(text(&cluster["name"]));
    }
    Ok(names)
}

/// Notes all in which the two differ.
fn differences(istio: &Names, nodegate: &Names, tally: &mut Tally) {
    let (theirs, ours) = (&istio.domains, &nodegate.domains);
    let all: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    for domain in all {
        let (Some(theirs), Some(ours)) = (theirs.get(domain), ours.get(domain)) else {
            let who = if theirs.contains_key(domain) {
                "Istio"
            } else {
                "nodegate"
            };
            tally.differs(format!("{domain} is with {who} alone"));
            continue;
        };
        if let (Some(theirs), Some(ours)) = (&theirs.name, &ours.name)
            && theirs != ours
        {
            tally.differs(format!(
                "{domain} is {theirs} with Istio, {ours} with nodegate"
            ));
        }
        let pairs = theirs.routes.iter().zip(&ours.routes);
        let first = pairs.enumerate().find(|(_, (theirs, ours))| theirs != ours);
        if let Some((index, (theirs, ours))) = first {
            tally.differs(format!(
                "{domain}, route {index}: {theirs:?} with Istio, {ours:?} with nodegate"
            ));
        } else if theirs.routes.len() != ours.routes.len() {
            tally.differs(format!(
                "{domain} has {} routes with Istio, {} with nodegate",
                theirs.routes.len(),
                ours.routes.len()
            ));
        }
    }
    // A gateway of Istio's has clusters for all Services, also those that no route leads to.
    let led = istio.domains.values().flat_map(|host| &host.routes);
    let led: BTreeSet<_> = led.flat_map(|route| &route.clusters).collect();
    let wanted: BTreeSet<_> = istio
        .clusters
        .iter()
        .filter(|name| led.contains(name))
        .collect();
    let ours: BTreeSet<_> = nodegate.clusters.iter().collect();
    for name in wanted.difference(&ours) {
        tally.differs(format!("cluster {name} is with Istio alone"));
    }
    for name in &nodegate.clusters {
        if !istio.clusters.contains(name) {
            tally.differs(format!("cluster {name} is with nodegate alone"));
        }
    }
}

// === impl Names ===

impl Names {
    /// Takes what a route configuration of Envoy's names.
    fn configuration(&mut self, configuration: &Value) {
        for host in items(&configuration["virtual_hosts"]) {
            let name = text(&host["name"]).unwrap_or_default();
            if name.starts_with(NOTHING) {
                continue;
            }
            // Where a server redirects to https, Istio makes a domain of its host with the namespace that it is written
            // with: no request asks for that.
            let mut domains: Vec<_> = items(&host["domains"]).filter_map(text).collect();
            let is_alone = domains.len() == 1;
            domains.retain(|domain| !domain.contains('/'));
            let host = VirtualHost {
                name: is_alone.then_some(name),
                routes: items(&host["routes"]).map(Route::new).collect(),
            };
            self.domains
                .extend(domains.into_iter().map(|domain| (domain, host.clone())));
        }
    }
}

// === impl Route ===

impl Route {
    fn new(route: &Value) -> Self {
        let actions = ["route", "redirect", "direct_response"];
        let action = actions.into_iter().find(|action| !route[*action].is_null());
        let to = &route["route"];
        let weighted = items(&to["weighted_clusters"]["clusters"]);
        let all = weighted.map(|one| &one["name"]).chain([&to["cluster"]]);
        let config = &route["metadata"]["filter_metadata"]["istio"]["config"];
        Self {
            name: text(&route["name"]).unwrap_or_default(),
            origin: text(config).unwrap_or_default(),
            action: action.unwrap_or_default(),
            clusters: all.filter_map(text).collect(),
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(host: &Value, clusters: &[&str]) -> Names {
        let mut names = Names::default();
        names.configuration(&json!({"virtual_hosts": [host]}));
        names.clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
        names
    }

    fn host(route: &str, cluster: &str) -> Value {
        let route = json!({"name": route, "route": {"cluster": cluster}});
        json!({"name": "a.test:80", "domains": ["a.test"], "routes": [route]})
    }

    fn found(istio: &Names, nodegate: &Names) -> usize {
        let mut tally = Tally::new(Part::Export);
        differences(istio, nodegate, &mut tally);
        tally.unknown.len()
    }

    #[test]
    fn other_names_are_found_and_clusters_that_nothing_leads_to_are_not_missed() {
        let istio = names(&host("r", "c"), &["c", "spare"]);
        assert_eq!(found(&istio, &names(&host("r", "c"), &["c"])), 0);
        assert_eq!(found(&istio, &names(&host("other", "c"), &["c"])), 1);
        assert_eq!(found(&istio, &names(&host("r", "d"), &["c"])), 1);
        assert_eq!(found(&istio, &names(&host("r", "c"), &[])), 1);
        assert_eq!(found(&istio, &names(&host("r", "c"), &["c", "own"])), 1);
    }

    /// Istio made one of two, and named it after one that no request asks for.
    #[test]
    fn names_of_what_was_made_one_are_not_compared() {
        let mut one = host("r", "c");
        one["name"] = json!("ns/b.test:80");
        one["domains"] = json!(["ns/b.test", "a.test"]);
        let istio = names(&one, &["c"]);
        assert_eq!(found(&istio, &names(&host("r", "c"), &["c"])), 0);
        assert_eq!(found(&istio, &names(&host("other", "c"), &["c"])), 1);
    }

    #[test]
    fn what_no_request_asks_for_is_no_host() {
        for (name, domain) in [("blackhole:8080", "*"), ("ns/a.test:8080", "ns/a.test")] {
            let names = names(&json!({"name": name, "domains": [domain]}), &[]);
            assert!(names.domains.is_empty(), "{name}");
        }
    }
}
