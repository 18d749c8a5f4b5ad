//! What other rooms let one choose, as words of the command line.

use clap::ValueEnum;
use nodegate_compile::{TcpShifting, Unenforced};
use nodegate_datapath::options::AttachMode;
use nodegate_programming::{desired::ExternalIps, masquerade::MasqueradeMode};

/// [`ExternalIps`]
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ExternalIpsArg {
    /// Only those that are addresses of this node. kube-proxy captures traffic to any address that
    /// a Service claims, which lets whoever may create Services take over other people's addresses
    /// (CVE-2020-8554).
    Owned,
    /// All, as kube-proxy does: for addresses that routers send here without the node having them.
    Any,
}

/// [`MasqueradeMode`]
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum MasqueradeArg {
    /// Those whose replies would not come back through this node otherwise: endpoints see the
    /// client's address wherever that can be.
    Needed,
    /// Those that kube-proxy masquerades.
    KubeProxy,
    /// Those, and all to cluster IPs (`--masquerade-all`).
    All,
}

/// [`AttachMode`]
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum AttachArg {
    /// tcx where the kernel has it (6.6 or newer), else clsact.
    #[default]
    Auto,
    /// tcx links.
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// [`Unenforced`]
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum UnenforcedArg {
    /// They are served as if the policy were not there, which `status` and the log call an error.
    #[default]
    Pass,
    /// All of them are answered with 403, and connections to TCP ports refused.
    Refuse,
}

/// [`TcpShifting`]
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum TcpShiftingArg {
    /// The kernel where it can, else the gateway.
    #[default]
    Auto,
    /// The same, and where the kernel can't, that is a warning.
    Kernel,
    /// The gateway: what leads to it goes there.
    Proxy,
}

impl From<TcpShiftingArg> for TcpShifting {
    fn from(word: TcpShiftingArg) -> Self {
        match word {
            TcpShiftingArg::Auto => Self::Auto,
            TcpShiftingArg::Kernel => Self::Kernel,
            TcpShiftingArg::Proxy => Self::Proxy,
        }
    }
}

impl From<UnenforcedArg> for Unenforced {
    fn from(word: UnenforcedArg) -> Self {
        match word {
            UnenforcedArg::Pass => Self::Pass,
            UnenforcedArg::Refuse => Self::Refuse,
        }
    }
}

impl From<ExternalIpsArg> for ExternalIps {
    fn from(word: ExternalIpsArg) -> Self {
        match word {
            ExternalIpsArg::Owned => Self::Owned,
            ExternalIpsArg::Any => Self::Any,
        }
    }
}

impl From<MasqueradeArg> for MasqueradeMode {
    fn from(word: MasqueradeArg) -> Self {
        match word {
            MasqueradeArg::Needed => Self::Needed,
            MasqueradeArg::KubeProxy => Self::KubeProxy,
            MasqueradeArg::All => Self::All,
        }
    }
}

impl From<AttachArg> for AttachMode {
    fn from(word: AttachArg) -> Self {
        match word {
            AttachArg::Auto => Self::Auto,
            AttachArg::Tcx => Self::Tcx,
            AttachArg::Clsact => Self::Clsact,
        }
    }
}
