//! The kernel programs, compiled, and what they are compiled from.

use aya::EbpfLoader;

use super::features::Features;

/// The kernel programs and the descriptions of their maps, compiled by the build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nodegate-ebpf"));

/// The first digits of the commit that is built; `unknown` outside a repository.
pub const COMMIT: &str = env!("NODEGATE_COMMIT");

/// `debug`, `release`, or `dist`, which is a release build with a profile of what gateways do.
pub const PROFILE: &str = env!("NODEGATE_PROFILE");

/// A loader of the programs for a kernel that can do this.
pub(crate) fn loader(features: Features) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    // The verifier does not look at what a constant leaves out.
    let sets_retval: &u8 = if features.set_retval { &1 } else { &0 };
    loader.override_global("SETS_RETVAL", sets_retval, true);
    loader
}
