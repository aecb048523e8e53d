//! Bad filters: each is refused by the API server, or it is taken and its status says why it is not accepted.
//!
//! A file says in its last line which: `# server: TEXT` or `# status: REASON: TEXT`, where TEXT is part of what the
//! user reads. `UPDATE=1` writes what comes out; read the difference.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::scene::{SHOP, Scene, condition};

const SERVER: &str = "# server: ";
const STATUS: &str = "# status: ";

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/refused");
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What kubectl says, in one line.
fn reason(printed: &str) -> String {
    let lines = printed
        .lines()
        .map(|line| line.trim().trim_start_matches("* "));
    let said: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    // What follows says only that more may be wrong.
    let said = said.join(" ");
    said.split(" <nil>:").next().unwrap_or_default().to_owned()
}

/// Creates what is in a file; how that ended, in the words of the corpus.
async fn outcome(stage: &Scene, file: &Path) -> String {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let created = stage
        .server
        .try_kubectl(&["create", "-f", file.to_str().unwrap()]);
    if let Err(printed) = created {
        let said = reason(&printed).replace(file.to_str().unwrap(), &format!("{name}.yaml"));
        return format!("{SERVER}{said}");
    }
    let (status, _) = stage
        .await_status(name, |status| !status.conditions.is_empty())
        .await;
    let accepted = condition(&status, "Accepted");
    assert_eq!(accepted.status, "False", "{name} is taken: {accepted:?}");
    format!("{STATUS}{}: {}", accepted.reason, accepted.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_bad_filters_are_each_refused_for_the_reason_that_the_corpus_has() {
    let stage = Scene::new(&["n1"]).await;
    let _collector = stage.collector("collector").await;
    stage.await_holder(None).await;
    let (mut server, mut status, mut wrong) = (0, 0, Vec::new());
    for file in corpus() {
        let text = fs::read_to_string(&file).unwrap();
        let outcome = outcome(&stage, &file).await;
        let (body, expected) = text.trim_end().rsplit_once('\n').unwrap();
        if env::var_os("UPDATE").is_some() {
            let body = if expected.starts_with('#') {
                body
            } else {
                text.trim_end()
            };
            fs::write(&file, format!("{body}\n{outcome}\n")).unwrap();
        }
        if outcome.starts_with(SERVER) {
            server += 1;
        } else {
            status += 1;
        }
        if !(expected.starts_with(SERVER) || expected.starts_with(STATUS))
            || !outcome.starts_with(expected)
        {
            wrong.push(format!("{}: {outcome}", file.display()));
        }
    }
    println!("{server} refused by the API server, {status} by status");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(server >= 15 && server + status >= 40);
    let accepted = stage
        .server
        .kubectl(&["-n", SHOP, "get", "sf", "--no-headers"]);
    assert_eq!(
        accepted
            .lines()
            .filter(|line| line.contains("True"))
            .count(),
        0,
        "{accepted}"
    );
}
