//! `Expect: 100-continue`: a client that asks before it sends its body hears the endpoint's answer,
//! not ours (RFC 9110, section 10.1.1).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, StatusCode, header::EXPECT};
use tokio::{task, time};

use super::body::{Gate, RequestBody};

/// How long an endpoint is given to ask for a body that is held back. It may not know of the
/// expectation, and wait for the body itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a client waits to be asked for its body.
pub(crate) fn asks_first(headers: &HeaderMap) -> bool {
    let expect = headers.get(EXPECT).map(HeaderValue::as_bytes);
    expect.is_some_and(|expect| expect.eq_ignore_ascii_case(b"100-continue"))
}

/// Holds a body back if the client waits to be asked for it.
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
            gate.open();
        }
    });
    Some(gate)
}

/// Lets the endpoint's interim answer open the gate.
pub(crate) fn watch(request: &mut Request<RequestBody>, gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.open();
        }
    });
}
