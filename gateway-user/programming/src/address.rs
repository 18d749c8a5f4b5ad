//! Addresses and networks as the maps hold them: 16 bytes for both families.

use std::net::{IpAddr, Ipv6Addr};

use gateway_common::Address;
use ipnet::IpNet;

/// A network as the maps hold it: address, and length of the prefix of 16 bytes.
pub type Network = (Address, u8);

/// IPv4 as `::ffff:a.b.c.d`, as the maps hold addresses.
pub fn to_map(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`to_map`].
pub fn from_map(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// A network as the maps hold it. What IPv4 has before its own prefix are the 96 bits of `::ffff:`.
pub fn network(network: &IpNet) -> Network {
    let length = match network {
        IpNet::V4(_) => 96 + network.prefix_len(),
        IpNet::V6(_) => network.prefix_len(),
    };
    (to_map(network.network()), length)
}

/// Whether the address is in the network, as a longest-prefix-match map finds it.
pub fn contains((network, length): &Network, address: &Address) -> bool {
    let bits = u128::from_be_bytes(*network) ^ u128::from_be_bytes(*address);
    bits.leading_zeros() >= u32::from(*length)
}

#[cfg(test)]
mod tests {
    use gateway_common::{UNSPECIFIED, mapped};

    use super::*;

    #[test]
    fn networks_by_their_prefix() {
        let network = (mapped([10, 1, 0, 0]), 96 + 16);
        assert!(contains(&network, &mapped([10, 1, 255, 1])));
        assert!(!contains(&network, &mapped([10, 2, 0, 1])));
        assert!(contains(&(UNSPECIFIED, 0), &mapped([10, 2, 0, 1])));
        let whole = (mapped([10, 1, 0, 1]), 128);
        assert!(contains(&whole, &mapped([10, 1, 0, 1])));
        assert!(!contains(&whole, &mapped([10, 1, 0, 0])));
    }
}
