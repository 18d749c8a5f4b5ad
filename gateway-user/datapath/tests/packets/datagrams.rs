//! Datagrams, and packets in fragments.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, PacketBuilder};
use libtest_mimic::Failed;
use nodegate_model::service::Protocol;

use crate::{
    Addresses,
    bench::{self, Bench, NEXT, Segment},
};

pub(crate) fn serve_udp(bench: &mut Bench, who: &Addresses, backends: &[(IpAddr, bool)]) {
    let service = bench::service(Protocol::Udp, who.cluster_ip, backends);
    bench.serve(&[service], who.node);
}

pub(crate) fn datagrams(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true), (who.second, true)]);
    let there = Segment::udp(who.from(), who.node_port());
    let (from, chosen) = bench.ingress(&there)?.ends();
    assert_eq!(from, who.from());
    for _ in 0..20 {
        assert_eq!(bench.ingress(&there)?.ends(), (who.from(), chosen));
    }
    let back = bench.egress(&Segment::udp(chosen, who.from()))?;
    assert_eq!(back.ends(), (who.node_port(), who.from()));
    Ok(())
}

pub(crate) fn stale_datagram(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let there = Segment::udp(who.from(), who.node_port());
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    serve_udp(bench, who, &[(who.second, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.second, 8080));
    // To nobody, and back again.
    serve_udp(bench, who, &[]);
    let ran = bench.ingress(&there)?;
    assert_eq!(
        (ran.action, ran.mark),
        (NEXT, 0x1000),
        "refused by netfilter"
    );
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    Ok(())
}

/// The numbers of backends that went are given to new ones.
pub(crate) fn renumbered_datagram(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let there = Segment::udp(who.from(), who.node_port());
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    serve_udp(bench, who, &[]);
    serve_udp(bench, who, &[(who.second, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.second, 8080));
    Ok(())
}

pub(crate) fn fragments(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let datagram = Segment::udp(who.from(), who.node_port()).with_payload(3000);
    let parts = datagram.fragments(1200, 77);
    assert_eq!(parts.len(), 3);
    let mut whole = Vec::new();
    for part in &parts {
        let ran = bench.run("ingress", part)?;
        assert_eq!(ran.action, NEXT);
        whole.push(ran.packet);
    }
    // Put together again, the datagram is right to the last bit: checksum and all.
    let joined = bench::join(&whole);
    let expected = Segment::udp(who.from(), (who.gateway, 8080))
        .with_payload(3000)
        .bytes();
    assert_eq!(joined, bench::payload_of(&expected));
    // A later fragment without its first one cannot be placed.
    let lost = datagram.fragments(1200, 78).remove(1);
    let ran = bench.run("ingress", &lost)?;
    assert_eq!((ran.action, ran.packet), (NEXT, lost));
    assert_eq!(bench.count("lost-fragment"), 1);
    Ok(())
}

/// 0 means "no checksum" (RFC 768).
pub(crate) fn no_udp_checksum(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let mut packet = Segment::udp(who.from(), who.node_port()).bytes();
    let checksum = 14 + 20 + 6;
    packet[checksum..checksum + 2].fill(0);
    let ran = bench.run("ingress", &packet)?;
    assert_eq!(ran.packet[checksum..checksum + 2], [0, 0]);
    assert_eq!(ran.packet[30..34], [10, 10, 1, 4]);
    // An ICMP message that quotes nothing is no error about a flow.
    let kind = Icmpv4Type::Unknown {
        type_u8: 3,
        code_u8: 4,
        bytes5to8: [0; 4],
    };
    let header = Icmpv4Header::with_checksum(kind, &[]);
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6])
        .ipv4([192, 168, 170, 1], [192, 168, 170, 137], 64)
        .icmpv4(header.icmp_type)
        .write(&mut bytes, &[])?;
    assert_eq!(bench.run("ingress", &bytes)?.packet, bytes);
    Ok(())
}

/// A process of the node, or a pod behind its masquerade, asks from a port that is a frontend's: the
/// answers are for who has asked, and a client's datagrams for the Service.
pub(crate) fn ours(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let server = (who.router, 123);
    let question = Segment::udp(who.node_port(), server);
    let answer = Segment::udp(server, who.node_port());
    let untouched = |bench: &mut Bench, answer: &Segment| -> Result<(), Failed> {
        let ran = bench.ingress(answer)?;
        assert_eq!(
            (ran.action, ran.mark, ran.packet),
            (NEXT, 0, answer.bytes())
        );
        Ok(())
    };
    for _ in 0..3 {
        bench.egress_untouched(&question)?;
        untouched(bench, &answer)?;
        bench.wait(100)?;
        untouched(bench, &answer)?;
    }
    // Of somebody who was not asked.
    let other = Segment::udp((who.router, 124), who.node_port());
    assert_eq!(bench.ingress(&other)?.ends().1, (who.gateway, 8080));
    // And of the same one, after that has been forgotten.
    bench.wait(200)?;
    assert_eq!(bench.ingress(&answer)?.ends().1, (who.gateway, 8080));
    // A client's flow goes on, whatever the node sends to the client from there.
    bench.egress_untouched(&question)?;
    assert_eq!(bench.ingress(&answer)?.ends().1, (who.gateway, 8080));
    // What comes from other ports is nobody's frontend.
    bench.egress_untouched(&Segment::udp((who.node, 40_000), server))?;
    assert!(
        bench
            .flows()?
            .iter()
            .all(|flow| flow.frontend_port == 31373)
    );
    Ok(())
}

/// From one port to a cluster IP, a node port and the endpoint itself.
pub(crate) fn direct(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let endpoint = (who.gateway, 8080);
    let asked = [(who.cluster_ip, 80), who.node_port(), endpoint];
    let mut seen = Vec::new();
    for to in asked {
        let (from, there) = bench.ingress(&Segment::udp(who.from(), to))?.ends();
        assert_eq!(there, endpoint);
        seen.push(from);
    }
    for (from, to) in seen.iter().zip(asked).rev() {
        let answer = Segment::udp(endpoint, *from);
        assert_eq!(bench.egress(&answer)?.ends(), (to, who.from()), "{from:?}");
        let again = bench.ingress(&Segment::udp(who.from(), to))?;
        assert_eq!(again.ends(), (*from, endpoint));
    }
    Ok(())
}
