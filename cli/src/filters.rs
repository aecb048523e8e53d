//! Filters from files and folders.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ebpf_hello_policy::{Diagnostic, Filter, duplicates, read};

/// Reads every filter of `paths`; a folder's `*.yaml` and `*.yml` in the order of their names.
///
/// All mistakes of all files are reported at once; none of the filters is used while one is bad.
pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Filter>> {
    let mut documents = Vec::new();
    let mut mistakes: Vec<Diagnostic> = Vec::new();
    for file in files(paths)? {
        let text = fs::read_to_string(&file)
            .with_context(|| format!("cannot read filters from {}", file.display()))?;
        match read(&file.display().to_string(), &text) {
            Ok(found) => documents.extend(found),
            Err(found) => mistakes.extend(found),
        }
    }
    mistakes.extend(duplicates(&documents));
    if !mistakes.is_empty() {
        let list: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        bail!("invalid filters:\n{}", list.join("\n"));
    }
    for warning in documents.iter().flat_map(|document| &document.warnings) {
        tracing::warn!("{warning}");
    }
    let filters: Vec<Filter> = documents
        .into_iter()
        .map(|document| document.filter)
        .collect();
    for filter in &filters {
        if !filter.can_select_host() {
            tracing::warn!(
                filter = %filter.name(),
                "this filter selects nothing here: there are no pods standalone; a ClusterSyscallFilter with host: true, or with matchCgroup, selects the machine's processes"
            );
        }
    }
    Ok(filters)
}

fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let metadata =
            fs::metadata(path).with_context(|| format!("no filters at {}", path.display()))?;
        if !metadata.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut found = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(|| format!("cannot list {}", path.display()))?;
        found.retain(|path| is_yaml(path));
        if found.is_empty() {
            bail!("{} holds no *.yaml or *.yml file", path.display());
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}
