//! The corpus of filters: every broken one gives exactly the diagnostics it says it should, with
//! their places, and every good one none.
//!
//! A file says what it expects in comments at its end, where they move no line:
//! `# expect 5:18 error UnknownSyscall: unknown system call "opneat": did you mean "openat"?`
//! `UPDATE=1 cargo test -p ebpf-hello-policy` writes what comes out; read the difference.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use ebpf_hello_policy::{Diagnostic, Severity, read};

const EXPECT: &str = "# expect ";

fn corpus(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    };
    files.into_iter().map(read).collect()
}

/// A file's text without what it expects, and what it expects.
fn split(text: &str) -> (String, Vec<String>) {
    let (expected, body): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.starts_with(EXPECT));
    (
        body.join("\n") + "\n",
        expected
            .iter()
            .map(|line| line[EXPECT.len()..].to_owned())
            .collect(),
    )
}

fn line(Diagnostic { place, problem, .. }: &Diagnostic) -> String {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    format!(
        "{}:{} {severity} {}: {}",
        place.line, place.column, problem.reason, problem.message
    )
}

fn check(folder: &str, outcome: impl Fn(&str, &str) -> Vec<Diagnostic>) -> usize {
    let files = corpus(folder);
    let mut wrong = Vec::new();
    for (path, text) in &files {
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy();
        let (body, expected) = split(text);
        let found: Vec<_> = outcome(&name, &body).iter().map(line).collect();
        if found != expected {
            wrong.push(format!(
                "{name}:\n  expected {expected:#?}\n  found {found:#?}"
            ));
        }
        if env::var_os("UPDATE").is_some() {
            let expectations: String = found
                .iter()
                .map(|line| format!("{EXPECT}{line}\n"))
                .collect();
            fs::write(path, body + &expectations).expect("the corpus is writable");
        }
    }
    let updated = env::var_os("UPDATE").is_some();
    assert!(updated || wrong.is_empty(), "{}", wrong.join("\n"));
    files.len()
}

#[test]
fn every_broken_filter_gives_its_errors_at_their_places() {
    let files = check("broken", |name, text| match read(name, text) {
        Ok(documents) => panic!("{name} is accepted: {documents:?}"),
        Err(diagnostics) => {
            assert!(
                diagnostics
                    .iter()
                    .any(|d| d.problem.severity == Severity::Error),
                "{name}"
            );
            diagnostics
        }
    });
    assert!(
        files >= 40,
        "the issue asks for 40 broken filters, there are {files}"
    );
}

#[test]
fn every_good_filter_is_accepted_with_its_warnings() {
    let files = check("good", |name, text| match read(name, text) {
        Ok(documents) => documents
            .into_iter()
            .flat_map(|document| document.warnings)
            .collect(),
        Err(diagnostics) => panic!("{name} is refused: {diagnostics:#?}"),
    });
    assert!(files >= 5, "{files}");
}

/// What is written for `kubectl apply` is no less good for `check` and `run --filters`.
#[test]
fn samples_are_read_past_their_namespaces_and_workloads() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    let mut files = 0;
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let documents = read("sample", &text)
            .unwrap_or_else(|diagnostics| panic!("{}: {diagnostics:#?}", path.display()));
        assert!(!documents.is_empty(), "{}", path.display());
        assert!(text.contains("kind: Deployment"), "{}", path.display());
        files += 1;
    }
    assert!(files >= 4, "{files}");
}
