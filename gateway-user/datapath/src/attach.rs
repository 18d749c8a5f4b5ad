//! Programs to hooks, by pinned links.
//!
//! A link's pin says what it is attached to, so that a daemon that starts can tell which of the
//! links it finds are still the right ones. A right one whose program is the one it would load
//! itself is left alone: adopted. Otherwise it gets the new program in place of the old one, at once.
//! A link that cannot, because it has lost its device, say, goes after a new one has been attached; for
//! the moment in between both run, which is harmless: the second finds nothing left to translate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, ProgramError, ProgramFd, ProgramInfo,
        SchedClassifier, SockOps, TcAttachType,
        links::{FdLink, PinnedLink},
        loaded_programs,
        sock_ops::SockOpsLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use tracing::{debug, info, warn};

use super::{
    error::Error,
    features::Features,
    layout,
    links::{FRESH, LINK, is_link},
    options::{AttachMode, Options},
    rejection::Rejection,
    sys,
    verifier::uninterrupted,
};

const SOCKET_PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
const UPLINK_PROGRAMS: [(&str, TcAttachType); 2] = [
    ("ingress", TcAttachType::Ingress),
    ("egress", TcAttachType::Egress),
];
const POD_PROGRAMS: [(&str, TcAttachType); 2] = [
    ("pod_ingress", TcAttachType::Ingress),
    ("egress", TcAttachType::Egress),
];

/// Where our filters stand among those of a clsact qdisc, so that they can be found again.
/// kube-proxy and Cilium use low priorities.
const FILTER: NlOptions = NlOptions {
    priority: 31_373,
    handle: TcHandle::new(0, 1),
    classid: None,
};

/// Detaches the filters of clsact qdiscs that are ours, from all devices.
pub(crate) fn remove_filters() {
    let devices = match nix::net::if_::if_nameindex() {
        Ok(devices) => devices,
        Err(error) => {
            warn!(%error, "listing the interfaces: filters may be left");
            return;
        }
    };
    for device in &devices {
        let device = device.name().to_string_lossy().into_owned();
        for (name, direction) in UPLINK_PROGRAMS.into_iter().chain(POD_PROGRAMS) {
            if tc::qdisc_detach_program(&device, direction, name).is_ok() {
                info!(program = name, device, "detached (clsact)");
            }
        }
    }
}

/// The devices that packet programs belong on: index and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    /// By the name that they are asked for with; a device may have got another one meanwhile.
    uplinks: BTreeMap<String, (u32, String)>,
    pods: BTreeSet<(u32, String)>,
}

impl Devices {
    /// Looks for them. An uplink that was there the last time may have got another name, or be gone;
    /// one that never was there is an error.
    pub(crate) fn find(options: &Options, last: Option<&Self>) -> Result<Self, Error> {
        let all = nix::net::if_::if_nameindex().map_err(|error| Error::Node {
            what: "listing the interfaces",
            source: error.into(),
        })?;
        let all: BTreeSet<(u32, String)> = all
            .iter()
            .map(|device| (device.index(), device.name().to_string_lossy().into_owned()))
            .collect();
        let mut devices = Self::default();
        for uplink in &options.uplinks {
            let named = || all.iter().find(|(_, name)| name == uplink);
            let renamed = |last: &Self| {
                let (known, _) = last.uplinks.get(uplink)?;
                all.iter().find(|(index, _)| index == known)
            };
            let device = named().or_else(|| last.and_then(renamed));
            match device {
                Some(device) => {
                    devices.uplinks.insert(uplink.clone(), device.clone());
                }
                None if last.is_none() => return Err(Error::Uplink(uplink.clone())),
                None => {}
            }
        }
        let is_pods = |name: &str| {
            let mut prefixes = options.pod_devices.iter();
            prefixes.any(|prefix| name.starts_with(prefix.as_str()))
        };
        devices.pods = all
            .into_iter()
            .filter(|device| is_pods(&device.1))
            .filter(|device| !devices.uplinks.values().any(|uplink| uplink == device))
            .collect();
        Ok(devices)
    }

    /// Whether a device of this name now is among them.
    pub(crate) fn has(&self, device: &str) -> bool {
        let Ok(index) = nix::net::if_::if_nametoindex(device) else {
            return false;
        };
        let mut all = self.uplinks.values().chain(&self.pods);
        all.any(|(known, _)| *known == index)
    }

    /// The uplinks that these have and others lack, by the names that they are asked for with.
    pub(crate) fn uplinks_without(&self, others: &Self) -> Vec<&str> {
        let lacks = |uplink: &&String| !others.uplinks.contains_key(*uplink);
        let uplinks = self.uplinks.keys().filter(lacks);
        uplinks.map(String::as_str).collect()
    }
}

/// Fails for what attaching would fail for on this machine, and changes nothing.
pub(crate) fn check(options: &Options) -> Result<(), Error> {
    Devices::find(options, None)?;
    open_cgroup(options).map(drop)
}

fn open_cgroup(options: &Options) -> Result<fs::File, Error> {
    let failed = |source| Error::Cgroup {
        path: options.cgroup.clone(),
        source,
    };
    let cgroup = fs::File::open(&options.cgroup).map_err(failed)?;
    let system = fstatfs(&cgroup).map_err(|error| failed(error.into()))?;
    if system.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(failed(io::Error::other("it is none")));
    }
    Ok(cgroup)
}

/// Attaches the programs, which are loaded; links of earlier daemons to other places go. The maps that
/// they work on are pinned in `maps`.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    options: &Options,
    devices: &Devices,
    maps: &Path,
) -> Result<(), Error> {
    let attaching = Attaching {
        pin_dir: &options.pin_dir,
        maps: layout::pinned(maps),
        programs: loaded_programs().filter_map(Result::ok).collect(),
        tcx: uses_tcx(options.mode),
    };
    let mut wanted = BTreeSet::new();
    let cgroup = open_cgroup(options)?;
    // A cgroup's inode number is its id, unique until the machine reboots.
    let metadata = cgroup.metadata().map_err(|source| Error::Cgroup {
        path: options.cgroup.clone(),
        source,
    })?;
    for name in SOCKET_PROGRAMS {
        let pin = options
            .pin_dir
            .join(format!("{LINK}{name}_cgroup_{}", metadata.ino()));
        attaching.cgroup(ebpf, name, &cgroup, &pin)?;
        wanted.insert(pin);
    }
    for uplink in devices.uplinks.values() {
        for program in UPLINK_PROGRAMS {
            wanted.extend(attaching.device(ebpf, program, uplink)?);
        }
    }
    for pod in &devices.pods {
        for program in POD_PROGRAMS {
            match attaching.device(ebpf, program, pod) {
                Ok(pin) => wanted.extend(pin),
                // It may have gone with its pod meanwhile.
                Err(error) => debug!(device = pod.1, %error, "not attached"),
            }
        }
    }
    remove_others(&options.pin_dir, &wanted)
}

/// Which of the links that [`attach`] has made somebody else has removed or detached, by their pins.
pub(crate) fn missing(options: &Options, devices: &Devices) -> Result<Vec<PathBuf>, Error> {
    let cgroup = open_cgroup(options)?;
    let metadata = cgroup.metadata().map_err(|source| Error::Cgroup {
        path: options.cgroup.clone(),
        source,
    })?;
    let pins = SOCKET_PROGRAMS.map(|name| {
        let pin = format!("{LINK}{name}_cgroup_{}", metadata.ino());
        options.pin_dir.join(pin)
    });
    let mut missing: Vec<_> = pins.into_iter().filter(|pin| !has_cgroup(pin)).collect();
    if !uses_tcx(options.mode) {
        return Ok(missing);
    }
    let attaching = Attaching {
        pin_dir: &options.pin_dir,
        maps: BTreeSet::new(),
        programs: Vec::new(),
        tcx: true,
    };
    for (index, device) in devices.uplinks.values() {
        for (name, direction) in UPLINK_PROGRAMS {
            let pin = attaching.device_pin(name, *index, device);
            let Ok((_, attached)) = SchedClassifier::query_tcx(device, direction) else {
                // The device is going.
                continue;
            };
            let on_device = |id| attached.iter().any(|info| info.id() == id);
            if !link_program(&pin)?.is_some_and(on_device) {
                missing.push(pin);
            }
        }
    }
    Ok(missing)
}

/// Loads the programs, before anything else is touched: if the kernel refuses one, all stays as it is;
/// and links get their new programs within a moment.
pub(crate) fn load(ebpf: &mut Ebpf, options: &Options) -> Result<(), Error> {
    for name in SOCKET_PROGRAMS {
        let program = program::<CgroupSockAddr>(ebpf, name)?;
        loaded(uninterrupted(|| program.load()), name)?;
    }
    let pods = POD_PROGRAMS
        .into_iter()
        .filter(|_| !options.pod_devices.is_empty());
    for (name, _) in UPLINK_PROGRAMS.into_iter().chain(pods) {
        let program = program::<SchedClassifier>(ebpf, name)?;
        loaded(uninterrupted(|| program.load()), name)?;
    }
    Ok(())
}

/// Attaches the program that reports from where sockets connect, for as long as the link lives.
pub(crate) fn connected(ebpf: &mut Ebpf, options: &Options) -> Result<SockOpsLink, Error> {
    let name = "connected";
    let wrap = |source| Error::Program { name, source };
    let cgroup = open_cgroup(options)?;
    let program: &mut SockOps = program(ebpf, name)?;
    loaded(uninterrupted(|| program.load()), name)?;
    let id = program
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(wrap)?;
    program.take_link(id).map_err(wrap)
}

/// What all attaching goes by.
struct Attaching<'o> {
    pin_dir: &'o Path,
    /// Ids of the pinned maps.
    maps: BTreeSet<u32>,
    /// All programs in the kernel: asked for once, there may be thousands.
    programs: Vec<ProgramInfo>,
    tcx: bool,
}

fn uses_tcx(mode: AttachMode) -> bool {
    match mode {
        AttachMode::Tcx => true,
        AttachMode::Clsact => false,
        AttachMode::Auto => Features::probe().tcx,
    }
}

fn program<'e, P>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut P, Error>
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}

impl Attaching<'_> {
    fn cgroup(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        cgroup: &fs::File,
        pin: &Path,
    ) -> Result<(), Error> {
        let wrap = |source| Error::Program { name, source };
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        if has_cgroup(pin) && self.is_current(pin, &program.info().map_err(wrap)?)? {
            debug!(program = name, pin = %pin.display(), "adopted");
            return Ok(());
        }
        if replaced(pin, name, program.fd().map_err(wrap)?) {
            return Ok(());
        }
        // The kernel wants no flags for links; they always stack.
        // One that was detached cannot be replaced, and makes way.
        let id = program
            .attach(cgroup, CgroupAttachMode::Single)
            .map_err(wrap)?;
        let link = program.take_link(id).map_err(wrap)?;
        pin_link(
            link.try_into().map_err(|error| link_error(pin, error))?,
            pin,
        )?;
        info!(program = name, pin = %pin.display(), "attached");
        Ok(())
    }

    /// Attaches a packet program; gives the pin, if there is one.
    fn device(
        &self,
        ebpf: &mut Ebpf,
        (name, direction): (&'static str, TcAttachType),
        (index, device): &(u32, String),
    ) -> Result<Option<PathBuf>, Error> {
        if !self.tcx {
            clsact(ebpf, name, device, direction)?;
            return Ok(None);
        }
        let pin = self.device_pin(name, *index, device);
        self.tcx(ebpf, name, device, direction, &pin)?;
        Ok(Some(pin))
    }

    /// Where the link of a program to a device is pinned: where it is already, if the device had another
    /// name then.
    fn device_pin(&self, program: &str, index: u32, device: &str) -> PathBuf {
        let start = format!("{LINK}{program}_{index}_");
        // bpffs takes no dots in names, and VLAN devices have them.
        let pin = self
            .pin_dir
            .join(format!("{start}{}", device.replace('.', "_")));
        if pin.exists() {
            return pin;
        }
        let pins = fs::read_dir(self.pin_dir).into_iter().flatten().flatten();
        let earlier = pins.map(|entry| entry.path()).find(|pin| {
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&start) && !name.ends_with(FRESH)
        });
        earlier.unwrap_or(pin)
    }

    fn tcx(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        device: &str,
        direction: TcAttachType,
        pin: &Path,
    ) -> Result<(), Error> {
        let wrap = |source| Error::Program { name, source };
        let program: &mut SchedClassifier = program(ebpf, name)?;
        let new = program.info().map_err(wrap)?;
        let (_, attached) = SchedClassifier::query_tcx(device, direction).map_err(wrap)?;
        // The device may have been made anew under the same name and number.
        let on_device = |id| attached.iter().any(|info| info.id() == id);
        if link_program(pin)?.is_some_and(on_device) {
            if self.is_current(pin, &new)? {
                debug!(program = name, device, "adopted");
                return Ok(());
            }
            if replaced(pin, name, program.fd().map_err(wrap)?) {
                return Ok(());
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program
            .attach_with_options(device, direction, options)
            .map_err(wrap)?;
        let link = program.take_link(id).map_err(wrap)?;
        pin_link(
            link.try_into().map_err(|error| link_error(pin, error))?,
            pin,
        )?;
        info!(program = name, device, "attached (tcx)");
        Ok(())
    }

    /// Whether the pinned link runs the same program on the same pinned maps.
    fn is_current(&self, pin: &Path, new: &ProgramInfo) -> Result<bool, Error> {
        let Some(id) = link_program(pin)? else {
            return Ok(false);
        };
        let old = self.programs.iter().find(|info| info.id() == id);
        let Some(old) = old else {
            return Ok(false);
        };
        // Every load has maps of its own too, for constants and scratch.
        let pinned = |info: &ProgramInfo| -> Result<BTreeSet<u32>, Error> {
            let ids = info.map_ids().map_err(|error| link_error(pin, error))?;
            Ok(ids
                .unwrap_or_default()
                .into_iter()
                .filter(|id| self.maps.contains(id))
                .collect())
        };
        Ok(old.tag() == new.tag() && pinned(old)? == pinned(new)?)
    }
}

/// Filters on a clsact qdisc outlive the daemon without a pin. Old ones of ours are found by name.
fn clsact(
    ebpf: &mut Ebpf,
    name: &'static str,
    device: &str,
    direction: TcAttachType,
) -> Result<(), Error> {
    let wrap = |source| Error::Program { name, source };
    let program: &mut SchedClassifier = program(ebpf, name)?;
    match tc::qdisc_add_clsact(device) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        // Older kernels and aya tell "there already" in several ways; attaching tells for sure.
        Err(error) => debug!(device, %error, "adding the clsact qdisc"),
    }
    let link = SchedClassifierLink::attached(
        device,
        direction,
        FILTER.priority,
        FILTER.handle,
        FILTER.classid,
    );
    let replaced = link.map_err(ProgramError::from);
    match replaced.and_then(|link| program.attach_to_link(link)) {
        Ok(id) => {
            // Dropping the link would detach the filter.
            std::mem::forget(program.take_link(id).map_err(wrap)?);
            info!(program = name, device, "replaced (clsact)");
            return Ok(());
        }
        Err(error) => debug!(program = name, device, %error, "no filter to replace"),
    }
    match tc::qdisc_detach_program(device, direction, name) {
        Ok(()) => debug!(program = name, device, "removed the earlier filter"),
        Err(error) => debug!(program = name, device, %error, "no earlier filter"),
    }
    let options = TcAttachOptions::Netlink(FILTER);
    let id = program
        .attach_with_options(device, direction, options)
        .map_err(wrap)?;
    // Dropping the link would detach the filter.
    std::mem::forget(program.take_link(id).map_err(wrap)?);
    info!(program = name, device, "attached (clsact)");
    Ok(())
}

/// Gives the pinned link the program in place of the one that it has, and says whether that went well.
fn replaced(pin: &Path, name: &str, program: &ProgramFd) -> bool {
    if !pin.exists() {
        return false;
    }
    match sys::open(pin).and_then(|link| sys::update_link(&link, program.as_fd())) {
        Ok(()) => {
            info!(program = name, pin = %pin.display(), "replaced");
            true
        }
        Err(error) => {
            debug!(program = name, pin = %pin.display(), %error, "cannot be replaced");
            false
        }
    }
}

/// A program is loaded once, however often it is attached.
fn loaded(result: Result<(), ProgramError>, name: &'static str) -> Result<(), Error> {
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => Err(Error::Rejected(Box::new(Rejection::new(
            name,
            io_error,
            &verifier_log.to_string(),
        )))),
        Err(source) => Err(Error::Program { name, source }),
    }
}

/// Whether there is a pinned link, and nobody has detached it from its cgroup.
fn has_cgroup(pin: &Path) -> bool {
    sys::open(pin).is_ok_and(|link| sys::has_cgroup(&link).unwrap_or(true))
}

/// The program of a pinned link, if there is such a pin.
fn link_program(pin: &Path) -> Result<Option<u32>, Error> {
    if !pin.exists() {
        return Ok(None);
    }
    let wrap = |error| link_error(pin, error);
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(wrap)?);
    Ok(Some(link.info().map_err(wrap)?.program_id()))
}

/// Pins the link in place of the one that may be pinned there; that one is detached by it.
fn pin_link(link: FdLink, pin: &Path) -> Result<(), Error> {
    let mut fresh = pin.as_os_str().to_owned();
    fresh.push(FRESH);
    let fresh = PathBuf::from(fresh);
    // Of a daemon that died between pinning and renaming.
    let _ = fs::remove_file(&fresh);
    link.pin(&fresh).map_err(|error| link_error(pin, error))?;
    fs::rename(&fresh, pin).map_err(|error| link_error(pin, error))
}

fn remove_others(pin_dir: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::PinDir {
        path: pin_dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_link(&path) && !wanted.contains(&path) {
            info!(pin = %path.display(), "detached");
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn link_error(pin: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Link {
        path: pin.to_owned(),
        source: Box::new(error),
    }
}
