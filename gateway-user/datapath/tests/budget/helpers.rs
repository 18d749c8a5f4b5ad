//! The kernel's helpers, as far as the programs call them, for interpreted programs; and how often which
//! was called.
//!
//! What the daemon writes is read out of the kernel's maps. What only the programs write begins empty, and
//! lives here.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd as _,
};

use anyhow::{Context as _, bail};
use aya::maps::MapData;

use crate::{bpf, checksum, memory::Memory};

/// How often something was called, by what it is called on.
pub(crate) type Calls = BTreeMap<String, u64>;

/// `CLOCK_MONOTONIC` for the programs: it stands still.
const NOW: u64 = 3_600_000_000_000;
/// Of the process that calls `connect()`.
const PROCESS: u64 = 0x1267_0000_1267;
/// Of its socket.
const COOKIE: u64 = 42;

/// A map, to the interpreter.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// `enum bpf_map_type`
    pub(crate) kind: u32,
    pub(crate) key: usize,
    pub(crate) value: usize,
    /// What its section holds, if it is one of the program's variables.
    pub(crate) data: Vec<u8>,
    /// The kernel's, if the daemon writes it.
    pub(crate) written: Option<MapData>,
    /// Where in memory its elements are. What the kernel has not is remembered as 0.
    elements: HashMap<Vec<u8>, u64>,
}

/// A run's surroundings.
#[derive(Debug, Default)]
pub(crate) struct Helpers {
    pub(crate) tables: Vec<Table>,
    pub(crate) calls: Calls,
    /// Where the context is, and the packet, if there is one.
    pub(crate) context: u64,
    pub(crate) packet: u64,
    pub(crate) length: usize,
    /// The cookie of the network namespace that a socket is in.
    pub(crate) netns: u64,
}

/// Offsets of `data` and `data_end` in `struct __sk_buff`: 32 bits there, but loaded as pointers.
const DATA: u64 = 76;
const DATA_END: u64 = 80;

impl Table {
    pub(crate) fn new(name: &str, map: &aya_obj::Map, written: Option<MapData>) -> Self {
        Self {
            name: name.to_owned(),
            kind: map.map_type(),
            key: map.key_size() as usize,
            value: map.value_size() as usize,
            data: map.data().to_vec(),
            written,
            elements: HashMap::new(),
        }
    }

    /// The kinds that cost differently (`enum bpf_map_type`).
    fn kind(&self) -> &'static str {
        match self.kind {
            1 => "hash",
            2 => "array",
            6 => "per-CPU array",
            9 => "LRU hash",
            11 => "LPM trie",
            27 => "ring",
            _ => "map of another kind",
        }
    }

    /// The daemon may have changed it.
    fn forget(&mut self) {
        if self.written.is_some() {
            self.elements.clear();
        }
    }

    fn find(&mut self, key: &[u8], memory: &mut Memory) -> anyhow::Result<u64> {
        if let Some(address) = self.elements.get(key) {
            return Ok(*address);
        }
        let value = match (&self.written, self.kind) {
            (Some(map), _) => bpf::element(map.fd().as_fd(), key, self.value)?,
            // An array has all of its elements from the start.
            (None, 2 | 6) => Some(vec![0; self.value]),
            (None, _) => None,
        };
        let address = value.map_or(0, |value| memory.add(value));
        self.elements.insert(key.to_vec(), address);
        Ok(address)
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>, memory: &mut Memory) {
        let address = memory.add(value);
        self.elements.insert(key.to_vec(), address);
    }
}

impl Helpers {
    /// What the daemon has written since is read again.
    pub(crate) fn forget(&mut self) {
        self.tables.iter_mut().for_each(Table::forget);
    }

    /// What a load at this address gives, if that is not what is there.
    pub(crate) fn pointer(&self, address: u64) -> Option<u64> {
        if self.packet == 0 {
            return None;
        }
        match address.wrapping_sub(self.context) {
            DATA => Some(self.packet),
            DATA_END => Some(self.packet + self.length as u64),
            _ => None,
        }
    }

    /// Where the variables of a section are.
    pub(crate) fn value(&self, map: u32) -> anyhow::Result<u64> {
        let table = self.tables.get(map as usize).context("no such section")?;
        let address = table.elements.get([0; 4].as_slice());
        address.copied().context("a section without data")
    }

    /// Puts the variables into memory.
    pub(crate) fn lay_out(&mut self, memory: &mut Memory) {
        for table in &mut self.tables {
            if !table.data.is_empty() {
                let data = table.data.clone();
                table.put(&[0; 4], data, memory);
            }
        }
    }

    /// Calls a helper by its number (`enum bpf_func_id`).
    pub(crate) fn call(
        &mut self,
        number: u32,
        arguments: [u64; 5],
        memory: &mut Memory,
    ) -> anyhow::Result<u64> {
        let [first, second, third, fourth, fifth] = arguments;
        let (name, result) = match number {
            1 => return self.look_up(first, second, memory),
            2 => return self.update(first, second, third, memory),
            5 => ("ktime_get_ns", NOW),
            7 => ("get_prandom_u32", 0),
            9 => (
                "skb_store_bytes",
                self.store(second, third, fourth, memory)?,
            ),
            10 => (
                "l3_csum_replace",
                self.mend(second, third, fourth, fifth, memory)?,
            ),
            11 => (
                "l4_csum_replace",
                self.mend(second, third, fourth, fifth, memory)?,
            ),
            14 => ("get_current_pid_tgid", PROCESS),
            26 => ("skb_load_bytes", self.load(second, third, fourth, memory)?),
            28 => ("csum_diff", difference(arguments, memory)?),
            46 => ("get_socket_cookie", COOKIE),
            122 => ("get_netns_cookie", self.netns),
            160 => ("ktime_get_coarse_ns", NOW),
            187 => ("set_retval", 0),
            _ => bail!("helper {number} is not known here: add it"),
        };
        self.count(name.to_owned());
        Ok(result)
    }

    fn count(&mut self, what: String) {
        *self.calls.entry(what).or_default() += 1;
    }

    fn table(&mut self, map: u64, what: &str) -> anyhow::Result<&mut Table> {
        let table = self.tables.get(map as usize).context("no such map")?;
        let counted = format!("{what} {} ({})", table.name, table.kind());
        self.count(counted);
        self.tables.get_mut(map as usize).context("no such map")
    }

    fn look_up(&mut self, map: u64, key: u64, memory: &mut Memory) -> anyhow::Result<u64> {
        let table = self.table(map, "look up")?;
        let key = memory.bytes(key, table.key)?.to_vec();
        table.find(&key, memory)
    }

    fn update(
        &mut self,
        map: u64,
        key: u64,
        value: u64,
        memory: &mut Memory,
    ) -> anyhow::Result<u64> {
        let table = self.table(map, "update")?;
        let key = memory.bytes(key, table.key)?.to_vec();
        let value = memory.bytes(value, table.value)?.to_vec();
        table.put(&key, value, memory);
        Ok(0)
    }

    /// Where that part of the packet is; none if it is not in it.
    fn part(&self, offset: u64, size: usize) -> Option<u64> {
        let end = usize::try_from(offset).ok()?.checked_add(size)?;
        (end <= self.length).then_some(self.packet + offset)
    }

    fn load(&self, offset: u64, to: u64, size: u64, memory: &mut Memory) -> anyhow::Result<u64> {
        let size = size as u32 as usize;
        let Some(part) = self.part(offset, size) else {
            return Ok(FAULT);
        };
        let bytes = memory.bytes(part, size)?.to_vec();
        memory.bytes_mut(to, size)?.copy_from_slice(&bytes);
        Ok(0)
    }

    fn store(&self, offset: u64, from: u64, size: u64, memory: &mut Memory) -> anyhow::Result<u64> {
        let size = size as u32 as usize;
        let Some(part) = self.part(offset, size) else {
            return Ok(FAULT);
        };
        let bytes = memory.bytes(from, size)?.to_vec();
        memory.bytes_mut(part, size)?.copy_from_slice(&bytes);
        Ok(0)
    }

    /// Mends a checksum of the packet.
    fn mend(
        &self,
        offset: u64,
        from: u64,
        to: u64,
        flags: u64,
        memory: &mut Memory,
    ) -> anyhow::Result<u64> {
        let Some(part) = self.part(offset, 2) else {
            return Ok(FAULT);
        };
        let sum = memory.number(part, 2)? as u16;
        let mended = checksum::replaced(sum, from, to, flags);
        memory.set_number(part, 2, mended.into())?;
        Ok(0)
    }
}

/// -EFAULT
const FAULT: u64 = (-14i64).cast_unsigned();

/// `bpf_csum_diff`
fn difference(arguments: [u64; 5], memory: &Memory) -> anyhow::Result<u64> {
    let [from, from_size, to, to_size, seed] = arguments;
    let old = memory.bytes(from, from_size as usize)?;
    let new = memory.bytes(to, to_size as usize)?;
    Ok(checksum::difference(old, new, seed as u32).into())
}
