//! Which endpoints are asked where some are nearer than others (`cases/places.yaml`): `near1` and `near2` in
//! the gateway's own region, `far1` and `far2` in two zones of another.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use libtest_mimic::Failed;

use crate::{client::Connection, compare::seen, pair::Pair};

/// How many requests are counted.
const MANY: usize = 2000;

/// How many keys are tried.
const KEYS: usize = 500;

/// Localities by their shares: by chance with both.
pub(crate) fn distributed(pair: &Pair) -> Result<(), Failed> {
    for address in pair.addresses("port")? {
        let counts = counts(address, "/spread")?;
        // Three in four of 70 percent weigh three times as much.
        let wanted = [
            ("near1", 0.175),
            ("near2", 0.525),
            ("far1", 0.2),
            ("far2", 0.1),
        ];
        check(address, &counts, &wanted)?;
    }
    Ok(())
}

/// The same key leads to the same endpoint with both, and localities have their shares of the keys.
pub(crate) fn distributed_by_key(pair: &Pair) -> Result<(), Failed> {
    for path in ["/ring", "/maglev"] {
        let [envoy, nodegate] = by_key(pair, path)?;
        same(path, &envoy, &nodegate)?;
        let far = envoy.iter().filter(|name| name.starts_with("far")).count();
        // Points of a ring are not as even as shares are.
        if far.abs_diff(KEYS * 3 / 10) > KEYS / 10 {
            return Err(format!("{path}: {far} of {KEYS} keys are far").into());
        }
    }
    Ok(())
}

/// Only the near, until they fail: then the far take over what the near can't.
pub(crate) fn turned(pair: &Pair) -> Result<(), Failed> {
    let [envoy, nodegate] = pair.addresses("port")?;
    for address in [envoy, nodegate] {
        check(
            address,
            &counts(address, "/turn")?,
            &[("near1", 0.25), ("near2", 0.75)],
        )?;
        eject(address, "/turn", "near2")?;
        // Half of the near is left, and takes 1.4 times as much as its half.
        let wanted = [("near1", 0.7), ("far1", 0.15), ("far2", 0.15)];
        check(address, &counts(address, "/turn")?, &wanted)?;
        eject(address, "/turn", "near1")?;
        check(
            address,
            &counts(address, "/turn")?,
            &[("far1", 0.5), ("far2", 0.5)],
        )?;
    }
    Ok(())
}

/// The same by keys, which lead to the same endpoint with both.
pub(crate) fn turned_by_key(pair: &Pair) -> Result<(), Failed> {
    let path = "/turn-by-key";
    let [envoy, nodegate] = by_key(pair, path)?;
    same(path, &envoy, &nodegate)?;
    if envoy.iter().any(|name| name.starts_with("far")) {
        return Err(format!("{path}: far ones are asked: {envoy:?}").into());
    }
    for address in pair.addresses("port")? {
        eject(address, path, "near2")?;
    }
    let [envoy, nodegate] = by_key(pair, path)?;
    same(path, &envoy, &nodegate)?;
    for name in ["near1", "far1", "far2"] {
        if !envoy.iter().any(|asked| asked == name) {
            return Err(format!("{path}: {name} isn't asked").into());
        }
    }
    Ok(())
}

/// Who was asked for each key, by both.
fn by_key(pair: &Pair, path: &str) -> Result<[Vec<String>; 2], Failed> {
    let [envoy, nodegate] = pair.addresses("port")?;
    let ask = |address| {
        let headers = (0..KEYS).map(|key| format!("x-key: key-{key}\r\n"));
        asked(address, path, headers)
    };
    Ok([ask(envoy)?, ask(nodegate)?])
}

fn same(path: &str, envoy: &[String], nodegate: &[String]) -> Result<(), Failed> {
    let pairs = envoy.iter().zip(nodegate).enumerate();
    let differing: Vec<_> = pairs
        .filter(|(_, (envoy, nodegate))| envoy != nodegate)
        .map(|(key, (envoy, nodegate))| format!("key-{key}: {envoy}, {nodegate}"))
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let count = differing.len();
    let first = differing.into_iter().take(5).collect::<Vec<_>>().join("; ");
    Err(format!("{path}: {count} of {KEYS} keys differ (Envoy, nodegate): {first}").into())
}

/// Lets an endpoint fail, which is then avoided.
fn eject(address: SocketAddr, path: &str, name: &str) -> Result<(), Failed> {
    let mut connection = Connection::open(address)?;
    let deadline = patience::Deadline::new();
    for key in 0.. {
        let answer = connection.ask(
            format!(
                "GET {path} HTTP/1.1\r\nHost: places.test\r\nfail-at: {name}\r\nx-key: {key}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        if answer.status == 503 {
            break;
        }
        if deadline.passed() {
            return Err(format!("{address}: {name} isn't asked for {path}").into());
        }
    }
    // Envoy tells its workers once in a second (`update_merge_window`).
    thread::sleep(Duration::from_millis(1500));
    Ok(())
}

/// How often each endpoint is asked.
fn counts(address: SocketAddr, path: &str) -> Result<BTreeMap<String, usize>, Failed> {
    let mut counts = BTreeMap::new();
    for name in asked(address, path, (0..MANY).map(|_| String::new()))? {
        *counts.entry(name).or_default() += 1;
    }
    Ok(counts)
}

fn check(
    address: SocketAddr,
    counts: &BTreeMap<String, usize>,
    wanted: &[(&str, f64)],
) -> Result<(), Failed> {
    let others = counts
        .keys()
        .filter(|name| wanted.iter().all(|(known, _)| known != name));
    let within = wanted.iter().all(|(name, share)| {
        let count = counts.get(*name).copied().unwrap_or_default() as f64;
        let many = MANY as f64;
        // Six standard deviations.
        (count - share * many).abs() < 6.0 * (many * share * (1.0 - share)).sqrt()
    });
    if within && others.count() == 0 {
        return Ok(());
    }
    Err(format!("{address}: of {MANY} {counts:?}, and not {wanted:?}").into())
}

/// The names of the endpoints that get requests with these headers.
fn asked(
    address: SocketAddr,
    path: &str,
    headers: impl Iterator<Item = String>,
) -> Result<Vec<String>, Failed> {
    let mut connection = Connection::open(address)?;
    headers
        .map(|headers| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: places.test\r\n{headers}\r\n");
            let answer = connection.ask(request.as_bytes())?;
            let seen =
                seen(&answer).ok_or_else(|| format!("{address} answers {}", answer.status))?;
            Ok(seen.endpoint)
        })
        .collect()
}
