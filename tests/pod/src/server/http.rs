//! The HTTP/1.1 server: says what it has received, and misbehaves on request.
//!
//! Every answer carries `x-testbed-pod` and `x-testbed-path` (path and query as they came). The
//! query chooses what else happens:
//!
//! | | |
//! |---|---|
//! | `wait=2s`, `wait=150ms` | the answer comes after this time |
//! | `status=503` | with this status |
//! | `bytes=1000000` | with a body of this many bytes |
//! | `json` (or `Accept: application/json`) | with the JSON, whatever the image |

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{
    Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, rt::TokioTimer, server::graceful::GracefulShutdown};
use serde_json::json;

use super::Listener;
use nodegate_testbed::pod::{Container, PodSpec, ServerKind};

/// What nginx serves before anybody has configured it.
const WELCOME: &str = "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n\
                       <body>\n<h1>Welcome to nginx!</h1>\n</body>\n</html>\n";

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
}

/// Accepts connections of a container's port.
pub(super) async fn serve(
    mut listener: Listener,
    pod: Rc<PodSpec>,
    container: usize,
    graceful: Rc<GracefulShutdown>,
) {
    while let Some((stream, peer)) = listener.accept().await {
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        // Short answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let pod = pod.clone();
        let service = service_fn(move |request| {
            let pod = pod.clone();
            async move {
                let connection = Connection { local, peer };
                Ok::<_, Infallible>(
                    answer(&pod, &pod.containers[container], connection, request).await,
                )
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::task::spawn_local(async move {
            // A peer that breaks off is its own affair.
            let _ = connection.await;
        });
    }
}

/// An address as the peer writes it: a socket of both families has IPv4 ones as `::ffff:10.10.1.2`.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the query asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    wait: Duration,
    status: Option<StatusCode>,
    bytes: Option<u64>,
    json: bool,
}

impl Wishes {
    fn parse(query: &str) -> Self {
        let mut wishes = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "wait" => wishes.wait = duration(value).unwrap_or_default(),
                "status" => wishes.status = value.parse().ok(),
                "bytes" => wishes.bytes = value.parse().ok(),
                "json" => wishes.json = true,
                _ => {}
            }
        }
        wishes
    }
}

/// `2s`, `1.5s`, `150ms`, `2`; at most an hour.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    (0.0..=3600.0)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

async fn answer<B: Body>(
    pod: &PodSpec,
    container: &Container,
    connection: Connection,
    request: Request<B>,
) -> Response<Either<Full<Bytes>, Filler>> {
    let (head, body) = request.into_parts();
    // A body that breaks off counts as far as it came.
    let mut length = 0;
    let mut body = std::pin::pin!(body);
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            length += bytes::Buf::remaining(&data);
        }
    }

    let path = head.uri.path();
    let query = head.uri.query().unwrap_or_default();
    let wishes = Wishes::parse(query);
    tokio::time::sleep(wishes.wait).await;
    let accepts_json = head
        .headers
        .get(ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"application/json"));

    let (status, kind, text) = match container.kind() {
        ServerKind::Nginx if !wishes.json && !accepts_json => {
            (StatusCode::OK, "text/html", WELCOME.to_string())
        }
        ServerKind::HttpServer if !wishes.json && !accepts_json => match path {
            "/hello" => (
                StatusCode::OK,
                "text/plain",
                format!("hello from {}\n", pod.pod),
            ),
            _ => (
                StatusCode::NOT_FOUND,
                "text/plain",
                format!("{path} is not here\n"),
            ),
        },
        _ => {
            let mut headers: BTreeMap<&str, String> = BTreeMap::new();
            for (name, value) in &head.headers {
                let value = String::from_utf8_lossy(value.as_bytes());
                headers
                    .entry(name.as_str())
                    .and_modify(|all| {
                        all.push_str(", ");
                        all.push_str(&value);
                    })
                    .or_insert_with(|| value.into_owned());
            }
            let said = json!({
                "pod": pod.pod,
                "namespace": pod.namespace,
                "address": pod.address,
                "addresses": pod.addresses,
                "node": pod.node,
                "labels": pod.labels,
                "env": container.env,
                "port": connection.local.port(),
                "peer": plain(connection.peer).to_string(),
                "method": head.method.as_str(),
                "path": path,
                "query": query,
                "headers": headers,
                "bodyLength": length,
            });
            (StatusCode::OK, "application/json", format!("{said}\n"))
        }
    };

    let body = match wishes.bytes {
        Some(left) => Either::Right(Filler { left }),
        None => Either::Left(Full::new(text.into())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = wishes.status.unwrap_or(status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let as_came = head.uri.path_and_query().map_or("", |path| path.as_str());
    for (name, value) in [
        ("x-testbed-pod", pod.pod.as_str()),
        ("x-testbed-path", as_came),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// A body of a known length, made while it is sent.
#[derive(Debug)]
struct Filler {
    left: u64,
}

impl Body for Filler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 16384] = [b'x'; 16384];
        let length = self.left.min(CHUNK.len() as u64);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length;
        let chunk = &CHUNK[..length as usize];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(image: &str) -> PodSpec {
        PodSpec {
            pod: "web-1".into(),
            namespace: "default".into(),
            address: [10, 10, 1, 2].into(),
            addresses: vec![[10, 10, 1, 2].into()],
            node: "node1".into(),
            labels: BTreeMap::from([("version".into(), "v1".into())]),
            containers: vec![Container {
                image: image.into(),
                env: BTreeMap::from([("SERVICE_VERSION".into(), "1".into())]),
                ..Container::default()
            }],
        }
    }

    async fn ask(image: &str, request: Request<Full<Bytes>>) -> (Response<()>, Bytes) {
        let pod = pod(image);
        let connection = Connection {
            local: ([10, 10, 1, 2], 80).into(),
            peer: ([10, 10, 1, 3], 4711).into(),
        };
        let (head, body) = answer(&pod, &pod.containers[0], connection, request)
            .await
            .into_parts();
        (
            Response::from_parts(head, ()),
            body.collect().await.unwrap().to_bytes(),
        )
    }

    fn get(uri: &str) -> Request<Full<Bytes>> {
        Request::get(uri).body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn the_json_says_what_came() {
        let request = Request::post("/a//b?x=1")
            .header("x-two", "1")
            .header("x-two", "2")
            .body(Full::from("12345"))
            .unwrap();
        let (head, body) = ask("whoami:v1", request).await;
        let said: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (said["method"].as_str(), said["path"].as_str()),
            (Some("POST"), Some("/a//b"))
        );
        assert_eq!(
            (said["query"].as_str(), said["bodyLength"].as_u64()),
            (Some("x=1"), Some(5))
        );
        assert_eq!(said["headers"]["x-two"], "1, 2");
        assert_eq!(said["env"]["SERVICE_VERSION"], "1");
        assert_eq!(said["peer"], "10.10.1.3:4711");
        assert_eq!(head.headers()["x-testbed-path"], "/a//b?x=1");
        assert_eq!(head.headers()["x-testbed-pod"], "web-1");
    }

    #[tokio::test]
    async fn images_have_their_own_answers_and_json_on_request() {
        let (head, body) = ask("nginx:1.25", get("/any")).await;
        assert_eq!(head.status(), 200);
        assert!(
            std::str::from_utf8(&body)
                .unwrap()
                .contains("<title>Welcome to nginx!</title>")
        );
        assert_eq!(head.headers()["x-testbed-path"], "/any");
        let (_, body) = ask("nginx", get("/any?json")).await;
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap()["path"],
            "/any"
        );
        let (head, body) = ask("x/httpserver", get("/hello?a=1")).await;
        assert_eq!(
            (head.status().as_u16(), &body[..]),
            (200, &b"hello from web-1\n"[..])
        );
        assert_eq!(ask("x/httpserver", get("/hello/")).await.0.status(), 404);
    }

    #[tokio::test]
    async fn queries_choose_status_size_and_time() {
        assert_eq!(ask("x", get("/?status=503")).await.0.status(), 503);
        let (_, body) = ask("x", get("/?bytes=40000")).await;
        assert_eq!(body.len(), 40000);
        let started = std::time::Instant::now();
        ask("x", get("/?wait=60ms")).await;
        assert!(started.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn peers_are_written_as_they_write_themselves() {
        for (peer, said) in [
            ("[::ffff:10.10.1.3]:4711", "10.10.1.3:4711"),
            ("10.10.1.3:4711", "10.10.1.3:4711"),
            ("[fd00:10:0:1::3]:4711", "[fd00:10:0:1::3]:4711"),
        ] {
            assert_eq!(plain(peer.parse().unwrap()).to_string(), said);
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(duration("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("150ms"), Some(Duration::from_millis(150)));
        for bad in ["", "x", "-1s", "1e9s", "nan"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
