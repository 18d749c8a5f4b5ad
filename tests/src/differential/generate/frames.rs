//! Requests in HTTP/2, and calls of gRPC.

use super::Make;
use crate::differential::{
    behaviour::BEHAVE,
    odd::ODD,
    request::{HTTP_2, Request},
};

/// What endpoints are asked to do with streams; in HTTP/1.1 they do what comes near to it.
pub(super) const BEHAVIOURS: [&str; 28] = [
    "stream:0",
    "stream:1,1",
    "stream:2",
    "stream:7,1",
    "stream:7",
    "stream:8,1",
    "stream:11,1",
    "stream:13,1",
    "headed:0",
    "headed:2",
    "headed:7",
    "half:0",
    "half:2",
    "half:8",
    "trailers",
    "interim:100",
    "interim:103",
    "away",
    "away-before,1",
    "error,1",
    "body-204",
    "odd:upper",
    "odd:statusless",
    "odd:switching,1",
    "odd:unreadable",
    "odd:nul",
    "odd:space",
    "odd:path",
];

/// What servers of gRPC do.
const ANSWERS: [&str; 12] = [
    "grpc:0",
    "grpc:0",
    "grpc:5",
    "grpc:14,1",
    "grpc-only:0",
    "grpc-only:1,1",
    "grpc-only:14,1",
    "grpc-only:13,2",
    "grpc-only:8,1",
    "grpc-only:4",
    "grpc-only:12",
    "trailers",
];

/// How long clients of gRPC wait.
const TIMEOUTS: [&str; 8] = [
    "1H",
    "60S",
    "5000m",
    "30000000u",
    "1",
    "x",
    "1m1",
    "999999999S",
];

impl Make {
    /// Makes a request one in HTTP/2.
    pub(super) fn frame(&mut self, request: &mut Request, is_impatient: bool) {
        request.version = HTTP_2;
        // Those that no request in HTTP/2 may have are odd.
        request.headers.retain(|(name, _)| {
            let name = name.to_ascii_lowercase();
            !matches!(name.as_str(), "connection" | "upgrade")
        });
        if self.chance(30) {
            self.call(request, is_impatient);
        }
        if request.is_chunked && request.body.is_some() && self.chance(30) {
            request.trailers.push(("x-trailer".into(), "1".into()));
        }
        if self.chance(18) {
            request.odd = Some(self.one(ODD));
        }
    }

    /// Makes a request a call of gRPC.
    fn call(&mut self, request: &mut Request, is_impatient: bool) {
        if self.chance(90) {
            request.method = "POST".into();
        }
        let headers = &mut request.headers;
        headers.retain(|(name, _)| name != BEHAVE || is_impatient);
        let content = self.one(&[
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web",
        ]);
        let headers = &mut request.headers;
        headers.push(("content-type".into(), content.into()));
        if self.chance(85) {
            request.headers.push(("te".into(), "trailers".into()));
        }
        if self.chance(30) {
            let timeout = self.one(&TIMEOUTS);
            request
                .headers
                .push(("grpc-timeout".into(), timeout.into()));
        }
        if !is_impatient && self.chance(75) {
            let answer = if self.chance(70) {
                self.one(&ANSWERS)
            } else {
                self.one(&BEHAVIOURS)
            };
            request.headers.push((BEHAVE.into(), answer.into()));
        }
        // A message of four bytes, not compressed.
        request.body = Some("\0\0\0\0\u{4}body".into());
        request.is_chunked = self.chance(90);
    }
}
