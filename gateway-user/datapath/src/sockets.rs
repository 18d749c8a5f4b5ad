//! Connected datagram sockets whose backend is gone.
//!
//! A connected socket names its peer once; no hook sees its datagrams. When the peer is no endpoint of
//! its Service any more, the socket would send there for good: to no one, or to another pod that has
//! the address now. So the socket is ended, as `ss --kill` does it (`SOCK_DESTROY` in
//! net/core/sock_diag.c): its process gets ECONNABORTED when it receives, EDESTADDRREQ when it sends, and
//! connects anew. For packets kube-proxy forgets
//! the conntrack entry, which does the same. TCP notices by itself.
//!
//! By netlink and not by a BPF iterator with `bpf_sock_destroy`: that one works on the sockets of one
//! network namespace too, needs Linux 6.5, and a loader that knows kernel functions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::capabilities;

/// Cookies of sockets, and the peer that each is connected to.
pub(crate) type Connected = HashMap<u64, (IpAddr, u16)>;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Cookies of the sockets that were ended.
    pub(crate) sockets: BTreeSet<u64>,
    /// Network namespaces that could not be entered, and why the first could not.
    pub(crate) closed: (usize, Option<String>),
}

/// Whether the kernel can end sockets: asks it to end one that cannot be, of port 0.
///
/// # Errors
/// Fails where it cannot.
pub(crate) fn check() -> io::Result<()> {
    let diag = Diag::open()?;
    for family in FAMILIES {
        // Without udp_diag this fails; ending sockets would fail as if there were none.
        diag.list(family)?;
        let nobody = Socket {
            cookie: 0,
            peer: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            id: [0; ID_BYTES],
        };
        diag.end(family, &nobody)?;
    }
    Ok(())
}

/// Whether all network namespaces can be entered in which sockets may be: enters this one, and looks at the
/// others.
///
/// # Errors
/// Fails where one cannot.
pub(crate) fn reach() -> io::Result<()> {
    if let Some(error) = Namespaces::of_processes().refused {
        return Err(error);
    }
    // As another thread would, whose namespace may be changed.
    let own = thread::scope(|scope| scope.spawn(|| enter(Path::new("/proc/self/ns/net"))).join());
    own.unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
}

/// Ends those datagram sockets, in whatever network namespace they are. Those that are gone or connected
/// to somebody else by now are left alone.
///
/// # Errors
/// Fails where the kernel cannot end sockets.
pub(crate) fn end(connected: &Connected) -> io::Result<Ended> {
    if connected.is_empty() {
        return Ok(Ended::default());
    }
    // A thread of its own, which is in another namespace afterwards.
    thread::scope(|scope| {
        scope
            .spawn(|| end_everywhere(connected))
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

fn end_everywhere(connected: &Connected) -> io::Result<Ended> {
    let mut ended = Ended::default();
    let namespaces = Namespaces::of_processes();
    for path in namespaces.ways.into_values() {
        match enter(&path) {
            Ok(()) => end_here(connected, &mut ended.sockets)?,
            // Its last process has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                ended.closed.0 += 1;
                ended.closed.1.get_or_insert_with(|| error.to_string());
            }
        }
        if ended.sockets.len() == connected.len() {
            return Ok(ended);
        }
    }
    if let Some(error) = namespaces.refused {
        ended.closed.0 += 1;
        ended.closed.1.get_or_insert_with(|| error.to_string());
    }
    Ok(ended)
}

/// Moves this thread to a network namespace.
fn enter(namespace: &Path) -> io::Result<()> {
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// The network namespaces that processes are in.
struct Namespaces {
    /// A way to each, by its number.
    ways: BTreeMap<u64, PathBuf>,
    /// Why a process's could not be looked at for want of a capability; which one it is, is not known then.
    /// What a security module hides stays hidden.
    refused: Option<io::Error>,
}

impl Namespaces {
    fn of_processes() -> Self {
        let mut found = Self {
            ways: BTreeMap::new(),
            refused: None,
        };
        let sees_all = capabilities::sees_processes();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
                continue;
            }
            let path = entry.path().join("ns/net");
            match fs::metadata(&path) {
                Ok(metadata) => drop(found.ways.insert(metadata.ino(), path)),
                Err(error) if !sees_all && error.kind() == io::ErrorKind::PermissionDenied => {
                    found.refused = Some(error);
                }
                // The process has ended meanwhile.
                Err(_) => {}
            }
        }
        found
    }
}

/// Ends those sockets that are in this thread's network namespace.
fn end_here(connected: &Connected, ended: &mut BTreeSet<u64>) -> io::Result<()> {
    let diag = Diag::open()?;
    for family in FAMILIES {
        for socket in diag.list(family)? {
            let wanted = connected.get(&socket.cookie) == Some(&socket.peer);
            if wanted && diag.end(family, &socket)? {
                ended.insert(socket.cookie);
            }
        }
    }
    Ok(())
}

/// A connected datagram socket.
struct Socket {
    cookie: u64,
    peer: (IpAddr, u16),
    /// `struct inet_diag_sockid`
    id: [u8; ID_BYTES],
}

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`, include/uapi/linux/sock_diag.h
const LIST: u16 = 20;
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST` with `NLM_F_DUMP` or `NLM_F_ACK`, include/uapi/linux/netlink.h
const ALL: u16 = 0x301;
const ANSWER: u16 = 0x005;
/// `AF_INET` and `AF_INET6`
const FAMILIES: [u8; 2] = [2, 10];
/// A connected datagram socket's state: `TCP_ESTABLISHED`.
const CONNECTED: u32 = 1 << 1;
/// Sizes of `struct nlmsghdr`, `inet_diag_req_v2`, and `inet_diag_sockid` in it and in `inet_diag_msg`
/// (include/uapi/linux/inet_diag.h).
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 8 + ID_BYTES;
const ID_BYTES: usize = 48;
/// Where an `inet_diag_msg` has its `inet_diag_sockid`.
const ID_OFFSET: usize = 4;

/// A netlink socket for questions about sockets.
struct Diag(OwnedFd);

impl Diag {
    fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The connected datagram sockets of a family.
    fn list(&self, family: u8) -> io::Result<Vec<Socket>> {
        self.send(LIST, ALL, family, CONNECTED, &[0; ID_BYTES])?;
        let mut sockets = Vec::new();
        loop {
            let more = self.receive(|kind, message| {
                if kind == LIST {
                    sockets.extend(Socket::read(message));
                }
            })?;
            if !more {
                return Ok(sockets);
            }
        }
    }

    /// Ends a socket; false if it is gone.
    fn end(&self, family: u8, socket: &Socket) -> io::Result<bool> {
        self.send(DESTROY, ANSWER, family, CONNECTED, &socket.id)?;
        match self.receive(|_, _| {}) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        states: u32,
        id: &[u8; ID_BYTES],
    ) -> io::Result<()> {
        let mut request = Vec::with_capacity(REQUEST_BYTES);
        request.extend((REQUEST_BYTES as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend([0; 8]);
        request.extend([family, gateway_common::UDP, 0, 0]);
        request.extend(states.to_ne_bytes());
        request.extend(id);
        // SAFETY: the buffer is as long as is said.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                request.as_ptr().cast(),
                request.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Reads once, and says whether more is to come.
    fn receive(&self, mut message: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0u8; 1 << 16];
        // SAFETY: the buffer is as long as is said.
        let got = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        let Ok(got) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        let mut rest = &buffer[..got];
        while rest.len() >= HEADER_BYTES {
            let length = number(rest, 0) as usize;
            if length < HEADER_BYTES || length > rest.len() {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = &rest[HEADER_BYTES..length];
            match libc::c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(false),
                libc::NLMSG_ERROR => {
                    let code = number(body, 0).cast_signed();
                    return match code {
                        0 => Ok(false),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => message(kind, body),
            }
            // NLMSG_ALIGN
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(true)
    }
}

/// The number at an offset; 0 beyond the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

impl Socket {
    /// Reads a `struct inet_diag_msg`.
    fn read(message: &[u8]) -> Option<Self> {
        let family = *message.first()?;
        let id: [u8; ID_BYTES] = message
            .get(ID_OFFSET..ID_OFFSET + ID_BYTES)?
            .try_into()
            .ok()?;
        // Ports (2 bytes each), source, destination (16 each), interface (4), cookie (2 times 4).
        let destination: [u8; 16] = id[20..36].try_into().ok()?;
        let [a, b, c, d, ..] = destination;
        let address = if family == FAMILIES[0] {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Ipv6Addr::from(destination).to_canonical()
        };
        let cookie = u64::from(number(&id, 40)) | u64::from(number(&id, 44)) << 32;
        Some(Self {
            cookie,
            peer: (address, u16::from_be_bytes([id[2], id[3]])),
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn cookie(socket: &UdpSocket) -> u64 {
        let (mut cookie, mut length) = (0u64, 8);
        // SAFETY: both pointers are to live variables, and `length` is the first one's size.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        cookie
    }

    #[test]
    fn asking_whether_sockets_can_be_ended_ends_none() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        check().unwrap();
        reach().unwrap();
        for socket in [&peer, &socket] {
            assert!(socket.take_error().unwrap().is_none());
        }
        socket.send(b"x").unwrap();
    }

    #[test]
    fn only_the_sockets_that_are_meant_end() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: not root");
            return;
        }
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let peer = UdpSocket::bind(any).unwrap();
            let to = peer.local_addr().unwrap();
            let connect = || {
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to).unwrap();
                socket
            };
            let (meant, other, moved) = (connect(), connect(), connect());
            let expected = (to.ip(), to.port());
            let elsewhere = (to.ip(), to.port() ^ 1);
            let ended = end(&Connected::from([
                (cookie(&meant), expected),
                (cookie(&moved), elsewhere),
                (u64::MAX, expected),
            ]))
            .unwrap();
            assert_eq!(ended.sockets, BTreeSet::from([cookie(&meant)]));
            let error = meant.take_error().unwrap().expect("an error");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{any}");
            assert_eq!(
                meant.send(b"x").unwrap_err().raw_os_error(),
                Some(libc::EDESTADDRREQ)
            );
            for socket in [&other, &moved] {
                socket.send(b"x").unwrap();
            }
        }
    }
}
