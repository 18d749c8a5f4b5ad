//! The destinations that share a Service port's connections by turns.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, MapData};
use gateway_common::maps::{Share, ShareKey};
use nodegate_iptables::services::ServicePortKey;
use nodegate_model::service::IpFamily;
use nodegate_programming::identity::share_name;
use serde::Serialize;

use super::{super::error::Error, Pins, elements, sorted};

/// An element of `shares`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ShareRow {
    /// The Service port.
    pub service: String,
    /// The destination: the name of its cluster.
    pub destination: String,
    /// Connections that it was chosen for since it is a destination of the port. Those of clients that stay with
    /// an endpoint are not among them.
    pub connections: u64,
}

impl Pins {
    /// Service ports of a family whose backends take turns: a gateway's TCP route is followed in place of rules.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn in_turn(&self, family: IpFamily) -> Result<BTreeSet<ServicePortKey>, Error> {
        let map: HashMap<MapData, u32, u64> = self.map("turns")?;
        let names = elements(&map).filter_map(|(id, _)| self.names.get(&id));
        let names = names.filter(|(.., of)| *of == family);
        Ok(names
            .map(|(name, protocol, _)| ServicePortKey {
                name: name.clone(),
                protocol: *protocol,
            })
            .collect())
    }

    /// What the destinations of TCP routes that the kernel follows have got, over both families.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn shares(&self) -> Result<Vec<ShareRow>, Error> {
        let map: HashMap<MapData, ShareKey, Share> = self.map("shares")?;
        let mut counts: BTreeMap<_, u64> = BTreeMap::new();
        for (key, share) in elements(&map) {
            let name = (self.name(key.service), share_name(&share));
            *counts.entry(name).or_default() += share.connections;
        }
        let rows = counts.into_iter();
        Ok(sorted(rows.map(|((service, destination), connections)| {
            ShareRow {
                service,
                destination,
                connections,
            }
        })))
    }
}
