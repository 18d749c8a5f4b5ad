//! A Service port of one family: what has a number and sets of backends of its own in the maps.

use gateway_common::maps::{LABEL_BYTES, ServiceName};
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

/// Zero-terminated; names are DNS labels of at most 63 bytes, longer ones are cut.
fn label(text: &str) -> [u8; LABEL_BYTES] {
    let mut bytes = [0; LABEL_BYTES];
    let length = text.len().min(LABEL_BYTES - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

/// The reverse of [`encode`].
pub fn decode(name: &ServiceName) -> PortKey {
    let text = |bytes: &[u8; LABEL_BYTES]| {
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(LABEL_BYTES);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
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
