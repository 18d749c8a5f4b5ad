//! Numbers of ports.

/// A number that is not a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a port")]
pub struct NotAPort(pub i64);

/// The port of this number.
///
/// # Errors
///
/// If it is not from 1 to 65535.
pub fn port(number: i64) -> Result<u16, NotAPort> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(NotAPort(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!([port(1), port(65535)], [Ok(1), Ok(65535)]);
        for number in [0, -1, 65536, i64::MAX] {
            assert_eq!(port(number), Err(NotAPort(number)));
        }
    }
}
