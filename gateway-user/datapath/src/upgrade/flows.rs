//! Flows of the layouts 3 to 6, which had no numbers.
//!
//! Older programs write into the old table until the links have got the new ones. So flows are copied twice:
//! before that, and what has begun meanwhile after it. A flow whose second packet comes in between begins
//! anew.

use std::{collections::BTreeMap, path::Path};

use aya::maps::MapInfo;
use gateway_common::{
    Address, UDP,
    conntrack::{BUCKETS, Ends, Record, Side, WAYS, ticks},
    maps::Bucket,
};

use crate::{error::Error, maps::Maps, sys};

/// Elements that are read at once.
const BATCH: u32 = 1 << 10;

/// A flow as it was.
#[repr(C)]
#[derive(Clone, Copy)]
struct OldRecord {
    client: Address,
    frontend: Address,
    backend: Address,
    client_port: u16,
    frontend_port: u16,
    backend_port: u16,
    source_port: u16,
    protocol: u8,
    flags: u8,
    client_state: u8,
    backend_state: u8,
    service: u32,
    backend_id: u32,
    reserved: u32,
    client_seen: u64,
    backend_seen: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct OldBucket {
    version: u64,
    tags: [u8; WAYS],
    records: [OldRecord; WAYS],
}

// SAFETY: `repr(C)`, made of integers and byte arrays, without padding: 720 bytes.
unsafe impl aya::Pod for OldBucket {}

/// Copies the flows that the new table lacks from the old one. Gives how many.
pub(super) fn copy(old: &Path, maps: &mut Maps) -> Result<usize, Error> {
    let failed = |source| Error::Link {
        path: old.to_owned(),
        source: Box::new(source),
    };
    let is_as_then = |info: MapInfo| {
        info.value_size() as usize == size_of::<OldBucket>() && info.max_entries() == BUCKETS
    };
    if !MapInfo::from_pin(old).is_ok_and(is_as_then) {
        return Ok(0);
    }
    let map = sys::open(old).map_err(failed)?;
    let settings = maps.settings()?;
    let mut flows: BTreeMap<u32, Vec<(u8, Record)>> = BTreeMap::new();
    let mut next = None;
    loop {
        let (buckets, last) = sys::elements::<OldBucket>(&map, next, BATCH).map_err(failed)?;
        for bucket in &buckets {
            let held = bucket.tags.iter().zip(&bucket.records);
            let held = held.filter(|(tag, _)| **tag != 0);
            for record in held.filter_map(|(_, old)| old.taken_over()) {
                let place = ends(&record).place(settings.seed, settings.buckets);
                let flows = flows.entry(place.bucket).or_default();
                flows.push((place.tag, record));
            }
        }
        match last {
            Some(last) => next = Some(last),
            None => break,
        }
    }
    let mut copied = 0;
    for (number, flows) in flows {
        let mut bucket = maps.bucket(number)?;
        let added = flows
            .into_iter()
            .filter(|(tag, record)| add(&mut bucket, *tag, record))
            .count();
        if added > 0 {
            maps.set_bucket(number, &bucket)?;
        }
        copied += added;
    }
    Ok(copied)
}

fn ends(record: &Record) -> Ends {
    Ends {
        client: record.client,
        peer: record.frontend,
        client_port: record.client_port,
        peer_port: record.frontend_port,
        protocol: record.protocol,
    }
}

/// Whether there is room for a flow that is not there.
fn add(bucket: &mut Bucket, tag: u8, record: &Record) -> bool {
    let known = bucket.flows().any(|flow| ends(flow) == ends(record));
    let free = bucket.tags.iter().position(|tag| *tag == 0);
    let Some(way) = free.filter(|_| !known) else {
        return false;
    };
    bucket.records[way] = *record;
    bucket.tags[way] = tag;
    true
}

impl OldRecord {
    /// None of one that nobody has answered: its client opens it again.
    fn taken_over(&self) -> Option<Record> {
        let answered = self.backend_seen != 0;
        if !answered && self.protocol != UDP {
            return None;
        }
        let spoke = if answered { Record::SPOKE } else { 0 };
        let side = |seen| Side {
            seen: ticks(seen),
            ..Side::SILENT
        };
        let mut record = Record {
            client: self.client,
            frontend: self.frontend,
            backend: self.backend,
            client_port: self.client_port,
            frontend_port: self.frontend_port,
            backend_port: self.backend_port,
            source_port: self.source_port,
            protocol: self.protocol,
            flags: self.flags,
            service: self.service,
            backend_id: self.backend_id,
            ahead: side(self.client_seen),
            back: side(self.backend_seen),
            ..Record::EMPTY
        };
        // The bits of what has been closed and reset are the same.
        let ends = Record::CLOSED | Record::RESET;
        record.take_over(
            spoke | self.client_state & ends,
            spoke | self.backend_state & ends,
        );
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, conntrack::State, mapped};

    use super::*;

    const OLD: OldRecord = OldRecord {
        client: mapped([192, 168, 170, 1]),
        frontend: mapped([192, 168, 170, 11]),
        backend: mapped([10, 10, 1, 4]),
        client_port: 50_000,
        frontend_port: 30_080,
        backend_port: 80,
        source_port: 33_616,
        protocol: TCP,
        flags: Record::FLAG_MASQUERADE,
        client_state: 0,
        backend_state: 0,
        service: 7,
        backend_id: 9,
        reserved: 0,
        client_seen: 1 << 40,
        backend_seen: 1 << 41,
    };

    #[test]
    fn flows_keep_their_state() {
        assert_eq!(size_of::<OldBucket>(), 720);
        let state = |old: OldRecord| old.taken_over().map(|record| record.state());
        assert_eq!(state(OLD), Some(State::Established));
        let unanswered = OldRecord {
            backend_seen: 0,
            ..OLD
        };
        assert_eq!(state(unanswered), None);
        let reset = OldRecord {
            backend_state: 3,
            ..OLD
        };
        assert_eq!(state(reset), Some(State::Reset));
        let datagram = OldRecord {
            protocol: UDP,
            ..unanswered
        };
        assert_eq!(state(datagram), Some(State::Opening));
        let record = OLD.taken_over().unwrap();
        assert_eq!((record.service, record.backend_id), (7, 9));
        assert_eq!((record.source_port, record.flags), (33_616, OLD.flags));
        assert_eq!(record.last_seen(), ticks(1 << 41));
    }

    #[test]
    fn a_flow_is_added_once_and_where_there_is_room() {
        let mut bucket = Bucket {
            version: 0,
            tags: [0; WAYS],
            records: [Record::EMPTY; WAYS],
        };
        let record = OLD.taken_over().unwrap();
        assert!(add(&mut bucket, 3, &record));
        assert!(!add(&mut bucket, 3, &record));
        for port in 1..8 {
            let other = Record {
                client_port: port,
                ..record
            };
            assert!(add(&mut bucket, 3, &other));
        }
        let ninth = Record {
            client_port: 9,
            ..record
        };
        assert!(!add(&mut bucket, 3, &ninth));
        assert_eq!(bucket.flows().count(), WAYS);
    }
}
