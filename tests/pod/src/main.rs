//! The server in a testbed's pod: `testbed-pod POD.json READY-FILE`.

use std::path::Path;

use anyhow::{Context as _, bail};
use nodegate_testbed::pod::PodSpec;

mod server;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [spec, ready] = &arguments[..] else {
        bail!("usage: testbed-pod POD.json READY-FILE");
    };
    let text = std::fs::read(spec).with_context(|| format!("reading {}", spec.display()))?;
    let pod: PodSpec = serde_json::from_slice(&text).with_context(|| spec.display().to_string())?;
    server::run(pod, Path::new(ready))
}
