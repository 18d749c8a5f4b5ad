//! A TCP, as far as it matters here (RFC 9293 §3.10, RFC 5961): no windows but the largest, no timers.

extern crate std;

use std::{vec, vec::Vec};

use super::{At, Chance, Kind, PORT, Said, Segment, said};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// SYN-SENT
    Opens,
    /// SYN-RECEIVED
    Accepts,
    /// From ESTABLISHED on.
    Open,
    /// TIME-WAIT, of an endpoint: the client's do not matter here.
    Waits,
}

#[derive(Clone, Debug)]
pub(super) struct Socket {
    local: At,
    remote: At,
    pub(super) connection: u32,
    pub(super) stage: Stage,
    first: u32,
    pub(super) unacknowledged: u32,
    pub(super) next: u32,
    /// What is waited for.
    heard: u32,
    closes: bool,
    closed: bool,
    /// It has closed before the other end has.
    closed_first: bool,
}

/// All connections of a host.
#[derive(Debug, Default)]
pub(super) struct Stack {
    host: u8,
    pub(super) sockets: Vec<Socket>,
}

impl Socket {
    fn segment(&self, said: Said) -> Segment {
        Segment {
            from: self.local,
            to: self.remote,
            said,
            connection: Some(self.connection),
        }
    }

    fn acknowledge(&self) -> Segment {
        self.segment(said(Kind::Continues, self.next, self.heard))
    }

    fn has_ended(&self) -> bool {
        self.closes && self.closed && self.unacknowledged == self.next
    }

    /// All that has not been acknowledged.
    fn again(&self) -> Option<Segment> {
        let all = match self.stage {
            Stage::Opens => said(Kind::Opens, self.first, 0),
            Stage::Accepts => said(Kind::Accepts, self.first, self.heard),
            Stage::Waits => return None,
            Stage::Open if self.unacknowledged == self.next => return None,
            Stage::Open => Said {
                end: self.next,
                ..said(
                    if self.closes {
                        Kind::Closes
                    } else {
                        Kind::Continues
                    },
                    self.unacknowledged,
                    self.heard,
                )
            },
        };
        Some(self.segment(all))
    }
}

/// What answers a segment that is for no connection (RFC 9293 §3.10.7.1).
fn refusal(segment: &Segment) -> Option<Segment> {
    let heard = &segment.said;
    let said = match heard.kind {
        Kind::Resets => return None,
        Kind::Opens => said(Kind::Resets, 0, heard.end),
        _ => said(Kind::Resets, heard.acknowledged, 0),
    };
    Some(Segment {
        from: segment.to,
        to: segment.from,
        said,
        connection: segment.connection,
    })
}

impl Stack {
    pub(super) fn listening(host: u8) -> Self {
        Self {
            host,
            sockets: Vec::new(),
        }
    }

    pub(super) fn has(&self, local: At, remote: At) -> bool {
        self.find(local, remote).is_some()
    }

    fn find(&self, local: At, remote: At) -> Option<usize> {
        let mut sockets = self.sockets.iter();
        sockets.position(|socket| socket.local == local && socket.remote == remote)
    }

    /// How many connections were opened.
    pub(super) fn open(&self) -> usize {
        let sockets = self.sockets.iter();
        sockets.filter(|socket| socket.stage == Stage::Open).count()
    }

    pub(super) fn connect(
        &mut self,
        local: At,
        remote: At,
        first: u32,
        connection: u32,
    ) -> Segment {
        let socket = Socket {
            local,
            remote,
            connection,
            stage: Stage::Opens,
            first,
            unacknowledged: first,
            next: first.wrapping_add(1),
            heard: 0,
            closes: false,
            closed: false,
            closed_first: false,
        };
        let syn = socket.segment(said(Kind::Opens, first, 0));
        self.sockets.push(socket);
        syn
    }

    pub(super) fn send(&mut self, socket: usize, bytes: u32) -> Option<Segment> {
        let socket = &mut self.sockets[socket];
        let under_way = socket.next.wrapping_sub(socket.unacknowledged);
        if socket.stage != Stage::Open || socket.closes || under_way > 30_000 {
            return None;
        }
        let start = socket.next;
        socket.next = start.wrapping_add(bytes);
        let data = Said {
            end: socket.next,
            ..said(Kind::Continues, start, socket.heard)
        };
        Some(socket.segment(data))
    }

    pub(super) fn close(&mut self, socket: usize) -> Option<Segment> {
        let socket = &mut self.sockets[socket];
        if socket.stage != Stage::Open || socket.closes {
            return None;
        }
        socket.closes = true;
        socket.closed_first = !socket.closed;
        let fin = said(Kind::Closes, socket.next, socket.heard);
        socket.next = fin.end;
        Some(socket.segment(fin))
    }

    /// Nothing is said of what is closed.
    pub(super) fn abort(&mut self, socket: usize) -> Option<Segment> {
        let socket = self.sockets.swap_remove(socket);
        let reset = said(Kind::Resets, socket.next, socket.heard);
        (socket.stage != Stage::Waits).then(|| socket.segment(reset))
    }

    pub(super) fn retransmit(&self, socket: usize) -> Option<Segment> {
        self.sockets[socket].again()
    }

    /// Takes a segment, and gives the answers.
    pub(super) fn receive(&mut self, segment: &Segment, chance: &mut Chance) -> Vec<Segment> {
        assert_ne!(segment.said.kind, Kind::Fragment);
        let Some(number) = self.find(segment.to, segment.from) else {
            return self.receive_first(segment, chance).into_iter().collect();
        };
        let socket = &mut self.sockets[number];
        if socket.is_followed_by(&segment.said) {
            self.sockets.swap_remove(number);
            return self.receive_first(segment, chance).into_iter().collect();
        }
        let (goes, answers) = match socket.stage {
            Stage::Opens => socket.receive_answer(segment),
            Stage::Accepts => socket.receive_second(segment),
            Stage::Open => socket.receive_open(segment),
            Stage::Waits => socket.receive_late(segment),
        };
        let ended = socket.has_ended() && socket.stage == Stage::Open;
        if goes || ended && !(self.host != 0 && socket.closed_first) {
            self.sockets.swap_remove(number);
        } else if ended {
            socket.stage = Stage::Waits;
        }
        answers
    }

    fn receive_first(&mut self, segment: &Segment, chance: &mut Chance) -> Option<Segment> {
        let listens = self.host != 0 && segment.to == (self.host, PORT);
        if !listens || segment.said.kind != Kind::Opens {
            return refusal(segment);
        }
        let first = chance.number();
        let socket = Socket {
            local: segment.to,
            remote: segment.from,
            // A stranger's opening is nobody's connection.
            connection: segment.connection.unwrap_or(0),
            stage: Stage::Accepts,
            first,
            unacknowledged: first,
            next: first.wrapping_add(1),
            heard: segment.said.end,
            closes: false,
            closed: false,
            closed_first: false,
        };
        let answer = socket.again();
        self.sockets.push(socket);
        answer
    }
}

/// Whether the connection goes, and what is answered.
type Outcome = (bool, Vec<Segment>);

impl Socket {
    /// What counts must be the connection's own.
    fn own(&self, segment: &Segment) {
        assert_eq!(
            Some(self.connection),
            segment.connection,
            "{segment:?} at {self:?}"
        );
    }

    /// RFC 9293 §3.10.7.3
    fn receive_answer(&mut self, segment: &Segment) -> Outcome {
        let heard = &segment.said;
        let fits = heard.acknowledged == self.next;
        match heard.kind {
            Kind::Accepts if fits => {
                self.own(segment);
                self.stage = Stage::Open;
                self.unacknowledged = self.next;
                self.heard = heard.end;
                (false, vec![self.acknowledge()])
            }
            Kind::Resets if fits => {
                self.own(segment);
                (true, Vec::new())
            }
            Kind::Resets | Kind::Opens => (false, Vec::new()),
            // And the SYN again at once, as Linux does.
            _ => (
                false,
                refusal(segment).into_iter().chain(self.again()).collect(),
            ),
        }
    }

    /// Whether a SYN opens a new connection in place of one in TIME-WAIT (RFC 9293 §3.10.7.4).
    fn is_followed_by(&self, heard: &Said) -> bool {
        let newer = heard.sequence.wrapping_sub(self.heard).cast_signed() > 0;
        self.stage == Stage::Waits && heard.kind == Kind::Opens && newer
    }

    /// RFC 9293 §3.10.7.4, in TIME-WAIT.
    fn receive_late(&self, segment: &Segment) -> Outcome {
        let heard = &segment.said;
        match heard.kind {
            Kind::Resets => (heard.sequence == self.heard, Vec::new()),
            Kind::Continues if heard.end == heard.sequence => (false, Vec::new()),
            _ => (false, vec![self.acknowledge()]),
        }
    }

    /// RFC 9293 §3.10.7.4, in SYN-RECEIVED.
    fn receive_second(&mut self, segment: &Segment) -> Outcome {
        let heard = &segment.said;
        match heard.kind {
            Kind::Resets => (heard.sequence == self.heard, Vec::new()),
            Kind::Opens if heard.end == self.heard => (false, self.again().into_iter().collect()),
            Kind::Continues | Kind::Closes if heard.acknowledged != self.next => {
                (false, refusal(segment).into_iter().collect())
            }
            Kind::Continues | Kind::Closes if heard.sequence == self.heard => {
                self.own(segment);
                self.stage = Stage::Open;
                self.receive_open(segment)
            }
            _ => (false, vec![self.acknowledge()]),
        }
    }

    /// RFC 9293 §3.10.7.4, RFC 5961 §3 to §5.
    fn receive_open(&mut self, segment: &Segment) -> Outcome {
        let heard = &segment.said;
        let within = heard.sequence.wrapping_sub(self.heard) < 65_535;
        let acknowledges = heard.acknowledged.wrapping_sub(self.unacknowledged)
            <= self.next.wrapping_sub(self.unacknowledged);
        let old = self.next.wrapping_sub(heard.acknowledged) < 200_000;
        match heard.kind {
            Kind::Resets if heard.sequence == self.heard => {
                self.own(segment);
                return (true, Vec::new());
            }
            Kind::Resets if !within => return (false, Vec::new()),
            Kind::Continues | Kind::Closes if acknowledges || old => {}
            _ => return (false, vec![self.acknowledge()]),
        }
        let empty = heard.end == heard.sequence;
        let length = heard.end.wrapping_sub(heard.sequence);
        let known = self.heard.wrapping_sub(heard.sequence);
        let fits = known == 0 || known < length;
        if !fits {
            // Heard already, or something before is missing.
            let answers = if empty && within {
                Vec::new()
            } else {
                vec![self.acknowledge()]
            };
            return (false, answers);
        }
        self.own(segment);
        if acknowledges {
            self.unacknowledged = heard.acknowledged;
        }
        self.heard = heard.end;
        self.closed |= heard.kind == Kind::Closes;
        let answers = if empty {
            Vec::new()
        } else {
            vec![self.acknowledge()]
        };
        (false, answers)
    }
}
