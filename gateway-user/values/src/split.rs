//! Weighted choice among destinations: deterministic, and spread evenly.

/// A sequence of choices in which every destination has exactly its share of any window of a full
/// period (sum of weights divided by their greatest common divisor): of 100 consecutive choices
/// between weights 90 and 10, 90 and 10, wherever the window starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split(Sequence);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sequence {
    /// Always the first.
    Single,
    /// One entry per position of the period.
    Schedule(Box<[u16]>),
    /// Periods too long to write down.
    Lattice(Lattice),
}

/// Visits each point of `0..period` once per period, in steps of about the golden section of the
/// period, so that consecutive points are far apart (a rank-1 lattice), and takes the destination
/// whose interval holds the point.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lattice {
    period: u64,
    /// Has no common divisor with the period: that's why every point is visited.
    step: u64,
    /// Where each destination's interval ends.
    ends: Box<[u64]>,
}

impl Split {
    /// Longest schedule that is written down: 8 KiB.
    const LONGEST_SCHEDULE: u64 = 4096;

    /// Makes the sequence for these weights. A single destination gets all, whatever its weight, and
    /// so does the first if all weights are 0; otherwise a weight of 0 is never chosen.
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights
            .iter()
            .fold(0, |divisor, &weight| gcd(divisor, u64::from(weight)));
        if weights.len() < 2 || divisor == 0 {
            return Self(Sequence::Single);
        }
        let weights: Vec<u64> = weights
            .iter()
            .map(|&weight| u64::from(weight) / divisor)
            .collect();
        let period: u64 = weights.iter().sum();
        Self(
            if period <= Self::LONGEST_SCHEDULE && u16::try_from(weights.len()).is_ok() {
                Sequence::Schedule(schedule(&weights, period))
            } else {
                Sequence::Lattice(Lattice::new(&weights, period))
            },
        )
    }

    /// The choice at a position: an index into the weights. Positions may be any; consecutive ones
    /// make the sequence.
    pub fn pick(&self, position: u64) -> usize {
        match &self.0 {
            Sequence::Single => 0,
            Sequence::Schedule(schedule) => {
                // The remainder is below the length, which fits.
                usize::from(schedule[(position % schedule.len() as u64) as usize])
            }
            Sequence::Lattice(lattice) => lattice.pick(position),
        }
    }

    /// Whether the position makes a difference.
    pub fn is_single(&self) -> bool {
        self.0 == Sequence::Single
    }
}

impl Lattice {
    fn new(weights: &[u64], period: u64) -> Self {
        // 2^64 divided by the golden ratio.
        const GOLDEN: u128 = 0x9E37_79B9_7F4A_7C15;
        let golden = ((u128::from(period) * GOLDEN) >> 64) as u64;
        let step = (golden.max(1)..period)
            .find(|&step| gcd(step, period) == 1)
            .unwrap_or(1);
        let mut end = 0;
        let ends = weights
            .iter()
            .map(|weight| {
                end += weight;
                end
            })
            .collect();
        Self { period, step, ends }
    }

    fn pick(&self, position: u64) -> usize {
        let point =
            u128::from(position % self.period) * u128::from(self.step) % u128::from(self.period);
        self.ends
            .partition_point(|&end| u128::from(end) <= point)
            .min(self.ends.len() - 1)
    }
}

/// Smooth weighted round robin, written down for one period: each turn every destination gains its
/// weight in credit, and the one with the most is taken and pays the period.
// The algorithm is nginx's (ngx_http_upstream_get_peer); it returns to its start after one period.
fn schedule(weights: &[u64], period: u64) -> Box<[u16]> {
    let mut credits = vec![0_i64; weights.len()];
    (0..period)
        .map(|_| {
            let mut best = 0;
            for (index, &weight) in weights.iter().enumerate() {
                credits[index] += weight.cast_signed();
                if credits[index] > credits[best] {
                    best = index;
                }
            }
            credits[best] -= period.cast_signed();
            best as u16
        })
        .collect()
}

/// The greatest common divisor; of 0 and another number it is the other.
pub const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each destination is chosen in `length` positions from `start`.
    fn counts(split: &Split, weights: &[u32], start: u64, length: u64) -> Vec<u64> {
        let mut counts = vec![0; weights.len()];
        for position in start..start + length {
            counts[split.pick(position)] += 1;
        }
        counts
    }

    #[test]
    fn every_window_of_a_period_is_exact() {
        for (weights, window, wanted) in [
            (&[90, 10][..], 100, &[90, 10][..]),
            (&[10, 90], 100, &[10, 90]),
            (&[80, 20], 10, &[8, 2]),
            (&[1, 1, 1], 3, &[1, 1, 1]),
            (&[99, 1], 100, &[99, 1]),
            (&[50, 0, 50], 2, &[1, 0, 1]),
            (&[1, 2, 3, 4], 10, &[1, 2, 3, 4]),
            (&[33, 33, 34], 100, &[33, 33, 34]),
        ] {
            let split = Split::new(weights);
            for start in (0..250).chain([u64::MAX / 2]) {
                assert_eq!(
                    counts(&split, weights, start, window),
                    wanted,
                    "{weights:?} from {start}"
                );
            }
        }
    }

    #[test]
    fn choices_are_spread() {
        let split = Split::new(&[80, 20]);
        let second: Vec<u64> = (0..10).filter(|&at| split.pick(at) == 1).collect();
        assert_eq!(second.len(), 2);
        assert_eq!(second[1] - second[0], 5);
    }

    #[test]
    fn one_destination_gets_all() {
        for weights in [&[0][..], &[7], &[], &[0, 0]] {
            let split = Split::new(weights);
            assert!(split.is_single());
            assert!((0..10).all(|at| split.pick(at) == 0), "{weights:?}");
        }
        let split = Split::new(&[0, 5]);
        assert!((0..10).all(|at| split.pick(at) == 1));
    }

    #[test]
    fn long_periods_keep_their_shares() {
        let weights = [70_001, 20_002, 10_000];
        let split = Split::new(&weights);
        assert!(matches!(split.0, Sequence::Lattice(_)));
        let period = 100_003;
        for start in [0, 12_345, u64::MAX / 2] {
            let counts = counts(&split, &weights, start, period);
            assert_eq!(counts, [70_001, 20_002, 10_000]);
        }
        // Short windows are near their shares too.
        for start in (0..5_000).step_by(7) {
            let counts = counts(&split, &weights, start, 100);
            for (count, wanted) in counts.iter().zip([70_u64, 20, 10]) {
                assert!(count.abs_diff(wanted) <= 4, "{counts:?} from {start}");
            }
        }
    }

    #[test]
    fn largest_weights() {
        let weights = [u32::MAX, u32::MAX - 1, 1];
        let split = Split::new(&weights);
        let counts = counts(&split, &weights, 0, 1000);
        assert!(counts[0].abs_diff(500) <= 3, "{counts:?}");
        assert!(counts[2] <= 1, "{counts:?}");
    }
}
