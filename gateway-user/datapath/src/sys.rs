//! What of `bpf(2)` the loader library does not offer.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands (`enum bpf_cmd` in include/uapi/linux/bpf.h).
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_UPDATE: libc::c_int = 29;

/// Where `struct bpf_link_info` has what it says of the kind of link, and how long it is then.
const LINK_KIND: usize = 16;
const LINK_INFO: usize = LINK_KIND + 8;

/// `union bpf_attr`, as far as it is used here; the rest is zero, as the kernel wants it.
#[repr(C, align(8))]
struct Attributes([u8; 64]);

impl Attributes {
    const fn new() -> Self {
        Self([0; 64])
    }

    fn number(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn descriptor(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.number(offset, fd.as_raw_fd().cast_unsigned())
    }

    fn pointer<T>(mut self, offset: usize, to: *const T) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&(to as u64).to_ne_bytes());
        self
    }

    fn number_at(&self, offset: usize) -> u32 {
        let bytes = self.0[offset..].first_chunk().copied();
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    /// # Safety
    /// What the attributes point to must be as the command wants it.
    unsafe fn call(mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: the caller's.
        unsafe { self.call_again(command) }
    }

    /// As [`Self::call`], for commands that answer in the attributes.
    ///
    /// # Safety
    /// As for [`Self::call`].
    unsafe fn call_again(&mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: the kernel reads the attributes, which are as long as it is told; the rest is the
        // caller's.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result as libc::c_int)
    }
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Opens what is pinned.
pub(crate) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = c_string(pin)?;
    let attributes = Attributes::new().pointer(0, path.as_ptr());
    // SAFETY: a path that ends with a zero and outlives the call.
    let fd = unsafe { attributes.call(OBJ_GET) }?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object, which may be pinned elsewhere too.
pub(crate) fn pin(object: &OwnedFd, at: &Path) -> io::Result<()> {
    let path = c_string(at)?;
    let attributes = Attributes::new()
        .pointer(0, path.as_ptr())
        .descriptor(8, object.as_fd());
    // SAFETY: a path that ends with a zero and outlives the call.
    unsafe { attributes.call(OBJ_PIN) }.map(drop)
}

/// Some elements of an array, which are made of numbers, from the beginning or from where an earlier call has
/// ended; and where this call has ended, unless that is the end of the array (Linux 5.6).
pub(crate) fn elements<T: aya::Pod>(
    map: &OwnedFd,
    from: Option<u32>,
    count: u32,
) -> io::Result<(Vec<T>, Option<u32>)> {
    let mut read: Vec<T> = Vec::with_capacity(count as usize);
    let mut keys = vec![0u32; count as usize];
    let (begin, mut end) = (from.unwrap_or(0), 0u32);
    let mut attributes = Attributes::new()
        .pointer(8, &raw mut end)
        .pointer(16, keys.as_mut_ptr())
        .pointer(24, read.as_mut_ptr())
        .number(32, count)
        .descriptor(36, map.as_fd());
    if from.is_some() {
        attributes = attributes.pointer(0, &raw const begin);
    }
    let attributes = &mut attributes;
    // SAFETY: there is room for as many keys and values, and all outlives the call.
    let (more, got) = unsafe {
        let more = match attributes.call_again(MAP_LOOKUP_BATCH) {
            Ok(_) => true,
            // "There are no more."
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => return Err(error),
        };
        (more, attributes.number_at(32))
    };
    // SAFETY: so many have been written, and any bytes are a `T`.
    unsafe { read.set_len((got as usize).min(count as usize)) };
    Ok((read, more.then_some(end)))
}

/// The bytes of the first element of an array whose elements are so long.
pub(crate) fn first_element(map: &OwnedFd, size: usize) -> io::Result<Vec<u8>> {
    let key = 0u32;
    // The kernel rounds up to whole words.
    let mut value = vec![0u8; size.next_multiple_of(8)];
    let attributes = Attributes::new()
        .descriptor(0, map.as_fd())
        .pointer(8, &raw const key)
        .pointer(16, value.as_mut_ptr());
    // SAFETY: the key is one of an array, the value as long as the map's, and both outlive the call.
    unsafe { attributes.call(MAP_LOOKUP_ELEM) }?;
    value.truncate(size);
    Ok(value)
}

/// Whether a link of a cgroup still has its cgroup: somebody may have detached it.
pub(crate) fn has_cgroup(link: &OwnedFd) -> io::Result<bool> {
    let mut info = [0u64; LINK_INFO / 8];
    let attributes = Attributes::new()
        .descriptor(0, link.as_fd())
        .number(4, LINK_INFO as u32)
        .pointer(8, info.as_mut_ptr());
    // SAFETY: the kernel writes at most as many bytes as it is told, and they outlive the call.
    unsafe { attributes.call(OBJ_GET_INFO_BY_FD) }?;
    // `cgroup.cgroup_id`
    Ok(info[LINK_KIND / 8] != 0)
}

/// Gives a link another program: each packet or call meets the one or the other.
///
/// # Errors
/// Fails if the link has lost its device or cgroup, and on kernels whose links of this kind cannot.
pub(crate) fn update_link(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = Attributes::new()
        .descriptor(0, link.as_fd())
        .descriptor(4, program);
    // SAFETY: it points to nothing.
    unsafe { attributes.call(LINK_UPDATE) }.map(drop)
}
