//! One node's pipeline, from loading to drain.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use ebpf_hello_loader::{
    Counts, Exclusion, Kernel, LoadError, Options, Reader, ReaderCounters, StopHandle, abi::Handler,
};
use ebpf_hello_policy::{self as policy, Arch, Filter};
use ebpf_hello_proto::v1::Ledger;

use crate::{
    Accounts, Batch, Item, Status,
    event::{Origin, syscall_name},
    follower::{self, Changes, Core},
    intake::Intake,
    ledger,
    placement::Placement,
    policies::Policies,
    processes::Processes,
    seed,
    status::{CgroupStatus, ExecSourceStatus, IoUringStatus, TableStatus},
    waiting,
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
    /// A filter names cgroups, and there are none of version 2.
    #[error("a filter has matchCgroup, but no cgroup v2 hierarchy is mounted here")]
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
    /// The policy.
    pub filters: Vec<Filter>,
}

/// Exec attempts of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecCounter {
    /// Real user id.
    pub uid: u32,
    /// Attempts since load.
    pub attempts: u64,
}

/// Calls of one system call, over all cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallCounter {
    /// The kernel's name.
    pub name: String,
    /// What people call the ABI: `x86_64`, `ia32`, …; `io_uring` for its operations.
    pub abi: &'static str,
    /// Calls since load.
    pub calls: u64,
}

/// Counters, largest first.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Exec attempts per user.
    pub execs: Vec<ExecCounter>,
    /// Attempts that found the map full.
    pub execs_overflow: u64,
    /// Counted calls.
    pub syscalls: Vec<SyscallCounter>,
    /// Calls that found the map full.
    pub syscalls_overflow: u64,
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
    out: Mutex<Option<SyncSender<Batch>>>,
    origin: Arc<Origin>,
    accounts: Arc<Accounts>,
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
        });
        let accounts = Arc::new(Accounts::default());
        let (out, events) = sync_channel(QUEUE);
        let stop = reader.stop_handle();
        let received = reader.counters();

        kernel.attach_standing()?;
        let (older, processes, older_processes) = older_processes(&mut kernel, &options, &origin)?;
        for _ in &older {
            accounts.add_synthetic();
        }
        let mut placement = Placement::new(options.filters.clone(), policies);
        placement.program(&mut kernel)?;
        let core = Arc::new(Core::new(kernel, placement));
        let (changes, changed) = Changes::new();
        let follower = follower::spawn(Arc::clone(&core), changed)?;
        let intake = Intake::new(Arc::clone(&origin), processes, out.clone(), changes);
        let reader = spawn(reader, intake, out.clone(), older)?;
        let node = Node {
            core,
            stop,
            received,
            reader: Mutex::new(Some(reader)),
            follower: Mutex::new(Some(follower)),
            out: Mutex::new(Some(out)),
            origin,
            accounts,
            options,
            older_processes,
        };
        Ok((node, events))
    }

    /// Makes other filters the policy. What they leave as it is is not touched.
    ///
    /// # Errors
    /// What keeps it from being programmed; what could be programmed then is.
    pub fn apply(&self, filters: Vec<Filter>) -> Result<(), AgentError> {
        self.core
            .placement()
            .replace(filters, &mut self.core.kernel())
    }

    /// Looks at the cgroup tree again: for what the kernel could not tell of it, and for limits of
    /// cgroups that are gone.
    ///
    /// # Errors
    /// As [`Node::apply`].
    pub fn sweep(&self) -> Result<(), AgentError> {
        self.core.placement().sweep(&mut self.core.kernel())
    }

    /// The path of a living cgroup from the root of the cgroup v2 mount, by its id.
    pub fn cgroup_path(&self, id: u64) -> Option<String> {
        self.core.placement().tree().path(id).map(ToOwned::to_owned)
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
        Ok(self.core.kernel().find_readers()?)
    }

    /// Detaches every program, reads what is left and ends the reader. The receiver ends once
    /// everything was taken from it.
    ///
    /// # Errors
    /// A program that could not be detached, or a reader that failed.
    pub fn drain(&self) -> Result<(), AgentError> {
        self.core.placement().close();
        self.core.kernel().detach()?;
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
        let told = self.tell_waiting();
        read.and(told)
    }

    /// Tells the calls that have not returned, and ends the receiver.
    fn tell_waiting(&self) -> Result<(), AgentError> {
        let out = self
            .out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let calls = self.core.kernel().waiting_calls()?;
        let batch: Batch = calls
            .iter()
            .filter_map(|(tid, join)| waiting::item(*tid, join, &self.origin))
            .collect();
        for item in &batch {
            self.accounts.add_waiting(item.handler);
        }
        if let Some(out) = out {
            // A consumer that is gone has settled nothing: what it missed stays in flight.
            let _ = out.send(batch);
        }
        Ok(())
    }

    /// What became of everything that was seen. Exact after the drain.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn ledger(&self) -> Result<Ledger, AgentError> {
        let kernel = self.core.kernel();
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
        Ok(self.core.kernel().ledger()?.sequences())
    }

    /// The counting handlers' counters.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn counters(&self) -> Result<Counters, AgentError> {
        Ok(counters(&self.core.kernel().counts()?, Arch::host()))
    }

    /// What the instance is, has and did.
    ///
    /// # Errors
    /// The kernel does not answer for a program or map of ours.
    pub fn status(&self, version: &str) -> Result<Status, AgentError> {
        let ledger = self.ledger()?;
        let policy = self.core.placement();
        let kernel = self.core.kernel();
        let counts = kernel.counts()?;
        let (ring_shards, ring_bytes) = kernel.rings();
        let half = &policy.default().native;
        let summary = policy.summary();
        Ok(Status {
            version: version.to_owned(),
            pid: kernel.tgid(),
            node: self.options.node.clone(),
            scope: kernel.scope().clone(),
            exec_source: exec_source(kernel.are_processes_reported()),
            exit_source: kernel.exit_source(),
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
                generation: summary.generation,
                slots: half.slots.len(),
                default: format!("{:?}", half.default.action),
                filters: policy
                    .filters()
                    .iter()
                    .map(|filter| filter.name().to_string())
                    .collect(),
            },
            cgroups: CgroupStatus {
                known: policy.tree().len(),
                foretold: summary.names,
                untold: counts.cgroup_changes_overflow,
                without_room: counts.cgroups_overflow,
            },
            ring_shards,
            ring_bytes,
            programs: kernel.programs()?,
            maps: kernel.maps()?,
            sequences: kernel.ledger()?.sequences(),
            ledger,
        })
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
            handler: Handler::ProcessExec,
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
        .map_err(|error| AgentError::Thread {
            name: "ring-reader",
            error,
        })
}

fn counters(counts: &Counts, arch: Arch) -> Counters {
    let mut by_call = std::collections::BTreeMap::new();
    for count in &counts.calls {
        let abi = if count.compat {
            policy::Abi::Compat
        } else {
            policy::Abi::Native
        };
        *by_call.entry((count.number, abi)).or_insert(0) += count.calls;
    }
    let mut syscalls: Vec<_> = by_call
        .into_iter()
        .map(|((number, abi), calls)| SyscallCounter {
            name: syscall_name(arch, abi, u32::from(number)),
            abi: arch.abi_name(abi),
            calls,
        })
        .collect();
    let mut by_opcode = std::collections::BTreeMap::new();
    for count in &counts.operations {
        *by_opcode.entry(count.opcode).or_insert(0) += count.operations;
    }
    syscalls.extend(by_opcode.into_iter().map(|(opcode, calls)| {
        SyscallCounter {
            name: policy::io_uring::name(opcode)
                .map_or_else(|| format!("opcode_{opcode}"), ToOwned::to_owned),
            abi: "io_uring",
            calls,
        }
    }));
    syscalls.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
    let mut execs: Vec<_> = counts
        .execs_by_uid
        .iter()
        .map(|(uid, attempts)| ExecCounter {
            uid: *uid,
            attempts: *attempts,
        })
        .collect();
    execs.sort_by(|a, b| b.attempts.cmp(&a.attempts).then(a.uid.cmp(&b.uid)));
    Counters {
        execs,
        execs_overflow: counts.execs_overflow,
        syscalls,
        syscalls_overflow: counts.calls_overflow + counts.operations_overflow,
    }
}

/// New and ordered at every start of a node's agent: microseconds since 1970.
fn epoch() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}
