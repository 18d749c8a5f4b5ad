//! Shares of requests.

use std::fmt;

use serde::Serialize;

/// A number that is not a percentage.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a percentage")]
pub struct NotAPercentage(pub f64);

/// A share of requests, in millionths: as fine as Envoy's `FractionalPercent` goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Percentage(u32);

impl Percentage {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(Self::MILLION);
    const MILLION: u32 = 1_000_000;

    /// Of a number of percent. What is finer than a millionth is cut off
    /// (`translatePercentToFractionalPercent` of istio's pilot/pkg/networking/core/route).
    ///
    /// # Errors
    ///
    /// If the number is not between 0 and 100.
    #[expect(
        clippy::cast_sign_loss,
        reason = "between 0 and 1000000, which the range check ensures"
    )]
    pub fn of_percent(percent: f64) -> Result<Self, NotAPercentage> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self((percent * 10_000.0) as u32))
        } else {
            Err(NotAPercentage(percent))
        }
    }

    /// Millionths, 0 to 1000000.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Whether the request that drew `random` (any number, evenly spread) is among them.
    // Envoy: ProtobufPercentHelper::evaluateFractionalPercent.
    pub const fn includes(self, random: u64) -> bool {
        random % (Self::MILLION as u64) < self.0 as u64
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_millionth_is_the_finest() {
        for (percent, millionths) in [
            (0.0, Some(0)),
            (100.0, Some(1_000_000)),
            (0.1, Some(1000)),
            (0.00019, Some(1)),
            (0.00001, Some(0)),
            (100.1, None),
            (-0.1, None),
            (f64::NAN, None),
        ] {
            let found = Percentage::of_percent(percent)
                .ok()
                .map(Percentage::millionths);
            assert_eq!(found, millionths, "{percent}");
        }
        let tenth = Percentage::of_percent(10.0).unwrap();
        let hits = (0..1_000_000).filter(|random| tenth.includes(*random));
        assert_eq!(hits.count(), 100_000);
        assert!(!Percentage::NONE.includes(0) && Percentage::ALL.includes(u64::MAX));
        assert_eq!(tenth.to_string(), "10%");
    }
}
