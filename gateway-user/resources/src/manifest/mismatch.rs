//! Messages about values of the wrong type, in YAML's words instead of serde's.

use std::fmt;

/// Why a value is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) path: String,
    pub(super) message: String,
    pub(super) fix: Option<String>,
}

// === impl Mismatch ===

impl Mismatch {
    /// Of serde's error.
    pub(super) fn of(path: String, error: &str) -> Self {
        let told = error
            .strip_prefix("invalid type: ")
            .or_else(|| error.strip_prefix("invalid value: "))
            .and_then(|told| told.split_once(", expected "));
        let Some((found, expected)) = told else {
            return Mismatch {
                path,
                message: error.to_owned(),
                fix: None,
            };
        };
        // serde: ``string "80"``, ``integer `80` ``, `map`, `sequence`.
        let found_value = found
            .split_once(' ')
            .map(|(_, value)| value.trim_matches(['`', '"']));
        let found = match found.split(' ').next().unwrap_or_default() {
            "string" => format!("the text \"{}\"", found_value.unwrap_or_default()),
            "integer" | "floating" => format!("the number {}", last_word(found)),
            "boolean" => last_word(found).to_owned(),
            "map" => "an object with fields".to_owned(),
            "sequence" => "a list".to_owned(),
            "unit" | "null" => "nothing".to_owned(),
            _ => found.to_owned(),
        };
        let wanted = FieldType::of(expected);
        if let (FieldType::Number, Some(fraction)) = (wanted, found_value.and_then(fraction)) {
            let key = path.rsplit(['.', ']']).next().unwrap_or(&path);
            return Mismatch {
                message: format!("{found} stands where a whole number belongs"),
                fix: Some(format!("such as `{key}: {}`", fraction.round())),
                path,
            };
        }
        Mismatch {
            message: format!("{found} stands where {wanted} belongs"),
            fix: wanted.fix(&path, found_value),
            path,
        }
    }
}

/// A number that is no whole one.
fn fraction(text: &str) -> Option<f64> {
    let number = text
        .rsplit(' ')
        .next()?
        .trim_matches('`')
        .parse::<f64>()
        .ok()?;
    (number.is_finite() && number.fract() != 0.0).then_some(number)
}

fn last_word(text: &str) -> &str {
    text.rsplit(' ').next().unwrap_or(text).trim_matches('`')
}

/// What kind of value a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldType<'e> {
    Number,
    Text,
    Switch,
    Object,
    List,
    /// In serde's words.
    Other(&'e str),
}

impl<'e> FieldType<'e> {
    fn of(expected: &'e str) -> Self {
        match expected.split(' ').next().unwrap_or_default() {
            "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "f64" => {
                Self::Number
            }
            "struct" | "map" => Self::Object,
            "sequence" => Self::List,
            _ => match expected {
                "a string" => Self::Text,
                "a boolean" => Self::Switch,
                "a map" => Self::Object,
                "a sequence" => Self::List,
                // What k8s-openapi calls its types.
                name if name.starts_with(char::is_uppercase) => Self::Object,
                other => Self::Other(other),
            },
        }
    }

    fn fix(self, path: &str, found: Option<&str>) -> Option<String> {
        let key = path.rsplit(['.', ']']).next().unwrap_or(path);
        let found = found.map(|found| found.rsplit(' ').next().unwrap_or(found).trim_matches('`'));
        match (self, found) {
            (Self::Number, Some(value)) if value.parse::<f64>().is_ok() => {
                Some(format!("`{key}: {value}`, without quotes"))
            }
            // Durations are the texts that people write as numbers.
            (Self::Text, Some(value)) if is_duration(key) && value.parse::<u64>().is_ok() => {
                Some(format!("`{key}: {value}s`"))
            }
            (Self::Text, Some(value)) => Some(format!("`{key}: \"{value}\"`, with quotes")),
            (Self::Switch, Some(_)) => Some(format!("`{key}: true` or `{key}: false`")),
            (Self::List, _) => Some(format!("begin each entry below `{key}:` with `- `")),
            _ => None,
        }
    }
}

/// Whether a field of Istio's takes a duration, by its name.
fn is_duration(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "timeout", "interval", "time", "delay", "duration", "ttl", "maxage",
    ]
    .iter()
    .any(|word| key.ends_with(word))
}

impl fmt::Display for FieldType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Switch => "`true` or `false`",
            Self::Object => "an object with fields",
            Self::List => "a list",
            Self::Other(other) => other,
        })
    }
}

#[cfg(test)]
mod tests;
