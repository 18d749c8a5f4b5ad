//! Manifests that are no manifests: what becomes of a nodegate that follows their directory.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use nix::sys::resource::{Resource, setrlimit};
use nodegate_programs::own;

use super::{
    neighbour::Neighbour,
    outcome::{Outcome, Reach},
    target::Target,
};

/// The memory that `nodegate check` may have: what nobody should write must not take the node's.
const MEMORY: u64 = 2 << 30;

/// Something in the directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nasty {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    make: fn(&Path) -> io::Result<()>,
    /// Whether there is nothing wrong with it but how much it is.
    is_fine: bool,
}

const fn nasty(
    name: &'static str,
    about: &'static str,
    make: fn(&Path) -> io::Result<()>,
) -> Nasty {
    Nasty {
        name,
        about,
        make,
        is_fine: false,
    }
}

#[rustfmt::skip]
pub(super) const NASTY: &[Nasty] = &[
    nasty("file-aliases", "a billion laughs: aliases of aliases of aliases", |path| {
        let levels = (1..12).map(|level| format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 12].join(", ")));
        fs::write(path, format!("a0: &a0 [{}]\n{}", ["lol"; 12].join(", "), levels.collect::<String>()))
    }),
    nasty("file-merges", "the same by merge keys", |path| {
        let levels = (1..16).map(|level| format!("a{level}: &a{level}\n  <<: [{}]\n  k{level}: 1\n", vec![format!("*a{}", level - 1); 8].join(", ")));
        fs::write(path, format!("a0: &a0 {{x: 1}}\n{}", levels.collect::<String>()))
    }),
    nasty("file-deep", "100,000 brackets within each other", |path| fs::write(path, "[".repeat(100_000))),
    nasty("file-deep-mappings", "10,000 mappings within each other", |path| {
        fs::write(path, (0..10_000).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>())
    }),
    Nasty { is_fine: true, ..nasty("file-documents", "200,000 empty documents", |path| fs::write(path, "---\n".repeat(200_000))) },
    nasty("file-line", "a line of 32 MiB", |path| fs::write(path, format!("a: {}\n", "x".repeat(32 << 20)))),
    nasty("file-binary", "bytes that are no text", |path| fs::write(path, (0..=255u8).cycle().take(1 << 20).collect::<Vec<_>>())),
    nasty("file-itself", "an alias of what it stands in", |path| fs::write(path, "a: &a [*a]\n")),
    nasty("file-twice", "a key 50,000 times", |path| fs::write(path, "a: 1\n".repeat(50_000))),
    nasty("file-pipe", "a pipe that nobody writes to", |path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from)
    }),
    nasty("file-endless", "a link to /dev/zero", |path| symlink("/dev/zero", path)),
    nasty("file-loop", "a link to itself", |path| symlink(path, path)),
    nasty("file-huge", "a file of a terabyte, of which nothing is written", |path| File::create(path)?.set_len(1 << 40)),
];

impl Nasty {
    /// Puts it beside the manifests of a running nodegate, and checks it by itself.
    pub(super) fn run(&self, target: &mut Target, nodegate: &Path) -> anyhow::Result<Outcome> {
        let alone = tempfile::tempdir()?;
        (self.make)(&alone.path().join("nasty.yaml")).context("making it")?;
        let neighbour = Neighbour::start(target.plain)?;
        let told = check(nodegate, alone.path(), self.is_fine);
        let beside = target.manifests().join("nasty.yaml");
        (self.make)(&beside).context("making it")?;
        let seen = served_anew(target);
        fs::remove_file(&beside)?;
        let served = neighbour.stop();
        let (mut outcome, broken) = match told {
            Ok(told) => (Outcome::new(Reach::Refused, told), None),
            Err(error) => (
                Outcome::new(Reach::Through(1), "passes"),
                Some(format!("{error:#}")),
            ),
        };
        outcome.broken.extend(broken);
        if let Err(error) = seen {
            outcome
                .broken
                .push(format!("a change beside it is not seen: {error:#}"));
        }
        let broken = target.broken(served.verdict())?;
        outcome.broken.extend(broken);
        Ok(outcome)
    }
}

/// What `nodegate check` says: its exit status, in bounded memory and time.
fn check(nodegate: &Path, directory: &Path, is_fine: bool) -> anyhow::Result<String> {
    let mut command: Command = own(nodegate);
    command.arg("check").arg(directory).stdin(Stdio::null());
    // SAFETY: after fork, nothing is called but setrlimit(2), which is safe there.
    unsafe {
        command
            .pre_exec(|| setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).map_err(io::Error::from));
    }
    let output = crate::process::output(command)?;
    let status = output.status.code();
    anyhow::ensure!(
        matches!(status, Some(1 | 2)) && !is_fine || status == Some(0) && is_fine,
        "check ends with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .last()
            .unwrap_or_default()
    );
    Ok(if is_fine {
        "taken".into()
    } else {
        format!("refused, {}", status.unwrap_or_default())
    })
}

/// Whether a change of another file is in force, while the nasty one is there.
fn served_anew(target: &Target) -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    let manifests = target.manifests();
    let route = manifests.join("other.yaml");
    fs::write(
        &route,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: other, namespace: istio-system}\nspec: {hosts: [other.test], gateways: [web], http: [{directResponse: {status: 418}}]}\n",
    )?;
    let seen = patience::try_until(|| -> anyhow::Result<Option<()>> {
        let mut stream = std::net::TcpStream::connect(target.plain)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: other.test\r\nconnection: close\r\n\r\n")?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard)?;
        Ok(heard.starts_with("HTTP/1.1 418").then_some(()))
    });
    fs::remove_file(route)?;
    seen
}
