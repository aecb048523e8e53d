//! The policy in the kernel: made what the filters ask for, and kept so while cgroups come and go.

use std::sync::Arc;

use ebpf_hello_loader::{Kernel, abi::CgroupChange, cgroup_mount};
use ebpf_hello_policy::{Arch, Filter, Table};

use crate::{
    assignment::{Assignment, Desired, Summary},
    cgroups::{self, Cgroup, Change, Tree},
    node::AgentError,
    policies::Policies,
    selection::Selection,
};

/// Passes over the cgroup tree until one changes nothing; a tree that never rests is left to the
/// next sweep.
const PASSES: u32 = 5;

/// The filters, the cgroups, and who has what.
#[derive(Debug)]
pub(crate) struct Placement {
    selection: Selection,
    assignment: Assignment,
    default: Arc<Table>,
    tree: Tree,
    /// Nothing is attached any more, and nothing must be.
    closed: bool,
}

// === impl Placement ===

impl Placement {
    /// Of no cgroup yet: [`Placement::sweep`] programs it.
    pub(crate) fn new(filters: Vec<Filter>, policies: Arc<Policies>) -> Self {
        Placement {
            selection: Selection::new(filters, Arch::host()),
            assignment: Assignment::new(Arch::host(), policies),
            default: Arc::default(),
            tree: Tree::default(),
            closed: false,
        }
    }

    /// Makes other filters the policy. What they leave as it is is not touched.
    pub(crate) fn replace(
        &mut self,
        filters: Vec<Filter>,
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        self.selection = Selection::new(filters, Arch::host());
        self.program(kernel)
    }

    /// Walks the tree for what the kernel could not tell, and drops the limits of cgroups that are
    /// gone.
    pub(crate) fn sweep(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        self.program(kernel)?;
        if self.tree.len() > 0 {
            kernel.sweep_buckets(|cgroup| self.tree.path(cgroup).is_some())?;
        }
        Ok(())
    }

    /// Makes the filters the policy of every cgroup, until a pass over the tree changes nothing.
    pub(crate) fn program(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        let mut before = None;
        for _ in 0..PASSES {
            if self.closed {
                break;
            }
            let cgroups = self.walk()?;
            let desired = Desired::new(&mut self.selection, &cgroups);
            if before.as_ref() == Some(&desired) {
                break;
            }
            self.assignment.apply(&desired, kernel)?;
            self.default = desired.default();
            if !self.selection.names_cgroups() {
                break;
            }
            before = Some(desired);
        }
        Ok(())
    }

    /// The tree as it is. A machine without one is an error to who names cgroups.
    fn walk(&mut self) -> Result<Vec<Cgroup>, AgentError> {
        let Some(mount) = cgroup_mount() else {
            return if self.selection.names_cgroups() {
                Err(AgentError::NoCgroups)
            } else {
                Ok(Vec::new())
            };
        };
        let cgroups = cgroups::walk(&mount).map_err(|error| AgentError::Cgroups {
            mount: mount.display().to_string(),
            error,
        })?;
        self.tree = Tree::of(&cgroups);
        Ok(cgroups)
    }

    /// Takes in what the kernel told, in its order: a new cgroup has its policy when this returns.
    pub(crate) fn follow(
        &mut self,
        changes: &[Change],
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        for change in changes {
            let path = self.tree.follow(change);
            if self.closed || !self.selection.names_cgroups() {
                continue;
            }
            if change.what == CgroupChange::Removed {
                self.assignment.forget(change.id, kernel);
            }
            if let Some(path) = path {
                self.assignment
                    .place(change.id, &path, &mut self.selection, kernel)?;
            }
        }
        Ok(())
    }

    /// From here on the policy stays what it is: everything is about to be detached.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn filters(&self) -> &[Filter] {
        self.selection.filters()
    }

    /// The policy of every cgroup without one of its own.
    pub(crate) fn default(&self) -> &Table {
        &self.default
    }

    pub(crate) fn summary(&self) -> Summary {
        self.assignment.summary()
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}
