//! One node's pipeline, from loading to drain.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread::JoinHandle,
    time::SystemTime,
};

use ebpf_hello_loader::{
    Counts, Exclusion, Kernel, KernelLedger, LoadError, Options, Reader, ReaderCounters,
    StopHandle,
    abi::{Bucket, BucketKey, Handler},
};
use ebpf_hello_policy::Arch;
use ebpf_hello_proto::v1::{Counters, Ledger};

use crate::{
    Accounts, Batch, FilterStatus, FilterWithoutTable, Item, Policy, Redactor, Status,
    canary::Canaries,
    counters::counters,
    desired::Selection,
    event::Origin,
    events::{Consumer, Events, Out},
    follower::{self, Changes, Core},
    identity::{self, Identity, IdentityOptions},
    intake::Intake,
    ledger,
    owners::Owners,
    placement::Placement,
    policies::Policies,
    processes::Processes,
    readiness::Readiness,
    scope::Scopes,
    seed,
    status::{CgroupStatus, ExecSourceStatus, IoUringStatus, TableStatus},
    suppressed, waiting,
};

/// Batches between the reader and the consumer. When all are full the reader waits, the rings
/// fill, and what is lost is lost (and counted) in the kernel.
const QUEUE: usize = 64;

/// What can go wrong in the pipeline.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The kernel side.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The cgroup tree could not be listed.
    #[error("cannot list the cgroups below {mount}")]
    Cgroups {
        /// Where cgroup v2 is mounted.
        mount: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Filters are for some cgroups only, and there are none of version 2.
    #[error("filters are for pods or have matchCgroup, but no cgroup v2 hierarchy is mounted here")]
    NoCgroups,
    /// /proc could not be listed.
    #[error("cannot list the processes in /proc: {0}")]
    Proc(String),
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`")]
    Thread {
        /// Which one.
        name: &'static str,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The reader could not be told to end.
    #[error("cannot end the ring buffer reader")]
    Stop(#[source] std::io::Error),
    /// The reader's thread panicked.
    #[error("the ring buffer reader's thread panicked")]
    ReaderPanicked,
}

/// How to run a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How to load the programs.
    pub load: Options,
    /// The node's name on events.
    pub node: String,
    /// The number of this run: greater than that of every earlier one of the node ([`crate::epoch`]).
    pub epoch: u64,
    /// The policy to start with.
    pub policy: Policy,
    /// What hides secrets in events.
    pub redactor: Redactor,
    /// How events get their pods, and which pods filters select; `None` where there are none: a machine that is no
    /// node of a cluster.
    pub identity: Option<IdentityOptions>,
}

/// A running node.
pub struct Node {
    core: Arc<Core>,
    stop: StopHandle,
    received: Arc<ReaderCounters>,
    reader: Mutex<Option<JoinHandle<Result<(), LoadError>>>>,
    /// Ends after the reader.
    follower: Mutex<Option<JoinHandle<()>>>,
    /// For what is told at the end; the receiver ends when it goes.
    out: Mutex<Option<Out>>,
    consumer: Consumer,
    invalid_filters: AtomicU64,
    origin: Arc<Origin>,
    accounts: Arc<Accounts>,
    pub(crate) canaries: Arc<Canaries>,
    pub(crate) readiness: Readiness,
    pub(crate) identity: Option<Owners>,
    options: NodeOptions,
    started: SystemTime,
    older_processes: &'static str,
}

// === impl Node ===

impl Node {
    /// Loads, programs, attaches and starts reading.
    ///
    /// # Errors
    /// Whatever keeps a program from being loaded or attached, or the policy from being programmed.
    pub fn start(mut options: NodeOptions) -> Result<(Node, Events), AgentError> {
        let started = SystemTime::now();
        let arch = Arch::host();
        let (mut kernel, reader) = Kernel::load(options.load)?;
        let policies = Arc::new(Policies::default());
        let scopes = Arc::new(Scopes::new(Arc::clone(&policies), arch));
        if let Some(identity) = &mut options.identity {
            identity.scope = Some(Arc::clone(&scopes) as _);
        }
        let origin = Arc::new(Origin {
            node: options.node.clone(),
            epoch: options.epoch,
            arch,
            policies: Arc::clone(&policies),
            suppressed: Arc::default(),
            redactor: options.redactor.clone(),
        });
        let accounts = Arc::new(Accounts::default());
        let canaries = Arc::new(Canaries::default());
        let identity = options.identity.clone().map(Identity::new).map(Arc::new);
        let (out, mut parcels) = sync_channel(QUEUE);
        if let Some(identity) = &identity {
            let (identified, consumed) = sync_channel(QUEUE);
            let read = std::mem::replace(&mut parcels, consumed);
            // Ends by itself when the last sender goes, before the receiver does.
            identity::spawn(
                Arc::clone(identity),
                Arc::clone(&origin),
                Arc::clone(&accounts),
                read,
                identified,
            )?;
        }
        let (events, consumer) = Events::new(parcels, Arc::clone(&canaries));
        let paths = identity
            .as_ref()
            .map(|identity| Arc::clone(&identity.paths));
        let stop = reader.stop_handle();
        let received = reader.counters();

        kernel.attach_standing()?;
        let (older, processes, older_processes) = older_processes(&mut kernel, &options, &origin)?;
        for _ in &older {
            accounts.add_synthetic();
        }
        let policy = std::mem::take(&mut options.policy);
        let pods = options
            .identity
            .as_ref()
            .map(|identity| Arc::clone(&identity.pods));
        let selection = Selection::new(policy, pods, scopes, arch);
        let mut placement = Placement::new(selection, policies, paths.clone());
        placement.program(&mut kernel)?;
        let core = Arc::new(Core::new(kernel, placement));
        let (changes, changed) = Changes::new();
        let follower = follower::spawn(Arc::clone(&core), changed)?;
        let intake = Intake::new(
            Arc::clone(&origin),
            processes,
            Arc::clone(&accounts),
            out.clone(),
            changes,
            paths,
        );
        let reader = spawn(reader, intake, out.clone(), older)?;
        let node = Node {
            core,
            stop,
            received,
            reader: Mutex::new(Some(reader)),
            follower: Mutex::new(Some(follower)),
            out: Mutex::new(Some(out)),
            consumer,
            invalid_filters: AtomicU64::new(0),
            origin,
            accounts,
            canaries,
            readiness: Readiness::default(),
            identity: identity.map(Owners::new),
            options,
            started,
            older_processes,
        };
        Ok((node, events))
    }

    /// What keeps the node from doing its work, a sentence each: a policy that is not in the kernel, a program whose
    /// canary did not come ([`Node::check_ways`]). Empty when ready.
    pub fn unready(&self) -> Vec<String> {
        self.readiness.lacks()
    }

    /// Whether the thread that reads the ring buffers is at work. When it is not, nothing will make it but a restart.
    pub fn is_reading(&self) -> bool {
        self.reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|reader| !reader.is_finished())
    }

    /// Whether somebody takes the [`Events`]. When nobody does, whoever did has ended: nothing will mend that but a
    /// restart.
    pub fn is_consumed(&self) -> bool {
        self.consumer.is_there()
    }

    /// Makes it another policy. What that leaves as it is is not touched.
    ///
    /// # Errors
    /// What keeps it from being programmed; what could be programmed then is.
    pub fn apply(&self, policy: Policy) -> Result<(), AgentError> {
        let programmed = self
            .core
            .placement()
            .replace(policy, &mut self.core.kernel());
        self.note_policy(programmed)
    }

    /// Gives pods that came or changed what the policy has for them. To be called when [`Pods::changes`] tells so.
    ///
    /// # Errors
    /// As [`Node::apply`].
    pub fn follow_pods(&self) -> Result<(), AgentError> {
        let programmed = self.core.placement().follow_pods(&mut self.core.kernel());
        self.note_policy(programmed)
    }

    /// Notes what the API server has not told yet, a sentence each: the node is not ready until that is empty.
    pub fn note_unheard(&self, unheard: Vec<String>) {
        self.readiness.note_unheard(unheard);
    }

    /// Notes how many filters are invalid as they are. The node does its work all the same: it is a metric.
    pub fn note_invalid_filters(&self, filters: u64) {
        self.invalid_filters.store(filters, Ordering::Relaxed);
    }

    pub(crate) fn invalid_filters(&self) -> u64 {
        self.invalid_filters.load(Ordering::Relaxed)
    }

    fn note_policy(&self, programmed: Result<(), AgentError>) -> Result<(), AgentError> {
        self.readiness
            .note_policy(programmed.as_ref().err().map(ToString::to_string));
        programmed
    }

    /// Looks at the cgroup tree again, for new cgroups that a filter names; tells what limits left
    /// out and no event has told; drops what is kept of policies and cgroups that are gone. To be
    /// called once a second.
    ///
    /// # Errors
    /// As [`Node::apply`].
    pub fn sweep(&self) -> Result<(), AgentError> {
        let mut placement = self.core.placement();
        let mut kernel = self.kernel();
        kernel.sweep_exits()?;
        let buckets = kernel.buckets()?;
        let counted = kernel.count_keys()?;
        self.tell_suppressed(&buckets);
        let swept = placement.sweep(&buckets, &self.origin.suppressed, &mut kernel);
        self.note_policy(swept)?;
        placement.fold(&counted, self.identity.as_ref(), &mut kernel)
    }

    /// The path of a living cgroup from the root of the cgroup v2 mount, by its id.
    pub fn cgroup_path(&self, id: u64) -> Option<String> {
        self.core.placement().tree().path(id).map(ToOwned::to_owned)
    }

    /// Sends what limits left out and no event has told. What the consumer has no room for is told
    /// at the next sweep.
    fn tell_suppressed(&self, buckets: &[(BucketKey, Bucket)]) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(out) = out.as_ref() {
            suppressed::tell(&self.origin, buckets, |batch| {
                out.try_send(batch.into()).is_ok()
            });
        }
    }

    /// Where the consumer notes what became of each event.
    pub fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.accounts)
    }

    /// Looks again for processes that read our output.
    ///
    /// # Errors
    /// The kernel refused to look.
    pub fn find_readers(&self) -> Result<(), AgentError> {
        Ok(self.kernel().find_readers()?)
    }

    /// Detaches every program, reads what is left and ends the reader. The receiver ends once
    /// everything was taken from it.
    ///
    /// # Errors
    /// A program that could not be detached, or a reader that failed.
    pub fn drain(&self) -> Result<(), AgentError> {
        self.core.placement().close();
        self.kernel().detach()?;
        self.stop.stop().map_err(AgentError::Stop)?;
        let reader = self
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let read = match reader.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result.map_err(AgentError::from),
            Some(Err(_)) => Err(AgentError::ReaderPanicked),
        };
        let follower = self
            .follower
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if follower.is_some_and(|follower| follower.join().is_err()) {
            tracing::error!("the thread that follows cgroups panicked");
        }
        let told = self.tell_rest();
        read.and(told)
    }

    /// Tells the calls that have not returned and what limits left out, and ends the receiver.
    fn tell_rest(&self) -> Result<(), AgentError> {
        let out = self
            .out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let calls = self.kernel().waiting_calls()?;
        let batch: Batch = calls
            .iter()
            .filter_map(|(tid, join)| waiting::item(*tid, join, &self.origin))
            .collect();
        for handler in batch.iter().filter_map(|item| item.handler) {
            self.accounts.add_waiting(handler);
        }
        let buckets = self.kernel().buckets()?;
        if let Some(out) = out {
            // A consumer that is gone has settled nothing: what it missed stays in flight.
            let _ = out.send(batch.into());
            suppressed::tell(&self.origin, &buckets, |batch| {
                out.send(batch.into()).is_ok()
            });
        }
        Ok(())
    }

    /// What became of everything that was seen. Exact after the drain.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn ledger(&self) -> Result<Ledger, AgentError> {
        let kernel = self.kernel();
        Ok(self.balance(&kernel.ledger()?, &kernel.counts()?))
    }

    fn balance(&self, kernel: &KernelLedger, counts: &Counts) -> Ledger {
        ledger::ledger(kernel, counts, &self.received, &self.accounts)
    }

    /// Sequence numbers taken on each CPU so far.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn sequences(&self) -> Result<Vec<u64>, AgentError> {
        Ok(self.kernel().ledger()?.sequences())
    }

    /// The node's name on events.
    pub fn name(&self) -> &str {
        &self.options.node
    }

    /// Bytes that wait in each ring buffer, in the order of the shards.
    pub(crate) fn ring_bytes_waiting(&self) -> impl Iterator<Item = u64> {
        self.received.waiting()
    }

    /// When it was started.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// The agent's run on its node, as [`NodeOptions`] had it.
    pub fn epoch(&self) -> u64 {
        self.origin.epoch
    }

    /// The counting handlers' counters.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn counters(&self) -> Result<Counters, AgentError> {
        Ok(counters(&self.kernel().counts()?, Arch::host()))
    }

    /// What the instance is, has and did.
    ///
    /// # Errors
    /// The kernel does not answer for a program or map of ours.
    pub fn status(&self, version: &str) -> Result<Status, AgentError> {
        let (mut status, _) = self.state(version)?;
        status.maps = self.kernel().maps();
        Ok(status)
    }

    /// The status but for its maps, which nobody else shows and each of which is asked of the kernel; and the counts,
    /// whose maps are walked once for everything that is made of them.
    pub(crate) fn state(&self, version: &str) -> Result<(Status, Counts), AgentError> {
        let placement = self.core.placement();
        let kernel = self.kernel();
        let counts = kernel.counts()?;
        let kernel_ledger = kernel.ledger()?;
        let (ring_shards, ring_bytes) = kernel.rings();
        let half = &placement.default().native;
        let summary = placement.summary();
        let status = Status {
            version: version.to_owned(),
            pid: kernel.tgid(),
            node: self.options.node.clone(),
            scope: kernel.scope().clone(),
            exec_source: exec_source(kernel.are_processes_reported()),
            exit_source: kernel.exit_source(),
            unready: self.unready(),
            missing: kernel.missing().iter().map(ToString::to_string).collect(),
            older_processes: self.older_processes.to_owned(),
            sys_enter_attached: kernel.is_sys_enter_attached(),
            sys_exit_attached: kernel.is_sys_exit_attached(),
            io_uring: IoUringStatus {
                tracepoint: kernel.io_uring_tracepoint(),
                attached: kernel.is_io_uring_attached(),
                operations: counts
                    .operations
                    .iter()
                    .map(|count| count.operations)
                    .sum::<u64>()
                    + counts.operations_overflow,
            },
            tables: TableStatus {
                capacity: kernel.table_capacity(),
                live: kernel.tables_in_use(),
                outcomes: summary.outcomes,
                exhausted: summary.exhausted,
                without_table: summary
                    .without_table
                    .into_iter()
                    .map(|(filter, policies)| FilterWithoutTable {
                        filter: filter.to_string(),
                        reason: "TablesExhausted",
                        policies,
                    })
                    .collect(),
                generation: summary.generation,
                slots: half.slots.len(),
                default: format!("{:?}", half.default.action),
                filters: placement
                    .policy()
                    .filters
                    .iter()
                    .map(|installed| installed.filter.name().to_string())
                    .collect(),
            },
            filters: self.filter_states(&placement),
            cgroups: CgroupStatus {
                known: placement.tree().len(),
                foretold: summary.names,
                untold: counts.cgroup_changes_overflow,
                without_room: counts.cgroups_overflow,
            },
            ring_shards,
            ring_bytes,
            programs: kernel.programs()?,
            maps: Vec::new(),
            sequences: kernel_ledger.sequences(),
            ledger: self.balance(&kernel_ledger, &counts),
        };
        Ok((status, counts))
    }

    fn filter_states(&self, placement: &Placement) -> Vec<FilterStatus> {
        let without_table = placement.summary().without_table;
        let problem = self.readiness.policy_problem();
        let selected = placement.selected().into_iter();
        selected
            .map(|selected| {
                let exhausted = without_table
                    .iter()
                    .find(|(filter, _)| filter.to_string() == selected.filter);
                let (reason, message) = match (&problem, exhausted) {
                    (Some(problem), _) => ("ProgrammingFailed", problem.clone()),
                    (None, Some((_, policies))) => (
                        "TablesExhausted",
                        format!("{policies} policies that this filter is part of found no table free; raise --tables"),
                    ),
                    (None, None) => ("", String::new()),
                };
                FilterStatus {
                    filter: selected.filter,
                    uid: selected.uid,
                    generation: selected.generation,
                    pods: selected.pods,
                    programmed: reason.is_empty(),
                    reason,
                    message,
                }
            })
            .collect()
    }

    pub(crate) fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.core.kernel()
    }
}

fn exec_source(attached: bool) -> ExecSourceStatus {
    if attached {
        ExecSourceStatus {
            source: "sched_process_exec",
            reason: "raw tracepoint: every successful exec, no cost to other system calls",
        }
    } else {
        ExecSourceStatus {
            source: "off",
            reason: "process events are off",
        }
    }
}

/// Adopts older processes, where they can be seen.
fn older_processes(
    kernel: &mut Kernel,
    options: &NodeOptions,
    origin: &Origin,
) -> Result<(Batch, Processes, &'static str), AgentError> {
    let mut processes = Processes::default();
    let mut batch = Vec::new();
    if !seed::sees_all_processes(kernel.tgid()) {
        let why = "left out: /proc shows another PID namespace than the initial one";
        return Ok((batch, processes, why));
    }
    let exclude = options.load.exclusion != Exclusion::Nobody;
    seed::seed(kernel, origin, &mut processes, exclude, |event| {
        batch.push(Item {
            handler: Some(Handler::ProcessExec),
            event,
        });
    })?;
    if !options.load.process_events {
        batch.clear();
        return Ok((batch, processes, "left out: process events are off"));
    }
    Ok((batch, processes, "reported from /proc"))
}

fn spawn(
    reader: Reader,
    mut intake: Intake,
    out: Out,
    first: Batch,
) -> Result<JoinHandle<Result<(), LoadError>>, AgentError> {
    std::thread::Builder::new()
        .name("ring-reader".into())
        .spawn(move || {
            // The consumer is gone only when the whole pipeline ends.
            let _ = out.send(first.into());
            drop(out);
            reader.run(&mut intake)
        })
        .map_err(|error| AgentError::Thread {
            name: "ring-reader",
            error,
        })
}
