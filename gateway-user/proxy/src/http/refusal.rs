//! Answers to what is not a request. hyper refuses it in its own words, before anything here sees it;
//! Envoy's words go out instead.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use nodegate_observe::{Record, RequestRecord, ResponseFlag, ResponseFlags, RouteDecision, Tap};

use crate::{accept::Peers, connections::Rejection, http1::HeadFault};

/// hyper's answer to a head that it can't read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal<'a> {
    status: u16,
    date: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    /// Reads one. None if this is something else: it must be exactly what hyper sends, nothing
    /// before and nothing after it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 4")?.get(..2)?;
        let mut refusal = Self {
            status: 400 + status.parse::<u16>().ok()?,
            date: None,
        };
        for line in lines {
            match line.split_once(": ")? {
                ("connection", "close") | ("content-length", "0") => {}
                ("date", date) => refusal.date = Some(date),
                _ => return None,
            }
        }
        Some(refusal)
    }

    /// The answer that goes out. A rejection says more than hyper's refusal.
    // Envoy: Http1::ServerConnectionImpl::sendProtocolError, Http1ResponseCodeDetails;
    // ConnectionManagerImpl::ActiveStream::onRequestHeaderTimeout.
    pub(crate) fn answer(
        &self,
        rejection: Option<Rejection>,
        record: impl FnOnce(RefusalRecord),
    ) -> Bytes {
        let status = match rejection {
            Some(Rejection::SlowHead) => StatusCode::REQUEST_TIMEOUT,
            Some(Rejection::Fault(_)) | None => {
                StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST)
            }
        };
        let reason = status.canonical_reason().unwrap_or_default();
        let (body, details) = match (rejection, status) {
            (Some(Rejection::SlowHead), _) => ("request header timeout", "request_header_timeout"),
            (Some(Rejection::Fault(HeadFault::TwoFramings)), _) => {
                (reason, "http1.content_length_and_chunked_not_allowed")
            }
            (Some(Rejection::Fault(HeadFault::Tls)), _) => {
                (reason, "http1.codec_error.tls_on_a_plain_port")
            }
            (None, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                (reason, "http1.headers_too_large")
            }
            (None, _) => (reason, "http1.codec_error"),
        };
        let flag = ResponseFlag::DownstreamProtocolError;
        record(RefusalRecord {
            status: status.as_u16(),
            flags: flag.into(),
            details,
            bytes: body.len() as u64,
        });
        let date = self
            .date
            .map_or_else(String::new, |date| format!("date: {date}\r\n"));
        let kind = if body.is_empty() {
            ""
        } else {
            "content-type: text/plain\r\n"
        };
        Bytes::from(format!(
            "HTTP/1.1 {} {reason}\r\n{kind}server: istio-envoy\r\n\
             connection: close\r\ncontent-length: {}\r\n{date}\r\n{body}",
            status.as_str(),
            body.len(),
        ))
    }
}

/// What is recorded of a refusal.
#[derive(Debug)]
pub(crate) struct RefusalRecord {
    status: u16,
    flags: ResponseFlags,
    details: &'static str,
    bytes: u64,
}

impl RefusalRecord {
    /// Sends the record, if anything listens to records.
    pub(crate) fn send(self, tap: &Tap, peers: Peers, listener: u16) {
        if !tap.is_active() {
            return;
        }
        tap.send(Record::Request(Box::new(RequestRecord {
            time: Timestamp::now(),
            client: peers.client,
            local: peers.local,
            listener,
            server_name: None,
            protocol: "HTTP/1.1",
            method: String::new(),
            authority: String::new(),
            path: String::new(),
            rewritten_authority: None,
            rewritten_path: None,
            request_id: String::new(),
            forwarded_for: None,
            user_agent: None,
            decision: RouteDecision::default(),
            attempts: 0,
            upstream_local: None,
            upstream_service_time: None,
            transport_failure: None,
            status: self.status,
            flags: self.flags,
            details: Cow::Borrowed(self.details),
            duration: Duration::ZERO,
            connection: None,
            request_duration: None,
            response_duration: None,
            bytes_received: 0,
            bytes_sent: self.bytes,
        })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_refusals_are_taken_for_ones() {
        let refusal = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                       content-length: 0\r\ndate: today\r\n\r\n";
        let parsed = Refusal::parse(refusal.as_bytes()).unwrap();
        assert_eq!((parsed.status, parsed.date), (431, Some("today")));
        for other in [
            "HTTP/1.1 404 Not Found\r\nserver: istio-envoy\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            &format!("{refusal}x"),
            &refusal[..40],
        ] {
            assert_eq!(Refusal::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn slow_heads_time_out() {
        let refusal = Refusal {
            status: 400,
            date: None,
        };
        let answer = refusal.answer(Some(Rejection::SlowHead), |record| {
            assert_eq!(record.status, 408);
        });
        assert!(answer.starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
        assert!(answer.ends_with(b"content-length: 22\r\n\r\nrequest header timeout"));
    }
}
