//! Whose turn it is: of destinations by their weights, of a destination's endpoints one after the other.

use std::collections::BTreeMap;

use nodegate_model::service::{
    IpFamily, ServicePort,
    shift::{ShiftDestination, Turn},
};
use nodegate_values::split::{Split, gcd};

/// The most turns that are written down: as many elements of the maps each port may take.
const LONGEST: u64 = 4096;

/// The turns of each family in which the port has an address and each destination an endpoint. Else why there
/// are none.
pub(super) fn by_family(
    port: &ServicePort,
    destinations: &[ShiftDestination],
) -> Result<BTreeMap<IpFamily, Vec<Turn>>, String> {
    let mut orders = BTreeMap::new();
    let mut lacking = None;
    for family in IpFamily::ALL {
        if port.cluster_ip(family).is_none() {
            continue;
        }
        let places: Vec<Vec<usize>> = destinations.iter().map(|one| places(one, family)).collect();
        if let Some(at) = places.iter().position(Vec::is_empty) {
            let cluster = &destinations[at].cluster;
            lacking = Some(format!("{cluster} has no {family} endpoint"));
            continue;
        }
        orders.insert(family, turns(destinations, &places)?);
    }
    if orders.is_empty() {
        return Err(lacking.unwrap_or_else(|| "the Service has no cluster IP".to_owned()));
    }
    Ok(orders)
}

/// The places of a destination's endpoints of a family.
fn places(destination: &ShiftDestination, family: IpFamily) -> Vec<usize> {
    let endpoints = destination.endpoints.iter().enumerate();
    endpoints
        .filter(|(_, endpoint)| IpFamily::of(endpoint.address) == family)
        .map(|(place, _)| place)
        .collect()
}

/// As many periods of the weights as it takes for each endpoint to have as many turns as the others of its
/// destination; if that is too long, as many as there is room for, and one has a turn more than another.
fn turns(destinations: &[ShiftDestination], places: &[Vec<usize>]) -> Result<Vec<Turn>, String> {
    // One destination gets all, whatever its weight.
    let weights: Vec<u32> = match destinations {
        [_] => vec![1],
        all => all.iter().map(|one| one.weight).collect(),
    };
    let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
    let shares: Vec<u64> = weights.iter().map(|it| u64::from(*it) / divisor).collect();
    let period: u64 = shares.iter().sum();
    let room = LONGEST / period.max(1);
    if room == 0 {
        return Err(format!(
            "the weights repeat after {period} connections, and the kernel counts to {LONGEST}"
        ));
    }
    let mut periods = 1;
    for (share, places) in shares.iter().zip(places) {
        let count = places.len() as u64;
        if share * room < count {
            return Err(format!(
                "{count} endpoints take more turns than the {LONGEST} that the kernel counts to"
            ));
        }
        let even = count / gcd(count, *share).max(1);
        // Once there is no room for more, more of it makes no difference.
        periods = (periods / gcd(periods, even).max(1) * even).min(room);
    }
    let split = Split::new(&weights);
    let mut taken = vec![0; places.len()];
    let turns = (0..period * periods).map(|position| {
        let destination = split.pick(position);
        let its = &places[destination];
        let endpoint = its[taken[destination] % its.len()];
        taken[destination] += 1;
        Turn {
            destination,
            endpoint,
        }
    });
    Ok(turns.collect())
}

#[cfg(test)]
mod tests {
    use nodegate_model::service::{Endpoint, Protocol, ServicePortName};

    use super::*;

    fn port() -> ServicePort {
        let name = ServicePortName {
            namespace: "istio-system".into(),
            name: "istio-ingressgateway".into(),
            port: "tcp".into(),
        };
        ServicePort {
            cluster_ips: vec!["10.96.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            ..ServicePort::new(name, Protocol::Tcp, 31400)
        }
    }

    fn destination(number: u8, weight: u32, endpoints: u16) -> ShiftDestination {
        let endpoint = |port| Endpoint::ready([10, 0, 0, number].into(), 1000 + port, false);
        ShiftDestination {
            cluster: format!("v{number}"),
            weight,
            endpoints: (0..endpoints).map(endpoint).collect(),
        }
    }

    fn v4(destinations: &[ShiftDestination]) -> Result<Vec<Turn>, String> {
        let orders = by_family(&port(), destinations)?;
        assert_eq!(orders.len(), 1, "there are no endpoints of IPv6");
        Ok(orders[&IpFamily::V4].clone())
    }

    /// How many turns each endpoint of each destination has.
    fn counts(destinations: &[ShiftDestination], turns: &[Turn]) -> Vec<Vec<usize>> {
        let mut counts: Vec<_> = destinations
            .iter()
            .map(|one| vec![0; one.endpoints.len()])
            .collect();
        for turn in turns {
            counts[turn.destination][turn.endpoint] += 1;
        }
        counts
    }

    #[test]
    fn ten_connections_are_eight_and_two_wherever_they_begin() {
        let turns = v4(&[destination(1, 80, 2), destination(2, 20, 1)]).unwrap();
        for start in 0..turns.len() {
            let ten = turns.iter().cycle().skip(start).take(10);
            let second = ten.filter(|turn| turn.destination == 1).count();
            assert_eq!(second, 2, "from {start}");
        }
    }

    #[test]
    fn endpoints_of_a_destination_have_the_same_number_of_turns() {
        for (weights, endpoints) in [
            ([80, 20], [3, 7]),
            ([1, 1], [5, 4]),
            ([99, 1], [2, 3]),
            ([3, 7], [6, 1]),
        ] {
            let destinations = [
                destination(1, weights[0], endpoints[0]),
                destination(2, weights[1], endpoints[1]),
            ];
            let turns = v4(&destinations).unwrap();
            for counts in counts(&destinations, &turns) {
                assert!(counts[0] > 0, "{weights:?}");
                assert!(
                    counts.iter().all(|count| *count == counts[0]),
                    "{weights:?}"
                );
            }
        }
    }

    #[test]
    fn where_there_is_no_room_for_that_nobody_is_left_out() {
        // 64 * 63 * 65 periods would be even.
        let destinations = [
            destination(1, 1, 64),
            destination(2, 1, 63),
            destination(3, 1, 65),
        ];
        let turns = v4(&destinations).unwrap();
        assert!(turns.len() as u64 <= LONGEST);
        for counts in counts(&destinations, &turns) {
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least > 0 && most - least <= 1, "{counts:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_said() {
        let weights = [destination(1, 5003, 1), destination(2, 2, 1)];
        assert!(v4(&weights).unwrap_err().contains("5005"));
        let endpoints = [destination(1, 4095, 1), destination(2, 1, 2)];
        assert!(v4(&endpoints).unwrap_err().contains("2 endpoints"));
        let many = [destination(1, 1, 5000)];
        assert!(v4(&many).unwrap_err().contains("5000 endpoints"));
    }

    #[test]
    fn a_family_without_endpoints_is_left_to_the_gateway() {
        let mut second = destination(2, 20, 1);
        second.endpoints[0].address = "fd00::2".parse().unwrap();
        let apart = [destination(1, 80, 1), second];
        assert_eq!(
            by_family(&port(), &apart).unwrap_err(),
            "v1 has no IPv6 endpoint"
        );
    }
}
