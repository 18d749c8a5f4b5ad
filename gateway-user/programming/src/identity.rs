//! A Service port of one family: what has a number and sets of backends of its own in the maps; and the
//! destinations that share its connections.

use gateway_common::maps::{LABEL_BYTES, SHARE_NAME_BYTES, ServiceName, Share};
use nodegate_model::service::{IpFamily, Protocol, ServicePortName};

/// Names a Service port of one family: what has sets of backends of its own.
pub type PortKey = (ServicePortName, Protocol, IpFamily);

/// As the map `service_names` holds it.
pub fn encode((name, protocol, family): &PortKey) -> ServiceName {
    ServiceName {
        namespace: label(&name.namespace),
        name: label(&name.name),
        port: label(&name.port),
        protocol: u16::from(protocol.number()),
        family: match family {
            IpFamily::V4 => 4,
            IpFamily::V6 => 6,
        },
    }
}

/// A destination that has got nothing yet, as the map `shares` holds it.
pub fn share(name: &str) -> Share {
    Share {
        connections: 0,
        name: terminated::<SHARE_NAME_BYTES>(name),
    }
}

/// The name of a destination.
pub fn share_name(share: &Share) -> String {
    text(&share.name)
}

/// As much of a destination's name as the map has room for.
pub fn cut(name: &str) -> &str {
    let mut length = name.len().min(SHARE_NAME_BYTES - 1);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    &name[..length]
}

/// Names are DNS labels of at most 63 bytes; longer ones are cut.
fn label(text: &str) -> [u8; LABEL_BYTES] {
    terminated(text)
}

fn terminated<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The reverse of [`encode`].
pub fn decode(name: &ServiceName) -> PortKey {
    let protocol = match name.protocol {
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let family = if name.family == 6 {
        IpFamily::V6
    } else {
        IpFamily::V4
    };
    let name = ServicePortName {
        namespace: text(&name.namespace),
        name: text(&name.name),
        port: text(&name.port),
    };
    (name, protocol, family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_map() {
        for (name, protocol, family) in [
            (
                ("istio-system", "istio-ingressgateway", "http2"),
                Protocol::Tcp,
                IpFamily::V4,
            ),
            (("default", "unnamed", ""), Protocol::Udp, IpFamily::V6),
            (
                (&*"n".repeat(63), &*"s".repeat(63), "p"),
                Protocol::Sctp,
                IpFamily::V4,
            ),
        ] {
            let name = ServicePortName {
                namespace: name.0.into(),
                name: name.1.into(),
                port: name.2.into(),
            };
            let key = (name, protocol, family);
            assert_eq!(decode(&encode(&key)), key);
        }
    }
}
