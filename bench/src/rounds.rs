//! Interleaved rounds: each measures every variant once, in an order of its own, so that whatever else
//! the machine does in a minute, in a round it does to all of them. Ratios are taken within a round.

use anyhow::Context as _;

use crate::{
    results::Measurement,
    statistics::{Summary, median},
    suite::{Variant, place_of},
    workload::{Generator, Slice},
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    quick: bool,
}

/// Where variants are attached and their loops run.
pub(crate) trait Stage {
    /// What a variant says is attached.
    type State;

    /// Attaches it.
    fn enter(&mut self, state: &Self::State) -> anyhow::Result<()>;

    /// Detaches it, and fails when `calls` calls were not treated as the variant's name says.
    fn leave(&mut self, state: &Self::State, calls: u64) -> anyhow::Result<()>;

    /// Who runs the loops.
    fn generator(&mut self) -> &mut Generator;
}

// === impl Plan ===

impl Plan {
    /// Whole, or quick; with another number of rounds where one is given.
    pub(crate) fn new(quick: bool, rounds: Option<u32>) -> Self {
        Plan {
            rounds: rounds.unwrap_or(if quick { 5 } else { 200 }),
            quick,
        }
    }

    fn slice(self, slice: Slice) -> Slice {
        if !self.quick {
            return slice;
        }
        Slice {
            batches: slice.batches.min(3),
            each: slice.each.div_ceil(5),
            ..slice
        }
    }
}

/// Measures every variant in every round.
pub(crate) fn measure<S: Stage>(
    stage: &mut S,
    variants: &[Variant<S::State>],
    plan: Plan,
) -> anyhow::Result<Vec<Measurement>> {
    let mut figures = vec![Vec::with_capacity(plan.rounds as usize); variants.len()];
    let mut order: Vec<usize> = (0..variants.len()).collect();
    for round in 0..plan.rounds {
        fastrand::shuffle(&mut order);
        for &place in &order {
            let variant = &variants[place];
            let slice = plan.slice(variant.slice);
            let figure = time(stage, variant, slice)
                .with_context(|| format!("{} in round {}", variant.name, round + 1))?;
            figures[place].push(figure * variant.scale());
        }
        if (round + 1).is_multiple_of(20) {
            eprintln!("round {} of {}", round + 1, plan.rounds);
        }
    }
    variants
        .iter()
        .zip(&figures)
        .map(|(variant, own)| {
            let ratio = match variant.baseline {
                Some(name) => ratio(own, &figures[place_of(variants, name)?]),
                None => None,
            };
            tell(variant, own, ratio)
        })
        .collect()
}

fn time<S: Stage>(stage: &mut S, variant: &Variant<S::State>, slice: Slice) -> anyhow::Result<f64> {
    stage.enter(&variant.state)?;
    let figure = stage.generator().time(slice);
    let left = stage.leave(&variant.state, slice.total());
    let figure = figure?;
    left.map(|()| figure)
}

/// The median over the rounds of one variant's figure by another's.
fn ratio(own: &[f64], baseline: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = own
        .iter()
        .zip(baseline)
        .map(|(own, baseline)| own / baseline)
        .collect();
    median(&ratios)
}

fn tell<S>(
    variant: &Variant<S>,
    figures: &[f64],
    ratio: Option<f64>,
) -> anyhow::Result<Measurement> {
    let Summary { median, min, max } = Summary::of(figures).context("there was no round")?;
    Ok(Measurement {
        name: variant.name,
        unit: variant.unit,
        median,
        min,
        max,
        runs: figures.len(),
        baseline: variant.baseline,
        ratio,
        target: variant.target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine is ten times slower in the second round: of the medians' ratio it would be part.
        assert_eq!(
            ratio(&[1.2, 12.0, 1.3], &[1.0, 10.0, 1.0]),
            Some(1.2),
            "of 1.2, 1.2 and 1.3"
        );
    }

    #[test]
    fn a_quick_slice_is_shorter() {
        let slice = Slice {
            work: "getppid",
            batches: 25,
            each: 2,
        };
        let quick = Plan::new(true, None);
        assert_eq!(quick.rounds, 5);
        assert_eq!(quick.slice(slice).total(), 3);
        assert_eq!(Plan::new(false, Some(7)).slice(slice).total(), 50);
    }
}
