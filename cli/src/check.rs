//! `ebpf-hello check`: validates filters and explains what they do. No root, no cluster.
//!
//! What it finds is its data, so it goes to stdout; status 1 if any of it is an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _, stdin, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use ebpf_hello_policy::{
    Arch, DEFAULT_NAMESPACE, Diagnostic, Document, Explanation, Filter, MAX_BYTES, Pod, Severity,
    Subject, duplicates, explain, explain_overlap, read_in,
};
use serde::Serialize;

/// The label that every namespace has of itself.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// `check`'s command line.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files with SyscallFilters and ClusterSyscallFilters; `-`: standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Explain for a pod of this namespace; also the namespace of filters that name none.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Explain for a pod with these labels.
    #[arg(long, value_name = "K=V,…", value_delimiter = ',', value_parser = label)]
    pod_labels: Vec<(String, String)>,
    /// Explain for a node of this architecture: x86_64 or aarch64.
    #[arg(long, default_value_t = Arch::host())]
    arch: Arch,
    /// How the outcome is printed.
    #[arg(short, long, value_enum, default_value_t = CheckOutput::Text)]
    output: CheckOutput,
}

/// How the outcome is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckOutput {
    /// A line per mistake, then a page per workload.
    Text,
    /// One JSON object.
    Json,
}

/// The outcome of a check.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether there is no error.
    valid: bool,
    /// Errors and warnings, by file and place.
    diagnostics: Vec<Diagnostic>,
    /// What the filters do; empty while there are errors.
    workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
struct Workload {
    /// Whom it is about, in words.
    workload: String,
    #[serde(flatten)]
    explanation: Explanation,
}

/// Checks the files.
///
/// # Errors
///
/// A file that cannot be read; a filter that is wrong is no error of the command but its outcome.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = check(args)?;
    let page = match args.output {
        CheckOutput::Json => {
            serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n"
        }
        CheckOutput::Text => report.render(),
    };
    stdout()
        .write_all(page.as_bytes())
        .context("cannot write to stdout")?;
    Ok(if report.valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check(args: &CheckArgs) -> anyhow::Result<Report> {
    let namespace = args.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let mut documents: Vec<Document> = Vec::new();
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for file in &args.files {
        match read_in(namespace, &file.display().to_string(), &contents(file)?) {
            Ok(found) => documents.extend(found),
            Err(found) => diagnostics.extend(found),
        }
    }
    diagnostics.extend(duplicates(&documents));
    let valid = diagnostics
        .iter()
        .all(|diagnostic| diagnostic.problem.severity == Severity::Warning);
    diagnostics.extend(
        documents
            .iter()
            .flat_map(|document| document.warnings.iter().cloned()),
    );
    diagnostics.sort_by(|a, b| (&a.source_name, a.place).cmp(&(&b.source_name, b.place)));
    let filters: Vec<Filter> = documents
        .into_iter()
        .map(|document| document.filter)
        .collect();
    let workloads = if valid {
        workloads(args, &filters)
    } else {
        Vec::new()
    };
    Ok(Report {
        valid,
        diagnostics,
        workloads,
    })
}

/// The file's text, and no more of it than is enough to see that it is too long.
fn contents(file: &Path) -> anyhow::Result<String> {
    let limit = MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        stdin().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|open| open.take(limit).read_to_end(&mut bytes))
    }
    .with_context(|| format!("cannot read {}", file.display()))?;
    if bytes.len() as u64 == limit {
        // The cut may be inside a character; that the file is too long is all there is to say.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        anyhow!(
            "{}: byte {} is not UTF-8",
            file.display(),
            error.utf8_error().valid_up_to()
        )
    })
}

/// The pod that was asked for; if none was, whoever the filters could meet at.
fn workloads(args: &CheckArgs, filters: &[Filter]) -> Vec<Workload> {
    if args.namespace.is_some() || !args.pod_labels.is_empty() {
        let namespace = args
            .namespace
            .clone()
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let labels: BTreeMap<_, _> = args.pod_labels.iter().cloned().collect();
        let list: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let labelled = if list.is_empty() {
            "without labels".to_owned()
        } else {
            format!("with {}", list.join(","))
        };
        let pod = Pod {
            namespace_labels: [(NAMESPACE_NAME.to_owned(), namespace.clone())].into(),
            namespace: namespace.clone(),
            labels,
            ..Pod::default()
        };
        let who = format!("of a pod of namespace {namespace} {labelled}");
        let containers = containers(filters, &pod);
        let told_apart = containers.len() > 1;
        return containers
            .into_iter()
            .map(|container| {
                let workload = match &container {
                    Some(name) => format!("container {name} {who}"),
                    None => format!(
                        "{} container {who}",
                        if told_apart { "any other" } else { "any" }
                    ),
                };
                let subject = Subject::Pod(Pod {
                    container,
                    ..pod.clone()
                });
                Workload {
                    workload,
                    explanation: explain(filters, &subject, args.arch),
                }
            })
            .collect();
    }
    let namespaces: BTreeSet<_> = filters
        .iter()
        .filter_map(|filter| filter.name().namespace())
        .collect();
    let of_namespace = |namespace: &str| Workload {
        workload: format!("a pod of namespace {namespace} that every filter for it selects"),
        explanation: explain_overlap(filters, Some(namespace), args.arch),
    };
    let mut workloads: Vec<_> = namespaces.into_iter().map(of_namespace).collect();
    if filters.iter().any(Filter::is_cluster) {
        workloads.push(Workload {
            workload: "a workload that every ClusterSyscallFilter selects, and nothing else"
                .to_owned(),
            explanation: explain_overlap(filters, None, args.arch),
        });
    }
    workloads
}

/// The containers of `pod` that some filter tells from the others, and `None` for the others.
fn containers(filters: &[Filter], pod: &Pod) -> Vec<Option<String>> {
    let named: BTreeSet<&str> = filters.iter().flat_map(Filter::containers).collect();
    let named = named
        .into_iter()
        .map(|name| Some(name.to_owned()))
        .filter(|container| {
            let subject = Subject::Pod(Pod {
                container: container.clone(),
                ..pod.clone()
            });
            let told_apart =
                |filter: &Filter| filter.containers().next().is_some() && filter.selects(&subject);
            filters.iter().any(told_apart)
        });
    named.chain([None]).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: expected key=value")),
    }
}

// === impl Report ===

impl Report {
    fn render(&self) -> String {
        let mut page: String = self
            .diagnostics
            .iter()
            .map(|diagnostic| format!("{diagnostic}\n"))
            .collect();
        for Workload {
            workload,
            explanation,
        } in &self.workloads
        {
            if !page.is_empty() {
                page.push('\n');
            }
            page += &format!(
                "{workload} ({}):\n{}",
                explanation.arch,
                explanation.render()
            );
        }
        if !self.valid {
            let errors = self
                .diagnostics
                .iter()
                .filter(|d| d.problem.severity == Severity::Error)
                .count();
            let s = if errors == 1 { "" } else { "s" };
            page += &format!("\n{errors} error{s}\n");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    /// Checks one file of the policy crate's corpus.
    fn check_file(file: &str, flags: &[&str]) -> Report {
        let path = format!("{}/../policy/tests/{file}", env!("CARGO_MANIFEST_DIR"));
        let line = ["check", path.as_str(), "--arch", "x86_64"]
            .into_iter()
            .chain(flags.iter().copied());
        check(
            &Line::try_parse_from(line)
                .expect("a good command line")
                .args,
        )
        .expect("a readable file")
    }

    #[test]
    fn broken_filter_is_told_with_line_and_column() {
        let report = check_file("broken/everything-at-once.yaml", &[]);
        assert!(!report.valid && report.workloads.is_empty());
        let page = report.render();
        assert!(
            page.contains("everything-at-once.yaml:9:18: error: unknown system call \"opne\""),
            "{page}"
        );
        assert!(page.ends_with("\n11 errors\n"), "{page}");
    }

    #[test]
    fn good_filter_is_explained_for_whoever_it_selects() {
        let page = check_file("good/design-example.yaml", &[]).render();
        assert!(
            page.starts_with(
                "a pod of namespace shop that every filter for it selects (x86_64):\n"
            ),
            "{page}"
        );
        assert!(page.contains("openat"), "{page}");
    }

    #[test]
    fn pod_is_explained_by_its_labels_and_containers() {
        let workloads = |labels| {
            let flags = ["--namespace", "shop", "--pod-labels", labels];
            let report = check_file("good/design-example.yaml", &flags);
            let line = |w: &Workload| (w.workload.clone(), w.explanation.selected.len());
            report.workloads.iter().map(line).collect::<Vec<_>>()
        };
        let who = |what: &str, labels: &str| {
            format!("{what} container of a pod of namespace shop with {labels}")
        };
        let cart = "container web of a pod of namespace shop with app=cart".to_owned();
        assert_eq!(
            workloads("app=cart"),
            [(cart, 1), (who("any other", "app=cart"), 0)]
        );
        assert_eq!(
            workloads("app=web,tier=front"),
            [(who("any", "app=web,tier=front"), 0)]
        );
    }

    #[test]
    fn json_says_whether_it_is_valid_and_where_not() {
        let json = serde_json::to_value(check_file("broken/syscall-misspelt.yaml", &[]))
            .expect("plain data");
        assert_eq!(json["valid"], false);
        assert_eq!(json["diagnostics"][0]["line"], 6);
        assert_eq!(json["diagnostics"][0]["reason"], "UnknownSyscall");
    }

    #[test]
    fn label_needs_a_key() {
        assert_eq!(label("app=cart"), Ok(("app".into(), "cart".into())));
        assert_eq!(label("app="), Ok(("app".into(), String::new())));
        assert!(label("cart").is_err() && label("=cart").is_err());
    }
}
