//! One node's pipeline, from loading to drain.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use ebpf_hello_loader::{
    Exclusion, Kernel, LoadError, Options, Reader, ReaderCounters, StopHandle,
    abi::{Bucket, BucketKey, Handler},
};
use ebpf_hello_policy::{Arch, Filter};
use ebpf_hello_proto::v1::{Counters, Ledger};

use crate::{
    Accounts, Batch, FilterWithoutTable, Item, Redactor, Status,
    assignment::Assignment,
    canary::Canaries,
    cgroups::{self, Cgroup},
    counters::counters,
    desired::{Desired, Selection},
    event::Origin,
    intake::Intake,
    ledger,
    policies::Policies,
    processes::Processes,
    readiness::Readiness,
    seed,
    status::{ExecSourceStatus, TableStatus},
    suppressed, waiting,
};

/// Batches between the reader and the consumer. When all are full the reader waits, the rings
/// fill, and what is lost is lost (and counted) in the kernel.
const QUEUE: usize = 64;
/// Passes over the cgroup tree until one changes nothing; a tree that never rests is left to the
/// next sweep.
const PASSES: u32 = 5;

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
    /// A filter names cgroups, and there are none of version 2.
    #[error("a filter has matchCgroup, but no cgroup v2 hierarchy is mounted here")]
    NoCgroups,
    /// /proc could not be listed.
    #[error("cannot list the processes in /proc: {0}")]
    Proc(String),
    /// A thread could not be started.
    #[error("cannot start the ring buffer reader's thread")]
    Thread(#[source] std::io::Error),
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
    /// The policy.
    pub filters: Vec<Filter>,
    /// What hides secrets in events.
    pub redactor: Redactor,
}

/// The filters, and what they have become in the kernel.
struct Policy {
    selection: Selection,
    assignment: Assignment,
    /// What the last look at the tree made it.
    applied: Option<Desired>,
    /// Limits that nobody used at the last sweep.
    idle: HashSet<BucketKey>,
}

/// A running node.
pub struct Node {
    kernel: Mutex<Kernel>,
    policy: Mutex<Policy>,
    stop: StopHandle,
    received: Arc<ReaderCounters>,
    reader: Mutex<Option<JoinHandle<Result<(), LoadError>>>>,
    /// For what is told at the end; the receiver ends when it goes.
    out: Mutex<Option<SyncSender<Batch>>>,
    origin: Arc<Origin>,
    accounts: Arc<Accounts>,
    pub(crate) canaries: Arc<Canaries>,
    pub(crate) readiness: Readiness,
    options: NodeOptions,
    older_processes: &'static str,
}

// === impl Node ===

impl Node {
    /// Loads, programs, attaches and starts reading. Events come out of the receiver, which ends
    /// after [`Node::drain`].
    ///
    /// # Errors
    /// Whatever keeps a program from being loaded or attached, or the policy from being programmed.
    pub fn start(options: NodeOptions) -> Result<(Node, Receiver<Batch>), AgentError> {
        let arch = Arch::host();
        let (mut kernel, reader) = Kernel::load(options.load)?;
        let policies = Arc::new(Policies::default());
        let origin = Arc::new(Origin {
            node: options.node.clone(),
            epoch: epoch(),
            arch,
            policies: Arc::clone(&policies),
            suppressed: Arc::default(),
            redactor: options.redactor.clone(),
        });
        let accounts = Arc::new(Accounts::default());
        let canaries = Arc::new(Canaries::default());
        let (out, events) = sync_channel(QUEUE);
        let stop = reader.stop_handle();
        let received = reader.counters();

        kernel.attach_standing()?;
        let (older, processes, older_processes) = older_processes(&mut kernel, &options, &origin)?;
        for _ in &older {
            accounts.add_synthetic();
        }
        let mut policy = Policy {
            selection: Selection::new(options.filters.clone(), arch),
            assignment: Assignment::new(arch, policies),
            applied: None,
            idle: HashSet::new(),
        };
        program(&mut policy, &mut kernel)?;
        let intake = Intake::new(
            Arc::clone(&origin),
            processes,
            Arc::clone(&canaries),
            Arc::clone(&accounts),
            out.clone(),
        );
        let reader = spawn(reader, intake, out.clone(), older)?;
        let node = Node {
            kernel: Mutex::new(kernel),
            policy: Mutex::new(policy),
            stop,
            received,
            reader: Mutex::new(Some(reader)),
            out: Mutex::new(Some(out)),
            origin,
            accounts,
            canaries,
            readiness: Readiness::default(),
            options,
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

    /// Makes other filters the policy. What they leave as it is is not touched.
    ///
    /// # Errors
    /// What keeps it from being programmed; what could be programmed then is.
    pub fn apply(&self, filters: Vec<Filter>) -> Result<(), AgentError> {
        let mut policy = self.policy();
        policy.selection = Selection::new(filters, Arch::host());
        let programmed = program(&mut policy, &mut self.kernel());
        self.readiness
            .note_policy(programmed.as_ref().err().map(ToString::to_string));
        programmed.map(drop)
    }

    /// Looks at the cgroup tree again, for new cgroups that a filter names; tells what limits left
    /// out and no event has told; drops what is kept of policies and cgroups that are gone. To be
    /// called once a second.
    ///
    /// # Errors
    /// As [`Node::apply`].
    pub fn sweep(&self) -> Result<(), AgentError> {
        let mut policy = self.policy();
        let mut kernel = self.kernel();
        kernel.sweep_exits()?;
        let buckets = kernel.buckets()?;
        self.tell_suppressed(&buckets);
        // After the buckets: a cgroup that was made meanwhile is not taken for one that is gone.
        let tree = if policy.selection.names_cgroups() || kernel.has_bound_cgroups() {
            program(&mut policy, &mut kernel)?
        } else {
            None
        };
        let alive: Option<HashSet<u64>> = tree
            .or_else(|| cgroups::walk(&cgroups::mount().filter(|_| !buckets.is_empty())?).ok())
            .map(|tree| tree.iter().map(|cgroup| cgroup.id).collect());
        let generations = kernel.generations();
        let idle: HashSet<BucketKey> = buckets
            .iter()
            .filter(|(key, bucket)| {
                let is_gone = alive
                    .as_ref()
                    .is_some_and(|alive| !alive.contains(&key.cgroup_id));
                (is_gone || !generations.contains(&key.generation))
                    && self.origin.suppressed.is_told(*key, bucket.suppressed)
            })
            .map(|(key, _)| *key)
            .collect();
        // Not at once: a program that began before the policy changed may still add to it.
        for key in idle.intersection(&policy.idle) {
            kernel.remove_bucket(*key);
            self.origin.suppressed.end(*key);
        }
        policy.idle = idle;
        Ok(())
    }

    /// Sends what limits left out and no event has told. What the consumer has no room for is told
    /// at the next sweep.
    fn tell_suppressed(&self, buckets: &[(BucketKey, Bucket)]) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(out) = out.as_ref() {
            suppressed::tell(&self.origin, buckets, |batch| out.try_send(batch).is_ok());
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
        self.kernel().detach()?;
        self.stop.stop().map_err(AgentError::Thread)?;
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
            let _ = out.send(batch);
            suppressed::tell(&self.origin, &buckets, |batch| out.send(batch).is_ok());
        }
        Ok(())
    }

    /// What became of everything that was seen. Exact after the drain.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn ledger(&self) -> Result<Ledger, AgentError> {
        let kernel = self.kernel();
        Ok(ledger::ledger(
            &kernel.ledger()?,
            &kernel.counts()?,
            &self.received,
            &self.accounts,
        ))
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

    /// The agent's run on its node: the microsecond since 1970 at which it began.
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
        let ledger = self.ledger()?;
        let policy = self.policy();
        let kernel = self.kernel();
        let (ring_shards, ring_bytes) = kernel.rings();
        let half = &policy.selection.default().native;
        let summary = policy.assignment.summary();
        Ok(Status {
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
                filters: policy
                    .selection
                    .filters()
                    .iter()
                    .map(|filter| filter.name().to_string())
                    .collect(),
            },
            ring_shards,
            ring_bytes,
            programs: kernel.programs()?,
            maps: kernel.maps()?,
            sequences: kernel.ledger()?.sequences(),
            ledger,
        })
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        // A panic while it was held left at worst a policy half programmed; the next one is whole.
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A panic while it was held left at worst a map half read.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the filters the policy of every cgroup, until the tree is as it was at the look before.
/// Returns the tree, where a filter made it look.
fn program(policy: &mut Policy, kernel: &mut Kernel) -> Result<Option<Vec<Cgroup>>, AgentError> {
    let mut tree = None;
    // Nothing, while it is not known how far an error let it come.
    let mut before = policy.applied.take();
    for _ in 0..PASSES {
        if policy.selection.names_cgroups() {
            let mount = cgroups::mount().ok_or(AgentError::NoCgroups)?;
            tree = Some(cgroups::walk(&mount).map_err(|error| AgentError::Cgroups {
                mount: mount.display().to_string(),
                error,
            })?);
        }
        let desired = policy
            .selection
            .desired(tree.as_deref().unwrap_or_default());
        // Also where nothing changed: a cgroup may have inherited an outcome that went, or a table
        // may have come free.
        policy.assignment.apply(&desired, kernel)?;
        if before.as_ref() == Some(&desired) {
            policy.applied = before;
            break;
        }
        before = Some(desired);
    }
    Ok(tree)
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
    out: SyncSender<Batch>,
    first: Batch,
) -> Result<JoinHandle<Result<(), LoadError>>, AgentError> {
    std::thread::Builder::new()
        .name("ring-reader".into())
        .spawn(move || {
            // The consumer is gone only when the whole pipeline ends.
            let _ = out.send(first);
            drop(out);
            reader.run(&mut intake)
        })
        .map_err(AgentError::Thread)
}

/// New and ordered at every start of a node's agent: microseconds since 1970.
fn epoch() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}
