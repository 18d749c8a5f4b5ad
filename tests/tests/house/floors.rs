//! Which crate may use which.

use std::collections::BTreeMap;

use anyhow::Context as _;
use nodegate_programs::Program;
use serde_json::Value;

use crate::workspace;

/// From the top floor down: a crate may use crates of lower floors only.
const FLOORS: [&[&str]; 11] = [
    &["nodegate"],
    &["nodegate-admin", "nodegate-controller"],
    &["nodegate-explain"],
    &["nodegate-source"],
    &["nodegate-datapath", "nodegate-proxy"],
    &["nodegate-programming", "nodegate-route"],
    &["nodegate-export", "nodegate-iptables", "nodegate-observe"],
    &["nodegate-compile"],
    &["nodegate-model", "nodegate-resources"],
    &["nodegate-sharing", "nodegate-values"],
    &["gateway-common", "nodegate-programs"],
];

/// Libraries that one crate alone may use: the eBPF toolchain comes with aya, and flags with clap.
const RESERVED: [(&str, &str); 3] = [
    ("aya", "nodegate-datapath"),
    ("aya-build", "nodegate-datapath"),
    ("clap", "nodegate"),
];

/// Crates that build, and whose tests run, where there is no toolchain for kernel programs.
const WITHOUT_KERNEL_TOOLCHAIN: [&str; 10] = [
    "nodegate-compile",
    "nodegate-explain",
    "nodegate-export",
    "nodegate-iptables",
    "nodegate-model",
    "nodegate-programming",
    "nodegate-proxy",
    "nodegate-resources",
    "nodegate-route",
    "nodegate-values",
];

/// A crate of the workspace, and what it is built from.
struct Crate {
    name: String,
    uses: Vec<String>,
    /// What only its tests use.
    tests_use: Vec<String>,
}

fn crates() -> anyhow::Result<Vec<Crate>> {
    let output = Program::Cargo
        .command()
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(workspace())
        .output()
        .context("starting cargo")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    Ok(packages.iter().filter_map(read).collect())
}

fn read(package: &Value) -> Option<Crate> {
    let dependencies = package["dependencies"].as_array()?;
    let names = |tests: bool| {
        let those = dependencies
            .iter()
            .filter(|dependency| (dependency["kind"] == "dev") == tests);
        let names = those.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
        names.collect()
    };
    Some(Crate {
        name: package["name"].as_str()?.to_owned(),
        uses: names(false),
        tests_use: names(true),
    })
}

#[test]
fn crates_use_only_what_is_below_them() {
    let floors: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, names)| names.iter().map(move |name| (*name, floor)))
        .collect();
    let crates = crates().unwrap();
    for name in floors.keys() {
        let known = crates.iter().any(|other| other.name == *name);
        assert!(known, "the floors have {name}, and the workspace has not");
    }
    for user in &crates {
        let Some(floor) = floors.get(user.name.as_str()) else {
            assert!(
                !user.name.starts_with("nodegate-") || user.name == "nodegate-testbed",
                "{} has no floor: give it one",
                user.name
            );
            continue;
        };
        for used in &user.uses {
            let below = floors.get(used.as_str()).is_none_or(|other| other > floor);
            assert!(below, "{} uses {used}, which is not below it", user.name);
        }
    }
}

#[test]
fn kernel_programs_are_built_for_those_alone_that_load_them() {
    let crates = crates().unwrap();
    let find = |name: &str| crates.iter().find(|one| one.name == name);
    for name in WITHOUT_KERNEL_TOOLCHAIN {
        let tested = find(name).unwrap();
        let mut reached: Vec<&str> = Vec::new();
        let mut next: Vec<&str> = tested.uses.iter().map(String::as_str).collect();
        next.extend(tested.tests_use.iter().map(String::as_str));
        while let Some(used) = next.pop() {
            if reached.contains(&used) {
                continue;
            }
            reached.push(used);
            let used = find(used).map_or(&[][..], |one| &one.uses);
            next.extend(used.iter().map(String::as_str));
        }
        assert!(
            !reached.contains(&"nodegate-datapath"),
            "{name} can't be built or tested without the toolchain of kernel programs: {reached:?}"
        );
    }
}

#[test]
fn some_libraries_have_one_user() {
    for user in crates().unwrap() {
        for (library, owner) in RESERVED {
            let uses = user.uses.iter().any(|used| used == library);
            // The testbed's chores have a command line of their own; gateway-common implements a trait of
            // aya's, as a feature.
            let exempt = user.name == "xtask" || user.name == "gateway-common";
            assert!(
                !uses || user.name == owner || exempt,
                "{} uses {library}, which is {owner}'s alone",
                user.name
            );
        }
    }
}
