//! What a record knows of its flow, and what a packet may change in that.
//!
//! A packet changes a record only if its numbers fit those that went by before. Numbers are followed as
//! netfilter follows them (`tcp_in_window` in net/netfilter/nf_conntrack_proto_tcp.c, after Guido van
//! Rooij, "Real Stateful TCP Packet Filtering in IP Filter"). Of the backend's, which nobody outside can
//! send, those that are ahead by a window fit as well, so that a record that has missed something knows
//! again. A reset must have the number that its receiver waits for (RFC 5961 §3.2), as far as that can be
//! known here.
//!
//! A packet that does not fit is translated all the same, and its receiver judges it; but it changes
//! nothing here.

use super::Record;
use crate::{SCTP, TCP, UDP};

/// What [`ticks`] counts: so many nanoseconds, as a power of two. 17 ms.
const TICK: u32 = 24;

/// For how long a backend may think about an opening that it is asked about: less than a client waits
/// before it sends that again (RFC 6298 §2: 1 s).
const ANSWER: u32 = seconds(1) / 2;

/// After a FIN of each side: the last ACK is under way.
const LAST_WORD: u32 = seconds(1);
/// After a FIN of one side, or a RST: the other may have more to say.
const HALF_CLOSED: u32 = seconds(5);
/// Datagrams, of which nobody says that they are the last.
const LAST_DATAGRAM: u32 = seconds(10);

/// In a side's state: one more than the scale that is assumed where the SYN was not seen. It is enough
/// for 16 MiB under way; Linux's buffers grow to 6 (net.ipv4.tcp_rmem). With the largest scale there is
/// (RFC 7323 §2.3) one of ten guesses would be within the window.
const ASSUMED_SCALE: u8 = 9 << 4;

/// How far an acknowledgement may be behind at least (`MAXACKWINCONST` in
/// net/netfilter/nf_conntrack_proto_tcp.c).
const LEAST_WINDOW: u32 = 66_000;

/// A point in time as records have it, of `CLOCK_MONOTONIC`'s nanoseconds. It comes again after 834 days.
#[inline(always)]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK) as u32
}

/// So many seconds in ticks.
pub const fn seconds(seconds: u64) -> u32 {
    ticks(seconds * 1_000_000_000)
}

/// The ticks from one point in time to a later one; the clocks of two CPUs may differ a little.
#[inline(always)]
pub const fn since(then: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(then);
    if passed.cast_signed() < 0 { 0 } else { passed }
}

/// Whether a sequence number comes after another one (RFC 9293 §3.4).
#[inline(always)]
const fn after(one: u32, other: u32) -> bool {
    other.wrapping_sub(one).cast_signed() < 0
}

/// The later one of two sequence numbers, or points in time.
#[inline(always)]
const fn later(one: u32, other: u32) -> u32 {
    if after(one, other) { one } else { other }
}

#[inline(always)]
const fn greater(one: u32, other: u32) -> u32 {
    if one > other { one } else { other }
}

/// What one side has sent.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// The sequence number after all that it has sent; for SCTP the verification tag that its packets
    /// must have.
    pub end: u32,
    /// The highest sequence number that it waits for, by its acknowledgements. Of a backend that has not
    /// answered the opening: what it waited for last in an earlier connection from the same port, or 0.
    pub acknowledged: u32,
    /// The largest window that it has offered, in bytes.
    pub window: u32,
    /// When it last sent something that fitted, or a bare ACK to an opening: see [`ticks`].
    pub seen: u32,
}

impl Side {
    /// It has sent nothing.
    pub const SILENT: Self = Self {
        end: 0,
        acknowledged: 0,
        window: 0,
        seen: 0,
    };
}

/// What a packet is to its flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may begin a flow: SYN, INIT, any datagram.
    Opens = 0,
    /// It answers that: SYN and ACK, INIT ACK.
    Accepts = 1,
    /// It belongs to a flow that exists.
    Continues = 2,
    /// It ends one direction of one.
    Closes = 3,
    /// It ends one at once.
    Resets = 4,
    /// It is a later fragment of a packet, and has no numbers.
    Fragment = 5,
}

/// What a packet says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// TCP: the sequence number. SCTP: the initiate tag of an INIT, else the verification tag.
    pub sequence: u32,
    /// TCP: the sequence number after the packet. SCTP: the initiate tag of an INIT ACK.
    pub end: u32,
    /// TCP: the acknowledgement number.
    pub acknowledged: u32,
    /// TCP: the window, as it stands in the header.
    pub window: u16,
    /// What the packet is.
    pub kind: Kind,
    /// TCP, with a SYN: one more than the window scale that it offers, or 0.
    pub scale: u8,
}

/// Where a flow stands: netfilter's states for TCP (`enum tcp_conntrack`). Other protocols have fewer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has answered: SYN_SENT.
    Opening,
    /// The backend has, and the client has not taken it up: SYN_RECV.
    Answered,
    /// Both have spoken: ESTABLISHED.
    Established,
    /// One side has closed: FIN_WAIT.
    FinWait,
    /// The other one has acknowledged that: CLOSE_WAIT.
    CloseWait,
    /// Both have closed: LAST_ACK.
    LastAck,
    /// Both have acknowledged that: TIME_WAIT.
    TimeWait,
    /// A side has reset: CLOSE.
    Reset,
}

impl State {
    /// The name that people know from `conntrack -L`.
    pub const fn name(self, protocol: u8) -> &'static str {
        match self {
            Self::Opening if protocol == TCP => "SYN_SENT",
            Self::Answered if protocol == TCP => "SYN_RECV",
            Self::Opening => "UNREPLIED",
            Self::Answered => "REPLIED",
            Self::Established if protocol == UDP => "ASSURED",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Reset => "CLOSE",
        }
    }

    /// Whether nothing more can come of the flow: what begins from now on is another one.
    #[inline(always)]
    pub const fn has_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset)
    }

    /// For how many ticks of silence a record is one (net.netfilter.nf_conntrack_tcp_timeout_… and
    /// …_udp_timeout…; of datagrams a little more, so that netfilter's entry goes first).
    #[inline(always)]
    const fn patience(self, protocol: u8) -> u32 {
        let datagrams = protocol == UDP;
        match self {
            Self::Opening | Self::Answered if datagrams => seconds(40),
            _ if datagrams => seconds(180),
            Self::Established => seconds(432_000),
            Self::Opening | Self::FinWait | Self::TimeWait => seconds(120),
            Self::Answered | Self::CloseWait => seconds(60),
            Self::LastAck => seconds(30),
            Self::Reset => seconds(10),
        }
    }
}

/// What a client's packet is to a record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It belongs to the flow, and changes nothing.
    Same,
    /// It belongs to the flow, and the record has changed.
    Moved,
    /// It opens a connection where there is one. It goes to that one's backend, which says so if the
    /// client has lost the connection (RFC 9293 §3.10.7.4, RFC 5961 §4); the question is noted.
    Asks,
    /// It begins another flow, if any.
    Anew,
    /// It belongs to another flow, which was not seen to begin: to one before this table, or to another
    /// translator's.
    Foreign,
    /// The flow is over.
    Over,
}

/// What a packet of the backend's is to a record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It belongs to the flow, and changes nothing.
    Same,
    /// It belongs to the flow, and the record has changed.
    Moved,
    /// It belongs to another flow, which was not seen to begin; the record may have changed.
    Foreign,
    /// The flow is over.
    Over,
}

impl Record {
    /// Where the flow stands.
    #[inline(always)]
    pub const fn state(&self) -> State {
        let (ahead, back) = (self.client_state, self.backend_state);
        if (ahead | back) & Self::RESET != 0 {
            return State::Reset;
        }
        if back & Self::SPOKE == 0 {
            return State::Opening;
        }
        if ahead & Self::SPOKE == 0 {
            return State::Answered;
        }
        match (ahead & Self::CLOSED != 0, back & Self::CLOSED != 0) {
            (false, false) => State::Established,
            (true, false) if after(self.ahead.end, self.back.acknowledged) => State::FinWait,
            (false, true) if after(self.back.end, self.ahead.acknowledged) => State::FinWait,
            (true, false) | (false, true) => State::CloseWait,
            (true, true)
                // Without numbers, nobody knows.
                if self.back.window == 0
                    || after(self.ahead.end, self.back.acknowledged)
                    || after(self.back.end, self.ahead.acknowledged) =>
            {
                State::LastAck
            }
            (true, true) => State::TimeWait,
        }
    }

    /// When somebody last sent something that fitted.
    #[inline(always)]
    pub const fn last_seen(&self) -> u32 {
        if self.backend_state & Self::SPOKE == 0 {
            return self.ahead.seen;
        }
        later(self.ahead.seen, self.back.seen)
    }

    /// For how many ticks nobody has.
    #[inline(always)]
    pub const fn silent(&self, now: u32) -> u32 {
        since(self.last_seen(), now)
    }

    /// Whether the record is none any more at `now` (see [`ticks`]).
    #[inline(always)]
    pub const fn is_over(&self, now: u32) -> bool {
        self.silent(now) > self.state().patience(self.protocol)
    }

    /// Whether nothing more can come of it: its replies may be another flow's from now on.
    #[inline(always)]
    pub const fn makes_way(&self, now: u32) -> bool {
        self.state().has_closed() || self.is_over(now)
    }

    /// Whether the flow seems to have ended at `now`: sooner than [`Self::is_over`], for who waits
    /// for it.
    pub const fn has_ended(&self, now: u32) -> bool {
        let silent = self.silent(now);
        if self.protocol == UDP {
            return silent > LAST_DATAGRAM;
        }
        match self.state() {
            State::Opening | State::Answered | State::Established => self.is_over(now),
            State::FinWait | State::CloseWait | State::Reset => silent > HALF_CLOSED,
            State::LastAck | State::TimeWait => silent > LAST_WORD,
        }
    }

    /// What it is worth in a full bucket, against others: the least one makes way for a new flow.
    /// Those from [`Self::KEPT`] on never do. The lowest 8 bits are free.
    #[inline(always)]
    pub const fn rank(&self, now: u32) -> u64 {
        let state = self.state();
        let class = if state.has_closed() || self.is_over(now) {
            0
        } else if matches!(state, State::Opening | State::Answered) {
            1
        } else if self.protocol == UDP {
            // Nobody can tell whether its client exists.
            Self::ALIVE >> 40
        } else {
            Self::KEPT >> 40
        };
        class << 40 | ((u32::MAX - self.silent(now)) as u64) << 8
    }

    /// The rank of a flow that may be missed: see [`Self::rank`].
    pub const ALIVE: u64 = 2 << 40;
    /// The rank from which on a flow is kept.
    pub const KEPT: u64 = 3 << 40;

    /// Begins with what the first packet of its client says.
    #[inline(always)]
    pub const fn begin(&mut self, said: &Said, now: u32) {
        self.client_state = said.scale << 4;
        self.backend_state = 0;
        self.opening = said.sequence;
        self.question = 0;
        self.asked = 0;
        self.ahead = Side {
            end: said.end,
            acknowledged: 0,
            window: greater(said.window as u32, 1),
            seen: now,
        };
        self.back = Side::SILENT;
        if self.protocol == SCTP {
            // It must answer with the client's tag (RFC 9260 §8.5).
            self.back.end = said.sequence;
        }
    }

    /// Takes over a flow that was known without its numbers: the backend's next packet tells them.
    pub const fn take_over(&mut self, client_state: u8, backend_state: u8) {
        self.client_state = client_state | ASSUMED_SCALE;
        self.backend_state = backend_state | ASSUMED_SCALE;
        self.back.window = 0;
    }

    /// What a packet of its client's is to the record, and what changes by it: the client's side, or
    /// the question.
    #[inline(always)]
    pub const fn hear(&mut self, said: &Said, now: u32) -> Heard {
        if self.is_over(now) {
            return Heard::Over;
        }
        match self.protocol {
            UDP => {
                self.client_state |= self.backend_state & Self::SPOKE;
                self.ahead.seen = now;
                Heard::Moved
            }
            _ if matches!(said.kind, Kind::Opens) => self.hear_opening(said, now),
            TCP => {
                let heard = self.hear_segment(said, now);
                let sides = self.client_state | self.backend_state;
                let begun = self.client_state & Self::SPOKE | sides & Self::RESET;
                if matches!(heard, Heard::Same) && begun == 0 && !self.ends_earlier(said) {
                    return Heard::Foreign;
                }
                heard
            }
            _ => self.hear_chunk(said, now),
        }
    }

    /// A SYN, or an INIT.
    #[inline(always)]
    const fn hear_opening(&mut self, said: &Said, now: u32) -> Heard {
        let state = self.state();
        let again = self.opening == said.sequence;
        match state {
            State::Opening if again && self.backend_state & Self::OCCUPIED == 0 => {
                self.ahead.seen = now;
                Heard::Moved
            }
            // It promises nothing to nobody yet.
            State::Opening => Heard::Anew,
            _ if state.has_closed() => Heard::Anew,
            _ if again => Heard::Same,
            _ => self.hear_question(said.sequence, now),
        }
    }

    /// An opening where there is a connection: by a client that has lost it, or by a stranger. A backend
    /// that is alive answers. One that has been asked twice and has said nothing at all is not; twice,
    /// since Linux says such things once in half a second (net.ipv4.tcp_invalid_ratelimit).
    #[inline(always)]
    const fn hear_question(&mut self, opening: u32, now: u32) -> Heard {
        let unanswered = self.asked != 0 && after(self.asked, self.back.seen);
        if !(unanswered && self.question == opening) {
            self.client_state &= !Self::INSISTS;
            self.question = opening;
            self.asked = greater(now, 1);
        } else if since(self.asked, now) >= ANSWER {
            if self.client_state & Self::INSISTS != 0 {
                return Heard::Anew;
            }
            self.client_state |= Self::INSISTS;
            self.asked = greater(now, 1);
        }
        Heard::Asks
    }

    /// A client's packet on TCP, but for SYNs.
    #[inline(always)]
    const fn hear_segment(&mut self, said: &Said, now: u32) -> Heard {
        let answered = self.backend_state & Self::SPOKE != 0;
        if answered && self.back.window == 0 {
            // Its numbers are not known yet.
            return Heard::Same;
        }
        let lowest = if answered {
            self.back.acknowledged
        } else {
            self.opening
        };
        // What the backend has acknowledged has been sent.
        let end = later(self.ahead.end, lowest);
        if matches!(said.kind, Kind::Resets) {
            if !is_between(said.sequence, lowest, end) {
                return Heard::Same;
            }
            self.client_state |= Self::CLOSED | Self::RESET;
        } else {
            let speaks = matches!(said.kind, Kind::Continues | Kind::Closes);
            let over = (self.client_state | self.backend_state) & Self::RESET != 0;
            if !speaks || !answered || over || !self.fits(said) {
                return Heard::Same;
            }
            self.ahead.end = later(end, said.end);
            self.ahead.acknowledged = later(self.ahead.acknowledged, said.acknowledged);
            let window = scaled(said.window, self.client_state, self.backend_state);
            self.ahead.window = greater(self.ahead.window, window);
            self.client_state |= Self::SPOKE | closed_by(said.kind);
        }
        self.ahead.seen = now;
        Heard::Moved
    }

    /// Whether a client resets what the backend still has of an earlier connection from the same port, so
    /// that its opening finds a place there: not if it goes from another port.
    #[inline(always)]
    const fn ends_earlier(&self, said: &Said) -> bool {
        matches!(said.kind, Kind::Resets) && self.is_earlier(said.sequence)
    }

    /// Whether an earlier connection from the same port to the same backend, which had ended when this
    /// one began, has come to a number.
    #[inline(always)]
    const fn is_earlier(&self, number: u32) -> bool {
        let earlier = self.back.acknowledged;
        self.backend_state & Self::SPOKE == 0 && earlier != 0 && number == earlier
    }

    /// Whether a client's packet is within the backend's window, and acknowledges what the backend has
    /// sent: for the first time all of it, since who has not heard that does not know its number.
    #[inline(always)]
    const fn fits(&self, said: &Said) -> bool {
        let window = self.back.window;
        let behind = if self.client_state & Self::SPOKE != 0 {
            greater(self.ahead.window, LEAST_WINDOW)
        } else {
            self.back
                .end
                .wrapping_sub(self.ahead.acknowledged)
                .wrapping_sub(1)
        };
        is_near(said.sequence, self.back.acknowledged, window)
            && self.back.end.wrapping_sub(said.acknowledged) <= behind
    }

    /// A client's packet on SCTP, but for INIT: it must have the tag that the backend has given
    /// (RFC 9260 §8.5).
    #[inline(always)]
    const fn hear_chunk(&mut self, said: &Said, now: u32) -> Heard {
        if matches!(self.state(), State::Opening | State::Reset) {
            return Heard::Same;
        }
        match said.kind {
            Kind::Continues if said.sequence == self.ahead.end => {
                self.client_state |= Self::SPOKE;
            }
            Kind::Resets if self.has_tag(said) => self.client_state |= Self::CLOSED | Self::RESET,
            _ => return Heard::Same,
        }
        self.ahead.seen = now;
        Heard::Moved
    }

    /// Whether an ABORT or a SHUTDOWN COMPLETE has a tag that counts: its receiver's, or that of who has
    /// sent what it answers (RFC 9260 §8.5.1).
    #[inline(always)]
    const fn has_tag(&self, said: &Said) -> bool {
        said.sequence == self.ahead.end || said.sequence == self.back.end
    }

    /// What a packet of its backend's is to the record, and what changes by it: the backend's side, and
    /// by an answer to the opening the client's numbers.
    #[inline(always)]
    pub const fn answer(&mut self, said: &Said, now: u32) -> Answered {
        if self.is_over(now) {
            return Answered::Over;
        }
        match self.protocol {
            UDP => {
                self.backend_state |= Self::SPOKE;
                self.back.seen = now;
                Answered::Moved
            }
            TCP => self.answer_segment(said, now),
            _ => self.answer_chunk(said, now),
        }
    }

    #[inline(always)]
    const fn answer_segment(&mut self, said: &Said, now: u32) -> Answered {
        let accepts = matches!(said.kind, Kind::Accepts);
        let resets = matches!(said.kind, Kind::Resets);
        let first = self.opening.wrapping_add(1);
        // With what came with the SYN, if anything did (RFC 7413).
        let answers = is_between(said.acknowledged, first, first.wrapping_add(LEAST_WINDOW));
        let state = self.state();
        match state {
            State::Reset if accepts => return Answered::Foreign,
            State::Reset => return Answered::Same,
            State::Opening | State::Answered if accepts && answers => {
                if self.backend_state & Self::SPOKE != 0 && self.back.end == said.end {
                    // Once more. It says nothing about the client.
                    return Answered::Same;
                }
                self.backend_state = Self::SPOKE | said.scale << 4;
                self.back.end = said.end;
                self.back.acknowledged = said.acknowledged;
                self.back.window = greater(said.window as u32, 1);
                // The client must have heard more than that before it is taken for alive.
                self.ahead.acknowledged = said.sequence;
            }
            State::Opening if resets && is_between(said.acknowledged, first, self.ahead.end) => {
                self.backend_state |= Self::CLOSED | Self::RESET;
            }
            State::Opening => {
                if !matches!(said.kind, Kind::Continues | Kind::Closes) {
                    return Answered::Foreign;
                }
                let challenges = self.may_be_challenge(said);
                if !(challenges && self.is_earlier(said.acknowledged)) {
                    // Of a connection that the backend has from the same port: the SYN has not made a
                    // new one, and will not.
                    self.backend_state |= Self::OCCUPIED;
                }
                if !challenges {
                    return Answered::Foreign;
                }
            }
            State::Answered if accepts => return Answered::Foreign,
            _ if accepts => {
                if answers {
                    return Answered::Same;
                }
                if !self.answers_question(said) {
                    return Answered::Foreign;
                }
                // It has no such connection any more, and takes up the one that it was asked about. Which
                // scale that one's client has offered is not known.
                self.opening = self.question;
                self.question = 0;
                self.asked = 0;
                self.client_state = ASSUMED_SCALE;
                self.backend_state = Self::SPOKE | said.scale << 4;
                self.ahead.end = said.acknowledged;
                self.ahead.acknowledged = said.sequence;
                self.back.end = said.end;
                self.back.acknowledged = said.acknowledged;
                self.back.window = greater(said.window as u32, 1);
            }
            _ if resets => {
                let fits = is_between(said.sequence, self.ahead.acknowledged, self.back.end);
                if !fits && !self.answers_question(said) {
                    return Answered::Same;
                }
                self.backend_state |= Self::CLOSED | Self::RESET;
            }
            _ if matches!(said.kind, Kind::Continues | Kind::Closes) => {
                if self.back.window == 0 {
                    // The record was taken over without numbers.
                    self.back.end = said.sequence;
                    self.back.acknowledged = said.acknowledged;
                    self.ahead.end = said.acknowledged;
                    self.ahead.acknowledged = said.sequence;
                    self.back.window = 1;
                }
                let (ahead, back) = (self.ahead.window, self.back.window);
                let sent = later(self.ahead.end, self.back.acknowledged);
                let fits = is_near(said.sequence, self.back.end, greater(ahead, LEAST_WINDOW))
                    && is_near(said.acknowledged, sent, greater(back, LEAST_WINDOW));
                if !fits && matches!(state, State::Answered) {
                    return Answered::Foreign;
                }
                if !fits {
                    return Answered::Same;
                }
                self.back.end = later(self.back.end, said.end);
                self.back.acknowledged = later(self.back.acknowledged, said.acknowledged);
                let window = scaled(said.window, self.backend_state, self.client_state);
                self.back.window = greater(self.back.window, window);
                self.backend_state |= closed_by(said.kind);
            }
            _ => return Answered::Same,
        }
        self.back.seen = greater(now, 1);
        Answered::Moved
    }

    /// Whether a packet may be what a backend that has an earlier connection, perhaps in TIME-WAIT and
    /// perhaps another client's behind the same masquerade, says to the SYN: a bare ACK (RFC 5961 §4).
    /// The client must hear that: it sends the SYN again at once (`tcp_rcv_synsent_state_process` in
    /// net/ipv4/tcp_input.c), and not a second later. What it resets goes nowhere, unless it is known to
    /// have ended: see [`Self::ends_earlier`].
    ///
    /// Only the first one. It may as well be of a connection that goes on past this table, which can
    /// do without one ACK, but not without all that follow.
    #[inline(always)]
    const fn may_be_challenge(&self, said: &Said) -> bool {
        let bare = matches!(said.kind, Kind::Continues) && said.end == said.sequence;
        bare && self.back.seen == 0
    }

    /// Whether a backend says to a question that it has no such connection.
    #[inline(always)]
    const fn answers_question(&self, said: &Said) -> bool {
        self.asked != 0 && said.acknowledged == self.question.wrapping_add(1)
    }

    #[inline(always)]
    const fn answer_chunk(&mut self, said: &Said, now: u32) -> Answered {
        match (self.state(), said.kind) {
            (State::Reset, Kind::Accepts) => return Answered::Foreign,
            (State::Reset, _) => return Answered::Same,
            (State::Opening | State::Answered, Kind::Accepts) if said.sequence == self.back.end => {
                self.backend_state |= Self::SPOKE;
                self.ahead.end = said.end;
            }
            (State::Opening, Kind::Resets) if said.sequence == self.back.end => {
                self.backend_state |= Self::CLOSED | Self::RESET;
            }
            (_, Kind::Resets) if self.has_tag(said) => {
                self.backend_state |= Self::CLOSED | Self::RESET;
            }
            (_, Kind::Continues) if said.sequence == self.back.end => {}
            _ => return Answered::Same,
        }
        self.back.seen = now;
        Answered::Moved
    }
}

/// Whether a sequence number is between two others, or one of them.
#[inline(always)]
const fn is_between(number: u32, first: u32, last: u32) -> bool {
    number.wrapping_sub(first) <= last.wrapping_sub(first)
}

/// Whether a sequence number is no farther from another one than a window.
#[inline(always)]
const fn is_near(number: u32, other: u32, window: u32) -> bool {
    number.wrapping_sub(other.wrapping_sub(window)) <= window.wrapping_mul(2)
}

/// A window in bytes. Scales count if both sides have offered one (RFC 7323 §2.2).
#[inline(always)]
const fn scaled(window: u16, offered: u8, other: u8) -> u32 {
    let (scale, other) = (offered >> 4, other >> 4);
    if scale == 0 || other == 0 {
        return window as u32;
    }
    (window as u32) << ((scale - 1) & 15)
}

#[inline(always)]
const fn closed_by(kind: Kind) -> u8 {
    if matches!(kind, Kind::Closes) {
        Record::CLOSED
    } else {
        0
    }
}
