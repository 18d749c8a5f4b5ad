//! What requests ask endpoints to do, other than to answer well.

/// The header by which a request asks for it: a word, and after a comma for how many attempts (all, where that is
/// absent).
pub(super) const BEHAVE: &str = "x-behave";

/// What an endpoint does. Codes are those of streams in HTTP/2 (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Answers with a status.
    Status(u16),
    /// Ends the connection without an answer.
    Close,
    /// Resets it.
    Reset,
    /// Says nothing until the proxy gives up.
    Silent,
    /// Says more of the body's length than comes.
    Cut,
    /// Answers with headers that are for the connection only.
    Hop,
    /// Resets the stream without an answer.
    Stream(u32),
    /// Resets it after the head.
    Headed(u32),
    /// Resets it within the body.
    Half(u32),
    /// Answers with trailers.
    Trailers,
    /// Answers with a status of gRPC in trailers.
    Grpc(u8),
    /// Answers with a status of gRPC in the head, which is all there is.
    GrpcOnly(u8),
    /// Says something before the answer.
    Interim(u16),
    /// Takes no more streams over this connection: nor this one, where it says so.
    Away { takes: bool },
    /// Ends the connection with an error, in good order.
    Error,
    /// Answers with a head that none may have.
    Odd(&'static [(&'static str, &'static str)]),
    /// Answers with a body where there is none.
    Body204,
}

/// Heads that none may have: headers that are put in the place of others, or there as well. An empty value leaves
/// one out.
const ODD: [(&str, &[(&str, &str)]); 7] = [
    ("upper", &[("X-Upper", "1")]),
    ("statusless", &[(":status", "")]),
    ("switching", &[(":status", "101")]),
    ("unreadable", &[(":status", "2x0")]),
    ("nul", &[("x-nul", "a\0b")]),
    ("space", &[("x a", "1")]),
    ("path", &[(":path", "/")]),
];

/// What a request asks for on its so-manieth attempt; nothing for a good answer.
pub(super) fn behaviour(text: &str, attempt: usize) -> Option<Behaviour> {
    let (word, times) = text.split_once(',').unwrap_or((text, ""));
    if times.parse().is_ok_and(|times: usize| attempt > times) {
        return None;
    }
    let (word, number) = word.split_once(':').unwrap_or((word, ""));
    let code = || number.parse().ok();
    Some(match word {
        "close" => Behaviour::Close,
        "reset" => Behaviour::Reset,
        "silent" => Behaviour::Silent,
        "cut" => Behaviour::Cut,
        "hop" => Behaviour::Hop,
        "stream" => Behaviour::Stream(code()?),
        "headed" => Behaviour::Headed(code()?),
        "half" => Behaviour::Half(code()?),
        "trailers" => Behaviour::Trailers,
        "grpc" => Behaviour::Grpc(number.parse().ok()?),
        "grpc-only" => Behaviour::GrpcOnly(number.parse().ok()?),
        "interim" => Behaviour::Interim(number.parse().ok()?),
        "away" => Behaviour::Away { takes: true },
        "away-before" => Behaviour::Away { takes: false },
        "error" => Behaviour::Error,
        "body-204" => Behaviour::Body204,
        "odd" => Behaviour::Odd(ODD.iter().find(|(name, _)| *name == number)?.1),
        status => Behaviour::Status(status.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misbehaviour_ends_after_so_many_attempts() {
        assert_eq!(behaviour("503", 9), Some(Behaviour::Status(503)));
        assert_eq!(behaviour("reset,2", 2), Some(Behaviour::Reset));
        assert_eq!(behaviour("reset,2", 3), None);
        assert_eq!(behaviour("stream:7,1", 1), Some(Behaviour::Stream(7)));
        assert_eq!(behaviour("stream", 1), None);
        assert_eq!(behaviour("nonsense", 1), None);
    }
}
