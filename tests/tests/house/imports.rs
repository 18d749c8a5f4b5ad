//! Which file of a crate takes names from which other one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use syn::{Item, UseTree, visit::Visit};

/// A module's place in its crate: `["http", "direct"]`; the crate's root is empty.
pub(crate) type Module = Vec<String>;

/// The modules of a crate that are files, and what each takes from the others.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    pub(crate) files: BTreeMap<Module, PathBuf>,
    /// Names that a module has from elsewhere: by them a path leads on to where the name is defined.
    names: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
    paths: BTreeMap<Module, BTreeSet<Vec<String>>>,
}

impl Crate {
    /// Reads a crate from its root file on.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut found = Self::default();
        found.file(root, Vec::new())?;
        Ok(found)
    }

    fn file(&mut self, path: &Path, module: Module) -> anyhow::Result<()> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        self.files.insert(module.clone(), path.to_owned());
        let children = children(path, &module);
        for item in &file.items {
            if let Item::Mod(child) = item
                && child.content.is_none()
                && !is_test(&child.attrs)
            {
                let name = child.ident.to_string();
                let place = [
                    children.join(format!("{name}.rs")),
                    children.join(&name).join("mod.rs"),
                ];
                let place = place.iter().find(|place| place.is_file());
                let place = place.with_context(|| format!("{}: mod {name}", path.display()))?;
                self.file(place, [&module[..], &[name]].concat())?;
            }
        }
        let mut reader = Reader {
            module: &module,
            names: BTreeMap::new(),
            paths: BTreeSet::new(),
        };
        reader.visit_file(&file);
        let Reader { names, paths, .. } = reader;
        self.names.insert(module.clone(), names);
        self.paths.insert(module, paths);
        Ok(())
    }

    /// The files from which a module takes names.
    pub(crate) fn used_by(&self, module: &Module) -> BTreeSet<Module> {
        let paths = self.paths.get(module).into_iter().flatten();
        let homes = paths.map(|path| self.home(path, 0));
        homes.filter(|home| home != module).collect()
    }

    /// The file in which the thing is defined that a path names.
    fn home(&self, path: &[String], depth: usize) -> Module {
        let mut module = Module::new();
        let mut rest = path;
        while let [first, others @ ..] = rest {
            let child = [&module[..], std::slice::from_ref(first)].concat();
            if !self.files.contains_key(&child) {
                break;
            }
            module = child;
            rest = others;
        }
        let names = self.names.get(&module);
        // A name that comes from elsewhere; it may itself come from elsewhere, but not for ever.
        match (rest.first(), names) {
            (Some(name), Some(names)) if depth < 8 => match names.get(name) {
                Some(target) if target[..] != path[..] => {
                    let target = [&target[..], &rest[1..]].concat();
                    self.home(&target, depth + 1)
                }
                _ => module,
            },
            _ => module,
        }
    }
}

/// The directory that a file's modules are in.
fn children(path: &Path, module: &Module) -> PathBuf {
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    let is_root = module.is_empty() || path.ends_with("mod.rs");
    match path.file_stem() {
        Some(stem) if !is_root => directory.join(stem),
        _ => directory,
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// Collects a file's paths, each from the crate's root on.
struct Reader<'m> {
    module: &'m Module,
    names: BTreeMap<String, Vec<String>>,
    paths: BTreeSet<Vec<String>>,
}

impl Reader<'_> {
    /// A path from the crate's root on; none if it leads out of the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => return Some([&self.module[..], &path[1..]].concat()),
            "super" => self.module.clone(),
            _ => return None,
        };
        let mut rest = path;
        while rest.first().is_some_and(|first| first == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before);
                }
            }
            UseTree::Name(name) if name.ident == "self" => {
                self.used(before, before.last().cloned());
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.used(&with(name.clone()), Some(name));
            }
            UseTree::Rename(rename) => {
                let path = with(rename.ident.to_string());
                self.used(&path, Some(rename.rename.to_string()));
            }
            UseTree::Glob(_) => self.used(before, None),
        }
    }

    fn used(&mut self, path: &[String], name: Option<String>) {
        // `pub use child::Name` has no `self` in front.
        let relative = [&["self".to_owned()], path].concat();
        let path = self.absolute(path).or_else(|| self.absolute(&relative));
        if let Some(path) = path {
            self.paths.insert(path.clone());
            if let Some(name) = name {
                self.names.insert(name, path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // What a file's tests use is no tie between subjects.
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if words.len() > 1 {
            let relative = [&["self".to_owned()], &words[..]].concat();
            let path = self.absolute(&words).or_else(|| self.absolute(&relative));
            self.paths.extend(path);
        }
        syn::visit::visit_path(self, path);
    }
}
