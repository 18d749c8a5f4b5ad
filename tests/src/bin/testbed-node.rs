//! A node of a cluster: `testbed-node SPEC.json`. By the name of runc it is what containers are made with
//! there.

use std::path::Path;

use nodegate_testbed::cluster::{init, runc};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let arguments: Vec<_> = words.collect();
    if Path::new(&name).ends_with(runc::NAME) {
        runc::run(&arguments)
    } else {
        init::run(&arguments)
    }
}
