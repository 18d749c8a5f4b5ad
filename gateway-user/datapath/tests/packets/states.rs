//! Which packets change what is known of a flow, and which don't.

use std::collections::BTreeSet;

use gateway_common::conntrack::{Record, State};
use libtest_mimic::Failed;
use nodegate_model::service::{Protocol, SourceRanges};

use crate::{
    Addresses,
    bench::{self, BACKEND, Bench, CLIENT, DROP, NEXT, Segment},
};

/// What a first exchange leaves off with.
const SENT: u32 = CLIENT + 1;
const HEARD: u32 = BACKEND + 1;

/// The state of the only flow.
fn state(bench: &Bench) -> Result<State, Failed> {
    let flows = bench.flows()?;
    assert_eq!(flows.len(), 1, "{flows:?}");
    Ok(flows[0].state())
}

/// Numbers that somebody who only knows addresses and ports may try.
const GUESSES: [(u32, u32); 5] = [
    (0, 0),
    (1, 1),
    (SENT.wrapping_sub(70_000), HEARD),
    (SENT.wrapping_add(70_000), HEARD),
    (SENT, HEARD.wrapping_add(1)),
];

pub(crate) fn forged(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    let before = bench.flows()?;
    for flags in ["R", "FA", "A", "SA", "F"] {
        for (sequence, acknowledged) in GUESSES {
            if flags == "R" && sequence == SENT {
                continue;
            }
            let forged = Segment::tcp(who.from(), who.node_port(), flags);
            let forged = forged.with_numbers(sequence, acknowledged);
            // It goes where the others go: its receiver judges it.
            let ran = bench.ingress(&forged)?;
            assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)), "{flags}");
            assert_eq!(bench.flows()?, before, "{flags} {sequence}");
        }
    }
    // A SYN of another port that shares the bucket is another flow, whatever happened before.
    let other = (who.client, who.from().1 ^ 0x4000);
    let forged = Segment::tcp(other, who.node_port(), "S").with_numbers(1, 0);
    assert_eq!(bench.ingress(&forged)?.ends().0, other);
    // One of the same port asks the backend, which says that it knows better.
    let forged = Segment::tcp(who.from(), who.node_port(), "S").with_numbers(1, 0);
    for _ in 0..3 {
        let ran = bench.ingress(&forged)?;
        assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
        bench.wait(2)?;
        let challenge = Segment::tcp((who.gateway, 8080), who.from(), "A").with_payload(0);
        let answered = bench.egress(&challenge)?;
        assert_eq!(answered.ends(), (who.node_port(), who.from()));
    }
    let kept = bench.flows()?;
    let kept = kept.iter().find(|flow| flow.client_port == who.from().1);
    let kept = kept.expect("the connection");
    assert_eq!((kept.state(), kept.opening), (State::Established, CLIENT));
    Ok(())
}

/// The backend resets, and the client comes again from the same port: that connection lives whatever
/// others come.
pub(crate) fn after_a_reset(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    let reset = Segment::tcp((who.gateway, 8080), who.from(), "R").with_numbers(HEARD, 0);
    assert_eq!(bench.egress(&reset)?.ends().0, who.node_port());
    assert_eq!(state(bench)?, State::Reset);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    assert_eq!(state(bench)?, State::Established);
    for other in [who.from().1 ^ 0x4000, who.from().1 ^ 0x8000] {
        bench.connect((who.client, other), who.node_port(), who.gateway)?;
    }
    let again = Segment::tcp(who.from(), who.node_port(), "A");
    assert_eq!(bench.ingress(&again)?.ends().0, who.from());
    let answer = Segment::tcp((who.gateway, 8080), who.from(), "A");
    assert_eq!(bench.egress(&answer)?.ends(), (who.node_port(), who.from()));
    assert_eq!(bench.flows()?.len(), 3);
    Ok(())
}

/// Once a connection is over, its port's next SYN is decided by what holds then.
pub(crate) fn decided_anew(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let serve = |bench: &mut Bench, ranges: &[&str]| {
        who.serve_with(bench, &[(who.gateway, true)], |service| {
            service.load_balancer_ips = vec![who.balancer];
            service.source_ranges = SourceRanges::parse(ranges);
        });
    };
    let all = ["0.0.0.0/0", "::/0"];
    let others = ["198.51.100.0/24", "fd00:dd::/32"];
    let syn = |sequence| Segment::tcp(who.from(), who.balanced(), "S").with_numbers(sequence, 0);
    serve(bench, &all);
    bench.connect(who.from(), who.balanced(), who.gateway)?;
    serve(bench, &others);
    // The connection goes on, but nothing new may come in, not even a question.
    let later = Segment::tcp(who.from(), who.balanced(), "A");
    assert_eq!(bench.ingress(&later)?.ends().1, (who.gateway, 8080));
    assert_eq!(bench.ingress(&syn(7))?.action, DROP);
    assert_eq!(state(bench)?, State::Established);
    bench.ingress(&Segment::tcp(who.from(), who.balanced(), "R").with_numbers(SENT + 5, 0))?;
    assert_eq!(state(bench)?, State::Reset);
    assert_eq!(bench.ingress(&syn(7))?.action, DROP);
    assert_eq!(bench.count("source-range"), 2);
    // An opening that nobody has answered is nobody's: the next one is decided anew as well.
    serve(bench, &all);
    assert_eq!(bench.ingress(&syn(7))?.ends().1, (who.gateway, 8080));
    serve(bench, &others);
    assert_eq!(
        bench.ingress(&syn(7))?.ends().1,
        (who.gateway, 8080),
        "again"
    );
    assert_eq!(bench.ingress(&syn(8))?.action, DROP);
    Ok(())
}

/// A backend that is gone without a word does not hold a client's port for five days.
pub(crate) fn questions(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    who.serve(bench, &[(who.second, true)]);
    bench.wait(10)?;
    let syn = Segment::tcp(who.from(), who.node_port(), "S").with_numbers(77, 0);
    for seconds in [1, 2] {
        let ran = bench.ingress(&syn)?;
        assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
        bench.wait(seconds)?;
    }
    let ran = bench.ingress(&syn)?;
    assert_eq!(ran.ends(), (who.from(), (who.second, 8080)));
    assert_eq!(state(bench)?, State::Opening);
    // One that has no such connection any more says so: with a reset that answers the SYN.
    bench.connect((who.client, 50_001), who.node_port(), who.second)?;
    let syn = Segment::tcp((who.client, 50_001), who.node_port(), "S").with_numbers(77, 0);
    bench.ingress(&syn)?;
    let reset = Segment::tcp((who.second, 8080), (who.client, 50_001), "RA").with_numbers(0, 78);
    assert_eq!(bench.egress(&reset)?.ends().0, who.node_port());
    let flows = bench.flows()?;
    let flow = flows.iter().find(|flow| flow.client_port == 50_001);
    assert_eq!(flow.map(Record::state), Some(State::Reset));
    Ok(())
}

/// The endpoint has a connection from the client's port that began before, past the Service.
pub(crate) fn occupied(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let direct = Segment::tcp(who.from(), (who.gateway, 8080), "S");
    assert_eq!(bench.ingress(&direct)?.packet, direct.bytes());
    let backend = (who.gateway, 8080);
    bench.egress_untouched(&Segment::tcp(backend, who.from(), "SA"))?;
    let syn = who.syn().with_numbers(77, 0);
    assert_eq!(bench.ingress(&syn)?.ends(), (who.from(), backend));
    // What the endpoint says is of the connection that it has.
    let data = Segment::tcp(backend, who.from(), "A").with_payload(9);
    bench.egress_untouched(&data)?;
    // But for one ACK, which may be what it says to the SYN: the client opens again at once then.
    let challenge = Segment::tcp(backend, who.from(), "A").with_payload(0);
    let told = bench.egress(&challenge)?;
    assert_eq!(told.ends(), (who.node_port(), who.from()));
    bench.egress_untouched(&challenge)?;
    // What it resets is not the connection that is there.
    let reset = Segment::tcp(who.from(), who.node_port(), "R").with_numbers(HEARD, 0);
    assert_eq!(bench.ingress(&reset)?.packet, reset.bytes());
    // The next SYN comes from another port.
    let (seen, to) = bench.ingress(&syn)?.ends();
    assert_eq!(to, backend);
    assert_ne!(seen, who.from());
    bench.egress_untouched(&challenge)?;
    let answer = Segment::tcp(backend, seen, "SA").with_numbers(9, 78);
    assert_eq!(bench.egress(&answer)?.ends(), (who.node_port(), who.from()));
    let taken_up = Segment::tcp(who.from(), who.node_port(), "A").with_numbers(78, 10);
    assert_eq!(bench.ingress(&taken_up)?.ends(), (seen, backend));
    assert_eq!(state(bench)?, State::Established);
    Ok(())
}

/// The endpoint closed an earlier connection from the client's port, and has it in TIME-WAIT.
pub(crate) fn waits(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let backend = (who.gateway, 8080);
    // Through whatever frontend the client comes again.
    for to in [who.node_port(), (who.cluster_ip, 80)] {
        bench.connect(who.from(), who.node_port(), who.gateway)?;
        bench.close(who.from(), who.node_port(), who.gateway)?;
        assert_eq!(state(bench)?, State::TimeWait);
        let syn = Segment::tcp(who.from(), to, "S").with_numbers(77, 0);
        assert_eq!(bench.ingress(&syn)?.ends(), (who.from(), backend));
        // It says what it has heard, of which the client knows nothing.
        let last = Segment::tcp(backend, who.from(), "A").with_payload(0);
        let last = last.with_numbers(HEARD + 1, SENT + 1);
        assert_eq!(bench.egress(&last)?.ends(), (to, who.from()));
        for (number, expected) in [(SENT, to), (SENT + 1, backend), (SENT + 2, to)] {
            let reset = Segment::tcp(who.from(), to, "R").with_numbers(number, 0);
            assert_eq!(bench.ingress(&reset)?.ends().1, expected, "{number}");
        }
        // That has ended it, so the next SYN can come from the same port.
        assert_eq!(bench.ingress(&syn)?.ends(), (who.from(), backend));
        // An endpoint that does not let go of it (net.ipv4.tcp_rfc1337) says the same again.
        bench.egress_untouched(&last)?;
        assert_ne!(bench.ingress(&syn)?.ends().0, who.from());
        bench.wait(130)?;
    }
    Ok(())
}

/// The endpoint has connections from all ports that the client's may be given: none is tried twice while
/// there is another, and none is given to anybody else.
pub(crate) fn occupied_one_by_one(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let backend = (who.gateway, 8080);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (from, to) = bench.ingress(&who.syn())?.ends();
        assert_eq!(to, backend);
        bench.egress(&Segment::tcp(backend, from, "A").with_payload(0))?;
        seen.push(from.1);
    }
    assert_eq!(seen[0], who.from().1);
    // The fourth one would be below 1024.
    let tried: BTreeSet<u16> = seen[..3].iter().copied().collect();
    assert_eq!(tried.len(), 3, "{seen:?}");
    assert!(seen.windows(2).all(|two| two[0] != two[1]), "{seen:?}");
    for port in tried {
        let other = Segment::tcp((who.client, port), (who.cluster_ip, 80), "S");
        assert_eq!(bench.ingress(&other)?.action, DROP, "{port}");
    }
    assert_eq!(bench.count("clash"), 3);
    Ok(())
}

/// A connection past the Service is noted beside one that may be given its port.
pub(crate) fn beside(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let backend = (who.gateway, 8080);
    assert_eq!(bench.ingress(&who.syn())?.ends(), (who.from(), backend));
    let other = (who.client, who.from().1 ^ 0x4000);
    let direct = Segment::tcp(other, backend, "S");
    assert_eq!(bench.ingress(&direct)?.packet, direct.bytes());
    assert_eq!(bench.flows()?.len(), 2);
    let second = Segment::tcp(who.from(), (who.cluster_ip, 80), "S");
    let (seen, to) = bench.ingress(&second)?.ends();
    assert_eq!(to, backend);
    assert!(![who.from(), other].contains(&seen), "{seen:?}");
    // One to another endpoint leaves nothing.
    let direct = Segment::tcp(other, (who.second, 8080), "S");
    assert_eq!(bench.ingress(&direct)?.packet, direct.bytes());
    assert_eq!(bench.flows()?.len(), 3);
    Ok(())
}

pub(crate) fn patience(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let later = Segment::tcp(who.from(), who.node_port(), "A");
    let answer = Segment::tcp((who.gateway, 8080), who.from(), "A");
    for (end, seconds) in [(None, 432_000), (Some("FA"), 60), (Some("R"), 10)] {
        bench.connect(who.from(), who.node_port(), who.gateway)?;
        if let Some(flags) = end {
            bench.ingress(&Segment::tcp(who.from(), who.node_port(), flags))?;
            let heard = answer.with_payload(0).with_numbers(HEARD, SENT + 1);
            bench.egress(&heard)?;
        }
        bench.wait(seconds - 2)?;
        let known = later.with_numbers(1, 1);
        assert_eq!(bench.ingress(&known)?.ends().1, (who.gateway, 8080));
        bench.wait(4)?;
        // It counts as none, in both directions.
        let ran = bench.ingress(&known)?;
        assert_eq!((ran.action, ran.packet), (NEXT, known.bytes()), "{end:?}");
        bench.egress_untouched(&answer)?;
    }
    Ok(())
}

/// How far a packet may be ahead depends on the scale that the backend has offered, if both have.
pub(crate) fn window_scales(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let usual: &[u8] = &[
        2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 3, 3, 3, 0, 0, 0, 1, 3, 3, 7,
    ];
    let first: &[u8] = &[3, 3, 7, 1];
    let ended: &[u8] = &[1, 1, 1, 0, 3, 3, 7, 0];
    let broken: &[u8] = &[5, 0, 3, 3, 7, 0, 0, 0];
    let padded: &[u8] = &[1, 1, 3, 3, 200, 1, 1, 1];
    for (number, (client, backend, shift)) in (0u16..).zip([
        (usual, usual, 7),
        (first, usual, 7),
        (usual, first, 7),
        (usual, &[], 0),
        (&[], usual, 0),
        (usual, ended, 0),
        (usual, broken, 0),
        // More than there is (RFC 7323 §2.3).
        (usual, padded, 14),
    ]) {
        let from = (who.client, 40_000 + number);
        let to = (who.gateway, 8080);
        let syn = Segment::tcp(from, who.node_port(), "S").bytes_with_tcp_options(client);
        assert_eq!(bench.run("ingress", &syn)?.action, NEXT);
        let answer = Segment::tcp(to, from, "SA").of_backend();
        let answer = answer.bytes_with_tcp_options(backend);
        assert_eq!(bench.run("egress", &answer)?.ends().0, who.node_port());
        let later = Segment::tcp(from, who.node_port(), "A").with_payload(0);
        bench.ingress(&later)?;
        // The windows of segments after the first ones are scaled.
        bench.egress(&Segment::tcp(to, from, "A").with_payload(0))?;
        let window = 65_535 << shift;
        let reaches = |bench: &mut Bench, ahead: u32| -> Result<bool, Failed> {
            bench.ingress(&later.with_numbers(SENT + ahead, HEARD))?;
            let flows = bench.flows()?;
            let flow = flows.iter().find(|flow| flow.client_port == from.1);
            Ok(flow.expect("the flow").ahead.end == SENT + ahead)
        };
        assert!(!reaches(bench, window + 1)?, "{client:?} {backend:?}");
        assert!(reaches(bench, window)?, "{client:?} {backend:?}");
    }
    Ok(())
}

pub(crate) fn associations(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const ABORT: u8 = 6;
    const COOKIE_ECHO: u8 = 10;
    let service = bench::service(Protocol::Sctp, who.cluster_ip, &[(who.gateway, true)]);
    bench.serve(&[service], who.node);
    let backend = (who.gateway, 8080);
    let there = |chunk, tag, initiate| {
        let segment = Segment::sctp(who.from(), who.node_port(), chunk);
        segment.with_payload(16).with_numbers(tag, initiate)
    };
    let back = |chunk, tag, initiate| {
        let segment = Segment::sctp(backend, who.from(), chunk);
        segment.with_payload(16).with_numbers(tag, initiate)
    };
    assert_eq!(bench.ingress(&there(INIT, 0, 11))?.action, NEXT);
    assert_eq!(state(bench)?, State::Opening);
    for (tag, expected) in [(12, State::Opening), (11, State::Answered)] {
        bench.egress(&back(INIT_ACK, tag, 21))?;
        assert_eq!(state(bench)?, expected);
    }
    for (tag, expected) in [(22, State::Answered), (21, State::Established)] {
        bench.ingress(&there(COOKIE_ECHO, tag, 0))?;
        assert_eq!(state(bench)?, expected);
    }
    for (tag, expected) in [(1, State::Established), (21, State::Reset)] {
        bench.ingress(&there(ABORT, tag, 0))?;
        assert_eq!(state(bench)?, expected);
    }
    Ok(())
}
