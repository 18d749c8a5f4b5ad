//! The states of a record, and what leads from one to another.

use super::*;
use crate::SCTP;

/// What is said after a handshake.
const SENT: u32 = SYN + 1;
const HEARD: u32 = ANSWER + 1;

fn syn(sequence: u32) -> Said {
    said(Kind::Opens, sequence, 0)
}

/// A record in each state that a connection can be in.
fn all() -> [(State, Record); 8] {
    let opening = record(1, 50_000, 1);
    let mut answered = opening;
    answered.answer(&said(Kind::Accepts, ANSWER, SENT), NOW);
    let established = established(&opening);
    let mut fin_wait = established;
    fin_wait.hear(&said(Kind::Closes, SENT, HEARD), NOW);
    let mut close_wait = fin_wait;
    close_wait.answer(&said(Kind::Continues, HEARD, SENT + 1), NOW);
    let mut last_ack = close_wait;
    last_ack.answer(&said(Kind::Closes, HEARD, SENT + 1), NOW);
    let mut time_wait = last_ack;
    time_wait.hear(&said(Kind::Continues, SENT + 1, HEARD + 1), NOW);
    let mut reset = established;
    reset.answer(&said(Kind::Resets, HEARD, 0), NOW);
    [
        (State::Opening, opening),
        (State::Answered, answered),
        (State::Established, established),
        (State::FinWait, fin_wait),
        (State::CloseWait, close_wait),
        (State::LastAck, last_ack),
        (State::TimeWait, time_wait),
        (State::Reset, reset),
    ]
}

#[test]
fn each_state_is_reached_and_lasts_as_long_as_netfilters() {
    // Documentation/networking/nf_conntrack-sysctl.rst
    let patience = [120, 60, 432_000, 120, 60, 30, 120, 10];
    for ((state, record), patience) in all().into_iter().zip(patience) {
        assert_eq!(record.state(), state, "{record:?}");
        let at = |seconds| NOW + state::seconds(seconds);
        assert!(!record.is_over(at(patience - 1)), "{state:?}");
        assert!(record.is_over(at(patience + 1)), "{state:?}");
        // Another CPU's clock may be behind.
        assert!(!record.is_over(NOW - state::seconds(1)), "{state:?}");
    }
}

#[test]
fn datagrams_last_longer_once_the_client_goes_on() {
    let mut record = Record {
        protocol: UDP,
        ..record(1, 50_000, 1)
    };
    let at = |seconds| NOW + state::seconds(seconds);
    let datagram = said(Kind::Opens, 0, 0);
    for (hears, patience) in [(None, 40), (Some(false), 40), (Some(true), 180)] {
        match hears {
            None => {}
            Some(false) => assert_eq!(record.answer(&datagram, NOW), Answered::Moved),
            Some(true) => assert_eq!(record.hear(&datagram, NOW), Heard::Moved),
        }
        assert!(!record.is_over(at(patience - 1)), "{hears:?}");
        assert!(record.is_over(at(patience + 1)), "{hears:?}");
    }
    assert_eq!(record.hear(&datagram, at(200)), Heard::Over);
    assert_eq!(record.answer(&datagram, at(200)), Answered::Over);
}

/// What those wait for who want to end nobody's connection.
#[test]
fn a_flow_seems_to_have_ended_sooner_than_it_is_over() {
    for (state, record) in all() {
        let at = |seconds| NOW + state::seconds(seconds);
        let ended = match state {
            State::Opening => 121,
            State::Answered => 61,
            State::Established => 432_001,
            State::FinWait | State::CloseWait | State::Reset => 6,
            State::LastAck | State::TimeWait => 2,
        };
        assert!(record.has_ended(at(ended)), "{state:?}");
        assert!(!record.has_ended(at(ended - 2)), "{state:?}");
    }
}

/// A SYN is the same one, a new connection, or a question.
#[test]
fn a_syn_by_state() {
    for (state, record) in all() {
        let again = { record }.hear(&syn(SYN), NOW);
        let other = { record }.hear(&syn(SYN + 1), NOW);
        let expected = match state {
            State::Opening => (Heard::Moved, Heard::Anew),
            State::Answered
            | State::Established
            | State::FinWait
            | State::CloseWait
            | State::LastAck => (Heard::Same, Heard::Asks),
            State::TimeWait | State::Reset => (Heard::Anew, Heard::Anew),
        };
        assert_eq!((again, other), expected, "{state:?}");
    }
}

/// Nothing but the question has changed.
fn asked(record: &Record) -> Record {
    Record {
        question: 0,
        asked: 0,
        client_state: record.client_state & !Record::INSISTS,
        ..*record
    }
}

#[test]
fn a_backend_that_was_asked_twice_in_vain_is_gone() {
    let connection = established(&record(1, 50_000, 1));
    let at = |halves: u64| NOW + state::seconds(halves) / 2 + 1;
    let mut gone = connection;
    for (when, expected) in [
        (2, Heard::Asks),
        // Too soon to be sent again.
        (2, Heard::Asks),
        (4, Heard::Asks),
        (4, Heard::Asks),
        (8, Heard::Anew),
    ] {
        assert_eq!(gone.hear(&syn(77), at(when)), expected, "{when}");
        assert_eq!(asked(&gone), connection);
    }
    // Anything that it says means that it is there, and asking begins again.
    let mut alive = connection;
    for when in (2..40).step_by(2) {
        assert_eq!(alive.hear(&syn(77), at(when)), Heard::Asks, "{when}");
        if when % 4 == 0 {
            alive.answer(&said(Kind::Continues, HEARD, SENT), at(when + 1));
        }
    }
    // Another question is another one's.
    let mut several = connection;
    for when in (2..40).step_by(2) {
        let number = 77 + when as u32;
        assert_eq!(several.hear(&syn(number), at(when)), Heard::Asks, "{when}");
    }
    // It says that it has no such connection: RFC 9293 §3.10.7.1.
    let mut denied = connection;
    denied.hear(&syn(77), NOW);
    assert_eq!(
        denied.answer(&said(Kind::Resets, 0, 78), NOW),
        Answered::Moved
    );
    assert_eq!(denied.state(), State::Reset);
    // It takes up the one that it was asked about: the record is that one's.
    let mut begun = connection;
    begun.hear(&syn(0x8000_0000), NOW);
    let answer = said(Kind::Accepts, 99, 0x8000_0001);
    assert_eq!(begun.answer(&answer, NOW), Answered::Moved);
    assert_eq!(
        (begun.state(), begun.opening),
        (State::Answered, 0x8000_0000)
    );
    let taken_up = said(Kind::Continues, 0x8000_0001, 100);
    assert_eq!(begun.hear(&taken_up, NOW), Heard::Moved);
    assert_eq!(begun.state(), State::Established);
    // One that nobody has asked for comes late.
    let mut late = connection;
    assert_eq!(late.answer(&answer, NOW), Answered::Foreign);
    assert_eq!(late, connection);
}

/// A reset counts with the number that its receiver may wait for, and no other.
#[test]
fn resets_by_number() {
    let mut connection = established(&record(1, 50_000, 1));
    // 500 bytes on their way from the client, 300 from the backend.
    let data = |sequence, bytes, acknowledged| Said {
        end: sequence + bytes,
        ..said(Kind::Continues, sequence, acknowledged)
    };
    assert_eq!(connection.hear(&data(SENT, 500, HEARD), NOW), Heard::Moved);
    connection.answer(&data(HEARD, 300, SENT + 200), NOW);
    for (sequence, counts) in [
        (0, false),
        (1, false),
        (SENT + 199, false),
        (SENT + 200, true),
        (SENT + 500, true),
        (SENT + 501, false),
    ] {
        let mut record = connection;
        let heard = record.hear(&said(Kind::Resets, sequence, 0), NOW + 1);
        assert_eq!(heard == Heard::Moved, counts, "{sequence}");
        assert_eq!(record == connection, !counts, "{sequence}");
    }
    for (sequence, counts) in [
        (0, false),
        (HEARD - 1, false),
        (HEARD, true),
        (HEARD + 300, true),
        (HEARD + 301, false),
    ] {
        let mut record = connection;
        record.answer(&said(Kind::Resets, sequence, 0), NOW + 1);
        assert_eq!(record == connection, !counts, "{sequence}");
    }
    // An opening that is refused, and one that its client gives up.
    let opening = record(1, 50_000, 1);
    let mut refused = opening;
    assert_eq!(
        refused.answer(&said(Kind::Resets, 0, SENT + 1), NOW),
        Answered::Foreign
    );
    assert_eq!(
        refused.answer(&said(Kind::Resets, 0, SENT), NOW),
        Answered::Moved
    );
    assert_eq!(refused.state(), State::Reset);
    let mut given_up = opening;
    assert_eq!(
        given_up.hear(&said(Kind::Resets, SENT + 1, 0), NOW),
        Heard::Foreign
    );
    assert_eq!(
        given_up.hear(&said(Kind::Resets, SENT, 0), NOW),
        Heard::Moved
    );
    assert_eq!(given_up.state(), State::Reset);
}

/// Who has not heard the backend's answer does not know its number.
#[test]
fn only_who_has_heard_the_answer_establishes_a_connection() {
    let mut record = record(1, 50_000, 1);
    let guess = |acknowledged| said(Kind::Continues, SENT, acknowledged);
    assert_eq!(record.hear(&guess(HEARD), NOW), Heard::Foreign);
    record.answer(&said(Kind::Accepts, ANSWER, SENT), NOW);
    for wrong in [0, 1, HEARD - 1, HEARD + 1, HEARD - 60_000] {
        assert_eq!(record.hear(&guess(wrong), NOW), Heard::Foreign, "{wrong}");
    }
    for far in [SENT + 65_536, SENT - 65_536] {
        let heard = record.hear(&said(Kind::Continues, far, HEARD), NOW);
        assert_eq!(heard, Heard::Foreign, "{far}");
    }
    // The backend's retransmissions say nothing about the client.
    let again = said(Kind::Accepts, ANSWER, SENT);
    assert_eq!(record.answer(&again, NOW + 1), Answered::Same);
    assert_eq!(record.state(), State::Answered);
    assert_eq!(record.hear(&guess(HEARD), NOW), Heard::Moved);
    assert_eq!(record.state(), State::Established);
}

#[test]
fn what_belongs_to_no_opening_is_somebody_elses() {
    for kind in [Kind::Continues, Kind::Closes, Kind::Resets, Kind::Accepts] {
        let mut record = record(1, 50_000, 1);
        let data = Said {
            end: 40,
            ..said(kind, 4, 5)
        };
        let answered = record.answer(&data, NOW);
        assert_eq!(answered, Answered::Foreign, "{kind:?}");
        assert_eq!(record.state(), State::Opening);
    }
    let [_, (state, answered), ..] = all();
    for kind in [Kind::Continues, Kind::Closes, Kind::Accepts] {
        let mut record = answered;
        assert_eq!(record.answer(&said(kind, 4, 5), NOW), Answered::Foreign);
        assert_eq!((record, record.state()), (answered, state), "{kind:?}");
    }
}

/// A client that does not hear it waits for a second before it opens again.
#[test]
fn a_bare_ack_to_an_opening_is_the_clients_once() {
    let opening = record(1, 50_000, 1);
    let bare = said(Kind::Continues, 4, 5);
    let bytes = Said { end: 14, ..bare };
    let ends = said(Kind::Closes, 4, 5);
    // Not of the SYN, but it says that there is somebody.
    for foreign in [&[][..], &[bytes], &[ends], &[bytes, ends, bytes]] {
        let mut record = opening;
        for foreign in foreign {
            assert_eq!(record.answer(foreign, NOW), Answered::Foreign);
        }
        assert_eq!(record.answer(&bare, NOW), Answered::Moved);
        assert_eq!(record.answer(&bare, NOW + 1), Answered::Foreign);
        assert_eq!(record.state(), State::Opening);
        // What the client says to that is not for the connection that is there.
        let reset = said(Kind::Resets, 5, 0);
        assert_eq!(record.hear(&reset, NOW), Heard::Foreign);
        // Its next SYN needs another port, and the record lasts no longer for all that.
        assert_eq!({ record }.hear(&syn(SYN), NOW), Heard::Anew);
        assert_eq!(record.last_seen(), opening.last_seen());
    }
    // Should it be taken up all the same, that counts.
    let mut record = opening;
    record.answer(&bare, NOW);
    let accepts = said(Kind::Accepts, ANSWER, SENT);
    assert_eq!(record.answer(&accepts, NOW), Answered::Moved);
    assert_eq!(record.state(), State::Answered);
}

/// A record that has missed packets knows again with the backend's next one.
#[test]
fn what_was_missed_is_learned_from_the_backend() {
    let mut record = established(&record(1, 50_000, 1));
    let far = 40_000;
    let later = said(Kind::Closes, SENT + 2 * far, HEARD + 2 * far);
    assert_eq!({ record }.hear(&later, NOW), Heard::Same);
    for far in [far, 2 * far] {
        record.answer(&said(Kind::Continues, HEARD + far, SENT + far), NOW);
    }
    assert_eq!(record.hear(&later, NOW), Heard::Moved);
    assert_eq!(record.state(), State::FinWait);
    // What an earlier connection's end says late is nothing to this one.
    let before = record;
    let late = said(Kind::Closes, HEARD - 1_000_000, SENT - 5_000_000);
    assert_eq!(record.answer(&late, NOW), Answered::Same);
    assert_eq!(record, before);
}

/// Of an older layout of the table.
#[test]
fn a_flow_that_was_taken_over_learns_its_numbers_from_its_backend() {
    let mut record = Record {
        ahead: Side {
            seen: NOW,
            ..Side::SILENT
        },
        back: Side::SILENT,
        opening: 0,
        ..record(1, 50_000, 1)
    };
    record.take_over(Record::SPOKE, Record::SPOKE);
    assert_eq!(record.state(), State::Established);
    // A stranger may say so; whoever is right is heard a little later.
    for number in [0, SENT] {
        let before = record;
        assert_eq!(
            record.hear(&said(Kind::Resets, number, 0), NOW),
            Heard::Same
        );
        assert_eq!(record, before);
    }
    assert_eq!(
        record.answer(&said(Kind::Continues, HEARD, SENT), NOW),
        Answered::Moved
    );
    assert_eq!((record.back.end, record.ahead.end), (HEARD, SENT));
    assert_eq!({ record }.hear(&said(Kind::Resets, 0, 0), NOW), Heard::Same);
    assert_eq!(
        record.hear(&said(Kind::Closes, SENT, HEARD), NOW),
        Heard::Moved
    );
    assert_eq!(record.state(), State::FinWait);
}

#[test]
fn numbers_pass_zero() {
    let start = u32::MAX - 1;
    let mut record = record(1, 50_000, 1);
    record.begin(&syn(start), NOW);
    let answer = said(Kind::Accepts, u32::MAX, start.wrapping_add(1));
    assert_eq!(record.answer(&answer, NOW), Answered::Moved);
    let first = Said {
        end: 99,
        ..said(Kind::Continues, u32::MAX, 0)
    };
    assert_eq!(record.hear(&first, NOW), Heard::Moved);
    assert_eq!(record.state(), State::Established);
    record.answer(&said(Kind::Closes, 0, 99), NOW);
    record.hear(&said(Kind::Closes, 99, 1), NOW);
    record.answer(&said(Kind::Continues, 1, 100), NOW);
    assert_eq!(record.state(), State::TimeWait);
}

#[test]
fn associations_go_by_their_tags() {
    let mut record = Record {
        protocol: SCTP,
        ..record(1, 50_000, 1)
    };
    record.begin(&said(Kind::Opens, 11, 0), NOW);
    let chunk = |kind, tag, initiate| Said {
        end: initiate,
        ..said(kind, tag, 0)
    };
    record.answer(&chunk(Kind::Accepts, 12, 21), NOW);
    assert_eq!(record.state(), State::Opening);
    record.answer(&chunk(Kind::Accepts, 11, 21), NOW);
    assert_eq!(record.state(), State::Answered);
    assert_eq!(
        record.hear(&chunk(Kind::Continues, 22, 0), NOW),
        Heard::Same
    );
    assert_eq!(
        record.hear(&chunk(Kind::Continues, 21, 0), NOW),
        Heard::Moved
    );
    assert_eq!(record.state(), State::Established);
    for tag in [0, 1, 20] {
        assert_eq!(record.hear(&chunk(Kind::Resets, tag, 0), NOW), Heard::Same);
    }
    // The sender's own tag, where the other's is not known to it (RFC 9260 §8.5.1).
    for tag in [21, 11] {
        let mut record = record;
        assert_eq!(record.hear(&chunk(Kind::Resets, tag, 0), NOW), Heard::Moved);
        assert_eq!(record.state(), State::Reset);
    }
}
