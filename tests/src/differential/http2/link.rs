//! A connection in HTTP/2 (RFC 9113), as one of its sides sees it: frames are read as they come and written as
//! they are wanted, also where no one may.

use std::io;

use super::hpack::Decoder;
use crate::differential::wire::{Headers, Wire};

/// What a client begins with (section 3.4), up to where it looks like the end of a head in HTTP/1.1, and the rest.
pub(crate) const PREFACE: [&str; 2] = ["PRI * HTTP/2.0\r\n\r\n", "SM\r\n\r\n"];

/// Frames that are known here (section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITY: u8 = 0x20;

/// What comes over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Headers or trailers.
    Head {
        stream: u32,
        headers: Headers,
        is_last: bool,
    },
    Data {
        stream: u32,
        bytes: Vec<u8>,
        is_last: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    /// No more streams are taken.
    Away {
        code: u32,
    },
    /// The answer to a ping.
    Pong,
    /// The other side can do as much as its settings say.
    Settings(Vec<(u16, u32)>),
}

/// A frame (section 4.1).
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A connection whose preface has been said.
pub(super) struct Link {
    wire: Wire,
    decoder: Decoder,
}

impl Link {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            decoder: Decoder::new(),
        }
    }

    /// The connection below.
    pub(super) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Writes frames.
    pub(super) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.wire.send(frames)
    }

    /// What comes next; none at the end of the connection.
    pub(super) fn next(&mut self) -> io::Result<Option<Event>> {
        while let Some(frame) = self.frame()? {
            if let Some(event) = self.event(&frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.wire.bytes(9)? else {
            return Ok(None);
        };
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, &byte| sum << 8 | u32::from(byte))
        };
        let payload = self.wire.bytes(number(&head[..3]) as usize)?;
        Ok(payload.map(|payload| Frame {
            kind: head[3],
            flags: head[4],
            stream: number(&head[5..]) & 0x7fff_ffff,
            payload,
        }))
    }

    fn event(&mut self, frame: &Frame) -> io::Result<Option<Event>> {
        let Frame {
            kind,
            flags,
            stream,
            ..
        } = *frame;
        let is_last = flags & END_STREAM != 0;
        let word = |at: usize| {
            let bytes = frame.payload.get(at..at + 4).unwrap_or_default();
            bytes
                .iter()
                .fold(0, |sum, &byte| sum << 8 | u32::from(byte))
        };
        Ok(match kind {
            DATA => {
                let length = frame.payload.len() as u32;
                if length > 0 {
                    let room = length.to_be_bytes();
                    let mut frames = write(WINDOW_UPDATE, 0, 0, &room);
                    if !is_last {
                        frames.extend(write(WINDOW_UPDATE, 0, stream, &room));
                    }
                    // Who has closed the connection in the meantime needs no more room.
                    let _ = self.wire.send(&frames);
                }
                let bytes = content(frame)?.to_vec();
                Some(Event::Data {
                    stream,
                    bytes,
                    is_last,
                })
            }
            HEADERS => {
                let mut block = content(frame)?.to_vec();
                let mut flags = flags;
                while flags & END_HEADERS == 0 {
                    let Some(more) = self.frame()? else {
                        return Ok(None);
                    };
                    flags = more.flags;
                    block.extend(more.payload);
                }
                let headers = self.decoder.decode(&block)?;
                Some(Event::Head {
                    stream,
                    headers,
                    is_last,
                })
            }
            RST_STREAM => Some(Event::Reset {
                stream,
                code: word(0),
            }),
            SETTINGS if flags & ACK == 0 => {
                let _ = self.wire.send(&write(SETTINGS, ACK, 0, &[]));
                let (settings, _) = frame.payload.as_chunks::<6>();
                let settings = settings.iter().map(|[a, b, value @ ..]| {
                    (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))
                });
                Some(Event::Settings(settings.collect()))
            }
            PING if flags & ACK == 0 => {
                let _ = self.wire.send(&write(PING, ACK, 0, &frame.payload));
                None
            }
            PING => Some(Event::Pong),
            GOAWAY => Some(Event::Away { code: word(4) }),
            _ => None,
        })
    }
}

/// A frame's payload without padding and priority.
fn content(frame: &Frame) -> io::Result<&[u8]> {
    let mut bytes = &frame.payload[..];
    let mut cut = || -> Option<()> {
        if frame.flags & PADDED != 0 {
            let (length, rest) = bytes.split_first()?;
            bytes = rest.get(..rest.len().checked_sub(usize::from(*length))?)?;
        }
        if frame.kind == HEADERS && frame.flags & PRIORITY != 0 {
            bytes = bytes.get(5..)?;
        }
        Some(())
    };
    match cut() {
        Some(()) => Ok(bytes),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame that is shorter than it says",
        )),
    }
}

/// The bytes of a frame.
pub(crate) fn write(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::differential::http2::hpack;

    /// What is heard of frames that come over a connection.
    fn heard(frames: &[Vec<u8>]) -> Vec<Event> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        writer.write_all(&frames.concat()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut link = Link::new(Wire::new(listener.accept().unwrap().0).unwrap());
        let mut events = Vec::new();
        while let Some(event) = link.next().unwrap() {
            events.push(event);
        }
        events
    }

    #[test]
    fn frames_are_put_together_without_what_fills_them() {
        let block = hpack::encode([("x-a", "1")]);
        let (first, rest) = block.split_at(3);
        let mut padded = vec![2, 0, 0, 0, 0, 9];
        padded.extend_from_slice(first);
        padded.extend([0, 0]);
        let frames = [
            write(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
            write(HEADERS, PADDED | PRIORITY, 1, &padded),
            write(CONTINUATION, END_HEADERS, 1, rest),
            write(DATA, END_STREAM, 1, b"body"),
            write(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            write(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]),
        ];
        let head = Event::Head {
            stream: 1,
            headers: vec![("x-a".into(), "1".into())],
            is_last: false,
        };
        let data = Event::Data {
            stream: 1,
            bytes: b"body".to_vec(),
            is_last: true,
        };
        assert_eq!(
            heard(&frames),
            [
                Event::Settings(vec![(3, 9)]),
                head,
                data,
                Event::Reset { stream: 3, code: 8 },
                Event::Away { code: 2 },
            ]
        );
    }
}
