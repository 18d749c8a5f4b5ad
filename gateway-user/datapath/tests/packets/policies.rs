//! Who is let in, to which backends, and what those see.

use libtest_mimic::Failed;
use nodegate_model::service::{SourceRanges, TrafficPolicy};

use crate::{
    Addresses,
    bench::{Bench, DROP, NEXT, Segment},
    v4, v6,
};

pub(crate) fn no_endpoints(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!((ran.action, ran.mark), (NEXT, 0x1000));
    assert_eq!(ran.packet, who.syn().bytes());
    assert_eq!(bench.count("no-endpoints"), 1);
    Ok(())
}

pub(crate) fn no_local_endpoints(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve_with(bench, &[(who.remote, false)], |service| {
        service.external_policy = TrafficPolicy::Local;
    });
    assert_eq!(bench.ingress(&who.syn())?.action, DROP);
    assert_eq!(bench.count("no-local-endpoints"), 1);
    // The cluster IP has a policy of its own.
    let ran = bench.ingress(&Segment::tcp(who.from(), (who.cluster_ip, 80), "S"))?;
    assert_eq!(ran.ends().1, (who.remote, 8080));
    Ok(())
}

pub(crate) fn source_ranges(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let stranger = if who.client.is_ipv4() {
        v4(198, 51, 100, 7)
    } else {
        v6(0xdd, 7)
    };
    who.serve_with(bench, &[(who.gateway, true)], |service| {
        service.load_balancer_ips = vec![who.balancer];
        service.source_ranges = SourceRanges::parse(&["192.168.170.0/24", "fd00:c0::/32"]);
    });
    let ran = bench.ingress(&Segment::tcp(who.from(), who.balanced(), "S"))?;
    assert_eq!(ran.ends().1, (who.gateway, 8080));
    let refused = bench.ingress(&Segment::tcp((stranger, 50_000), who.balanced(), "S"))?;
    assert_eq!(refused.action, DROP);
    assert_eq!(bench.count("source-range"), 1);
    // Node ports are not guarded by them.
    let ran = bench.ingress(&Segment::tcp((stranger, 50_000), who.node_port(), "S"))?;
    assert_eq!(ran.ends().1, (who.gateway, 8080));
    Ok(())
}

pub(crate) fn affinity(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let backends: Vec<_> = (1..=8)
        .map(|i| {
            (
                if who.client.is_ipv4() {
                    v4(10, 10, 1, i)
                } else {
                    v6(0x10, i.into())
                },
                true,
            )
        })
        .collect();
    who.serve_with(bench, &backends, |service| service.affinity = Some(10_800));
    let connect = |bench: &mut Bench, port| -> Result<_, Failed> {
        let segment = Segment::tcp((who.client, port), who.node_port(), "S");
        Ok(bench.ingress(&segment)?.ends().1.0)
    };
    let chosen = connect(bench, 50_000)?;
    for port in 50_001..50_030 {
        assert_eq!(connect(bench, port)?, chosen);
    }
    assert_eq!(bench.count("affinity"), 29);
    // Another backend when that one goes; and then that one.
    let left: Vec<_> = backends
        .iter()
        .copied()
        .filter(|(address, _)| *address != chosen)
        .collect();
    who.serve_with(bench, &left, |service| service.affinity = Some(10_800));
    let second = connect(bench, 50_100)?;
    assert_ne!(second, chosen);
    assert_eq!(connect(bench, 50_101)?, second);
    Ok(())
}

pub(crate) fn masquerade(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&who.syn())?.mark, 0x2000, "leave to pass");
    who.serve(bench, &[(who.remote, false)]);
    let ran = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "S"))?;
    assert_eq!(ran.ends().1, (who.remote, 8080));
    assert_eq!(ran.mark, 0x6000, "KUBE-MARK-MASQ, and whose it is");
    // Should netfilter have lost the first packet, it hears of it again with the next one.
    let again = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "S"))?;
    assert_eq!(again.mark, 0x6000, "a retransmission");
    // For the rest of the flow it remembers.
    let ran = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "A"))?;
    assert_eq!(ran.mark, 0);
    Ok(())
}
