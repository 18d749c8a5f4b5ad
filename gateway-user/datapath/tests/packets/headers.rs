//! Packets with unusual headers: SCTP, ICMP errors, options, damage.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use gateway_common::{
    decide::{Reason, Verdict},
    event::Hook,
};
use libtest_mimic::Failed;
use nodegate_model::service::Protocol;
use nodegate_programming::{address::to_map, filter::Filter};

use crate::{
    Addresses,
    bench::{self, Bench, DROP, NEXT, Ran, Segment},
};

/// Chunk types (RFC 9260 §3.2).
pub(crate) const INIT: u8 = 1;

pub(crate) const DATA: u8 = 0;

/// SCTP's CRC covers ports and no addresses (RFC 9260 §6.8). What comes out is what would have been
/// sent to the backend in the first place, byte for byte.
pub(crate) fn sctp(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for port in [8080, 80] {
        let mut service = bench::service(Protocol::Sctp, who.cluster_ip, &[(who.gateway, true)]);
        service.port = port;
        bench.serve(&[service], who.node);
        for (to, number) in [((who.cluster_ip, port), 50_000), (who.node_port(), 50_001)] {
            let from = (who.client, number + port);
            for (chunk, length) in [(INIT, 4), (DATA, 4), (DATA, 5), (DATA, 1400)] {
                let sent = Segment::sctp(from, to, chunk).with_payload(length);
                let ran = bench.ingress(&sent)?;
                assert_eq!(ran.action, NEXT);
                assert_eq!(ran.packet, sent.to((who.gateway, 8080)).bytes());
            }
            let answer = Segment::sctp((who.gateway, 8080), from, DATA).with_payload(100);
            let expected = Segment::sctp(to, from, DATA).with_payload(100);
            assert_eq!(bench.egress(&answer)?.packet, expected.bytes());
        }
    }
    // One that the network card has yet to compute stays empty.
    let from = (who.client, 40_000);
    let empty = |to| {
        let mut bytes = Segment::sctp(from, to, INIT).bytes();
        let at = bytes.len() - 8;
        bytes[at..at + 4].fill(0);
        bytes
    };
    let ran = bench.run("ingress", &empty(who.node_port()))?;
    assert_eq!(ran.packet, empty((who.gateway, 8080)));
    Ok(())
}

/// How many bytes the CRC covers after the ports is not known to a first fragment. A Service whose port is
/// its target port needs no other ports.
pub(crate) fn fragmented_sctp(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let serve = |bench: &mut Bench, port| {
        let mut service = bench::service(Protocol::Sctp, who.cluster_ip, &[(who.gateway, true)]);
        service.port = port;
        bench.serve(&[service], who.node);
    };
    bench.trace(&[Filter::default()])?;
    let from = (who.client, 50_000);
    let parts = |segment: Segment, id| segment.with_payload(3000).fragments(1200, id);

    // The same port: what the backend puts together is what was sent to it.
    serve(bench, 8080);
    let sent = Segment::sctp(from, (who.cluster_ip, 8080), INIT);
    let mut whole = Vec::new();
    for part in parts(sent, 1) {
        let ran = bench.run("ingress", &part)?;
        assert_eq!(ran.action, NEXT);
        whole.push(ran.packet);
    }
    let expected = sent.to((who.gateway, 8080)).with_payload(3000).bytes();
    assert_eq!(bench::join(&whole), bench::payload_of(&expected));
    assert_eq!(bench.count("fragmented-sctp"), 0);
    bench.events();

    // Another one: neither the first packet of an association, nor a later one, nor an answer.
    serve(bench, 80);
    let from = (who.client, 50_001);
    let to = (who.cluster_ip, 80);
    let sent = Segment::sctp(from, to, INIT);
    let answer = Segment::sctp((who.gateway, 8080), from, DATA);
    let expect = |bench: &mut Bench, program: &str, segment: Segment, hook: Hook| {
        let before = bench.count("fragmented-sctp");
        let ran = bench.run(program, &parts(segment, 2 + before as u16)[0])?;
        assert_eq!(ran.action, DROP, "{hook:?}");
        assert_eq!(bench.count("fragmented-sctp"), before + 1, "{hook:?}");
        let events = bench.events();
        let [event] = events[..] else {
            panic!("one event: {events:?}");
        };
        let reason = Reason::from_number(event.reason);
        assert_eq!(reason, Some(Reason::FragmentedSctp));
        assert_eq!(
            (event.hook, event.verdict),
            (hook as u8, Verdict::Drop as u8)
        );
        assert_eq!((event.source, event.source_port), (to_map(from.0), from.1));
        let destination = (event.destination, event.destination_port);
        assert_eq!(destination, (to_map(to.0), to.1));
        Ok::<_, Failed>(())
    };
    expect(bench, "ingress", sent, Hook::Ingress)?;
    // It is begun with a packet in one piece.
    assert_eq!(bench.ingress(&sent)?.action, NEXT);
    bench.events();
    expect(
        bench,
        "ingress",
        Segment::sctp(from, to, DATA),
        Hook::Ingress,
    )?;
    expect(bench, "egress", answer, Hook::Egress)?;
    // Ends that do without the CRC (RFC 9653) do without its mending.
    let mut bare = parts(Segment::sctp(from, to, DATA), 99).remove(0);
    let crc = bare.len() - 1200 + 8;
    bare[crc..crc + 4].fill(0);
    let ran = bench.run("ingress", &bare)?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.packet[crc - 6..crc - 4], 8080u16.to_be_bytes());
    // The association goes on.
    let ran = bench.egress(&answer)?;
    assert_eq!(ran.packet, Segment::sctp(to, from, DATA).bytes());
    Ok(())
}

/// A router outside cannot pass on a reply that is too large: it tells the node, and the backend has
/// to hear of it.
pub(crate) fn error_to_backend(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for (segment, protocol) in [
        (who.syn(), Protocol::Tcp),
        (Segment::udp(who.from(), who.node_port()), Protocol::Udp),
    ] {
        let service = bench::service(protocol, who.cluster_ip, &[(who.gateway, true)]);
        bench.serve(&[service], who.node);
        bench.ingress(&segment)?;
        let reply = segment.reply().with_payload(1400);
        let error = reply.too_big(who.router, who.node, 1280);
        let ran = bench.run("ingress", &error)?;
        assert_eq!(ran.action, NEXT);
        let (from, to, quoted) = ran.icmp_error();
        assert_eq!((from, to), (who.router, who.gateway));
        assert_eq!(quoted, ((who.gateway, 8080), who.from()), "{protocol:?}");
    }
    assert_eq!(bench.count("icmp-error"), 2);
    Ok(())
}

/// The pod, or a router on the way to it, has something to say about what the client sent.
pub(crate) fn error_to_client(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for (segment, protocol) in [
        (who.syn(), Protocol::Tcp),
        (Segment::udp(who.from(), who.node_port()), Protocol::Udp),
    ] {
        let service = bench::service(protocol, who.cluster_ip, &[(who.gateway, true)]);
        bench.serve(&[service], who.node);
        bench.ingress(&segment)?;
        let translated = segment.to((who.gateway, 8080)).with_payload(1400);
        for router in [who.gateway, who.node] {
            let error = translated.too_big(router, who.client, 1280);
            let ran = bench.run("egress", &error)?;
            let (from, to, quoted) = ran.icmp_error();
            assert_eq!((from, to), (who.node, who.client), "{protocol:?}");
            assert_eq!(quoted, (who.from(), who.node_port()), "{protocol:?}");
        }
    }
    // Errors about other flows, and pings, are none of ours.
    let other = Segment::tcp((who.client, 50_777), (who.gateway, 8080), "S");
    let error = other.too_big(who.gateway, who.client, 1280);
    assert_eq!(bench.run("egress", &error)?.packet, error);
    let ping = ping(who);
    for program in ["ingress", "egress"] {
        assert_eq!(bench.run(program, &ping)?.packet, ping);
    }
    Ok(())
}

pub(crate) fn ping(who: &Addresses) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6]);
    let mut bytes = Vec::new();
    let written = match (who.client, who.node) {
        (IpAddr::V4(client), IpAddr::V4(node)) => ethernet
            .ipv4(client.octets(), node.octets(), 64)
            .icmpv4_echo_request(1, 2)
            .write(&mut bytes, b"ping"),
        (IpAddr::V6(client), IpAddr::V6(node)) => ethernet
            .ipv6(client.octets(), node.octets(), 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut bytes, b"ping"),
        _ => unreachable!("one family"),
    };
    written.expect("writing to memory");
    bytes
}

pub(crate) fn damaged(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let good = who.syn().bytes();
    // The kernel refuses to run on less than an Ethernet and an IP header.
    let least = if who.client.is_ipv4() { 34 } else { 54 };
    for length in least..good.len() {
        let packet = &good[..length];
        let ran = bench.run("ingress", packet)?;
        assert!([NEXT, DROP].contains(&ran.action), "{length} bytes");
        assert_eq!(ran.packet.len(), packet.len());
    }
    let mut random = fastrand::Rng::with_seed(1);
    let error = who.syn().reply().too_big(who.router, who.node, 1280);
    for _ in 0..3_000 {
        let mut packet = if random.bool() {
            good.clone()
        } else {
            error.clone()
        };
        for _ in 0..random.usize(1..6) {
            let at = random.usize(14..packet.len());
            packet[at] = random.u8(..);
        }
        packet.truncate(random.usize(least..=packet.len()));
        for program in ["ingress", "egress", "pod_ingress"] {
            let ran = bench.run(program, &packet)?;
            assert_eq!(ran.packet.len(), packet.len());
            assert!([NEXT, DROP].contains(&ran.action), "{}", ran.action);
        }
    }
    Ok(())
}

pub(crate) fn ip_options(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for words in 1..=10u8 {
        let from = (who.client, 50_000 + u16::from(words));
        let packet = Segment::tcp(from, who.node_port(), "S").bytes_with_options(words);
        let ran: Ran = bench.run("ingress", &packet)?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{words} words");
    }
    Ok(())
}

/// What a switch floods, and a card in promiscuous mode takes.
pub(crate) fn other_stations(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let mut frame = who.syn().bytes();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let ran = bench.run("ingress", &frame)?;
    assert_eq!((ran.action, ran.mark, &ran.packet), (NEXT, 0, &frame));
    assert_eq!(bench.flows()?, []);
    Ok(())
}
