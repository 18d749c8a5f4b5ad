//! What whoever traces is told.

use gateway_common::{decide::Verdict, event::Hook};
use libtest_mimic::Failed;
use nodegate_model::service::Protocol;
use nodegate_programming::{address::to_map, filter::Filter};

use crate::{
    Addresses,
    bench::{Bench, Segment, service},
};

/// Only what one of those who trace wants to see gets out of the kernel.
pub(crate) fn filtered(bench: &mut Bench, a: &Addresses) -> Result<(), Failed> {
    let web = service(Protocol::Tcp, a.cluster_ip, &[(a.gateway, true)]);
    bench.serve(&[web], a.node);
    let mut port = 0;
    // A new connection each time.
    let mut syn = |bench: &mut Bench| {
        port += 1;
        let opening = Segment::tcp((a.client, port), (a.node, 31373), "S");
        bench.ingress(&opening).map(|_| ())
    };

    syn(bench)?;
    assert_eq!(bench.events(), [], "nobody traces");

    bench.trace(&[Filter::default()])?;
    syn(bench)?;
    let events = bench.events();
    let [event] = events[..] else {
        panic!("one decision: {events:?}");
    };
    assert_eq!((event.source, event.source_port), (to_map(a.client), 2));
    assert_eq!(event.backend_address, to_map(a.gateway));
    assert_eq!(event.hook, Hook::Ingress as u8);

    let only = |from: &str, service: &str, verdicts: &[Verdict]| Filter {
        from: Some(from.parse().expect("a client")),
        service: Some(service.parse().expect("a Service")),
        verdicts: verdicts.to_vec(),
        ..Filter::default()
    };
    let (client, name) = (a.client.to_string(), "istio-system/istio-ingressgateway");
    for (filter, wanted) in [
        (only(&client, name, &[Verdict::Forward]), 1),
        (only(&client, name, &[Verdict::Drop]), 0),
        (only(&client, "istio-system/other", &[]), 0),
        (only(&a.router.to_string(), name, &[]), 0),
    ] {
        bench.trace(std::slice::from_ref(&filter))?;
        syn(bench)?;
        assert_eq!(bench.events().len(), wanted, "{filter:?}");
        // Of two who trace, one is enough.
        bench.trace(&[filter.clone(), Filter::default()])?;
        syn(bench)?;
        assert_eq!(bench.events().len(), 1);
    }
    Ok(())
}

/// The ring has room for some thousands. What found none is counted.
pub(crate) fn lost(bench: &mut Bench, a: &Addresses) -> Result<(), Failed> {
    let web = service(Protocol::Tcp, a.cluster_ip, &[(a.gateway, true)]);
    bench.serve(&[web], a.node);
    bench.trace(&[Filter::default()])?;
    bench.ingress(&a.syn())?;
    for port in 1..20_000 {
        let opening = Segment::tcp((a.client, port), a.node_port(), "S");
        bench.pass("ingress", &opening.bytes())?;
    }
    let lost = bench.lost_events()?;
    assert!(lost > 0);
    assert_eq!(bench.events().len() as u64 + lost, 20_000);
    Ok(())
}
