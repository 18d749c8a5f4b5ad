//! Why the datapath cannot work.

use std::path::PathBuf;

use gateway_common::maps::SCHEMA;
use nodegate_programming::identity::PortKey;

use super::rejection::Rejection;

/// Why the datapath cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is unusable.
    #[error(
        "pins in {}: {source} (fix: {})",
        path.display(),
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => "run as root",
            _ => "mount -t bpf bpf /sys/fs/bpf, or --pin-dir with a directory of a BPF file system",
        }
    )]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The maps were written by another version.
    #[error(
        "the maps in {} have layout {found}, this nodegate knows {SCHEMA}: {}",
        path.display(),
        if *found > SCHEMA {
            "run the newer one, or `nodegate cleanup` (which ends the redirection until the next start)"
        } else {
            "`nodegate run` upgrades them and no connection breaks, or ask the older one"
        }
    )]
    Schema {
        /// The pin directory.
        path: PathBuf,
        /// The version that was found.
        found: u32,
    },
    /// Another daemon works on the same maps.
    #[error(
        "another nodegate{} works on the maps in {} (fix: stop that one, or give this one a place of its own \
         with --pin-dir)",
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})")),
        path.display()
    )]
    Taken {
        /// The pin directory.
        path: PathBuf,
        /// The other one's process id, in its own namespace, if that is known.
        pid: Option<u32>,
    },
    /// A map is not there.
    #[error(
        "{} is not there: nodegate has loaded nothing here (fix: `nodegate run`, or --pin-dir if it \
         pins elsewhere)",
        pin.display()
    )]
    NotPinned {
        /// The pin.
        pin: PathBuf,
    },
    /// A map may not be opened.
    #[error("{}: not allowed to open the map (fix: run as root, or with CAP_BPF)", pin.display())]
    NotAllowed {
        /// The pin.
        pin: PathBuf,
    },
    /// The kernel refuses the maps or programs.
    #[error(
        "loading the BPF maps and programs: {0} (fix: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
    )]
    Load(#[from] aya::EbpfError),
    /// A map cannot be used.
    #[error("map {name}: {source}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What aya says.
        source: aya::maps::MapError,
    },
    /// The object file lacks something; a defect of the build.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// The kernel's verifier refuses a program.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// A program cannot be loaded or attached.
    #[error("program {name}: {source}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What aya says.
        source: aya::programs::ProgramError,
    },
    /// A link cannot be pinned or inspected.
    #[error("link {}: {source}", path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// What aya or the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cgroup directory is unusable.
    #[error("cgroup {}: {source} (fix: --cgroup with a directory of a cgroup2 mount)", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no such interface.
    #[error(
        "there is no interface {0} in this network namespace (fix: --uplink with one that `ip link` shows)"
    )]
    Uplink(String),
    /// What the datapath must know of the node cannot be found out.
    #[error("{what}: {source}")]
    Node {
        /// What was asked.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A Service port that could not be programmed; its frontends keep the backends they had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which Service port; `None` for what belongs to none.
    pub service: Option<PortKey>,
    /// Why.
    pub message: String,
}
