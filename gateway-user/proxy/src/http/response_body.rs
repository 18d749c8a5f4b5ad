//! The body of an answer, from the endpoint or from here, to the client.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::{
    body::{BodyError, RequestBody},
    exchange::Exchange,
    tunnel::Tunnel,
};
use crate::pool::UpstreamBody;

/// The body of an answer to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: ResponseSource,
    /// None if it isn't over with this body.
    exchange: Option<Box<Exchange>>,
    /// Whether there are trailers in both protocols.
    trailers: bool,
    /// Why no more will come.
    broken: Option<BodyError>,
}

/// Where a body comes from.
#[derive(Debug)]
enum ResponseSource {
    Endpoint(UpstreamBody<RequestBody>),
    Fixed(Bytes),
    /// No body: the connection becomes something else after the head.
    Tunnel(Box<Tunnel>),
}

impl ResponseBody {
    /// The body of an endpoint's answer in that version.
    pub(crate) fn upstream(
        mut body: UpstreamBody<RequestBody>,
        version: Version,
        mut exchange: Box<Exchange>,
    ) -> Self {
        if body.is_end_stream() {
            exchange.complete(Some(&mut body));
        } else if exchange.head_only || is_all(&body) {
            exchange.announced();
        }
        Self {
            source: ResponseSource::Endpoint(body),
            // Envoy: HTTP/1.1 has none on either side unless `enable_trailers` is set.
            trailers: exchange.is_http2() && version == Version::HTTP_2,
            exchange: Some(exchange),
            broken: None,
        }
    }

    /// A body that is known whole.
    pub(crate) fn fixed(body: Bytes, mut exchange: Box<Exchange>) -> Self {
        // hyper doesn't ask for the body of an answer to HEAD.
        if body.is_empty() || exchange.head_only {
            exchange.complete(None);
        }
        Self {
            source: ResponseSource::Fixed(body),
            trailers: false,
            exchange: Some(exchange),
            broken: None,
        }
    }

    /// No body, with nothing that ends with it.
    pub(crate) const fn none() -> Self {
        Self::without_exchange(ResponseSource::Fixed(Bytes::new()))
    }

    /// No body: the connection becomes something else after the head.
    pub(crate) fn tunnel(tunnel: Tunnel) -> Self {
        Self::without_exchange(ResponseSource::Tunnel(Box::new(tunnel)))
    }

    /// What the connection becomes after the head, if it does.
    pub(crate) fn take_tunnel(&mut self) -> Option<Tunnel> {
        if !matches!(self.source, ResponseSource::Tunnel(_)) {
            return None;
        }
        match mem::replace(&mut self.source, ResponseSource::Fixed(Bytes::new())) {
            ResponseSource::Tunnel(tunnel) => Some(*tunnel),
            ResponseSource::Endpoint(_) | ResponseSource::Fixed(_) => None,
        }
    }

    const fn without_exchange(source: ResponseSource) -> Self {
        Self {
            source,
            trailers: false,
            exchange: None,
            broken: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(exchange) = &mut this.exchange else {
            return Poll::Ready(None);
        };
        let (frame, end) = match &mut this.source {
            ResponseSource::Endpoint(body) => match body.poll_frame(cx) {
                Poll::Ready(frame) => (
                    frame.map(|frame| frame.map_err(BodyError::from)),
                    body.is_end_stream(),
                ),
                Poll::Pending => {
                    ready!(exchange.poll_deadline(cx));
                    body.close();
                    exchange.timed_out();
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
            },
            ResponseSource::Tunnel(_) => (None, true),
            ResponseSource::Fixed(body) if body.is_empty() => (None, true),
            ResponseSource::Fixed(body) => (Some(Ok(Frame::data(mem::take(body)))), true),
        };
        match frame {
            // hyper ends the client's stream or connection at once when it hears of an error. What has
            // come before goes out first.
            Some(Err(error)) => {
                this.source.close();
                exchange.upstream_failed(&error);
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // There is no frame after trailers.
            Some(Ok(ref frame)) if frame.is_trailers() => {
                exchange.complete(this.source.endpoint());
                if !this.trailers {
                    return Poll::Ready(None);
                }
            }
            Some(Ok(ref frame)) => {
                exchange.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                // With a known length the frame after the last isn't asked for.
                if end {
                    exchange.complete(this.source.endpoint());
                } else if this.source.endpoint().is_some_and(|body| is_all(body)) {
                    exchange.announced();
                }
            }
            None => exchange.complete(this.source.endpoint()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            ResponseSource::Endpoint(body) => body.is_end_stream(),
            ResponseSource::Fixed(body) => body.is_empty(),
            ResponseSource::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ResponseSource::Endpoint(body) => body.size_hint(),
            ResponseSource::Fixed(body) => SizeHint::with_exact(body.len() as u64),
            ResponseSource::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

/// Whether all that was announced of a body has come, whenever its end does.
fn is_all(body: &UpstreamBody<RequestBody>) -> bool {
    body.size_hint().exact() == Some(0)
}

impl ResponseSource {
    fn endpoint(&mut self) -> Option<&mut UpstreamBody<RequestBody>> {
        match self {
            Self::Endpoint(body) => Some(body),
            Self::Fixed(_) | Self::Tunnel(_) => None,
        }
    }

    /// No more is wanted.
    fn close(&mut self) {
        if let Some(body) = self.endpoint() {
            body.close();
        }
    }
}
