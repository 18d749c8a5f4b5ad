//! Backends that take turns: TCP routes that are followed here.

use std::net::IpAddr;

use libtest_mimic::Failed;
use nodegate_model::{
    gateway::RouteOrigin,
    service::{
        Endpoint, IpFamily, ServicePort,
        shift::{KernelShift, Shift, ShiftDestination, Turn, Way},
    },
};

use crate::{
    Addresses,
    bench::{Bench, Segment},
};

/// Destinations with one endpoint each, by these turns.
fn shift(service: &mut ServicePort, destinations: &[(&str, IpAddr)], order: &[usize]) {
    let family = IpFamily::of(destinations[0].1);
    let destinations = destinations.iter();
    let destinations = destinations.map(|(name, address)| ShiftDestination {
        cluster: (*name).to_owned(),
        weight: 1,
        endpoints: vec![Endpoint::ready(*address, 9000, true)],
    });
    let turns = order.iter().map(|&destination| Turn {
        destination,
        endpoint: 0,
    });
    service.shift = Some(Shift {
        route: RouteOrigin::virtual_service("shop", "echo", 0),
        way: Way::Kernel(KernelShift {
            destinations: destinations.collect(),
            order: [(family, turns.collect())].into(),
        }),
    });
}

/// Where a client's new connection goes.
fn connect(
    bench: &mut Bench,
    who: &Addresses,
    port: u16,
    to: (IpAddr, u16),
) -> Result<IpAddr, Failed> {
    let ran = bench.ingress(&Segment::tcp((who.client, port), to, "S"))?;
    Ok(ran.ends().1.0)
}

/// The endpoint answers the client's opening, and the client goes on.
fn establish(
    bench: &mut Bench,
    client: (IpAddr, u16),
    to: (IpAddr, u16),
    endpoint: IpAddr,
) -> Result<(), Failed> {
    let answered = bench.egress(&Segment::tcp((endpoint, 9000), client, "SA"))?;
    assert_eq!(answered.ends(), (to, client));
    bench.ingress(&Segment::tcp(client, to, "A").with_payload(0))?;
    Ok(())
}

pub(crate) fn by_weight(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let (one, two) = (who.second, who.remote);
    let destinations = [("v1", one), ("v2", two)];
    let gateway = [(who.gateway, true)];
    who.serve_with(bench, &gateway, |service| {
        shift(service, &destinations, &[0, 0, 1, 0, 0]);
    });
    // Whatever frontend it is, and however often a packet is sent again.
    let mut taken = Vec::new();
    for (port, to) in (50_000..50_010).zip([who.node_port(), (who.cluster_ip, 80)].iter().cycle()) {
        let first = connect(bench, who, port, *to)?;
        assert_eq!(connect(bench, who, port, *to)?, first, "sent again");
        taken.push(first);
    }
    assert_eq!(taken, [[one, one, two, one, one]; 2].concat());
    assert_eq!(bench.shares(), [("v1".to_owned(), 8), ("v2".to_owned(), 2)]);

    establish(bench, (who.client, 50_000), who.node_port(), one)?;

    // New weights: the order goes on, counts go on, and a connection stays where it is.
    who.serve_with(bench, &gateway, |service| {
        shift(service, &destinations, &[0, 1]);
    });
    let ran = bench.ingress(&Segment::tcp((who.client, 50_000), who.node_port(), "A"))?;
    assert_eq!(ran.ends().1, (one, 9000));
    let taken = [50_010, 50_011].map(|port| connect(bench, who, port, who.node_port()));
    let taken: Vec<_> = taken.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(taken, [one, two]);
    assert_eq!(bench.shares(), [("v1".to_owned(), 9), ("v2".to_owned(), 3)]);

    // Back to the gateway.
    who.serve(bench, &gateway);
    assert_eq!(connect(bench, who, 50_020, who.node_port())?, who.gateway);
    let ran = bench.ingress(&Segment::tcp((who.client, 50_000), who.node_port(), "A"))?;
    assert_eq!(ran.ends().1, (one, 9000), "an open connection");
    assert_eq!(bench.shares(), []);
    Ok(())
}

pub(crate) fn with_affinity(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let destinations = [("v1", who.second), ("v2", who.remote)];
    who.serve_with(bench, &[(who.gateway, true)], |service| {
        shift(service, &destinations, &[0, 1]);
        service.affinity = Some(60);
    });
    for port in 50_000..50_005 {
        assert_eq!(connect(bench, who, port, who.node_port())?, who.second);
    }
    // That client has taken one turn; the next client takes the next.
    let other = Segment::tcp((who.router, 50_000), who.node_port(), "S");
    assert_eq!(bench.ingress(&other)?.ends().1.0, who.remote);
    assert_eq!(bench.shares(), [("v1".to_owned(), 1), ("v2".to_owned(), 1)]);
    Ok(())
}
