//! For which connections the source becomes this node's.

use gateway_common::maps::Settings;

/// For which connections the source becomes this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MasqueradeMode {
    /// Those whose replies would not come back through this node otherwise: endpoints see the
    /// client's address wherever that can be.
    #[default]
    Needed,
    /// Those that kube-proxy masquerades.
    KubeProxy,
    /// Those, and all to cluster IPs (`--masquerade-all`).
    All,
}

impl MasqueradeMode {
    /// As [`Settings::flags`] has it.
    pub fn flags(self) -> u32 {
        match self {
            Self::Needed => 0,
            Self::KubeProxy => Settings::FLAG_MASQUERADE_AS_KUBE_PROXY,
            Self::All => Settings::FLAG_MASQUERADE_AS_KUBE_PROXY | Settings::FLAG_MASQUERADE_ALL,
        }
    }
}
