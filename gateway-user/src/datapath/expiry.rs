//! When a recorded flow is over.
//!
//! `conntrack` is an LRU map, so it never fills up for good. But an entry that nobody needs may be
//! taken for a live one when a client uses a port again, and people who read the map want to see what
//! is there. So the daemon looks through it from time to time.

use gateway_common::{
    UDP,
    maps::{FlowKey, Translation},
};

const SECOND: u64 = 1_000_000_000;

/// After a FIN or RST (net.netfilter.nf_conntrack_tcp_timeout_fin_wait and …_time_wait).
const CLOSING: u64 = 120 * SECOND;
/// TCP and SCTP associations (net.netfilter.nf_conntrack_tcp_timeout_established).
const ESTABLISHED: u64 = 432_000 * SECOND;
/// Datagrams (net.netfilter.nf_conntrack_udp_timeout_stream and a little; as in the kernel program).
const DATAGRAMS: u64 = 180 * SECOND;

/// The key under which the other direction of a flow is recorded.
pub fn other(key: &FlowKey, translation: &Translation) -> FlowKey {
    match key.direction {
        // The backend's packets to the client.
        FlowKey::ORIGINAL => FlowKey {
            source: translation.address,
            destination: key.source,
            source_port: translation.port,
            destination_port: key.source_port,
            direction: FlowKey::REPLY,
            ..*key
        },
        // The client's packets to the frontend.
        _ => FlowKey {
            source: key.destination,
            destination: translation.address,
            source_port: key.destination_port,
            destination_port: translation.port,
            direction: FlowKey::ORIGINAL,
            ..*key
        },
    }
}

/// Whether a flow is over at `now` (`CLOCK_MONOTONIC`, nanoseconds). One direction may be silent
/// while the other is not; without its other half, a direction is of no use.
pub fn is_over(
    key: &FlowKey,
    translation: &Translation,
    other: Option<&Translation>,
    now: u64,
) -> bool {
    let Some(other) = other else {
        // Both halves are written within microseconds of each other, the reply first.
        return now.saturating_sub(translation.last_seen) > CLOSING;
    };
    let silent = now.saturating_sub(translation.last_seen.max(other.last_seen));
    let closing = (translation.flags | other.flags) & Translation::FLAG_CLOSING != 0;
    let patience = match key.protocol {
        UDP => DATAGRAMS,
        _ if closing => CLOSING,
        _ => ESTABLISHED,
    };
    silent > patience
}

/// After a FIN of each side: the last ACK is under way.
const LAST_ACK: u64 = SECOND;
/// After a FIN of one side, or a RST, which looks the same: the other may have more to say.
const HALF_CLOSED: u64 = 5 * SECOND;
/// Datagrams, of which nobody says that they are the last.
const LAST_DATAGRAM: u64 = 10 * SECOND;

/// Whether a flow seems to have ended at `now`: sooner than [`is_over`], for who waits for it.
pub fn has_ended(
    key: &FlowKey,
    translation: &Translation,
    other: Option<&Translation>,
    now: u64,
) -> bool {
    let Some(other) = other else {
        return now.saturating_sub(translation.last_seen) > LAST_ACK;
    };
    let silent = now.saturating_sub(translation.last_seen.max(other.last_seen));
    let closed = |side: &Translation| side.flags & Translation::FLAG_CLOSING != 0;
    match (key.protocol, closed(translation), closed(other)) {
        (UDP, ..) => silent > LAST_DATAGRAM,
        (_, true, true) => silent > LAST_ACK,
        (_, false, false) => false,
        _ => silent > HALF_CLOSED,
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, mapped};

    use super::*;

    const NOW: u64 = 1_000_000 * SECOND;

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            source: mapped([192, 168, 170, 1]),
            destination: mapped([192, 168, 170, 137]),
            source_port: 50_000,
            destination_port: 31373,
            protocol,
            direction: FlowKey::ORIGINAL,
            reserved: 0,
        }
    }

    fn seen(seconds_ago: u64, flags: u16) -> Translation {
        Translation {
            address: mapped([10, 10, 1, 4]),
            port: 8080,
            flags,
            service: 1,
            backend: 1,
            reserved: 0,
            last_seen: NOW - seconds_ago * SECOND,
        }
    }

    #[test]
    fn halves_find_each_other() {
        let original = key(TCP);
        let reply = other(&original, &seen(0, 0));
        assert_eq!(reply.source, mapped([10, 10, 1, 4]));
        assert_eq!((reply.source_port, reply.destination_port), (8080, 50_000));
        let frontend = Translation {
            address: original.destination,
            port: original.destination_port,
            ..seen(0, 0)
        };
        assert_eq!(other(&reply, &frontend), original);
    }

    #[test]
    fn flows_end_after_their_time() {
        let closing = Translation::FLAG_CLOSING;
        for (protocol, this, other, over) in [
            (TCP, seen(3600, 0), seen(3600, 0), false),
            (TCP, seen(432_001, 0), seen(432_001, 0), true),
            (TCP, seen(121, closing), seen(121, 0), true),
            (TCP, seen(121, closing), seen(5, 0), false),
            (TCP, seen(121, 0), seen(121, closing), true),
            (UDP, seen(181, 0), seen(181, 0), true),
            (UDP, seen(181, 0), seen(10, 0), false),
            (132, seen(3600, 0), seen(3600, 0), false),
        ] {
            let now = is_over(&key(protocol), &this, Some(&other), NOW);
            assert_eq!(now, over, "{protocol} {this:?} {other:?}");
        }
        assert!(is_over(&key(TCP), &seen(121, 0), None, NOW));
        assert!(!is_over(&key(TCP), &seen(1, 0), None, NOW));
    }

    #[test]
    fn flows_have_ended_when_both_sides_say_so() {
        let closing = Translation::FLAG_CLOSING;
        for (protocol, this, other, ended) in [
            (TCP, seen(3600, 0), seen(3600, 0), false),
            (TCP, seen(2, closing), seen(2, closing), true),
            (TCP, seen(2, closing), seen(0, closing), false),
            (TCP, seen(2, closing), seen(3, 0), false),
            (TCP, seen(6, closing), seen(6, 0), true),
            (UDP, seen(11, 0), seen(11, 0), true),
            (UDP, seen(11, 0), seen(1, 0), false),
        ] {
            let now = has_ended(&key(protocol), &this, Some(&other), NOW);
            assert_eq!(now, ended, "{protocol} {this:?} {other:?}");
        }
        assert!(has_ended(&key(TCP), &seen(2, 0), None, NOW));
    }
}
