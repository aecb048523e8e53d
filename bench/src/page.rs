//! Tables for people: on the terminal, and in docs/PERFORMANCE.md between its markers.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use crate::results::Measurement;

/// What stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is ours.
const MACHINE: &str = "machine";
/// The sections, by the first part of the names in them.
const SECTIONS: [&str; 7] = [
    "syscall",
    "process",
    "edit",
    "record",
    "throughput",
    "cpu",
    "latency",
];

/// Every figure in columns.
pub(crate) fn text(measurements: &[Measurement]) -> String {
    let rows: Vec<[String; 7]> = std::iter::once(
        ["NAME", "UNIT", "MEDIAN", "MIN", "MAX", "RATIO", "TARGET"].map(ToOwned::to_owned),
    )
    .chain(measurements.iter().map(row))
    .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    rows.iter()
        .map(|row| {
            let figures: String = (1..7)
                .map(|column| format!("  {:>width$}", row[column], width = widths[column]))
                .collect();
            format!("{:<width$}{figures}\n", row[0], width = widths[0])
        })
        .collect()
}

/// Writes tables and machine into the page.
pub(crate) fn write(
    path: &Path,
    measurements: &[Measurement],
    machine: &str,
) -> anyhow::Result<()> {
    let page =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let filled = fill(&page, measurements, machine)
        .with_context(|| format!("cannot fill {}", path.display()))?;
    fs::write(path, filled).with_context(|| format!("cannot write {}", path.display()))
}

fn fill(page: &str, measurements: &[Measurement], machine: &str) -> anyhow::Result<String> {
    let mut page = replace(page, MACHINE, machine)?;
    for section in SECTIONS {
        let own: Vec<_> = measurements
            .iter()
            .filter(|measurement| measurement.name.split('/').next() == Some(section))
            .cloned()
            .collect();
        page = replace(&page, section, &table(&own))?;
    }
    Ok(page)
}

/// A Markdown table.
fn table(measurements: &[Measurement]) -> String {
    let unit = measurements.first().map_or("", |first| first.unit);
    let head = format!(
        "| | median, {unit} | min | max | ratio | target | |\n|---|--:|--:|--:|--:|--:|---|\n"
    );
    let lines: String = measurements
        .iter()
        .map(|measurement| {
            let [name, _, median, min, max, ratio, target] = row(measurement);
            let verdict = match measurement.is_kept() {
                None => "",
                Some(true) => "kept",
                Some(false) => "**missed**",
            };
            format!("| `{name}` | {median} | {min} | {max} | {ratio} | {target} | {verdict} |\n")
        })
        .collect();
    head + &lines
}

fn row(measurement: &Measurement) -> [String; 7] {
    let figure = |figure: f64| match measurement.unit {
        "ms" => format!("{figure:.2}"),
        "s" => format!("{figure:.3}"),
        "events/s" => format!("{figure:.0}"),
        _ => format!("{figure:.1}"),
    };
    let optional = |figure: Option<f64>| figure.map_or_else(String::new, |f| format!("{f:.3}"));
    [
        measurement.name.to_owned(),
        measurement.unit.to_owned(),
        figure(measurement.median),
        figure(measurement.min),
        figure(measurement.max),
        optional(measurement.ratio),
        measurement
            .target
            .map_or_else(String::new, |target| target.to_string()),
    ]
}

/// Puts `content` between the markers of `name`.
fn replace(page: &str, name: &str, content: &str) -> anyhow::Result<String> {
    let (open, close) = (
        format!("<!-- bench:{name} -->"),
        format!("<!-- /bench:{name} -->"),
    );
    let (Some(start), Some(end)) = (page.find(&open), page.find(&close)) else {
        bail!("it has no place between {open} and {close}");
    };
    let start = start + open.len();
    if start > end {
        bail!("{close} stands before {open}");
    }
    Ok(format!("{}\n\n{content}\n{}", &page[..start], &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(name: &'static str) -> Measurement {
        Measurement {
            name,
            unit: "ns",
            median: 212.34,
            min: 200.0,
            max: 1000.0,
            runs: 200,
            baseline: Some("syscall/empty-program"),
            ratio: Some(1.25),
            target: Some(1.5),
        }
    }

    #[test]
    fn only_what_is_between_the_markers_is_written() {
        let sections: String = SECTIONS
            .iter()
            .map(|name| format!("# {name}\n<!-- bench:{name} -->old<!-- /bench:{name} -->\n"))
            .collect();
        let page = format!("top\n<!-- bench:machine --><!-- /bench:machine -->\n{sections}end\n");
        let slow = Measurement {
            ratio: Some(1.6),
            ..measurement("process/exec/events-on")
        };
        let filled = fill(&page, &[measurement("syscall/count"), slow], "A machine.\n").unwrap();
        assert!(filled.starts_with("top\n") && filled.ends_with("end\n"));
        assert!(!filled.contains("old"));
        assert!(filled.contains("<!-- bench:machine -->\n\nA machine.\n\n<!-- /bench:machine -->"));
        let kept = "| `syscall/count` | 212.3 | 200.0 | 1000.0 | 1.250 | 1.5 | kept |\n";
        assert!(filled.contains(kept), "{filled}");
        assert!(filled.contains("| 1.600 | 1.5 | **missed** |"), "{filled}");
        let again = fill(&filled, &[measurement("syscall/count")], "A machine.\n").unwrap();
        assert!(again.contains(kept) && !again.contains("missed"), "{again}");
    }

    #[test]
    fn a_page_without_a_place_is_refused() {
        let error = fill("nothing\n", &[], "").unwrap_err().to_string();
        assert!(error.contains("<!-- bench:machine -->"), "{error}");
        replace("<!-- /bench:a --><!-- bench:a -->", "a", "").unwrap_err();
    }
}
