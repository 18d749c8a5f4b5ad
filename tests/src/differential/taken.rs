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
pub const VERDICTS: &[Meant] = &[];

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
