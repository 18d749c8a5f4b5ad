//! Whether one condition holds wherever another does, so that what comes behind it is never reached.
//!
//! A no may be wrong, where only a look at every request could tell; a yes is not.

use super::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};

impl RouteMatch {
    /// Whether it holds for every request for which `other` holds.
    pub fn covers(&self, other: &Self) -> bool {
        // A request has a method, a scheme and an authority.
        let always = |wanted: &Option<ValueMatch>, other: &Option<ValueMatch>| match wanted {
            None | Some(ValueMatch::Present) => true,
            Some(wanted) => other.as_ref().is_some_and(|other| wanted.covers(other)),
        };
        self.covers_path(other)
            && always(&self.method, &other.method)
            && always(&self.scheme, &other.scheme)
            && always(&self.authority, &other.authority)
            && self
                .headers
                .iter()
                .all(|wanted| other.headers.iter().any(|other| wanted.covers(other)))
            && self
                .query
                .iter()
                .all(|wanted| other.query.iter().any(|other| wanted.covers(other)))
    }

    fn covers_path(&self, other: &Self) -> bool {
        // What is asked in any case covers one case; the other way round it does not.
        let same_case = self.ignore_case || !other.ignore_case;
        let begins = |text: &str, prefix: &str| {
            let text = text.as_bytes().get(..prefix.len());
            text.is_some_and(|text| self.is_same(text, prefix.as_bytes()))
        };
        match (&self.path, &other.path) {
            (PathMatch::Prefix(all), _) if all == "/" => true,
            (PathMatch::Prefix(wanted), PathMatch::Prefix(other) | PathMatch::Exact(other)) => {
                same_case && begins(other, wanted)
            }
            (PathMatch::Exact(wanted), PathMatch::Exact(other)) => {
                same_case && self.is_same(wanted.as_bytes(), other.as_bytes())
            }
            (PathMatch::Regex(wanted), PathMatch::Regex(other)) => {
                wanted == other || wanted.as_str() == ".*"
            }
            (PathMatch::Regex(wanted), PathMatch::Exact(path)) => {
                !other.ignore_case && wanted.is_match(path)
            }
            (PathMatch::Regex(wanted), PathMatch::Prefix(_)) => wanted.as_str() == ".*",
            (PathMatch::Prefix(_), PathMatch::Regex(_)) | (PathMatch::Exact(_), _) => false,
        }
    }

    fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        if self.ignore_case {
            one.eq_ignore_ascii_case(other)
        } else {
            one == other
        }
    }
}

impl ValueMatch {
    /// Whether it holds for every value for which `other` holds.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => true,
            (Self::Exact(wanted), Self::Exact(other)) => wanted == other,
            (Self::Prefix(wanted), Self::Exact(other) | Self::Prefix(other)) => {
                other.starts_with(wanted.as_str())
            }
            (Self::Regex(wanted), Self::Exact(other)) => wanted.is_match(other),
            (Self::Regex(wanted), Self::Regex(other)) => wanted == other,
            _ => false,
        }
    }
}

impl HeaderMatch {
    fn covers(&self, other: &Self) -> bool {
        if self.name != other.name || self.invert != other.invert {
            return false;
        }
        if !self.invert {
            return self.value.covers(&other.value);
        }
        // The less it forbids, the more it lets pass. A header that is missing is an empty one here, except
        // where its presence is asked.
        let is_presence = |value: &ValueMatch| *value == ValueMatch::Present;
        self.value == other.value
            || !is_presence(&self.value)
                && !is_presence(&other.value)
                && other.value.covers(&self.value)
    }
}

impl QueryMatch {
    fn covers(&self, other: &Self) -> bool {
        self.name == other.name && self.value.covers(&other.value)
    }
}
