//! A request of a case, to be made more than once.

use super::{names::PLACEHOLDER, odd::Odd};

/// Names a request to endpoints, through whatever is done to its other headers.
pub(super) const ID: &str = "x-differential";

/// The version in which requests are frames.
pub(super) const HTTP_2: &str = "HTTP/2";

/// A request, in the parts that can be left out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `HTTP/1.1`
    pub version: &'static str,
    /// With the [placeholder](PLACEHOLDER) in it.
    pub host: String,
    /// Where it is asked, if that is not the port of HTTP.
    pub port: Option<u16>,
    /// Further ones, in order.
    pub headers: Vec<(String, String)>,
    /// If there is one.
    pub body: Option<String>,
    /// Whether its length is not announced; in HTTP/1.1 it is a chunk then.
    pub is_chunked: bool,
    /// After the body, where that has no announced length.
    pub trailers: Vec<(String, String)>,
    /// What is odd about it in HTTP/2.
    pub odd: Option<Odd>,
    /// What is said in HTTP/1.1 in the place of all that, but for the request's own name.
    pub raw: Option<Vec<u8>>,
    /// Whether the client asks once more over the same connection, to see if that is still there.
    pub again: bool,
}

impl Request {
    /// Whether it is made of frames.
    pub(super) fn is_http2(&self) -> bool {
        self.version == HTTP_2
    }

    /// Whether it is a call of gRPC.
    pub(super) fn is_grpc(&self) -> bool {
        let is_content = |name: &str| name.eq_ignore_ascii_case("content-type");
        let mut headers = self.headers.iter();
        headers.any(|(name, value)| is_content(name) && value.starts_with("application/grpc"))
    }

    /// The bytes in HTTP/1.1, for a case under a name, with the request's own.
    pub(super) fn bytes(&self, name: &str, id: &str) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            let first = raw.windows(2).position(|end| end == b"\r\n");
            let (first, rest) = raw.split_at(first.map_or(raw.len(), |end| end + 2));
            return [first, format!("{ID}: {id}\r\n").as_bytes(), rest].concat();
        }
        let body = match &self.body {
            Some(body) if self.is_chunked => {
                let trailers = self.trailers.iter();
                let lines = trailers.map(|(name, value)| format!("{name}: {value}\r\n"));
                let trailers = lines.collect::<Vec<_>>().concat();
                format!("{:x}\r\n{body}\r\n0\r\n{trailers}\r\n", body.len())
            }
            Some(body) => body.clone(),
            None => String::new(),
        };
        format!("{}{ID}: {id}\r\n\r\n{body}", self.head(name)).into_bytes()
    }

    /// The lines of its head, for a case under a name.
    pub(super) fn head(&self, name: &str) -> String {
        let mut lines = vec![
            format!("{} {} {}", self.method, self.target, self.version),
            format!("Host: {}", self.host),
        ];
        let headers = self.headers.iter();
        lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        lines.extend(self.body.iter().filter_map(|body| {
            if !self.is_chunked {
                return Some(format!("content-length: {}", body.len()));
            }
            (!self.is_http2()).then(|| "transfer-encoding: chunked".to_owned())
        }));
        lines.push(String::new());
        lines.join("\r\n").replace(PLACEHOLDER, name)
    }

    /// Each request that has one thing less.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        if self.is_http2() {
            all.push(Self {
                version: "HTTP/1.1",
                odd: None,
                ..self.clone()
            });
        }
        if self.odd.is_some() {
            all.push(Self {
                odd: None,
                ..self.clone()
            });
        }
        if self.again {
            all.push(Self {
                again: false,
                ..self.clone()
            });
        }
        if !self.trailers.is_empty() {
            all.push(Self {
                trailers: Vec::new(),
                ..self.clone()
            });
        }
        if self.body.is_some() {
            all.push(Self {
                body: None,
                is_chunked: false,
                trailers: Vec::new(),
                ..self.clone()
            });
        }
        for index in 0..self.headers.len() {
            let mut less = self.clone();
            less.headers.remove(index);
            all.push(less);
        }
        if self.method != "GET" {
            all.push(Self {
                method: "GET".into(),
                ..self.clone()
            });
        }
        if let Some((path, query)) = self.target.split_once('?') {
            let parameters: Vec<_> = query.split('&').collect();
            for index in 0..parameters.len() {
                let mut less = parameters.clone();
                less.remove(index);
                let mark = if less.is_empty() { "" } else { "?" };
                all.push(Self {
                    target: format!("{path}{mark}{}", less.join("&")),
                    ..self.clone()
                });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            method: "PUT".into(),
            target: "/a?p=1&q=2".into(),
            version: "HTTP/1.1",
            host: "CASE.differential.test:80".into(),
            headers: vec![("x-a".into(), "1".into())],
            body: Some("body".into()),
            ..Request::default()
        }
    }

    #[test]
    fn chunks_are_framed() {
        let request = Request {
            is_chunked: true,
            trailers: vec![("x-t".into(), "1".into())],
            ..request()
        };
        let bytes = String::from_utf8(request.bytes("h3", "h3-7")).unwrap();
        assert!(
            bytes.contains("\r\ntransfer-encoding: chunked\r\n"),
            "{bytes}"
        );
        assert!(
            bytes.ends_with("\r\n\r\n4\r\nbody\r\n0\r\nx-t: 1\r\n\r\n"),
            "{bytes}"
        );
    }

    #[test]
    fn bytes_are_of_the_case_and_say_which_request_it_is() {
        let bytes = request().bytes("h3", "h3-7");
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "PUT /a?p=1&q=2 HTTP/1.1\r\nHost: h3.differential.test:80\r\nx-a: 1\r\ncontent-length: 4\r\n\
             x-differential: h3-7\r\n\r\nbody"
        );
    }

    #[test]
    fn everything_but_the_path_and_the_host_can_go() {
        let mut smallest = Request {
            version: HTTP_2,
            trailers: vec![("x-t".into(), "1".into())],
            odd: Some(Odd::Padded),
            again: true,
            ..request()
        };
        while let Some(smaller) = smallest.smaller().into_iter().next() {
            smallest = smaller;
        }
        let left = Request {
            method: "GET".into(),
            target: "/a".into(),
            headers: Vec::new(),
            body: None,
            ..request()
        };
        assert_eq!(smallest, left);
    }
}
