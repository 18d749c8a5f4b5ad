//! Values of headers, as Istio reads them: less than Envoy does.

/// Where in a value the reader is (`validateHeaderValue` of istio's pkg/config/validation/header_value_validator.go).
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Literal,
    Name,
    /// After `(`.
    Arguments,
    /// After `[` or a comma.
    Item,
    Text,
    /// After a text in quotes.
    Separator,
    /// After `]`.
    End,
    /// After `)`.
    Percent,
}

/// Whether Istio can read a value.
pub(super) fn check(value: &str) -> Result<(), &'static str> {
    let mut state = State::Literal;
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        let is_space = letter == ' ';
        state = match (state, letter) {
            (State::Literal, '%') => match letters.peek() {
                None => return Err("a `%` that begins nothing"),
                Some('%') => {
                    letters.next();
                    State::Literal
                }
                Some(_) => State::Name,
            },
            (State::Name | State::Percent, '%') => State::Literal,
            (State::Name, '(') => State::Arguments,
            (State::Arguments, '[') | (State::Separator, ',') => State::Item,
            (State::Arguments, _) if !is_space => State::Text,
            (State::Item, '"') => State::Text,
            (State::Text, '\\') => {
                if letters.next().is_none() {
                    return Err("a backslash that is before nothing");
                }
                State::Text
            }
            (State::Text | State::End, ')') => State::Percent,
            (State::Text, '"') => State::Separator,
            (State::Separator, ']') => State::End,
            (State::Percent, _) if !is_space => {
                return Err("what stands between `)` and `%` is not read");
            }
            (State::Item | State::Separator | State::End, _) if !is_space => {
                return Err("what stands between its brackets is no list of texts");
            }
            (same, _) => same,
        };
    }
    if state == State::Literal {
        Ok(())
    } else {
        Err("a variable has no end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_reads_no_suffixes() {
        for good in [
            "",
            "plain",
            "100%%",
            "%REQ(x)%",
            "a%REQ(x?y)%b",
            "%META([\"a\", \"b\"])%",
            "%A([\"x\\\"y\"])%",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["%", "[%REQ(x):1%]", "%REQ(x", "%X", "%META([a])%"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
