//! What stands behind the `?` of a target.

/// The first parameter of that name, decoded (Envoy: `QueryParamsMulti::parseAndDecodeQueryString`).
pub fn parameter(target: &str, name: &str) -> Option<Vec<u8>> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|parameter| {
        let (known, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (decoded(known) == name.as_bytes()).then(|| decoded(value))
    })
}

/// Without percent-encoding (RFC 3986, section 2.1); what is none stays.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_is_decoded() {
        let target = "/p?x&q=a%20b&q=c&%71%5A=%zz%4";
        let found = |name| Some(String::from_utf8(parameter(target, name)?).unwrap());
        assert_eq!(found("x").as_deref(), Some(""));
        assert_eq!(found("q").as_deref(), Some("a b"));
        assert_eq!(found("qZ").as_deref(), Some("%zz%4"));
        assert_eq!(found("none"), None);
        assert_eq!(parameter("/p", "p"), None);
    }
}
