//! The figures as JSON: a list, one object for each name.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

/// One name and its figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    /// `ns`, `us`, `ms` or `s`, of which less is better; `events/s`, of which more is.
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Rounds, or repetitions, that the three are of.
    pub(crate) runs: usize,
    /// The name that this is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<&'static str>,
    /// Median over the rounds of this figure by the baseline's in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// The most that `ratio`, or without one `median`, should be; of `events/s`, the least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<f64>,
}

// === impl Measurement ===

impl Measurement {
    /// Whether the target is kept; `None` without one.
    pub(crate) fn is_kept(&self) -> Option<bool> {
        let (figure, target) = (self.ratio.unwrap_or(self.median), self.target?);
        Some(match self.unit {
            "events/s" => figure >= target,
            _ => figure <= target,
        })
    }

    fn rounded(&self) -> Self {
        let round = |figure: f64| (figure * 1000.0).round() / 1000.0;
        Measurement {
            median: round(self.median),
            min: round(self.min),
            max: round(self.max),
            ratio: self.ratio.map(round),
            ..self.clone()
        }
    }
}

/// Writes them, a line each.
pub(crate) fn write(path: &Path, measurements: &[Measurement]) -> anyhow::Result<()> {
    let lines: Vec<String> = measurements
        .iter()
        .map(|measurement| serde_json::to_string(&measurement.rounded()))
        .collect::<Result<_, _>>()
        .context("cannot write figures as JSON")?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement() -> Measurement {
        Measurement {
            name: "syscall/count",
            unit: "ns",
            median: 200.123_456,
            min: 190.0,
            max: 300.0,
            runs: 200,
            baseline: Some("syscall/empty-program"),
            ratio: Some(1.25),
            target: Some(1.5),
        }
    }

    #[test]
    fn json_is_a_list_of_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/latest.json");
        let plain = Measurement {
            baseline: None,
            ratio: None,
            target: None,
            ..measurement()
        };
        write(&path, &[measurement(), plain]).unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            "[\n{\"name\":\"syscall/count\",\"unit\":\"ns\",\"median\":200.123,\"min\":190.0,\"max\":300.0,\
             \"runs\":200,\"baseline\":\"syscall/empty-program\",\"ratio\":1.25,\"target\":1.5},\n\
             {\"name\":\"syscall/count\",\"unit\":\"ns\",\"median\":200.123,\"min\":190.0,\"max\":300.0,\"runs\":200}\n]\n"
        );
    }

    #[test]
    fn a_target_is_for_the_ratio_where_there_is_one() {
        let kept = |ratio, median, target| {
            Measurement {
                ratio,
                median,
                target,
                ..measurement()
            }
            .is_kept()
        };
        assert_eq!(kept(Some(1.5), 9.0, Some(1.5)), Some(true));
        assert_eq!(kept(Some(1.501), 1.0, Some(1.5)), Some(false));
        assert_eq!(kept(None, 9.0, Some(5.0)), Some(false));
        assert_eq!(kept(Some(1.0), 1.0, None), None);
        let rate = |median| Measurement {
            unit: "events/s",
            ratio: None,
            median,
            target: Some(1e6),
            ..measurement()
        };
        assert_eq!(rate(9e5).is_kept(), Some(false));
        assert_eq!(rate(1.1e6).is_kept(), Some(true));
    }
}
