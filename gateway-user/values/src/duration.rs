//! Durations as Istio's API writes them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A duration, such as `2s`, `0.5s`, `1h30m` or `100ms`: numbers with units, in Go's syntax
/// (`time.ParseDuration`), of which the API's own (`google.protobuf.Duration`) is a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(pub Duration);

/// A text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration, such as 2s, 500ms or 1h30m")]
pub struct NoDuration(String);

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for Interval {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        nanoseconds(text)
            .map(|nanoseconds| Self(Duration::from_nanos(nanoseconds)))
            .ok_or_else(|| NoDuration(text.into()))
    }
}

impl TryFrom<String> for Interval {
    type Error = NoDuration;

    fn try_from(text: String) -> Result<Self, NoDuration> {
        text.parse()
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.to_string()
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut sum = 0_u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(scaled(number, *unit)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(())?;
    u64::try_from(sum).ok()
}

/// A decimal number of units; what is finer than a nanosecond is cut off.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u128>().ok()
        }
    };
    let fraction = &fraction[..fraction.len().min(15)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    digits(whole)?
        .checked_mul(unit)?
        .checked_add(digits(fraction)? * unit / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        for (text, wanted) in [
            ("2s", Some(2_000)),
            ("0.5s", Some(500)),
            (".5s", Some(500)),
            ("100ms", Some(100)),
            ("1h30m", Some(5_400_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1.0000000000000000000001s", Some(1_000)),
            ("", None),
            ("2", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("2 s", None),
            ("2d", None),
            ("1000000000000h", None),
        ] {
            let found = text.parse::<Interval>().ok();
            let found = found.map(|interval| interval.0.as_millis());
            assert_eq!(found, wanted, "{text:?}");
        }
        assert_eq!(
            "3us".parse::<Interval>().unwrap().0,
            Duration::from_micros(3)
        );
    }
}
