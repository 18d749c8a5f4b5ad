//! The requests.

/// An attack of one request.
#[derive(Clone, Copy, Debug)]
pub(in crate::attack) struct Probe {
    pub(in crate::attack) name: &'static str,
    pub(in crate::attack) about: &'static str,
    /// What is sent; `{{x*N}}` is N times x.
    pub(in crate::attack) bytes: &'static str,
    /// How many requests of it may get to the endpoint.
    pub(in crate::attack) most: usize,
    /// How many must: an attack that nobody lets pass shows nothing where nothing passes at all.
    pub(in crate::attack) least: usize,
    /// Whether its body must not get to the endpoint whole.
    pub(in crate::attack) is_cut: bool,
    /// Why nodegate lets pass what Envoy refuses, if it is meant to.
    pub(in crate::attack) meant: Option<&'static str>,
}

const fn refused(name: &'static str, about: &'static str, bytes: &'static str) -> Probe {
    Probe {
        name,
        about,
        bytes,
        most: 0,
        least: 0,
        is_cut: false,
        meant: None,
    }
}

/// One that may pass as the one request that it is.
const fn bounded(name: &'static str, about: &'static str, bytes: &'static str) -> Probe {
    Probe {
        most: 1,
        ..refused(name, about, bytes)
    }
}

/// One whose head may have got to the endpoint before it shows: then its body is cut off.
const fn cut(name: &'static str, about: &'static str, bytes: &'static str) -> Probe {
    Probe {
        is_cut: true,
        ..bounded(name, about, bytes)
    }
}

const fn ordinary(name: &'static str, about: &'static str, bytes: &'static str) -> Probe {
    Probe {
        most: 1,
        least: 1,
        ..refused(name, about, bytes)
    }
}

#[rustfmt::skip]
pub(in crate::attack) const PROBES: &[Probe] = &[
    ordinary("ordinary", "nothing odd, so that the others show something",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"),
    ordinary("ordinary-chunks", "the same in chunks",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ordinary("body-of-get", "a request as the body of a GET",
        "GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: 38\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    // RFC 9112, section 6.1 to 6.3.
    refused("length-and-chunks", "Content-Length beside Transfer-Encoding",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 43\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    refused("chunks-and-length", "the same, the other way around",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n26\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n\r\n0\r\n\r\n"),
    refused("two-codings", "Transfer-Encoding twice, chunked and identity",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
    refused("coding-list", "chunked before another coding",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    refused("unknown-coding", "a coding that nobody knows",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    refused("coding-with-tab", "a vertical tab after chunked",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\x0b\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
    refused("space-before-colon", "`Transfer-Encoding :`",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
    refused("two-lengths", "two lengths that differ",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 38\r\ncontent-length: 0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    refused("length-list", "a list of lengths that differ",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0, 38\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    Probe { meant: Some("it is that length (RFC 9110, section 8.6)"), ..bounded("equal-lengths", "the same length twice",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc") },
    refused("length-with-sign", "`Content-Length: +3`",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc"),
    refused("negative-length", "`Content-Length: -1`",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nabc"),
    refused("length-in-hex", "`Content-Length: 0x3`",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc"),
    refused("length-with-underscore", "`Content-Length: 0_3`",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0_3\r\n\r\nabc"),
    refused("length-too-large", "a length that overflows 64 bits",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551619\r\n\r\nabc"),
    refused("empty-length", "`Content-Length:` without a value",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    bounded("length-by-another-name", "`Content_Length`",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent_length: 38\r\ncontent-length: 0\r\n\r\n"),
    refused("old-chunks", "chunks in HTTP/1.0",
        "POST /a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    // RFC 9112, section 7.1.
    cut("chunk-size-in-c", "a chunk of size 0x3",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
    cut("chunk-size-with-sign", "a chunk of size +3",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"),
    cut("chunk-size-with-underscore", "a chunk of size 0_3",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0_3\r\nabc\r\n0\r\n\r\n"),
    cut("chunk-size-too-large", "a chunk's size that overflows 64 bits",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"),
    bounded("chunk-size-endless", "a chunk's size of 20,000 zeros",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{{0*20000}}3\r\nabc\r\n0\r\n\r\n"),
    cut("chunk-ends-in-lf", "a chunk's size that ends with LF alone",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
    cut("chunk-too-long", "more bytes than the chunk's size",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
    cut("chunk-without-end", "no line end after a chunk",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n"),
    cut("extension-with-lf", "LF in a chunk's extension (CVE-2025-55315)",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n"),
    cut("extension-with-cr", "CR in a chunk's extension",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n"),
    bounded("extension", "a chunk's extension with a quoted value",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n"),
    cut("extension-endless", "a chunk's extension of 200,000 bytes",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;{{a*200000}}\r\nabc\r\n0\r\n\r\n"),
    bounded("trailers", "trailers that name what a head must say",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 38\r\nhost: hidden\r\nauthorization: x\r\n\r\n"),
    // RFC 9112, sections 2 to 5.
    Probe { most: 2, ..refused("bare-lf", "two requests whose lines end with LF alone, which RFC 9112 lets pass (section 2.2)",
        "GET /a HTTP/1.1\r\nhost: a\r\nx: 1\n\nGET /b HTTP/1.1\nhost: b\r\n\r\n") },
    refused("bare-cr", "CR alone in a value",
        "GET /a HTTP/1.1\r\nhost: a\r\nx: 1\rGET /hidden HTTP/1.1\r\n\r\n"),
    refused("nul", "NUL in a value",
        "GET /a HTTP/1.1\r\nhost: a\r\nx: 1\x002\r\n\r\n"),
    refused("folded", "a value that goes on in the next line",
        "POST /a HTTP/1.1\r\nhost: a\r\nx: 1\r\n transfer-encoding: chunked\r\n\r\n"),
    refused("first-folded", "white space before the first header",
        "GET /a HTTP/1.1\r\n host: a\r\nx: 1\r\n\r\n"),
    refused("no-colon", "a header without a colon",
        "GET /a HTTP/1.1\r\nhost: a\r\nhidden\r\n\r\n"),
    refused("no-name", "a header without a name",
        "GET /a HTTP/1.1\r\nhost: a\r\n: hidden\r\n\r\n"),
    refused("no-host", "no Host",
        "GET /a HTTP/1.1\r\nx: a\r\n\r\n"),
    refused("two-hosts", "two Hosts",
        "GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    bounded("host-with-user", "user information in Host",
        "GET /a HTTP/1.1\r\nhost: a@b\r\n\r\n"),
    refused("host-with-path", "a path in Host",
        "GET /a HTTP/1.1\r\nhost: a/../b\r\n\r\n"),
    refused("three-and-more-words", "more words in the request line",
        "GET /a /hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("tab-in-line", "a tab in the request line",
        "GET\t/a\tHTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("control-in-path", "a control character in the path",
        "GET /a\x01 HTTP/1.1\r\nhost: a\r\n\r\n"),
    bounded("fragment", "a fragment in the path",
        "GET /a#/../hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("no-slash", "a path that does not begin with a slash",
        "GET hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("odd-method", "a method with a colon",
        "GET:/ /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("http-0.9", "a request of HTTP/0.9",
        "GET /hidden\r\n\r\n"),
    refused("http-1.0", "a request of HTTP/1.0 whose body nobody framed",
        "POST /a HTTP/1.0\r\nhost: a\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    refused("http-3", "HTTP/3.0 in a request line",
        "GET /a HTTP/3.0\r\nhost: a\r\n\r\n"),
    refused("nonsense", "bytes that are no HTTP",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03hidden\r\n\r\n"),
    // What else a connection may become.
    refused("connect", "CONNECT, and a request before the answer (CVE-2025-64763)",
        "CONNECT hidden:80 HTTP/1.1\r\nhost: hidden:80\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    bounded("early-bytes", "bytes after an Upgrade, before the 101 (CVE-2026-2833)",
        "GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    bounded("h2c", "an upgrade to HTTP/2 behind the proxy's back",
        "GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"),
    bounded("trace", "TRACE",
        "TRACE /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    bounded("expectation", "100-continue, and the body at once",
        "POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 38\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    bounded("odd-expectation", "an expectation that hardly anybody understands",
        "POST /a HTTP/1.1\r\nhost: a\r\nexpect: y 100-continue\r\ncontent-length: 38\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n"),
    bounded("dropped-headers", "`Connection` that names headers which proxies set",
        "GET /a HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for, x-request-id, host\r\n\r\n"),
    // Too much.
    refused("long-path", "a path of 100,000 bytes",
        "GET /{{a*100000}} HTTP/1.1\r\nhost: a\r\n\r\n"),
    refused("long-header", "a header of 100,000 bytes",
        "GET /a HTTP/1.1\r\nhost: a\r\nx: {{a*100000}}\r\n\r\n"),
    refused("long-name", "a header's name of 100,000 bytes",
        "GET /a HTTP/1.1\r\nhost: a\r\n{{a*100000}}: 1\r\n\r\n"),
    refused("many-headers", "2,000 headers",
        "GET /a HTTP/1.1\r\nhost: a\r\n{{x:1\r\n*2000}}\r\n"),
    refused("endless-head", "a head of a megabyte without an end",
        "GET /a HTTP/1.1\r\nhost: a\r\n{{x: 1234567890123456789012345678901234567890123456789012345678901\r\n*16384}}"),
    refused("empty-lines", "100,000 empty lines before the request",
        "{{\r\n*100000}}GET /a HTTP/1.1\r\nhost: a\r\n\r\n"),
];
