//! Where nodegate takes an object that Istio refuses, or refuses one that it takes, and means to: the one place for it.

use serde_json::Value;

/// What is said of an object: why it is refused, or nothing where it is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    pub(super) istio: Option<String>,
    pub(super) webhook: Option<String>,
    /// The errors of `nodegate check`. It sees other objects, too, that this one may lack.
    pub(super) check: Option<String>,
}

/// A verdict that is meant to be another one.
#[derive(Debug)]
pub struct Meant {
    /// As reports call it.
    pub name: &'static str,
    /// Why it is.
    pub reason: &'static str,
    /// Whether a verdict on an object is it.
    is: fn(&Verdict, &Value) -> bool,
}

/// All of them.
pub const VERDICTS: &[Meant] = &[
    Meant {
        name: "refused-by-envoy",
        reason: "what Envoy would refuse of what istiod makes of it, and with it the whole port's configuration: a \
                 redirection with another status than 301, 302, 303, 307 and 308, an answer with 600, groups that a \
                 pattern does not have, names of headers that are none, a redirection with the end of a line in it",
        is: |verdict, _| {
            let words = [
                "is not a redirection",
                "is not a status of an answer",
                "is about a group that the pattern does not have",
                "is not the name of a header",
                ".redirect.authority: has characters that no header can hold",
                ".redirect.uri: has characters that no header can hold",
                ".redirect.prefixRewrite: has characters that no header can hold",
            ];
            refuses(verdict, &words)
        },
    },
    Meant {
        name: "null-conditions",
        reason: "a condition that is null is an error in a file; of an object that comes from an API server it is gone \
                 before a webhook is asked",
        is: |verdict, _| refuses(verdict, &["null says nothing: an API server would drop it"]),
    },
    Meant {
        name: "rewritten-host",
        reason: "a rewrite that gives what is no host: endpoints would get what is no request",
        is: |verdict, _| {
            let reason = verdict.webhook.as_deref().unwrap_or_default();
            refuses(verdict, &["` is not a host"]) && reason.contains(".rewrite.authority: ")
        },
    },
    Meant {
        name: "two-actions",
        reason: "a route that delegates and does something else, too, is ambiguous",
        is: |verdict, _| refuses(verdict, &["a route has either `"]),
    },
    Meant {
        name: "sockets-of-files",
        reason: "endpoints that are sockets of files are not supported, and then none is left",
        is: |verdict, _| refuses(verdict, &["`unix:///x` is not an address"]),
    },
    Meant {
        name: "ipv6-hosts",
        reason: "an IPv6 address is no host here, and then none is left",
        is: |verdict, _| refuses(verdict, &["`::1` is not a host"]),
    },
];

/// Whether nodegate alone refuses an object, for one of these reasons.
fn refuses(verdict: &Verdict, words: &[&str]) -> bool {
    let reason = verdict.webhook.as_deref().unwrap_or_default();
    verdict.istio.is_none() && words.iter().any(|words| reason.contains(words))
}

/// The known difference that this is.
pub(super) fn known(verdict: &Verdict, object: &Value) -> Option<&'static Meant> {
    VERDICTS.iter().find(|meant| (meant.is)(verdict, object))
}

impl Verdict {
    /// In what they differ, without what is this object's alone; nothing if all say the same.
    pub(super) fn difference(&self) -> Option<String> {
        match (&self.istio, &self.webhook, &self.check) {
            (Some(reason), None, _) => Some(format!("taken; Istio: {}", plain(reason))),
            (None, Some(reason), _) => Some(format!("refused: {}", plain(reason))),
            (Some(reason), Some(_), None) => {
                Some(format!("no error of check; Istio: {}", plain(reason)))
            }
            (Some(_), Some(_), Some(_)) | (None, None, _) => None,
        }
    }
}

/// The words, without numbers and what stands in quotes.
fn plain(text: &str) -> String {
    let mut words = String::new();
    let mut quote = None;
    for letter in text.chars() {
        match quote {
            Some(end) if letter == end => quote = None,
            Some(_) => {}
            None if matches!(letter, '"' | '`') => {
                quote = Some(letter);
                words.push('_');
            }
            None if letter.is_ascii_digit() => {}
            None => words.push(letter),
        }
    }
    words.truncate(words.floor_char_boundary(160));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart_from_what_they_are_about() {
        assert_eq!(plain("port \"x y\" is 70000 of `a`"), "port _ is  of _");
        let refused = Verdict {
            istio: Some("bad host \"a\"".into()),
            ..Verdict::default()
        };
        assert_eq!(
            refused.difference().as_deref(),
            Some("taken; Istio: bad host _")
        );
        assert_eq!(Verdict::default().difference(), None);
    }
}
