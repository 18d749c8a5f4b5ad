//! The body of a request as it comes from the client.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING},
};
use http_body::{Frame, SizeHint};

use super::{error::BodyError, gate::Gate, progress::Progress};

/// A body as it comes from the client.
#[derive(Debug)]
pub(super) struct Streamed {
    progress: Rc<Progress>,
    gate: Option<Arc<Gate>>,
}

impl Streamed {
    pub(super) fn new(progress: Rc<Progress>) -> Self {
        Self {
            progress,
            gate: None,
        }
    }

    /// Holds the body back until the gate is opened.
    pub(super) fn hold(&mut self) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.gate = Some(Arc::clone(&gate));
        gate
    }

    /// Whether all of it has come.
    pub(super) fn is_end_stream(&self) -> bool {
        self.progress.source().is_end_stream()
    }

    /// What the client has said of its length.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.progress.source().size_hint()
    }

    /// The next piece of it.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate {
            if let Err(error) = ready!(gate.poll_open(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            self.gate = None;
        }
        let progress = &self.progress;
        let source = progress.source();
        progress.ask();
        let Poll::Ready(frame) = source.poll_frame(cx) else {
            progress.awaited();
            return Poll::Pending;
        };
        let taken = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => 0,
        };
        progress.add(taken);
        // Nothing comes after trailers, and nobody asks for it.
        let is_last = frame.as_ref().is_none_or(|frame| match frame {
            Ok(frame) => frame.is_trailers(),
            Err(_) => true,
        });
        // Nor is there more than was announced, whenever the stream says that it is over.
        let is_all = source.size_hint().exact() == Some(0);
        if is_last || is_all || source.is_end_stream() {
            progress.finish();
        }
        // A stream that is reset with NO_ERROR has no end, which hyper would say of it.
        if frame.is_none() && source.is_stream() && !source.is_end_stream() {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                clean(trailers);
            }
            Ok(frame)
        }))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.progress.source().close();
    }
}

/// Takes from trailers what says where a message ends or leads: it has no meaning there, and endpoints that see it
/// may refuse the request (RFC 9110, section 6.5.1).
fn clean(trailers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING] {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn trailers_frame_nothing() {
        let mut trailers = HeaderMap::new();
        trailers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        clean(&mut trailers);
        let left: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(left, ["grpc-status"]);
    }
}
