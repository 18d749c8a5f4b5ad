//! What containerd takes for runc: runc, without limits of resources.
//!
//! The cgroup2 of many machines for tests has no controllers, as they belong to cgroup v1, and runc fails
//! where it is to write to a file of theirs that is not there.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nodegate_programs::Program;
use serde_json::Value;

/// By this name `testbed-node` is it.
pub const NAME: &str = "runc";

/// Becomes runc.
pub fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let says = |word: &str| arguments.iter().any(|argument| argument == word);
    if says("update") {
        // Which changes limits and nothing else.
        return Ok(());
    }
    if let Some(bundle) = bundle(arguments) {
        unlimit(&bundle.join("config.json"))?;
    }
    let mut runc = Program::Runc.command();
    let error = runc.args(arguments).exec();
    Err(error).context("becoming runc")
}

/// The directory of the container that is to be made.
fn bundle(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    let is_option = |argument: &&OsString| {
        let option: &OsStr = argument;
        option == "--bundle" || option == "-b"
    };
    arguments.find(is_option)?;
    arguments.next().map(PathBuf::from)
}

/// Takes the limits out of a container's configuration. Which devices it may use stays.
fn unlimit(file: &Path) -> anyhow::Result<()> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut config: Value =
        serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    let resources = config.pointer_mut("/linux/resources");
    if let Some(resources) = resources.and_then(Value::as_object_mut) {
        resources.retain(|name, _| name == "devices");
    }
    fs::write(file, config.to_string()).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_go_and_devices_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let config = json!({
            "ociVersion": "1.1.0",
            "linux": {"resources": {"cpu": {"shares": 2}, "devices": [{"allow": false}]}},
        });
        fs::write(&file, config.to_string()).unwrap();
        unlimit(&file).unwrap();
        let left: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            left["linux"]["resources"],
            json!({"devices": [{"allow": false}]})
        );
        assert_eq!(left["ociVersion"], "1.1.0");
    }

    #[test]
    fn the_bundle_is_what_follows_its_option() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let create = words("--root /r --log-format json create --bundle /b --pid-file /p x");
        assert_eq!(bundle(&create), Some("/b".into()));
        assert_eq!(bundle(&words("--root /r delete x")), None);
    }
}
