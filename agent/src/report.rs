//! What a node says of itself to a collector: its status, as the protocol has it.

use std::time::SystemTime;

use ebpf_hello_loader::{Counts, ProgramStatus};
use ebpf_hello_policy::Arch;
use ebpf_hello_proto::v1;

use crate::{
    AgentError, Node, Status,
    counters::{by_pod, counters},
};

impl Node {
    /// The node's state now.
    ///
    /// # Errors
    /// The kernel does not answer for a program or map of ours.
    pub fn report(&self, version: &str) -> Result<v1::NodeReport, AgentError> {
        let (status, counts) = self.state(version)?;
        Ok(v1::NodeReport {
            time: Some(SystemTime::now().into()),
            node: Some(self.node(&status)),
            programs: status.programs.iter().map(program).collect(),
            filters: filters(&status),
            ledger: Some(status.ledger),
            counters: Some(counters(&counts, Arch::host())),
            pods: self.pod_counters(&counts),
        })
    }

    /// What was counted in each pod, where pods are told apart.
    fn pod_counters(&self, counts: &Counts) -> Vec<v1::PodCounters> {
        let identity = self.identity.as_ref();
        identity.map_or_else(Vec::new, |identity| {
            by_pod(counts, Arch::host(), |cgroup| identity.pod(cgroup))
        })
    }

    fn node(&self, status: &Status) -> v1::Node {
        let machine = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        v1::Node {
            name: status.node.clone(),
            epoch: self.epoch(),
            version: status.version.clone(),
            kernel: text(machine.release()),
            architecture: text(machine.machine()),
            cpus: u32::try_from(status.sequences.len()).unwrap_or(u32::MAX),
            started: Some(self.started().into()),
            sys_enter_attached: status.sys_enter_attached,
            sys_exit_attached: status.sys_exit_attached,
            tables_capacity: status.tables.capacity,
            tables_live: u32::try_from(status.tables.live).unwrap_or(u32::MAX),
            generation: status.tables.generation,
            unready: status.unready.clone(),
            missing: status.missing.clone(),
            ..v1::Node::default()
        }
    }
}

fn program(program: &ProgramStatus) -> v1::Program {
    let runs = program.runs.unwrap_or_default();
    v1::Program {
        name: program.name.clone(),
        id: program.id,
        r#type: program.kind.clone(),
        tag: program.tag.clone(),
        attached_to: program.attached_to.unwrap_or_default().to_owned(),
        runs,
        run_nanoseconds: program
            .average_nanoseconds
            .unwrap_or_default()
            .saturating_mul(runs),
        ..v1::Program::default()
    }
}

fn filters(status: &Status) -> Vec<v1::FilterState> {
    let filters = status.filters.iter();
    filters
        .map(|filter| v1::FilterState {
            filter: filter.filter.clone(),
            uid: filter.uid.clone(),
            observed_generation: filter.generation,
            pods: u32::try_from(filter.pods).unwrap_or(u32::MAX),
            programmed: filter.programmed,
            reason: filter.reason.to_owned(),
            message: filter.message.clone(),
            ..v1::FilterState::default()
        })
        .collect()
}
