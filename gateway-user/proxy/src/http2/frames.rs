//! Frames that cost a client next to nothing and get nobody anywhere: how many of them come.
//!
//! hyper answers or ignores each of them, and lets nothing grow; but each takes time that other clients wait for.
//! Envoy has limits for some kinds (`max_inbound_priority_frames_per_stream`,
//! `max_inbound_window_update_frames_per_data_frame_sent`, `max_outbound_control_frames`); here one is for all.

use crate::clock::Tick;

/// Frames that may come in a row.
const MOST: u32 = 10_000;
/// As many may come in a second all the time.
const PER_TICK: u32 = 100;
/// A frame for so many bytes that are written to the client: whoever reads much opens windows often.
const BYTES: u32 = 64;

/// Kinds of frames that get a request on (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// A frame begins with its length, in 24 bits, and its kind (section 4.1).
const HEAD: usize = 9;

/// The frames that come over a connection, behind its preface.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// As much of a frame's head as has come.
    head: [u8; HEAD],
    has: u8,
    /// Bytes of its payload that are still to come.
    payload: u32,
    /// Frames that got nobody anywhere, less those that are forgotten.
    idle: u32,
    /// Since when none have been forgotten.
    since: Tick,
}

impl Frames {
    /// Behind the preface, of which so many bytes have not been read yet.
    pub(crate) fn behind(preface: usize) -> Self {
        Self {
            payload: preface as u32,
            ..Self::default()
        }
    }

    /// Takes in what has been read; whether there are too many.
    pub(crate) fn flood(&mut self, mut bytes: &[u8], now: Tick) -> bool {
        let passed = now.wrapping_sub(self.since);
        if passed > 0 {
            self.idle = self.idle.saturating_sub(passed.saturating_mul(PER_TICK));
            self.since = now;
        }
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.payload as usize);
            self.payload -= skipped as u32;
            bytes = &bytes[skipped..];
            let have = usize::from(self.has);
            let more = bytes.len().min(HEAD - have);
            self.head[have..have + more].copy_from_slice(&bytes[..more]);
            self.has += more as u8;
            bytes = &bytes[more..];
            if usize::from(self.has) == HEAD {
                self.frame();
            }
        }
        self.idle > MOST
    }

    /// The head of a frame is there.
    fn frame(&mut self) {
        self.has = 0;
        let [a, b, c, kind, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        match kind {
            HEADERS | CONTINUATION => self.idle = 0,
            DATA if self.payload > 0 => self.idle = 0,
            _ => self.idle += 1,
        }
    }

    /// So many bytes have been written to the client.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        let frames = u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES;
        self.idle = self.idle.saturating_sub(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    fn pings(count: usize) -> Vec<u8> {
        frame(PING, &[7; 8]).repeat(count)
    }

    #[test]
    fn frames_are_counted_however_they_come() {
        let bytes = [
            b"rest",
            &*pings(3),
            &frame(DATA, b""),
            &pings(MOST as usize - 4),
        ]
        .concat();
        for piece in [1, 2, 9, 17, 100_000] {
            let mut frames = Frames::behind(4);
            assert!(
                bytes.chunks(piece).all(|part| !frames.flood(part, 0)),
                "{piece}"
            );
            assert_eq!(frames.idle, MOST);
            assert!(frames.flood(&pings(1), 0));
        }
    }

    #[test]
    fn what_gets_on_makes_up_for_them() {
        let mut frames = Frames::default();
        assert!(!frames.flood(&pings(MOST as usize), 0));
        assert!(!frames.flood(&frame(DATA, b"x"), 0));
        assert!(!frames.flood(&pings(MOST as usize), 0));
        frames.wrote(200 * BYTES as usize);
        assert!(!frames.flood(&pings(200), 0));
        // Time does, too.
        assert!(!frames.flood(&pings(PER_TICK as usize), 1));
        assert!(frames.flood(&pings(1), 1));
    }
}
