//! HTTP/2 as it stands on the wire (RFC 9113): what hyper is configured with on both sides.

mod frames;

pub(crate) use frames::Frames;

use hyper::{client, rt::Executor, server};
use tokio::task;

use crate::http1::MAX_REQUEST_HEAD;

/// The bytes that a client's connection begins with (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once over a client's connection: Envoy's `max_concurrent_streams`.
const MAX_STREAMS: u32 = 1024;
/// What the other side may send on a stream, and on all of a connection, before it has been passed on.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Puts hyper's tasks on the worker's own runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}

/// hyper towards a client. `extended_connect` says whether streams may become something else (RFC 8441).
pub(crate) fn server_builder(
    extended_connect: bool,
) -> server::conn::http2::Builder<LocalExecutor> {
    let mut builder = server::conn::http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        // As in HTTP/1, though counted otherwise (section 10.5.1).
        .max_header_list_size(MAX_REQUEST_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if extended_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// hyper towards an endpoint.
pub(crate) fn client_builder() -> client::conn::http2::Builder<LocalExecutor> {
    let mut builder = client::conn::http2::Builder::new(LocalExecutor);
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}
