//! Every program that is started here, once: its name, the package that has it, who needs it and what
//! for.
//!
//! A [`Command`] can't be made elsewhere: clippy refuses its constructor in the whole workspace
//! (`disallowed-methods` in `clippy.toml`). So what is started is in the table, or is this project's own.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

mod table;

pub use table::Program;

/// Who needs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// nodegate itself, on nodes.
    Product,
    /// Building it.
    Build,
    /// Getting what else is missing: `cargo xtask setup`.
    Setup,
    /// The testbed, and with it the demo.
    Testbed,
    /// `cargo xtask test`
    Tests,
    /// `cargo xtask bench` and `dist`, which get them when they run.
    Bench,
    /// `cargo xtask kernels`, which gets them when it runs.
    Kernels,
    /// `cargo xtask fresh`, which gets them when it runs.
    Fresh,
    /// `cargo xtask cluster`, which gets them when it runs.
    Cluster,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A package of Debian's.
    Debian(&'static str),
    /// A toolchain of rustup's: it is given.
    Rustup,
    /// The registry of crates, by set-up.
    Crate,
    /// A package of Python's, by set-up.
    Python(&'static str),
    /// Go itself: it is given.
    Go,
    /// A Go module, built by `cargo xtask cluster parts`.
    Module,
    /// This project.
    Here,
}

/// Directories of system tools, which an ordinary user's PATH may lack.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Program {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|program| program.name() == name)
    }

    /// Where it comes from.
    pub const fn origin(self) -> Origin {
        self.entry().origin
    }

    /// The package of Debian's that has it.
    pub const fn package(self) -> Option<&'static str> {
        match self.origin() {
            Origin::Debian(package) => Some(package),
            _ => None,
        }
    }

    /// Who needs it.
    pub const fn uses(self) -> &'static [Use] {
        self.entry().uses
    }

    /// What it does here, in words that follow its name.
    pub const fn task(self) -> &'static str {
        self.entry().task
    }

    /// What else doesn't work without it.
    pub fn without(self) -> Option<&'static str> {
        Some(self.entry().without).filter(|text| !text.is_empty())
    }

    /// How to get it: a command, or an address.
    pub fn remedy(self) -> String {
        match self.origin() {
            Origin::Debian(package) => format!("apt-get install {package}"),
            Origin::Rustup => "install Rust with rustup, from https://rustup.rs".into(),
            Origin::Crate | Origin::Python(_) => "cargo xtask setup".into(),
            Origin::Go => "install Go 1.26 or newer, as https://go.dev/doc/install says".into(),
            Origin::Module => "cargo xtask cluster parts".into(),
            Origin::Here => "cargo build".into(),
        }
    }

    /// Those that somebody needs.
    pub fn of(needs: &[Use]) -> impl Iterator<Item = Self> {
        let all = Self::ALL.iter().copied();
        all.filter(|program| program.uses().iter().any(|one| needs.contains(one)))
    }

    /// Those of Debian's that somebody needs and that are not here.
    pub fn missing(needs: &[Use]) -> Vec<Self> {
        Self::of(needs)
            .filter(|program| program.package().is_some() && program.find().is_none())
            .collect()
    }

    /// Where it is.
    pub fn find(self) -> Option<PathBuf> {
        find(self.name(), &search_path())
    }

    /// A command that starts it.
    pub fn command(self) -> Command {
        match find(self.name(), &path()) {
            Some(_) => self.by_name(),
            None => new(self.find().unwrap_or_else(|| self.name().into())),
        }
    }

    /// A command that starts it from the PATH that the command is given, which may have another one.
    pub fn by_name(self) -> Command {
        new(self.name())
    }

    /// A command that starts the one that is at a certain place.
    pub fn at(self, place: impl AsRef<OsStr>) -> Command {
        new(place)
    }

    /// A command that starts it with arguments and then another command, which it starts in turn. What
    /// that one has beside its program and arguments is lost.
    pub fn around<S: AsRef<OsStr>>(
        self,
        arguments: impl IntoIterator<Item = S>,
        inner: &Command,
    ) -> Command {
        let mut command = self.command();
        command
            .args(arguments)
            .arg(inner.get_program())
            .args(inner.get_args());
        command
    }
}

/// A command that starts what this project has built.
pub fn own(program: impl AsRef<OsStr>) -> Command {
    new(program)
}

/// A command that starts this very program once more.
///
/// # Errors
///
/// If the kernel does not tell which file this program was started from.
pub fn itself() -> io::Result<Command> {
    Ok(new(env::current_exe()?))
}

/// A command of the user's, in his own words.
pub fn of_user(program: impl AsRef<OsStr>) -> Command {
    new(program)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place: everything above says where the program comes from"
)]
fn new(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// PATH, and the directories of system tools.
pub fn search_path() -> Vec<PathBuf> {
    let mut path = path();
    for extra in SYSTEM.map(PathBuf::from) {
        if !path.contains(&extra) {
            path.push(extra);
        }
    }
    path
}

fn path() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect()
}

/// The first executable of that name.
pub fn find(program: impl AsRef<Path>, path: &[PathBuf]) -> Option<PathBuf> {
    path.iter()
        .map(|directory| directory.join(program.as_ref()))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn names_are_names_and_nobody_has_two_rows() {
        let mut seen = BTreeSet::new();
        for program in Program::ALL {
            let name = program.name();
            assert!(seen.insert(name), "{name} is there twice");
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            assert!(!name.is_empty() && name.chars().all(is_name), "{name}");
        }
    }

    #[test]
    fn everything_has_a_source_a_task_and_somebody_who_needs_it() {
        for program in Program::ALL {
            assert!(!program.uses().is_empty(), "{program:?}");
            assert!(!program.task().is_empty(), "{program:?}");
            if let Origin::Debian(name) | Origin::Python(name) = program.origin() {
                // Debian Policy §5.6.7
                let allowed =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
                assert!(
                    name.len() > 1 && name.chars().all(allowed),
                    "{program:?}: {name}"
                );
            }
        }
    }

    #[test]
    fn preflight_can_explain_what_nodes_lack() {
        for program in Program::of(&[Use::Product]) {
            assert!(program.package().is_some(), "{program:?}");
            assert!(program.without().is_some(), "{program:?}");
        }
    }

    #[test]
    fn the_image_has_what_nodegate_starts() {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/Containerfile");
        let recipe = fs::read_to_string(recipe).unwrap();
        let installs = recipe.lines().find(|line| line.contains("apt-get install"));
        let words: Vec<_> = installs.unwrap().split_whitespace().collect();
        for program in Program::of(&[Use::Product]) {
            let package = program.package().unwrap();
            assert!(words.contains(&package), "{program:?}: {package}");
        }
        // The authorities of the public Internet, for ServiceEntries with TLS.
        assert!(words.contains(&"ca-certificates"), "{words:?}");
    }

    /// Where apt has lists: without, nothing is known of any package.
    #[test]
    fn apt_knows_the_packages() {
        let packages: BTreeSet<_> = Program::ALL.iter().filter_map(|p| p.package()).collect();
        let output = Program::AptCache
            .command()
            .arg("policy")
            .args(&packages)
            .output();
        let said = output.map(|output| output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        // A package's name at the beginning of a line, and two lines on what could be installed.
        let lines: Vec<_> = said.lines().collect();
        let known = |package: &str| {
            let at = lines
                .iter()
                .position(|line| line.strip_suffix(':') == Some(package));
            let candidate = at.and_then(|at| lines.get(at + 2)?.trim().strip_prefix("Candidate: "));
            candidate.is_some_and(|candidate| candidate != "(none)")
        };
        if !known("conntrack") {
            eprintln!("skipped: apt has no lists");
            return;
        }
        for package in packages {
            assert!(known(package), "{package}");
        }
    }

    #[test]
    fn programs_are_found_only_when_they_can_be_run() {
        let directory = env::temp_dir().join(format!("nodegate-programs-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("ip");
        fs::write(&file, "").unwrap();
        let path = [directory.clone()];
        let before = find("ip", &path);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let after = find("ip", &path);
        let other = find("curl", &path);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!((before, after, other), (None, Some(file), None));
    }

    #[test]
    fn programs_around_others_get_them_after_their_own_arguments() {
        let mut inner = own("/t/nodegate");
        inner.arg("run");
        let command = Program::Setpriv.around(["--reset-env"], &inner);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["--reset-env", "/t/nodegate", "run"]);
    }
}
