//! One change to one map, and changes that stand or fall together.

use gateway_common::{
    Address,
    maps::{Backend, Service, ServiceKey, ShareKey, Slot, SlotKey},
};

use super::{address::Network, identity::PortKey};

/// One change to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write a frontend.
    PutService(ServiceKey, Service),
    /// Remove a frontend.
    DeleteService(ServiceKey),
    /// Write a slot.
    PutSlot(SlotKey, Slot),
    /// Remove a slot.
    DeleteSlot(SlotKey),
    /// Write a backend.
    PutBackend(u32, Backend),
    /// Remove a backend.
    DeleteBackend(u32),
    /// Write a Service port's name.
    PutName(u32, PortKey),
    /// Remove a Service port's name.
    DeleteName(u32),
    /// Let the backends of a Service port take turns, from the first on.
    PutTurn(u32),
    /// Forget whose turn it is.
    DeleteTurn(u32),
    /// Count the connections of a destination, which has a name.
    PutShare(ShareKey, String),
    /// Forget a destination.
    DeleteShare(ShareKey),
    /// Let clients of a network use a Service's load balancer IPs.
    PutSourceRange(u32, Network),
    /// No longer let them.
    DeleteSourceRange(u32, Network),
    /// Take addresses of a network for pods'.
    PutPodNetwork(Network),
    /// No longer do so.
    DeletePodNetwork(Network),
    /// Serve node ports on an address.
    PutNodeAddress(Address),
    /// No longer serve node ports on an address.
    DeleteNodeAddress(Address),
    /// Wait until no program runs that began before.
    Barrier,
}

impl Step {
    /// Whether it changes the names of Service ports.
    pub fn is_of_names(&self) -> bool {
        matches!(self, Self::PutName(..) | Self::DeleteName(_))
    }
}

/// Steps that stand or fall together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose they are; `None` for what belongs to no Service port.
    pub service: Option<PortKey>,
    /// In this order.
    pub steps: Vec<Step>,
}
