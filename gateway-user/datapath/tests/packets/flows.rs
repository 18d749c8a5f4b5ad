//! Connections: their first packets, their later ones, and ports that are used again.

use gateway_common::conntrack::{BUCKETS, WAYS};
use libtest_mimic::Failed;

use crate::{
    Addresses,
    bench::{Bench, CLIENT, DROP, NEXT, Segment},
};

pub(crate) fn node_port(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
    assert_eq!(bench.count("chosen"), 1);
    Ok(())
}

pub(crate) fn cluster_ip(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ran = bench.ingress(&Segment::tcp(who.from(), (who.cluster_ip, 80), "S"))?;
    assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
    Ok(())
}

pub(crate) fn replies(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    let ran = bench.egress(&Segment::tcp((who.gateway, 8080), who.from(), "SA"))?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (who.node_port(), who.from()));
    // Of another client's connection: none of ours.
    let other = Segment::tcp((who.gateway, 8080), (who.client, 50_001), "SA");
    bench.egress_untouched(&other)
}

pub(crate) fn later_packets(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true), (who.second, true)]);
    let (_, chosen) = bench.ingress(&who.syn())?.ends();
    let again = bench.ingress(&who.syn())?.ends();
    assert_eq!(again, (who.from(), chosen));
    bench.egress(&Segment::tcp(chosen, who.from(), "SA"))?;
    for flags in ["S", "A", "A"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), flags))?;
        assert_eq!(ran.ends(), (who.from(), chosen), "{flags}");
    }
    // Even when the Service changes under it: the connection is the pod's until it ends.
    who.serve(bench, &[(who.remote, false)]);
    for flags in ["A", "FA", "A"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), flags))?;
        assert_eq!(ran.ends(), (who.from(), chosen), "{flags}");
    }
    Ok(())
}

pub(crate) fn unknown_flow(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for flags in ["A", "SA", "FA", "R"] {
        let segment = Segment::tcp(who.from(), who.node_port(), flags);
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{flags}");
    }
    Ok(())
}

pub(crate) fn no_service(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for to in [
        (who.node, 22),
        (who.node, 31374),
        (who.cluster_ip, 31373),
        (who.gateway, 8080),
        (who.client, 31373),
    ] {
        for segment in [
            Segment::tcp(who.from(), to, "S"),
            Segment::udp(who.from(), to),
        ] {
            let ran = bench.ingress(&segment)?;
            assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{to:?}");
        }
    }
    // The right port of the other protocol.
    let datagram = Segment::udp(who.from(), who.node_port());
    assert_eq!(bench.ingress(&datagram)?.packet, datagram.bytes());
    Ok(())
}

pub(crate) fn reset_by_client(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "R"))?;
    // The same port of the client, through the cluster IP to the same backend.
    let other = Segment::tcp(who.from(), (who.cluster_ip, 80), "S");
    assert_eq!(
        bench.ingress(&other)?.ends(),
        (who.from(), (who.gateway, 8080))
    );
    let reply = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    assert_eq!(
        bench.egress(&reply)?.ends(),
        ((who.cluster_ip, 80), who.from())
    );
    Ok(())
}

pub(crate) fn port_reuse(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    who.serve(bench, &[(who.second, true), (who.gateway, true)]);
    bench.close(who.from(), who.node_port(), who.gateway)?;
    who.serve(bench, &[(who.second, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.ends(), (who.from(), (who.second, 8080)));
    let reply = bench.egress(&Segment::tcp((who.second, 8080), who.from(), "SA"))?;
    assert_eq!(reply.ends(), (who.node_port(), who.from()));
    Ok(())
}

/// The Service is somebody else's by now.
pub(crate) fn port_reuse_elsewhere(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "R"))?;
    bench.serve(&[], who.node);
    for flags in ["S", "A", "FA"] {
        let segment = Segment::tcp(who.from(), who.node_port(), flags);
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{flags}");
    }
    Ok(())
}

pub(crate) fn gone_backend(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    who.serve(bench, &[(who.second, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.ends(), (who.from(), (who.second, 8080)));
    // Only one of the two may answer.
    let late = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    bench.egress_untouched(&late)?;
    let reply = bench.egress(&Segment::tcp((who.second, 8080), who.from(), "SA"))?;
    assert_eq!(reply.ends(), (who.node_port(), who.from()));
    Ok(())
}

/// Twice as many as the table holds, by clients that never hear the answers of the backend.
pub(crate) fn flood(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ports = 50_000..50_200;
    for port in ports.clone() {
        bench.connect((who.client, port), who.node_port(), who.gateway)?;
    }
    let flows = 2 * BUCKETS * WAYS as u32;
    let mut bytes = who.syn().bytes();
    let answer = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    let mut answer = answer.of_backend().bytes();
    // The last three bytes of the source address, and of the destination address.
    let (source, destination) = if who.client.is_ipv4() {
        (14 + 13, 14 + 17)
    } else {
        (14 + 8 + 13, 14 + 24 + 13)
    };
    for number in 0..flows {
        let [_, a, b, c] = number.to_be_bytes();
        bytes[source..source + 3].copy_from_slice(&[a | 0x40, b, c]);
        answer[destination..destination + 3].copy_from_slice(&[a | 0x40, b, c]);
        bench.pass("ingress", &bytes)?;
        bench.pass("egress", &answer)?;
    }
    assert_eq!(bench.count("chosen"), u64::from(flows) + 200);
    for port in ports {
        let from = (who.client, port);
        let ran = bench.ingress(&Segment::tcp(from, who.node_port(), "A"))?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{port}");
    }
    assert_eq!(bench.count("table-full"), 0);
    Ok(())
}

pub(crate) fn busy(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    let reply = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    let through_cluster_ip = Segment::tcp(who.from(), (who.cluster_ip, 80), "S");
    bench.change_owner_of_buckets()?;
    assert_eq!(bench.ingress(&who.syn())?.action, DROP);
    assert_eq!(bench.egress(&reply)?.action, DROP);
    // A new flow of the same port shares the bucket.
    assert_eq!(bench.ingress(&through_cluster_ip)?.action, DROP);
    assert_eq!(bench.count("busy"), 3);
    bench.change_owner_of_buckets()?;
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
    assert_eq!(bench.egress(&reply)?.ends(), (who.node_port(), who.from()));
    assert_eq!(bench.ingress(&through_cluster_ip)?.action, NEXT);
    assert_eq!((bench.count("busy"), bench.count("table-full")), (3, 0));
    Ok(())
}

pub(crate) fn clash(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    // The same port of the client, through the cluster IP to the same backend: for that one it is
    // another port.
    let second = (who.cluster_ip, 80);
    let port = bench.connect(who.from(), second, who.gateway)?;
    assert_ne!(port, who.from().1);
    let from = (who.client, port);
    // The same for the rest of both connections.
    for flags in ["S", "A", "FA"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), second, flags))?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{flags}");
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), "A"))?;
        assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)), "{flags}");
    }
    // And the client sees each answer from whom it has asked.
    for (seen, frontend) in [(who.from(), who.node_port()), (from, second)] {
        let answer = Segment::tcp((who.gateway, 8080), seen, "SA");
        assert_eq!(bench.egress(&answer)?.ends(), (frontend, who.from()));
        let error = answer.reply().with_payload(1400);
        let error = error.too_big(who.gateway, who.client, 1280);
        let (from, to, quoted) = bench.run("egress", &error)?.icmp_error();
        assert_eq!((from, to), (frontend.0, who.client));
        assert_eq!(quoted, (who.from(), frontend));
        let reply = Segment::tcp(frontend, who.from(), "A").with_payload(1400);
        let error = reply.too_big(who.router, who.node, 1280);
        let (_, to, quoted) = bench.run("ingress", &error)?.icmp_error();
        assert_eq!(to, who.gateway);
        assert_eq!(quoted, ((who.gateway, 8080), seen));
    }
    assert_eq!(bench.count("clash"), 0);
    // Who has that port from now on, on the way to the backend itself, must not get those answers.
    let direct = Segment::tcp(from, (who.gateway, 8080), "S");
    let (third, to) = bench.ingress(&direct)?.ends();
    assert_eq!(to, (who.gateway, 8080));
    assert!(third != from && third != who.from(), "{third:?}");
    let answer = Segment::tcp((who.gateway, 8080), third, "SA");
    assert_eq!(bench.egress(&answer)?.ends(), ((who.gateway, 8080), from));
    assert_eq!(bench.count("clash"), 0);
    Ok(())
}

/// There are four ports for the four.
pub(crate) fn more_clashes(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let frontends = [
        (who.cluster_ip, 80),
        (who.node, 31373),
        (who.balancer, 80),
        (who.second, 80),
        (who.remote, 80),
    ];
    who.serve_with(bench, &[(who.gateway, true)], |service| {
        service.load_balancer_ips = vec![who.balancer, who.second, who.remote];
    });
    // Its lower 14 bits are enough for a port that may be given.
    let client = (who.client, 52_000);
    let mut seen = std::collections::BTreeSet::new();
    for frontend in &frontends[..4] {
        let port = bench.connect(client, *frontend, who.gateway)?;
        seen.insert(port);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    // No port of which a program may think that only the client's administrator has it.
    assert!(seen.first() >= Some(&1024));
    let fifth = Segment::tcp(client, frontends[4], "S");
    assert_eq!(bench.ingress(&fifth)?.action, DROP);
    assert_eq!(bench.count("clash"), 1);
    // Once one connection has ended on both sides, there is room.
    bench.close(client, frontends[0], who.gateway)?;
    let ran = bench.ingress(&fifth)?;
    assert_eq!(ran.ends(), (client, (who.gateway, 8080)));
    let reply = Segment::tcp((who.gateway, 8080), client, "SA");
    assert_eq!(bench.egress(&reply)?.ends(), (frontends[4], client));
    Ok(())
}

/// The same client port, first through the Service, then to its backend directly: what the backend
/// answers then is for itself, and both connections live.
pub(crate) fn direct_connection(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    let direct = |flags| Segment::tcp(who.from(), (who.gateway, 8080), flags);
    let ran = bench.ingress(&direct("S"))?;
    let (seen, to) = ran.ends();
    assert_eq!((to, ran.mark), ((who.gateway, 8080), 0));
    assert_ne!(seen, who.from());
    let answer = |to, flags| Segment::tcp((who.gateway, 8080), to, flags);
    let answered = bench.egress(&answer(seen, "SA"))?.ends();
    assert_eq!(answered, ((who.gateway, 8080), who.from()));
    for flags in ["A", "A", "FA"] {
        assert_eq!(bench.ingress(&direct(flags))?.ends(), (seen, to));
        let answered = bench.egress(&answer(seen, flags))?.ends();
        assert_eq!(answered, ((who.gateway, 8080), who.from()));
        let through = Segment::tcp(who.from(), who.node_port(), "A");
        assert_eq!(bench.ingress(&through)?.ends(), (who.from(), to));
        let answered = bench.egress(&answer(who.from(), "A"))?.ends();
        assert_eq!(answered, (who.node_port(), who.from()));
    }
    // When both are over, the next one is told from nothing.
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "R"))?;
    bench.ingress(&direct("R").with_numbers(CLIENT + 2, 0))?;
    let ran = bench.ingress(&direct("S"))?;
    assert_eq!(ran.packet, direct("S").bytes());
    bench.egress_untouched(&answer(who.from(), "SA"))?;
    // And through the Service again.
    bench.connect(who.from(), who.node_port(), who.gateway)?;
    Ok(())
}

pub(crate) fn pod_packets(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let pod = (who.second, 40_000);
    let ran = bench.run(
        "pod_ingress",
        &Segment::tcp(pod, (who.cluster_ip, 80), "S").bytes(),
    )?;
    assert_eq!(ran.ends(), (pod, (who.gateway, 8080)));
    assert_eq!(
        ran.mark, 0x2000,
        "a pod's traffic to a cluster IP is not masqueraded"
    );
    let reply = bench.egress(&Segment::tcp((who.gateway, 8080), pod, "SA"))?;
    assert_eq!(reply.ends(), ((who.cluster_ip, 80), pod));
    // A pod that reaches itself has to see another source.
    let hairpin = Segment::tcp((who.gateway, 40_000), (who.cluster_ip, 80), "S");
    assert_eq!(bench.run("pod_ingress", &hairpin.bytes())?.mark, 0x6000);
    Ok(())
}
