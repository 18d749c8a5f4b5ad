//! Circles between files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{
    imports::{Crate, Module},
    workspace,
};

/// Who uses whom, without ties between a module and what is below it.
fn ties(read: &Crate) -> BTreeMap<Module, BTreeSet<Module>> {
    let family = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let ties = read.files.keys().map(|module| {
        let used = read.used_by(module);
        let used = used.into_iter().filter(|other| !family(module, other));
        (module.clone(), used.collect())
    });
    ties.collect()
}

/// A circle through a module, if there is one: the modules in their order.
fn circle(ties: &BTreeMap<Module, BTreeSet<Module>>, start: &Module) -> Option<Vec<Module>> {
    // Breadth first: the shortest circle says most.
    let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = vec![start];
    while let Some(module) = next.first().copied() {
        next.remove(0);
        for used in &ties[module] {
            if used == start {
                let mut way = vec![start.clone(), module.clone()];
                let mut at = module;
                while let Some(earlier) = before.get(at) {
                    way.push((*earlier).clone());
                    at = earlier;
                }
                way.reverse();
                return Some(way);
            }
            if used != start && !before.contains_key(used) {
                before.insert(used, module);
                next.push(used);
            }
        }
    }
    None
}

/// The root files of the workspace's crates.
fn roots() -> Vec<std::path::PathBuf> {
    let mut roots = Vec::new();
    let house = workspace();
    let mut crates: Vec<_> = ["gateway-common", "gateway-ebpf", "tests", "xtask"]
        .map(|name| house.join(name))
        .into();
    let rooms = fs::read_dir(house.join("gateway-user")).unwrap();
    crates.extend(rooms.flatten().map(|room| room.path()));
    for place in crates {
        for root in ["src/lib.rs", "src/main.rs"] {
            roots.extend(Some(place.join(root)).filter(|root| root.is_file()));
        }
    }
    roots
}

fn name(module: &Module) -> String {
    if module.is_empty() {
        "(root)".into()
    } else {
        module.join("::")
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let roots = roots();
    assert!(roots.len() > 10, "{roots:?}");
    let mut circles = BTreeSet::new();
    for root in roots {
        let read = Crate::read(&root).unwrap();
        let ties = ties(&read);
        for module in read.files.keys() {
            if let Some(mut way) = circle(&ties, module) {
                way.pop();
                // The same circle from each of its files.
                let least = way.iter().enumerate().min_by_key(|(_, module)| *module);
                let least = least.map_or(0, |(at, _)| at);
                way.rotate_left(least);
                let names: Vec<_> = way.iter().map(name).collect();
                circles.insert(format!("{}: {}", root.display(), names.join(" -> ")));
            }
        }
    }
    let list: Vec<_> = circles.into_iter().collect();
    assert!(list.is_empty(), "circles:\n{}", list.join("\n"));
}

/// A crate in a directory, each file with its text.
fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Crate) {
    let place = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }
    let read = Crate::read(&place.path().join("lib.rs")).unwrap();
    (place, read)
}

fn found(files: &[(&str, &str)]) -> Option<Vec<String>> {
    let (_place, read) = written(files);
    let ties = ties(&read);
    let way = read.files.keys().find_map(|module| circle(&ties, module))?;
    Some(way.iter().map(name).collect())
}

#[test]
fn circles_are_found_through_reexports_and_plain_paths() {
    let circle = found(&[
        ("lib.rs", "mod a; mod b; pub use b::Thing;"),
        ("a.rs", "use crate::Thing; pub fn make() {}"),
        ("b.rs", "pub struct Thing; fn f() { crate::a::make() }"),
    ]);
    assert_eq!(circle.unwrap(), ["a", "b", "a"]);
}

#[test]
fn a_module_and_its_children_are_one_subject() {
    let none = found(&[
        ("lib.rs", "mod a;"),
        ("a.rs", "mod b; use b::part; pub struct Whole;"),
        ("a/b.rs", "use super::Whole; pub fn part(_: Whole) {}"),
    ]);
    assert_eq!(none, None);
}

#[test]
fn what_tests_use_ties_nothing() {
    let none = found(&[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "pub fn make() {} #[cfg(test)] mod tests { use crate::b::f; }",
        ),
        ("b.rs", "pub fn f() { crate::a::make() }"),
    ]);
    assert_eq!(none, None);
}
