//! The policy in the kernel: made what the filters ask for, and kept so while cgroups come and go.

use std::{collections::HashSet, sync::Arc, time::Instant};

use ebpf_hello_loader::{
    Kernel,
    abi::{Bucket, BucketKey, CgroupChange},
    cgroup_mount,
};
use ebpf_hello_policy::{Arch, Filter, Table};

use crate::{
    assignment::{Assignment, Summary},
    cgroups::{self, Cgroup, Change, Tree},
    desired::{Desired, Selection},
    identity::Paths,
    node::AgentError,
    policies::Policies,
    suppressed::Suppressed,
};

/// Passes over the cgroup tree until one changes nothing; a tree that never rests is left to the
/// next sweep.
const PASSES: u32 = 5;

/// The filters, the cgroups, and who has what.
#[derive(Debug)]
pub(crate) struct Placement {
    selection: Selection,
    assignment: Assignment,
    /// What the last look at the tree made it.
    applied: Option<Desired>,
    tree: Tree,
    /// Where events get their pods from, where there are any.
    paths: Option<Arc<Paths>>,
    /// Limits that nobody used at the last sweep.
    idle: HashSet<BucketKey>,
    /// Nothing is attached any more, and nothing must be.
    closed: bool,
}

// === impl Placement ===

impl Placement {
    /// Of no cgroup yet: [`Placement::program`] programs it.
    pub(crate) fn new(
        filters: Vec<Filter>,
        policies: Arc<Policies>,
        paths: Option<Arc<Paths>>,
    ) -> Self {
        Placement {
            selection: Selection::new(filters, Arch::host()),
            assignment: Assignment::new(Arch::host(), policies),
            applied: None,
            tree: Tree::default(),
            paths,
            idle: HashSet::new(),
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

    /// Walks the tree for what the kernel could not tell, and drops limits of cgroups and policies
    /// that are gone, once all they left out is told. `buckets` are read before: a cgroup that was
    /// made meanwhile is not taken for one that is gone.
    pub(crate) fn sweep(
        &mut self,
        buckets: &[(BucketKey, Bucket)],
        suppressed: &Suppressed,
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        self.program(kernel)?;
        let generations = kernel.generations();
        let idle: HashSet<BucketKey> = buckets
            .iter()
            .filter(|(key, bucket)| {
                let is_gone = self.tree.len() > 0 && self.tree.path(key.cgroup_id).is_none();
                (is_gone || !generations.contains(&key.generation))
                    && suppressed.is_told(*key, bucket.suppressed)
            })
            .map(|(key, _)| *key)
            .collect();
        // Not at once: a program that began before the policy changed may still add to it.
        for key in idle.intersection(&self.idle) {
            kernel.remove_bucket(*key);
            suppressed.end(*key);
        }
        self.idle = idle;
        Ok(())
    }

    /// Makes the filters the policy of every cgroup, until a pass over the tree changes nothing.
    pub(crate) fn program(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        if self.closed {
            return Ok(());
        }
        // Nothing, while it is not known how far an error let it come.
        let mut before = self.applied.take();
        for _ in 0..PASSES {
            let cgroups = self.walk()?;
            let names_cgroups = self.selection.names_cgroups();
            let concerned = if names_cgroups { &cgroups[..] } else { &[] };
            let desired = self.selection.desired(concerned);
            // Also where nothing changed: a cgroup may have inherited an outcome that went, or a table
            // may have come free.
            self.assignment.apply(&desired, kernel)?;
            let is_settled = !names_cgroups || before.as_ref() == Some(&desired);
            before = Some(desired);
            if is_settled {
                self.applied = before;
                break;
            }
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
        let began = Instant::now();
        let cgroups = cgroups::walk(&mount).map_err(|error| AgentError::Cgroups {
            mount: mount.display().to_string(),
            error,
        })?;
        self.tree = Tree::of(&cgroups);
        if let Some(paths) = &self.paths {
            paths.walked(&cgroups, began);
        }
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
        self.selection.default()
    }

    pub(crate) fn summary(&self) -> Summary {
        self.assignment.summary()
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}
