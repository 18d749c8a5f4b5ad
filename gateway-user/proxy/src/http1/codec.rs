//! What hyper is configured with.

use hyper::{client, server};

use super::limits::{MAX_BUFFER, MAX_REQUEST_HEAD};

/// hyper towards a client.
pub fn server_builder() -> server::conn::http1::Builder {
    let mut builder = server::conn::http1::Builder::new();
    builder
        // One flat write of head and small body is cheaper than a gathering one.
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_REQUEST_HEAD)
        // The worker's sweep looks for slow heads and idle connections; a timer for each would cost
        // every request.
        .header_read_timeout(None);
    builder
}

/// hyper towards an endpoint.
pub fn client_builder() -> client::conn::http1::Builder {
    let mut builder = client::conn::http1::Builder::new();
    builder
        // One flat write of head and small body is cheaper than a gathering one.
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        // A gateway may make one line of a header that goes over several (RFC 9112, section 5.2).
        .allow_obsolete_multiline_headers_in_responses(true);
    builder
}
