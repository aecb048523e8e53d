//! Medians, extremes and percentiles.

/// What is told of a set of figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

// === impl Summary ===

impl Summary {
    /// `None` of no figures.
    pub(crate) fn of(figures: &[f64]) -> Option<Summary> {
        let sorted = sorted(figures);
        Some(Summary {
            median: median(figures)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let sorted = sorted(figures);
    let upper = sorted.len() / 2;
    let high = *sorted.get(upper)?;
    Some(if sorted.len().is_multiple_of(2) {
        (sorted[upper - 1] + high) / 2.0
    } else {
        high
    })
}

/// The smallest figure that `percent` of all are not above (nearest rank).
pub(crate) fn percentile(figures: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(figures);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&figures, 50.0), Some(100.0));
        assert_eq!(percentile(&figures, 99.0), Some(198.0));
        assert_eq!(percentile(&figures, 100.0), Some(200.0));
        assert_eq!(percentile(&[7.0], 1.0), Some(7.0));
        assert_eq!(percentile(&[], 99.0), None);
    }

    #[test]
    fn a_summary_has_the_extremes() {
        assert_eq!(
            Summary::of(&[2.0, 9.0, 1.0]),
            Some(Summary {
                median: 2.0,
                min: 1.0,
                max: 9.0
            })
        );
        assert_eq!(Summary::of(&[]), None);
    }
}
