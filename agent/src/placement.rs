//! The policy in the kernel: made what the filters ask for, and kept so while cgroups come and go.

use std::{collections::HashSet, sync::Arc, time::Instant};

use ebpf_hello_loader::{
    Kernel,
    abi::{Bucket, BucketKey, CgroupChange, CountKey, NAMESPACE_BUCKET},
    cgroup_mount,
};
use ebpf_hello_policy::{Arch, Table};

use crate::{
    assignment::{Assignment, Summary},
    cgroups::{self, Cgroup, Change, Tree},
    compiler::Policy,
    desired::{Desired, Selected, Selection},
    identity::Paths,
    node::AgentError,
    owners::{self, Owners},
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
    /// Cgroups that the kernel knew and the last walk did not find.
    unfound: HashSet<u64>,
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
        selection: Selection,
        policies: Arc<Policies>,
        paths: Option<Arc<Paths>>,
    ) -> Self {
        Placement {
            selection,
            assignment: Assignment::new(Arch::host(), policies),
            applied: None,
            tree: Tree::default(),
            unfound: HashSet::new(),
            paths,
            idle: HashSet::new(),
            closed: false,
        }
    }

    /// Makes another policy the one of every cgroup. What it leaves as it is is not touched.
    pub(crate) fn replace(
        &mut self,
        policy: Policy,
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        self.selection.replace(policy);
        // The tree as the kernel told it is the one that is there, but for the last few milliseconds.
        self.follow_pods(kernel)?;
        self.program(kernel)
    }

    /// Gives the cgroups of pods that came or changed what is theirs now, and foretells those that are to come.
    pub(crate) fn follow_pods(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        if self.closed || self.tree.len() == 0 {
            return Ok(());
        }
        let cgroups = self.tree.cgroups();
        self.apply(&cgroups, kernel).map(drop)
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
        self.unbind_unfound(kernel)?;
        let generations = kernel.generations();
        let idle: HashSet<BucketKey> = buckets
            .iter()
            // A namespace's share is nobody's limit, and stays.
            .filter(|(key, _)| key.bucket != NAMESPACE_BUCKET)
            .filter(|(key, bucket)| {
                (self.is_gone(key.cgroup_id) || !generations.contains(&key.generation))
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

    /// Takes what was counted for cgroups and policies that are gone out of the kernel's map. To be called after
    /// [`Placement::sweep`]; `counted` is read before it, as buckets are.
    pub(crate) fn fold(
        &self,
        counted: &[CountKey],
        owners: Option<&Owners>,
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        if let Some(owners) = owners {
            owners.follow(counted);
        }
        let generations = kernel.generations();
        let folds = owners::folds(
            counted,
            |cgroup| self.is_gone(cgroup),
            // Under 0 is counted what no policy chose.
            |generation| generation != 0 && !generations.contains(&generation),
            |cgroup| owners.map_or(Some(owners::HOST), |owners| owners.row(cgroup)),
        );
        kernel.fold_counts(&folds)?;
        if let Some(owners) = owners {
            owners.retire(|cgroup| self.is_gone(cgroup));
        }
        Ok(())
    }

    /// Whether the last look at the tree did not find it; never on a machine without a tree.
    fn is_gone(&self, cgroup: u64) -> bool {
        self.tree.len() > 0 && self.tree.path(cgroup).is_none()
    }

    /// Makes the filters the policy of every cgroup, until a pass over the tree changes nothing.
    pub(crate) fn program(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        if self.closed {
            return Ok(());
        }
        for _ in 0..PASSES {
            let cgroups = self.walk()?;
            if self.apply(&cgroups, kernel)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether nothing was left to do.
    fn apply(&mut self, cgroups: &[Cgroup], kernel: &mut Kernel) -> Result<bool, AgentError> {
        // Nothing, while it is not known how far an error lets it come.
        let before = self.applied.take();
        let is_selective = self.selection.is_selective();
        let concerned = if is_selective { cgroups } else { &[] };
        let desired = self.selection.desired(concerned);
        // Also where nothing changed: a cgroup may have inherited an outcome that went, or a table
        // may have come free.
        self.assignment.apply(&desired, &self.tree, kernel)?;
        let is_settled = !is_selective || before.as_ref() == Some(&desired);
        self.applied = Some(desired);
        Ok(is_settled)
    }

    /// Takes the policy from what the kernel knows and two walks did not find: a directory that came after the
    /// first would be found by the second.
    fn unbind_unfound(&mut self, kernel: &mut Kernel) -> Result<(), AgentError> {
        let bound = kernel.bound_cgroups()?;
        let unfound = bound
            .into_iter()
            .map(|(id, _)| id)
            .filter(|id| self.tree.path(*id).is_none())
            .collect();
        for id in self.unfound.intersection(&unfound) {
            kernel.unbind_cgroup(*id);
        }
        self.unfound = unfound;
        Ok(())
    }

    /// The tree as it is. A machine without one is an error to who selects by it.
    fn walk(&mut self) -> Result<Vec<Cgroup>, AgentError> {
        let Some(mount) = cgroup_mount() else {
            return if self.selection.is_selective() {
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
        // In the order in which they are looked at otherwise.
        Ok(self.tree.cgroups())
    }

    /// Takes in what the kernel told, in its order: a new cgroup has its policy when this returns.
    pub(crate) fn follow(
        &mut self,
        changes: &[Change],
        kernel: &mut Kernel,
    ) -> Result<(), AgentError> {
        for change in changes {
            let path = self.tree.follow(change);
            if self.closed || !self.selection.is_selective() {
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

    /// The policy, and what filters select by.
    pub(crate) fn policy(&self) -> &Policy {
        self.selection.policy()
    }

    /// The filters that are for this node, and how many of its pods each selects.
    pub(crate) fn selected(&self) -> Vec<Selected> {
        self.selection.selected()
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
