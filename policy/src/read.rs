//! Filters from files: YAML text in, filters or every mistake with its line and column out.
//!
//! Reading is bounded (size, depth, nodes, alias expansion) before anything is built, so that a
//! file from anywhere may be read. One mistake of YAML itself does not end it: an unquoted `@` is
//! common, is reported, and is read over, so that whatever else is wrong is told too.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use serde_saphyr::{
    Error, Options,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};

use crate::{
    filter::Filter,
    node::{Node, Place, READ_OVER},
    problem::{Path, Problem, Reason, Severity},
    table::FilterName,
    validate::{self, DEFAULT_NAMESPACE},
};

/// Largest file that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting that is read; a filter needs seven.
const MAX_DEPTH: usize = 32;

/// Most YAML nodes that are read, aliases expanded: room for several filters of 64 rules with 256
/// names each.
const MAX_NODES: usize = 200_000;

/// Deepest nesting of aliases that are read.
const MAX_ALIAS_DEPTH: usize = 8;

/// Most unquoted `@` that are reported in one file.
const MAX_READ_OVER: usize = 16;

/// A filter, and where its file has it.
#[derive(Clone, Debug)]
pub struct Document {
    /// The filter.
    pub filter: Filter,
    /// The file's name, as it was given to [`read`].
    pub source: String,
    /// Where the object starts.
    pub place: Place,
    /// What its author should know although it is valid.
    pub warnings: Vec<Diagnostic>,
}

/// A [`Problem`], and its place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Diagnostic {
    /// The file's name, as it was given to [`read`].
    #[serde(rename = "file")]
    pub source_name: String,
    /// Where in it.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Reads the filters of one file; `source_name` is only for messages. A `SyscallFilter` without a
/// namespace is in `default`, as kubectl would put it.
///
/// A file may hold several documents, and a document may be a `List`. Objects of other APIs beside a filter, such as
/// the workload it is for, are left out.
///
/// # Errors
///
/// Every mistake of the file, in its order; warnings are among them. The file is taken as a whole:
/// none of its filters is good while one is bad, because they were written together.
pub fn read(source_name: &str, text: &str) -> Result<Vec<Document>, Vec<Diagnostic>> {
    read_in(DEFAULT_NAMESPACE, source_name, text)
}

/// As [`read`], with another namespace for filters that name none.
///
/// # Errors
///
/// As [`read`].
pub fn read_in(
    namespace: &str,
    source_name: &str,
    text: &str,
) -> Result<Vec<Document>, Vec<Diagnostic>> {
    let mut file = File {
        source_name,
        diagnostics: Vec::new(),
    };
    let mut documents: Vec<Document> = Vec::new();
    let (others, ours): (Vec<_>, Vec<_>) = file
        .parse(text)
        .into_iter()
        .partition(validate::is_of_another_api);
    // Where nothing is ours, what is wrong with the others says what was expected.
    let nodes = if ours.is_empty() { others } else { ours };
    for node in nodes {
        let (filter, problems) = validate::document(&node, namespace);
        let (warnings, errors): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .map(|problem| file.diagnose(&node, problem))
            .partition(|diagnostic| diagnostic.problem.severity == Severity::Warning);
        file.diagnostics.extend(errors);
        match filter {
            Some(filter) => documents.push(Document {
                filter,
                source: source_name.to_owned(),
                place: node.place.unwrap_or(Place { line: 1, column: 1 }),
                warnings,
            }),
            None => file.diagnostics.extend(warnings),
        }
    }
    file.diagnostics.extend(duplicates(&documents));
    if file.diagnostics.is_empty() {
        return Ok(documents);
    }
    file.diagnostics
        .extend(documents.into_iter().flat_map(|document| document.warnings));
    file.diagnostics.sort_by_key(|diagnostic| diagnostic.place);
    Err(file.diagnostics)
}

/// Filters whose name and kind another of `documents` had before: the API server would keep only
/// one, so which was meant cannot be known. Call it again on the documents of all files together.
pub fn duplicates(documents: &[Document]) -> Vec<Diagnostic> {
    let mut first: BTreeMap<&FilterName, &Document> = BTreeMap::new();
    let mut repeated = Vec::new();
    for document in documents {
        let name = document.filter.name();
        match first.get(name) {
            None => {
                first.insert(name, document);
            }
            Some(earlier) => repeated.push(Diagnostic {
                source_name: document.source.clone(),
                place: document.place,
                problem: Problem::error(
                    Reason::DuplicateFilter,
                    Path::default().key("metadata").key("name"),
                    format!(
                        "filter {:?} was read before, from {}:{}",
                        name.to_string(),
                        earlier.source,
                        earlier.place.line
                    ),
                ),
            }),
        }
    }
    repeated
}

struct File<'s> {
    source_name: &'s str,
    diagnostics: Vec<Diagnostic>,
}

// === impl File ===

impl File<'_> {
    /// The file's objects, lists taken apart; what cannot be parsed is reported.
    fn parse(&mut self, text: &str) -> Vec<Node> {
        if text.len() > MAX_BYTES {
            self.fail(
                Place { line: 1, column: 1 },
                format!("{} bytes: expected at most {MAX_BYTES}", text.len()),
            );
            return Vec::new();
        }
        let mut text = text.to_owned();
        loop {
            let mut bytes = text.as_bytes();
            let mut nodes = Vec::new();
            let mut broken = None;
            for node in serde_saphyr::read_with_options::<_, Node>(&mut bytes, options()) {
                match node {
                    Ok(node) => nodes.push(node),
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            let Some(error) = broken else {
                nodes.iter_mut().for_each(|node| {
                    if !self.diagnostics.is_empty() {
                        node.restore_at_signs()
                    }
                });
                return self.objects(nodes);
            };
            let place = place(&error);
            let at_sign = offset(&text, place).filter(|at| text[*at..].starts_with('@'));
            match at_sign {
                Some(at) if self.diagnostics.len() < MAX_READ_OVER => {
                    let word: String = text[at..]
                        .chars()
                        .take_while(|c| !" ,]}#\r\n".contains(*c))
                        .collect();
                    self.fail(place, format!("YAML reserves @ at the start of a word: put the group in quotes, \"{word}\""));
                    text.replace_range(at..=at, READ_OVER.encode_utf8(&mut [0; 4]));
                }
                _ => {
                    self.fail(place, explain(&error));
                    // The documents before the broken one can still be judged.
                    return self.objects(nodes);
                }
            }
        }
    }

    fn objects(&mut self, nodes: Vec<Node>) -> Vec<Node> {
        let is_list = |node: &Node| {
            node.get("kind")
                .and_then(Node::text)
                .is_some_and(|kind| kind.ends_with("List"))
        };
        let (lists, mut objects): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_list);
        objects.extend(
            lists
                .iter()
                .filter_map(|list| list.get("items"))
                .flat_map(|items| items.items().to_vec()),
        );
        if objects.is_empty() && self.diagnostics.is_empty() {
            self.fail(
                Place { line: 1, column: 1 },
                "no filter in it: expected a SyscallFilter or ClusterSyscallFilter".to_owned(),
            );
        }
        objects
    }

    fn fail(&mut self, place: Place, message: String) {
        let problem = Problem::error(Reason::InvalidYaml, Path::default(), message);
        self.diagnostics.push(Diagnostic {
            source_name: self.source_name.to_owned(),
            place,
            problem,
        });
    }

    fn diagnose(&self, node: &Node, problem: Problem) -> Diagnostic {
        let place = node
            .place_of(&problem.path, problem.on_key)
            .unwrap_or(Place { line: 1, column: 1 });
        Diagnostic {
            source_name: self.source_name.to_owned(),
            place,
            problem,
        }
    }
}

// === impl Diagnostic ===

impl fmt::Display for Diagnostic {
    /// `filters/cart.yaml:9:17: error: unknown system call …`, as compilers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            source_name,
            place: Place { line, column },
            problem,
        } = self;
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{source_name}:{line}:{column}: {severity}: {}",
            problem.message
        )
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: 2 * MAX_DEPTH, // `max_depth` has the clearer error
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_documents: 256,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: MAX_ALIAS_DEPTH,
        },
        // Repeated keys are the schema check's to report, with everything else; a merge key is
        // to it a field of no meaning, as it is to the API server.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn place(error: &Error) -> Place {
    let location = error.location();
    location.map_or(Place { line: 1, column: 1 }, |l| Place {
        line: l.line().max(1),
        column: l.column().max(1),
    })
}

/// Where in `text`, in bytes, a place is.
fn offset(text: &str, place: Place) -> Option<usize> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
    let start = match line {
        0 => 0,
        _ => text.match_indices('\n').nth(line - 1)?.0 + 1,
    };
    let within = text[start..].char_indices().nth(column)?.0;
    Some(start + within)
}

/// What a parser's error means to somebody who writes filters; for mistakes of plain YAML the
/// parser's own words, less the place, which is told in front.
fn explain(error: &Error) -> String {
    match error {
        Error::AliasError { error, .. } => explain(error),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias stands inside the value it is an alias of".to_owned()
        }
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            format!(
                "aliases expand too far: expected at most {MAX_NODES} values, {MAX_ALIAS_DEPTH} aliases deep"
            )
        }
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => {
            format!("nested too deep: expected at most {MAX_DEPTH} levels")
        }
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. },
            ..
        } => {
            format!("too much in one file: expected at most {MAX_NODES} values")
        }
        other => {
            let text = other.without_snippet().to_string();
            let words = text
                .split_once(" at line ")
                .map_or(text.as_str(), |(words, _)| words);
            format!("not YAML that can be read: {words}")
        }
    }
}
