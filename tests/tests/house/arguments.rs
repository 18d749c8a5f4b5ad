//! No program is named among another one's arguments, where the table of programs doesn't see it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::workspace;

/// What ways begin with to let a program start another one that no type names. In pieces: this is a source, too.
const WAYS: [[&str; 2]; 3] = [
    ["netns ", "exec"],
    ["#!/", "usr/bin/env"],
    ["sh\", \"", "-c"],
];

#[test]
fn what_is_started_is_named_by_the_table() {
    let mut found = Vec::new();
    for directory in ["gateway-common", "gateway-user", "tests", "xtask"] {
        look(&workspace().join(directory), &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn look(directory: &Path, found: &mut Vec<String>) {
    for path in entries(directory) {
        if path.is_dir() {
            look(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.extend(ways(&text).map(|line| format!("{}: {line}", path.display())));
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Lines that are no comments and have one of the ways in them.
fn ways(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    let code = lines.filter(|line| !line.starts_with("//"));
    code.filter(|line| WAYS.iter().any(|way| line.contains(&way.concat())))
}

#[test]
fn ways_are_seen() {
    let ip = WAYS[0].concat();
    let text = format!("// `ip {ip}`\nip(&format!(\"{ip} {{name}} sysctl -q\"));\n");
    assert_eq!(ways(&text).count(), 1);
}
