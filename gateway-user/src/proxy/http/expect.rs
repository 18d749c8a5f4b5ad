//! `Expect: 100-continue`: a client that asks before it sends its body hears the endpoint's answer,
//! not ours (RFC 9110, section 10.1.1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::EXPECT};
use tokio::{task, time};

use super::body::{BodyError, RequestBody};

/// How long an endpoint is given to ask for a body that waits for that. It may know nothing of this
/// and wait for the body itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds a body back until the endpoint wants it. The client is told to go on when the body is asked
/// for.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    const OPEN: u8 = 1;
    const CLOSED: u8 = 2;

    /// The endpoint has answered; if it hasn't asked for the body, it doesn't get it.
    pub(crate) fn close(&self) {
        self.settle(Self::CLOSED);
    }

    /// Waits until it is clear whether the body is wanted.
    pub(crate) fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(), BodyError>> {
        self.waker.register(cx.waker());
        match self.state.load(Ordering::Acquire) {
            Self::OPEN => Poll::Ready(Ok(())),
            Self::CLOSED => Poll::Ready(Err(BodyError::Unwanted)),
            _ => Poll::Pending,
        }
    }

    fn settle(&self, state: u8) {
        // The first to say so is right.
        let _ = self
            .state
            .compare_exchange(0, state, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}

/// Whether a client waits to be asked for its body.
pub(crate) fn asks_first(headers: &HeaderMap) -> bool {
    let expect = headers.get(EXPECT).map(HeaderValue::as_bytes);
    expect.is_some_and(|expect| expect.eq_ignore_ascii_case(b"100-continue"))
}

/// Holds a body back if its head asks for that.
// Istio: ENABLE_100_CONTINUE_HEADERS, which sets Envoy's `proxy_100_continue`.
pub(crate) fn hold(headers: &HeaderMap, body: &mut RequestBody) -> Option<Arc<Gate>> {
    if !asks_first(headers) {
        return None;
    }
    let gate = body.hold()?;
    let patience = Arc::downgrade(&gate);
    task::spawn_local(async move {
        time::sleep(PATIENCE).await;
        if let Some(gate) = patience.upgrade() {
            gate.settle(Gate::OPEN);
        }
    });
    Some(gate)
}

/// Lets the endpoint's interim answer open the gate.
pub(crate) fn watch(request: &mut Request<RequestBody>, gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.settle(Gate::OPEN);
        }
    });
}
