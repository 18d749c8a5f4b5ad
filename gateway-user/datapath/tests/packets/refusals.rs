//! How a call fails that is not to go on: the only test here that attaches something, to a cgroup of its
//! own with one process in it.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use libtest_mimic::Failed;
use nodegate_datapath::features::Features;
use nodegate_programs::itself;

use crate::{Addresses, bench::Bench};

/// Whom this program is to connect to, instead of testing.
const VARIABLE: &str = "PACKETS_CONNECT";

/// Connects if that is what this program is started for; the exit status is the error.
pub(crate) fn connect() -> Option<ExitCode> {
    let to: SocketAddr = env::var(VARIABLE).ok()?.parse().ok()?;
    let error = std::net::TcpStream::connect(to).err();
    let number = error.and_then(|error| error.raw_os_error()).unwrap_or(0);
    Some(ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX)))
}

/// The unified hierarchy's mount point.
pub(crate) fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "cgroup2").then(|| directory.into())
    })
}

/// A cgroup; it goes with its owner.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Calls are refused by name where the kernel can do that, and refused all the same where not.
pub(crate) fn told(_bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let kernel = Features::probe();
    for set_retval in [true, false] {
        if set_retval && !kernel.set_retval {
            continue;
        }
        let mut bench = Bench::for_kernel(Features {
            set_retval,
            ..kernel
        })?;
        who.serve(&mut bench, &[]);
        let name = format!("nodegate-packets-{}", std::process::id());
        let root = cgroup2().ok_or("no cgroup2 file system")?;
        let cgroup = Cgroup(root.join(name));
        fs::create_dir(&cgroup.0)?;
        let program = bench.ebpf.program_mut("connect4").expect("it is there");
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load()?;
        let link = program.attach(fs::File::open(&cgroup.0)?, CgroupAttachMode::Single)?;
        let error = error_of_a_call(&cgroup.0, SocketAddr::new(who.cluster_ip, 80))?;
        program.detach(link)?;
        let expected = if set_retval {
            libc::ECONNREFUSED
        } else {
            libc::EPERM
        };
        assert_eq!(error, Some(expected), "bpf_set_retval: {set_retval}");
    }
    Ok(())
}

/// What a process in the cgroup is told that connects.
fn error_of_a_call(cgroup: &Path, to: SocketAddr) -> Result<Option<i32>, Failed> {
    let members = fs::OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?;
    let mut command = itself()?;
    command.env(VARIABLE, to.to_string());
    // Writing 0 moves the writer.
    let join = move || Ok(nix::unistd::write(&members, b"0").map(drop)?);
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(join) };
    Ok(command.status()?.code())
}
