//! Filters in files.

use std::{fs, path::Path};

use tempfile::TempDir;

/// A filter's file, gone when this is dropped.
pub(crate) struct FilterFile {
    directory: TempDir,
}

/// A call that no program makes: Linux never implemented it, and answers ENOSYS.
pub(crate) const UNUSED_CALL: &str = "nfsservctl";

/// A filter for host processes: `handler` for the named calls, nothing else.
pub(crate) fn filter(handler: &str, calls: &[&str]) -> FilterFile {
    let calls: Vec<_> = calls.iter().map(|call| format!("{call:?}")).collect();
    FilterFile::of(&format!(
        "  - {{syscalls: [{}], handler: {handler}}}\n",
        calls.join(", ")
    ))
}

// === impl FilterFile ===

impl FilterFile {
    /// With rules as YAML, each line indented by two.
    pub(crate) fn of(rules: &str) -> FilterFile {
        FilterFile::with_text(&format!(
            "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\n\
             metadata: {{name: kernel-test}}\nspec:\n  host: true\n  rules:\n{rules}"
        ))
    }

    /// With any text.
    pub(crate) fn with_text(text: &str) -> FilterFile {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("filter.yaml"), text).unwrap();
        FilterFile { directory }
    }

    pub(crate) fn path(&self) -> &str {
        let path: &Path = self.directory.path();
        path.to_str()
            .expect("temporary directories have plain names")
    }
}
