//! Filters from files and folders.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ebpf_hello_agent::{Node, Policy};
use ebpf_hello_policy::{Diagnostic, Filter, duplicates, read};
use notify::{
    EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::mpsc;

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

/// Tells when files or folders with filters change.
///
/// Folders are watched, not files: an editor's rename and Kubernetes' symlink swap make a new file.
pub(crate) struct Watcher {
    /// Ends the watch when dropped.
    _watcher: Option<notify::RecommendedWatcher>,
    changes: mpsc::UnboundedReceiver<()>,
}

/// Makes the filters as they are now the policy; a mistake in them leaves the last good one.
pub(crate) fn reload(paths: &[PathBuf], node: &Node) {
    let loaded = load(paths);
    // Of one that is, the others are not applied either.
    node.note_invalid_filters(u64::from(loaded.is_err()));
    let applied = loaded.and_then(|filters| {
        let count = filters.len();
        node.apply(Policy::of(filters))?;
        Ok(count)
    });
    match applied {
        Ok(count) => tracing::info!(filters = count, "filters changed and are applied"),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "filters changed and are not applied; the last good ones stay"
        ),
    }
}

impl Watcher {
    pub(crate) fn new(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let (changed, changes) = mpsc::unbounded_channel();
        if paths.is_empty() {
            // Nothing will ever change; `changed` waits for ever on the closed channel.
            return Ok(Watcher {
                _watcher: None,
                changes,
            });
        }
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| is_change(event.kind)) {
                    // The receiver goes when the program ends.
                    let _ = changed.send(());
                }
            })
            .context("cannot watch for changes of filters")?;
        for path in paths {
            let folder = if path.is_dir() {
                path.as_path()
            } else {
                path.parent().unwrap_or(path)
            };
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", folder.display()))?;
        }
        Ok(Watcher {
            _watcher: Some(watcher),
            changes,
        })
    }

    /// Waits for the next change; several at once are one.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while self.changes.try_recv().is_ok() {}
    }
}

/// Whether a file is whole again, has come or has gone. One that is being written is not read yet.
fn is_change(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_)
    )
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
