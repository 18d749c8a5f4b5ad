//! What is odd about a request in HTTP/2, as chance wants it.

/// One thing that requests rarely do, or that none may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// `host`, and no `:authority`.
    HostOnly,
    /// A `host` that is not the `:authority`.
    OtherHost,
    /// This pseudo-header is not there.
    Without(&'static str),
    /// This pseudo-header has this value.
    With(&'static str, &'static str),
    /// This pseudo-header is there twice.
    Twice(&'static str),
    /// `:path` comes after a header.
    LatePath,
    /// This header is there as well: it is about a connection in HTTP/1.1, or no header at all.
    Header(&'static str, &'static str),
    /// One trailer more.
    Trailer(&'static str, &'static str),
    /// Headers and body are padded.
    Padded,
    /// The headers are in three frames.
    Continued,
    /// Headers begin with a priority.
    Priority,
    /// Each byte of the body is a frame.
    Pieces,
    /// The end is a frame of its own.
    EmptyEnd,
    /// `content-length` says another number of bytes.
    Length(usize),
    /// Each cookie stands alone.
    Crumbs,
    /// The client resets the stream where its end would be.
    Abandoned,
}

/// Those that chance chooses from.
pub(super) const ODD: &[Odd] = &[
    Odd::HostOnly,
    Odd::OtherHost,
    Odd::Without(":authority"),
    Odd::Without(":method"),
    Odd::Without(":scheme"),
    Odd::Without(":path"),
    Odd::With(":authority", ""),
    Odd::With(":authority", "user@CASE.differential.test"),
    Odd::With(":authority", "CASE.differential.test:x"),
    Odd::With(":method", ""),
    Odd::With(":scheme", "https"),
    Odd::With(":scheme", "HTTP"),
    Odd::With(":scheme", "ftp"),
    Odd::With(":scheme", ""),
    Odd::With(":path", ""),
    Odd::With(":path", "a"),
    Odd::With(":path", "/a b"),
    Odd::With(":path", "/a#b"),
    Odd::With(":protocol", "websocket"),
    Odd::With(":status", "200"),
    Odd::With(":unknown", "1"),
    Odd::Twice(":path"),
    Odd::Twice(":authority"),
    Odd::LatePath,
    Odd::Header("X-Upper", "1"),
    Odd::Header("connection", "close"),
    Odd::Header("connection", "x-a"),
    Odd::Header("keep-alive", "timeout=5"),
    Odd::Header("proxy-connection", "close"),
    Odd::Header("transfer-encoding", "chunked"),
    Odd::Header("upgrade", "websocket"),
    Odd::Header("te", "gzip"),
    Odd::Header("te", "trailers, gzip"),
    Odd::Header("x-space", " 1 "),
    Odd::Header("x-nul", "a\0b"),
    Odd::Header("x-line", "a\nb"),
    Odd::Header("", "1"),
    Odd::Header("x a", "1"),
    Odd::Header("x-é", "1"),
    Odd::Header("x-value", "é"),
    Odd::Header("expect", "100-continue"),
    Odd::Header("expect", "else"),
    Odd::Header("content-length", "x"),
    Odd::Trailer("x-trailer", "1"),
    Odd::Trailer("X-Trailer", "1"),
    Odd::Trailer(":path", "/b"),
    Odd::Trailer("connection", "close"),
    Odd::Trailer("content-length", "9"),
    Odd::Padded,
    Odd::Continued,
    Odd::Priority,
    Odd::Pieces,
    Odd::EmptyEnd,
    Odd::Length(3),
    Odd::Length(5),
    Odd::Crumbs,
    Odd::Abandoned,
];
