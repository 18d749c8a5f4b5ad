//! What one request and one answer don't show: connections that go on, that become something else,
//! copies, and shares of many requests.

use std::{net::SocketAddr, thread, time::Duration};

use libtest_mimic::Failed;
use scripts::Step;

use crate::{
    client::{Answer, Connection},
    compare::{compare, compare_seen, seen},
    differences::named,
    http2,
    pair::{Answers, Pair},
    told,
    upstream::Seen,
};

/// Asks what a script says over one connection to each, as far as one request leaves it usable for
/// the next.
pub(crate) fn kept(pair: &Pair, steps: &[Step]) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    let [envoy, nodegate] = pair.addresses("port")?;
    let (mut envoy, mut nodegate) = (Connection::open(envoy)?, Connection::open(nodegate)?);
    for step in steps.iter().filter(|step| step.port == "port") {
        let text = pair.places().fill(&step.request);
        if http2::request(&text).is_none() {
            continue;
        }
        let bytes = scripts::bytes(&text);
        let answers = Answers {
            envoy: envoy.ask(&bytes)?,
            nodegate: nodegate.ask(&bytes)?,
        };
        let known: Vec<_> = step.differs.iter().filter_map(|name| named(name)).collect();
        let found = compare(&answers);
        let unknown = found
            .iter()
            .filter(|found| !known.iter().any(|known| known.covers(&found.aspect)));
        let unknown: Vec<_> = unknown.map(told).collect();
        if !unknown.is_empty() {
            let unknown = unknown.join("\n  ");
            complaints.push(format!("{}:\n{text}\n  {unknown}", step.place));
        }
        for (connection, answer) in [
            (&mut envoy, &answers.envoy),
            (&mut nodegate, &answers.nodegate),
        ] {
            if !answer.leaves_open() {
                connection.reopen()?;
            }
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n\n").into())
}

/// A protocol that is agreed upon, with bytes that don't wait for that.
pub(crate) fn switching(pair: &Pair) -> Result<(), Failed> {
    switch(pair, "/chat")
}

/// The same with an endpoint that speaks TLS.
pub(crate) fn switching_in_tls(pair: &Pair) -> Result<(), Failed> {
    switch(pair, "/secret-chat")
}

fn switch(pair: &Pair, path: &str) -> Result<(), Failed> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: mirror.test\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nearly\n"
    );
    let talk = |address: SocketAddr| -> Result<(Answer, String), Failed> {
        let mut connection = Connection::open(address)?;
        let answer = connection.ask(request.as_bytes())?;
        connection.send(b"later\n")?;
        let said = connection.until(b"later\n")?.unwrap_or_default();
        Ok((answer, String::from_utf8_lossy(&said).into_owned()))
    };
    let [envoy, nodegate] = pair.addresses("port")?;
    let ((envoy, of_envoy), (nodegate, of_nodegate)) = (talk(envoy)?, talk(nodegate)?);
    if envoy.status != 101 || of_envoy != "hello\nearly\nlater\n" {
        return Err(format!("Envoy answers {}, and then `{of_envoy}`", envoy.status).into());
    }
    let answers = Answers { envoy, nodegate };
    let mut found: Vec<_> = compare(&answers).iter().map(told).collect();
    if of_envoy != of_nodegate {
        found.push(format!("nodegate: `{of_nodegate}`"));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(found.join("\n").into())
}

/// Who ends its side with its request is gone for Envoy, and for this proxy if it is to do as Envoy does.
pub(crate) fn half_closed(pair: &Pair) -> Result<(), Failed> {
    let requests = [
        "GET /split HTTP/1.1\r\nHost: mirror.test\r\n\r\n",
        "POST /split HTTP/1.1\r\nHost: mirror.test\r\ncontent-length: 4\r\n\r\nbody",
    ];
    for request in requests {
        let mut answered = Vec::new();
        for address in pair.all_addresses("port")? {
            let mut connection = Connection::open(address)?;
            connection.send(request.as_bytes())?;
            connection.end()?;
            answered.push(connection.rest()?.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        if answered != [false, true, false] {
            return Err(format!("{request}: {answered:?} are answered").into());
        }
    }
    Ok(())
}

/// Headers by which an endpoint tells Envoy's copies from requests.
const OF_COPIES: [&str; 2] = [
    "upstream header x-envoy-internal",
    "upstream header x-forwarded-for",
];

/// Copies are the same, and as many.
pub(crate) fn mirrors(pair: &Pair) -> Result<(), Failed> {
    let addresses = pair.addresses("port")?;
    let bodies = ["", "a body"];
    for body in bodies {
        let request = format!(
            "POST /all?a=1 HTTP/1.1\r\nHost: mirror.test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut copies = Vec::new();
        for address in addresses {
            pair.copies().take();
            let answer = Connection::open(address)?.ask(request.as_bytes())?;
            if answer.status != 200 {
                return Err(format!("{address} answers {}", answer.status).into());
            }
            copies.push(copy(pair).ok_or_else(|| format!("{address} makes no copy"))?);
        }
        let mut found = compare_seen(&copies[0], &copies[1]);
        // Envoy makes copies as a client of its own, and says so.
        found.retain(|found| !OF_COPIES.contains(&found.aspect.as_str()));
        if !found.is_empty() {
            let found: Vec<_> = found.iter().map(told).collect();
            return Err(found.join("\n").into());
        }
    }
    for address in addresses {
        pair.copies().take();
        let mut connection = Connection::open(address)?;
        for _ in 0..1000 {
            connection.ask(b"GET /half HTTP/1.1\r\nHost: mirror.test\r\n\r\n")?;
        }
        // The last of them may still be on their way. Six standard deviations.
        let mut count = 0;
        let enough = patience::until(|| {
            count += pair.copies().take().len();
            (count >= 405).then_some(())
        });
        thread::sleep(Duration::from_millis(300));
        count += pair.copies().take().len();
        if enough.is_err() || count > 595 {
            return Err(format!("{address} makes {count} copies of 1000 requests").into());
        }
    }
    Ok(())
}

fn copy(pair: &Pair) -> Option<Seen> {
    patience::until(|| pair.copies().take().pop()).ok()
}

/// Nine in ten: by chance with Envoy, exactly with this proxy.
pub(crate) fn shares(pair: &Pair) -> Result<(), Failed> {
    let count = |address: SocketAddr| -> Result<usize, Failed> {
        let mut connection = Connection::open(address)?;
        let mut count = 0;
        for _ in 0..1000 {
            let answer = connection.ask(b"GET /split HTTP/1.1\r\nHost: mirror.test\r\n\r\n")?;
            let seen = seen(&answer).ok_or("no answer of an endpoint")?;
            count += usize::from(seen.endpoint == "v2");
        }
        Ok(count)
    };
    let [envoy, nodegate] = pair.addresses("port")?;
    let (envoy, nodegate) = (count(envoy)?, count(nodegate)?);
    // Six standard deviations.
    if envoy.abs_diff(100) > 57 || nodegate != 100 {
        return Err(format!("of 1000: Envoy {envoy}, nodegate {nodegate}").into());
    }
    Ok(())
}

/// Where they may, both make a WebSocket of an HTTP/2 stream (RFC 8441), which it is to endpoints in HTTP/1.1. They
/// want a key, which nobody says in HTTP/2: Envoy leaves that to them.
pub(crate) fn extended_connect(pair: &Pair) -> Result<(), Failed> {
    const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    let offers = pair
        .settings()?
        .map(|all| all.get(&ENABLE_CONNECT_PROTOCOL).copied());
    if offers != [Some(1), Some(1)] {
        return Err(format!("Envoy and nodegate offer it: {offers:?}").into());
    }
    for path in ["/chat", "/secret-chat"] {
        let asked = pair.websockets(path, "websocket")?;
        for (answer, said) in &asked {
            if answer.status != 200 || said != "hello\nearly\n" {
                return Err(format!("{path}: {answer:?}, and then `{said}`").into());
            }
        }
        let [envoy, nodegate, with_parity] = asked.map(|(answer, _)| answer);
        // Endpoints say whether there was one, and what they make of it is for whoever has said it.
        same(&envoy, &with_parity, &[])?;
        same(
            &envoy,
            &nodegate,
            &["header x-key", "header sec-websocket-accept"],
        )?;
        let key = |answer: &Answer| {
            let mut headers = answer.headers.iter();
            headers.any(|(name, value)| name == "x-key" && value == "yes")
        };
        if [key(&envoy), key(&nodegate), key(&with_parity)] != [false, true, false] {
            return Err(format!("{path}: {envoy:?}, {nodegate:?}, {with_parity:?}").into());
        }
    }
    // Nothing else, and nobody who isn't there.
    for (path, protocol) in [("/chat", "irc"), ("/nowhere", "websocket")] {
        let [envoy, nodegate, _] = pair.websockets(path, protocol)?.map(|(answer, _)| answer);
        same(&envoy, &nodegate, &[])?;
    }
    Ok(())
}

fn same(envoy: &Answer, nodegate: &Answer, known: &[&str]) -> Result<(), Failed> {
    let answers = Answers {
        envoy: envoy.clone(),
        nodegate: nodegate.clone(),
    };
    let found = compare(&answers);
    let found = found
        .iter()
        .filter(|found| !known.contains(&found.aspect.as_str()));
    let found: Vec<_> = found.map(told).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(found.join("\n").into())
}
