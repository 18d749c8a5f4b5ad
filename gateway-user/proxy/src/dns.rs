//! Names of endpoints, resolved again and again.
//!
//! As Istio sets Envoy up (`dns_refresh_rate`, `respect_dns_ttl`): an answer holds for as long as it
//! says, or for a minute if it doesn't say. A failure leaves the last good answer in force; an answer
//! that the name doesn't exist is a good one.

use std::{
    collections::{BTreeSet, HashMap},
    future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use nodegate_model::gateway::{Cluster, Endpoint};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};

/// How long an answer holds that doesn't say (Istio: the mesh config's `dnsRefreshRate`).
const REFRESH: Duration = Duration::from_mins(1);
/// When to ask again after a failure. Envoy waits as long as after an answer, which is long for a name
/// that has never been resolved.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// An answer holds for at least this time, whatever it says.
const SHORTEST: Duration = Duration::from_secs(1);

/// The addresses of names, as far as they are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers(HashMap<String, Vec<IpAddr>>);

/// Resolves names until it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    wanted: watch::Sender<BTreeSet<String>>,
    answers: watch::Receiver<Arc<Answers>>,
    task: JoinHandle<()>,
}

/// A name that is wanted.
#[derive(Debug)]
struct Name {
    addresses: Option<Vec<IpAddr>>,
    /// When to ask again; none while an answer is waited for.
    due: Option<Instant>,
    failed: bool,
}

/// What came of asking for a name.
#[derive(Debug)]
enum Lookup {
    /// Addresses, in the server's order, and how long they hold.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no address.
    NoSuchName,
    Failed(String),
}

impl Answers {
    /// The cluster with the addresses of its names among its endpoints.
    // Envoy: StrictDnsClusterImpl, and LogicalDnsCluster, which uses the first address only.
    pub(crate) fn resolve(&self, cluster: &Arc<Cluster>) -> Arc<Cluster> {
        if cluster.names.is_empty() {
            return Arc::clone(cluster);
        }
        let mut resolved = Cluster::clone(cluster);
        for target in &cluster.names {
            let addresses = self.0.get(&target.host).map_or(&[][..], Vec::as_slice);
            let count = if target.all { addresses.len() } else { 1 };
            let endpoints = addresses.iter().take(count).map(|address| Endpoint {
                address: (*address, target.port).into(),
                weight: target.weight,
                locality: target.locality.clone(),
                priority: target.priority,
            });
            resolved.endpoints.extend(endpoints);
        }
        resolved.endpoints.sort_unstable();
        resolved.endpoints.dedup_by_key(|endpoint| endpoint.address);
        Arc::new(resolved)
    }
}

impl Resolver {
    /// Starts; `server` is asked instead of the system's name servers.
    pub(crate) fn start(server: Option<SocketAddr>) -> Self {
        let (wanted, names) = watch::channel(BTreeSet::new());
        let (publish, answers) = watch::channel(Arc::default());
        let task = tokio::spawn(run(server, names, publish));
        Self {
            wanted,
            answers,
            task,
        }
    }

    /// Says which names to resolve from now on; true if there are new ones among them.
    pub(crate) fn want(&self, names: BTreeSet<String>) -> bool {
        let mut new = false;
        self.wanted.send_if_modified(|wanted| {
            new = !names.is_subset(wanted);
            let changed = *wanted != names;
            *wanted = names;
            changed
        });
        new
    }

    /// Waits until there is an answer for all names, but no longer than `limit`.
    pub(crate) async fn settle(&self, limit: Duration) {
        let wanted = self.wanted.borrow().clone();
        let mut answers = self.answers.clone();
        let known =
            answers.wait_for(|answers| wanted.iter().all(|name| answers.0.contains_key(name)));
        // Without an answer there are no endpoints yet.
        let _ = time::timeout(limit, known).await;
    }

    /// The addresses that are known, and when they change.
    pub(crate) fn answers(&self) -> watch::Receiver<Arc<Answers>> {
        self.answers.clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    server: Option<SocketAddr>,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    publish: watch::Sender<Arc<Answers>>,
) {
    let resolver = match resolver(server) {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::error!(%error, "names of endpoints can't be resolved: is /etc/resolv.conf right?");
            return;
        }
    };
    let mut names: HashMap<String, Name> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let now = Instant::now();
        for (host, name) in &mut names {
            if name.due.is_some_and(|due| due <= now) {
                name.due = None;
                let (resolver, host) = (resolver.clone(), host.clone());
                running.spawn(async move {
                    let answer = ask(&resolver, &host).await;
                    (host, answer)
                });
            }
        }
        let next = names.values().filter_map(|name| name.due).min();
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = wanted.borrow_and_update();
                names.retain(|host, _| wanted.contains(host));
                for host in wanted.iter() {
                    names.entry(host.clone()).or_insert_with(Name::new);
                }
            }
            Some(done) = running.join_next(), if !running.is_empty() => {
                // A name may not be wanted any more.
                if let Ok((host, answer)) = done && let Some(name) = names.get_mut(&host) {
                    name.answered(&host, answer);
                }
            }
            () = sleep_until(next) => {}
        }
        publish.send_if_modified(|known| {
            let answers = Answers::of(&names);
            let changed = **known != answers;
            if changed {
                *known = Arc::new(answers);
            }
            changed
        });
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => future::pending().await,
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    // A name is asked for again when its answer has expired: a cache would give the old one.
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// IPv4 addresses, or IPv6 ones if there are none.
async fn ask(resolver: &TokioResolver, host: &str) -> Lookup {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            let until = found.valid_until();
            if addresses.is_empty() {
                return Lookup::NoSuchName;
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            Lookup::Addresses(addresses, left)
        }
        Err(error) if error.is_no_records_found() => Lookup::NoSuchName,
        Err(error) => Lookup::Failed(error.to_string()),
    }
}

impl Answers {
    fn of(names: &HashMap<String, Name>) -> Self {
        let known = names.iter().filter_map(|(host, name)| {
            let addresses = name.addresses.clone()?;
            Some((host.clone(), addresses))
        });
        Self(known.collect())
    }
}

impl Name {
    fn new() -> Self {
        Self {
            addresses: None,
            due: Some(Instant::now()),
            failed: false,
        }
    }

    fn answered(&mut self, host: &str, answer: Lookup) {
        let (addresses, wait) = match answer {
            Lookup::Addresses(addresses, left) => {
                let wait = if left.is_zero() { REFRESH } else { left };
                (Some(addresses), wait.max(SHORTEST))
            }
            Lookup::NoSuchName => {
                if self
                    .addresses
                    .as_ref()
                    .is_none_or(|known| !known.is_empty())
                {
                    tracing::warn!(host, "there is no such name, so it has no endpoints");
                }
                (Some(Vec::new()), REFRESH)
            }
            Lookup::Failed(error) => {
                if !self.failed {
                    let kept = self.addresses.is_some();
                    tracing::warn!(host, %error, kept, "a name can't be resolved; it is tried again");
                }
                self.failed = true;
                self.due = Some(Instant::now() + AFTER_FAILURE);
                return;
            }
        };
        self.failed = false;
        self.addresses = addresses;
        self.due = Some(Instant::now() + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::gateway::{DnsTarget, Locality};

    #[test]
    fn all_addresses_or_the_first() {
        let target = |host: &str, all| DnsTarget {
            host: host.into(),
            port: 80,
            weight: 3,
            all,
            locality: Locality::default(),
            priority: 0,
        };
        let mut cluster = Cluster::new("c", ["192.0.2.9:80".parse().unwrap()]);
        cluster.names = vec![
            target("all.x", true),
            target("one.x", false),
            target("no.x", true),
        ];
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let answers = Answers(HashMap::from([
            (
                "all.x".to_owned(),
                addresses(&["192.0.2.2", "192.0.2.1", "192.0.2.9"]),
            ),
            ("one.x".to_owned(), addresses(&["192.0.2.7", "192.0.2.6"])),
        ]));
        let resolved = answers.resolve(&Arc::new(cluster));
        let found: Vec<_> = resolved
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address.to_string(), endpoint.weight))
            .collect();
        let wanted = [
            ("192.0.2.1:80", 3),
            ("192.0.2.2:80", 3),
            ("192.0.2.7:80", 3),
            ("192.0.2.9:80", 1),
        ];
        assert_eq!(
            found,
            wanted.map(|(address, weight)| (address.to_owned(), weight))
        );
    }

    #[test]
    fn failures_leave_the_last_answer() {
        let mut name = Name::new();
        name.answered("x", Lookup::Failed("no".into()));
        assert_eq!(name.addresses, None);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let holds = Duration::from_secs(7);
        let before = Instant::now();
        name.answered("x", Lookup::Addresses(vec![address], holds));
        let due = name.due.unwrap();
        assert!(due >= before + holds && due <= Instant::now() + holds);
        name.answered("x", Lookup::Failed("no".into()));
        assert_eq!(name.addresses, Some(vec![address]));
        name.answered("x", Lookup::NoSuchName);
        assert_eq!(name.addresses, Some(Vec::new()));
    }
}
