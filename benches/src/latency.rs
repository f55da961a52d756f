//! What is said of many latencies.

use std::time::Duration;

/// The value that `percent` of the sorted values do not exceed (nearest rank); zero if there are none.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// As it is printed.
pub(crate) fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let ms = |values: &mut dyn Iterator<Item = u64>| values.map(Duration::from_millis).collect::<Vec<_>>();
        let hundred = ms(&mut (1..=100));
        assert_eq!([50, 95, 99, 100].map(|p| percentile(&hundred, p)), [50, 95, 99, 100].map(Duration::from_millis));
        assert_eq!([50, 95, 99].map(|p| percentile(&ms(&mut [7].into_iter()), p)), [Duration::from_millis(7); 3]);
        assert_eq!(percentile(&ms(&mut [1, 2, 3, 4].into_iter()), 50), Duration::from_millis(2));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
