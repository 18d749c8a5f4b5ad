//! What is among the headers of a request.

use http::{
    HeaderMap,
    header::{CONTENT_TYPE, EXPECT},
};

use nodegate_route::edge::{self, is_hop_by_hop};

/// What is among the headers of a request. One look at all names is cheaper than looking for each of
/// these.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else about the request"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Headers that belong to one connection only
    pub(crate) hop_by_hop: bool,
    /// `content-type`
    pub(crate) content: bool,
    /// `expect`
    pub(crate) expect: bool,
    /// Headers that proxies of a mesh send each other, and that clients must not send
    pub(crate) control: bool,
    /// Headers that a gateway sets itself
    pub(crate) own: bool,
}

impl Survey {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            match name.as_str().strip_prefix("x-") {
                None if *name == CONTENT_TYPE => survey.content = true,
                None if *name == EXPECT => survey.expect = true,
                None => survey.hop_by_hop |= is_hop_by_hop(name),
                Some(_) if edge::is_control(name) => survey.control = true,
                Some(_) => survey.own |= edge::is_own(name),
            }
        }
        survey
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::HOST};

    use super::*;

    #[test]
    fn one_look_sees_all_kinds() {
        let survey = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("a"));
            headers.insert(name, HeaderValue::from_static("1"));
            let Survey {
                hop_by_hop,
                control,
                own,
                ..
            } = Survey::of(&headers);
            [hop_by_hop, control, own]
        };
        assert_eq!(survey("te"), [true, false, false]);
        assert_eq!(survey("proxy-connection"), [true, false, false]);
        assert_eq!(survey("x-envoy-retry-on"), [false, true, false]);
        assert_eq!(survey("x-forwarded-for"), [false, false, true]);
        assert_eq!(survey("x-request-id"), [false, false, true]);
        assert_eq!(survey("x-mine"), [false, false, false]);
        assert_eq!(survey("accept"), [false, false, false]);
        let headers = [(EXPECT, "100-continue"), (CONTENT_TYPE, "text/plain")];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let survey = Survey::of(&HeaderMap::from_iter(headers));
        assert!(survey.expect && survey.content && !survey.hop_by_hop);
    }
}
