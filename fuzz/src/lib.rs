//! What must hold for every input, by subject. `fuzz_targets/` gives each to libFuzzer; the tests of
//! nodegate replay the corpus through the same functions.

pub mod heads;
pub mod iptables;
pub mod manifest;
pub mod matcher;
pub mod path;
pub mod requests;
pub mod rewrite;
pub mod wire;
