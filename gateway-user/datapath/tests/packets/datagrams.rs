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
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 168, 170, 1], [192, 168, 170, 137], 64)
        .icmpv4(header.icmp_type)
        .write(&mut bytes, &[])?;
    assert_eq!(bench.run("ingress", &bytes)?.packet, bytes);
    Ok(())
}
