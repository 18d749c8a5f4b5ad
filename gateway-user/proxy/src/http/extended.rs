//! Streams of HTTP/2 that become WebSockets (RFC 8441).
//!
//! To everything else such a request is a GET that asks to be upgraded, as it is in HTTP/1.1 and for the
//! endpoint (Envoy: Utility::transformUpgradeRequestFromH2toH1 and transformUpgradeResponseFromH1toH2).

use data_encoding::BASE64;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, task};

use super::response_body::ResponseBody;
use crate::parity::{Difference, Parity};

/// A stream that is to become something else.
#[derive(Debug)]
pub(crate) struct ExtendedConnect {
    becomes: OnUpgrade,
    /// Whether the key was made here: the endpoint's answer to it means nothing to the client then.
    own_key: bool,
}

impl ExtendedConnect {
    /// Makes a request of an extended CONNECT what it would be in HTTP/1.1; none if it is another one.
    pub(crate) fn translate(request: &mut Request<Incoming>, parity: Parity) -> Option<Self> {
        if *request.method() != Method::CONNECT {
            return None;
        }
        let protocol = request.extensions_mut().remove::<Protocol>()?;
        let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
        let becomes = request.extensions_mut().remove::<OnUpgrade>()?;
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let own_key =
            !headers.contains_key(SEC_WEBSOCKET_KEY) && !parity.has(Difference::WebsocketKey);
        if own_key {
            headers.insert(SEC_WEBSOCKET_KEY, key());
        }
        Some(Self { becomes, own_key })
    }

    /// Makes an answer what it is in HTTP/2. After a success the stream goes on.
    pub(crate) fn answer(self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if let Some(tunnel) = response.body_mut().take_tunnel() {
            *response.status_mut() = StatusCode::OK;
            let remove = |name: HeaderName| _ = response.headers_mut().remove(name);
            [CONNECTION, UPGRADE].into_iter().for_each(remove);
            if self.own_key {
                response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            }
            task::spawn_local(async move {
                // When the connection ends, so does what has become of its streams.
                if let Ok(stream) = self.becomes.await {
                    tunnel.run_stream(TokioIo::new(stream)).await;
                }
            });
            return response;
        }
        if response.status().is_success() {
            // The endpoint has declined, but with a success: hyper takes its body for the stream's, and
            // lets it out through the upgraded stream only.
            response.headers_mut().remove(CONTENT_LENGTH);
            let mut body = std::mem::replace(response.body_mut(), ResponseBody::none());
            task::spawn_local(async move {
                let Ok(stream) = self.becomes.await else {
                    return;
                };
                let mut stream = TokioIo::new(stream);
                while let Some(Ok(frame)) = body.frame().await {
                    let data = frame.into_data().unwrap_or_default();
                    if stream.write_all(&data).await.is_err() {
                        return;
                    }
                }
                // A client that has gone doesn't hear of the end.
                let _ = stream.shutdown().await;
            });
        }
        response
    }
}

/// A `sec-websocket-key`, which endpoints demand in HTTP/1.1 and clients don't send in HTTP/2 (RFC 8441,
/// section 5).
fn key() -> HeaderValue {
    let mut bytes = [0; 16];
    fastrand::fill(&mut bytes);
    // BASE64 is made of letters, digits and three signs, so that this doesn't fail.
    HeaderValue::try_from(BASE64.encode(&bytes)).unwrap_or(HeaderValue::from_static(""))
}
