//! Packets by chance: what comes of them is a verdict, whatever they are, and nobody else suffers.
//!
//! Each is one that means something with a few bytes changed. `NODEGATE_PACKETS_SECONDS` says for how long each
//! family is tried, `NODEGATE_PACKETS_SEED` with which packets.

use std::{
    env,
    net::IpAddr,
    time::{Duration, Instant},
};

use fastrand::Rng;
use libtest_mimic::Failed;

use crate::{
    Addresses,
    bench::{BACKEND, Bench, CLIENT, DROP, NEXT, Segment},
};

/// As many, where nobody says for how long.
const PACKETS: u64 = 20_000;
/// The connection of somebody else is used after so many.
const OTHERS: u64 = 500;
/// As long an IP header at least.
const LEAST: usize = 40;
/// Where the IP header begins: behind an Ethernet header, which the kernel wants to be whole.
const IP: usize = 14;

pub(crate) fn do_no_harm(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true), (who.second, false)]);
    let seed = number("NODEGATE_PACKETS_SEED").unwrap_or(1);
    let limit = number("NODEGATE_PACKETS_SECONDS").map(Duration::from_secs);
    let (began, mut random) = (Instant::now(), Rng::with_seed(seed));
    let client = (who.client, 50_001);
    let first = bench
        .ingress(&Segment::tcp(client, who.node_port(), "S"))?
        .ends();
    let (seen, backend) = first;
    bench.egress(&Segment::tcp(backend, seen, "SA"))?;
    let mut verdicts = [0_u64; 3];
    let mut count = 0;
    while limit.map_or(count < PACKETS, |limit| began.elapsed() < limit) {
        let program = if random.bool() { "ingress" } else { "egress" };
        let packet = packet(&mut random, who);
        let ran = match bench.run(program, &packet) {
            // The kernel runs no program for a packet that is hardly one.
            Err(_) if packet.len() < IP + LEAST => continue,
            ran => ran?,
        };
        count += 1;
        let context = || {
            format!(
                "packet {count} of seed {seed}, {program}: {}",
                packet.escape_ascii()
            )
        };
        match ran.action {
            DROP => verdicts[0] += 1,
            NEXT if ran.packet == packet => verdicts[1] += 1,
            NEXT => {
                verdicts[2] += 1;
                is_translated(&packet, &ran.packet)
                    .map_err(|error| format!("{error}: {}", context()))?;
            }
            other => return Err(format!("the verdict is {other}: {}", context()).into()),
        }
        if count.is_multiple_of(OTHERS) {
            let data = Segment::tcp(client, who.node_port(), "A").with_payload(0);
            let ran = bench.ingress(&data.with_numbers(CLIENT + 1, BACKEND + 1))?;
            assert_eq!(ran.ends(), first, "{}", context());
        }
    }
    println!("{count} packets: {verdicts:?} dropped, as they were, translated");
    assert!(verdicts[1] > 0 && verdicts[2] > 0, "{verdicts:?}");
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// One that means something, and then a few bytes of it.
fn packet(random: &mut Rng, who: &Addresses) -> Vec<u8> {
    let addresses = [
        who.client,
        who.node,
        who.cluster_ip,
        who.gateway,
        who.second,
        who.remote,
    ];
    let ports = [50_001, 31373, 80, 8080, 0, 443];
    let end = |random: &mut Rng| -> (IpAddr, u16) {
        (
            addresses[random.usize(..addresses.len())],
            ports[random.usize(..ports.len())],
        )
    };
    let (from, to) = match random.u8(..4) {
        // Of the connection that lives.
        0 => ((who.client, 50_001), who.node_port()),
        // Of new ones.
        1 => ((who.client, random.u16(1024..50_000)), who.node_port()),
        2 => ((who.client, random.u16(1024..50_000)), (who.cluster_ip, 80)),
        _ => (end(random), end(random)),
    };
    let segment = match random.u8(..8) {
        0..4 => {
            let flags = ["S", "S", "S", "S", "SA", "A", "FA", "R"][random.usize(..8)];
            // Numbers of the connection that lives would be its own client's packets.
            let numbers = (random.u32(..) | 1 << 31, random.u32(..1 << 29));
            Segment::tcp(from, to, flags).with_numbers(numbers.0, numbers.1)
        }
        4..6 => Segment::udp(from, to),
        _ => Segment::sctp(from, to, random.u8(..16)),
    };
    let mut packet = match random.u8(..8) {
        0 => segment
            .with_payload(3000)
            .fragments(1000, random.u16(..))
            .swap_remove(random.usize(..3)),
        1 if to.0.is_ipv4() => segment.bytes_with_options(random.u8(1..=10)),
        2 => segment.too_big(who.router, from.0, random.u16(..)),
        _ => segment.bytes(),
    };
    for _ in 0..random.usize(..5) {
        let at = random.usize(IP..packet.len());
        match random.u8(..8) {
            0 => packet.truncate(at.max(IP + 1)),
            1 => packet.insert(at, random.u8(..)),
            2 if packet.len() > IP + 1 => drop(packet.remove(at)),
            3 => packet.extend((0..random.usize(..40)).map(|_| 0)),
            _ => packet[at] = [0, 1, 0xff, random.u8(..)][random.usize(..4)],
        }
        if packet.len() <= IP {
            break;
        }
    }
    packet
}

/// Whether addresses, ports and checksums are all that has changed, and checksums as far as the others have: a
/// packet that was right still is, and one that was damaged is as damaged as before.
fn is_translated(before: &[u8], after: &[u8]) -> Result<(), String> {
    if before.len() != after.len() {
        return Err(format!(
            "it is {} bytes long, and not {}",
            after.len(),
            before.len()
        ));
    }
    if before[..IP] != after[..IP] {
        return Err("its Ethernet header has changed".into());
    }
    let is_v6 = before[12..14] == [0x86, 0xdd];
    let kept = if is_v6 { IP..IP + 8 } else { IP..IP + 10 };
    if before[kept.clone()] != after[kept] {
        return Err("something of its IP header has changed that is no address".into());
    }
    if !is_v6 {
        let header = usize::from(before[IP] & 15) * 4;
        let sum = |packet: &[u8]| sum(&packet[IP..(IP + header).min(packet.len())]);
        if sum(before) != sum(after) {
            return Err("the checksum of its IP header is not what it was".into());
        }
    }
    Ok(())
}

/// The sum of which a checksum is the complement (RFC 1071): the same as long as a checksum follows what it is of.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let words =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Two numbers for nothing.
    (sum % 0xffff) as u16
}
