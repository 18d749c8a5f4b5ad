//! What only some kernels can do. For each of these there is another way, and `nodegate preflight` tells
//! which one is taken.
//!
//! The kernel is asked, not its version: distributions carry new features back to old kernels.

use aya::{
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported},
};

/// What the running kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Links between devices and programs (Linux 6.6). Else: filters on clsact qdiscs.
    pub tcx: bool,
    /// `bpf_set_retval` in socket hooks (Linux 6.1): a call that is not to go on fails with the error that
    /// says why. Else: with EPERM.
    pub set_retval: bool,
}

impl Features {
    /// Asks the kernel. What it does not answer is taken to be there: the attempt will say more.
    pub fn probe() -> Self {
        let set_retval = BpfHelper::BPF_FUNC_set_retval;
        Self {
            // Every network namespace has one.
            tcx: SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
            set_retval: is_helper_supported(ProgramType::CgroupSockAddr, set_retval)
                .unwrap_or(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::util::KernelVersion;

    use super::*;

    #[test]
    fn the_kernel_has_what_its_release_has() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let features = Features::probe();
        let version = KernelVersion::current().unwrap();
        // Older ones may have it from their distribution.
        assert!(features.tcx || version < KernelVersion::new(6, 6, 0));
        assert!(features.set_retval || version < KernelVersion::new(6, 1, 0));
    }
}
