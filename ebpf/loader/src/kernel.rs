//! The loaded programs and their maps.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{RawTracePointRunOptions, TestRun as _, raw_trace_point::RawTracePointLinkId},
};
use ebpf_hello_abi::{
    Bucket, BucketKey, Config, CountKey, CpuLedger, Join, MATCHED_PATH, Overflow, Process, RINGS,
    SELF_HINTS, WhoAmI, exec_id, map, program,
};

use crate::{
    Counts, Exclusion, KernelLedger, LoadError, NodeScope, Options, Programmed, Reader, TableSpec,
    btf::{Architecture, Btf, Missing, layout},
    canary,
    interest::Wanted,
    machine,
    object::{
        STANDING_PROGRAMS, SYSCALL_PROGRAMS, Shared, attach, detach, load_programs, make_maps,
        raw_tracepoint, take,
    },
    tables::Tables,
};

/// Ancestors whose children may read our output.
const GENERATIONS: u64 = 32;
/// Rounds of looking for readers of readers.
const READER_ROUNDS: u32 = 4;
/// `BPF_NOEXIST` (`include/uapi/linux/bpf.h`).
const NOEXIST: u64 = 1;

/// How the end of a process is told from that of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitSource {
    /// The tracepoint says so (Linux 6.16).
    GroupDead,
    /// Nobody of the group is alive, and the process's entry could be taken out.
    LastAlive,
}

/// Whether a process was known before it was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessAge {
    /// Older than the programs: now known under this identity, its parent's beside it.
    Older {
        /// Identity of its image.
        exec_id: u64,
    },
    /// The programs saw it come, or exec, themselves.
    Seen,
}

/// The loaded programs. Everything goes when this is dropped: nothing is pinned.
pub struct Kernel {
    pub(crate) ebpf: Ebpf,
    options: Options,
    config: Config,
    scope: NodeScope,
    missing: Vec<Missing>,
    me: WhoAmI,
    /// By place in [`SYSCALL_PROGRAMS`].
    syscalls: [Option<RawTracePointLinkId>; 2],
    standing: Vec<(&'static str, RawTracePointLinkId)>,
    tables: Tables,
    cgroups: HashMap<MapData, u64, u32>,
    executables: HashMap<MapData, u32, Shared<[u8; MATCHED_PATH]>>,
    buckets: HashMap<MapData, Shared<BucketKey>, Shared<Bucket>>,
    joins: HashMap<MapData, u32, Shared<Join>>,
    ledger: PerCpuArray<MapData, Shared<CpuLedger>>,
    counts: HashMap<MapData, Shared<CountKey>, u64>,
    execs_by_uid: HashMap<MapData, u32, u64>,
    overflow: PerCpuArray<MapData, u64>,
    known: HashMap<MapData, u32, Shared<Process>>,
    ours: HashMap<MapData, u32, u32>,
    hints: Array<MapData, u64>,
}

// === impl Kernel ===

impl Kernel {
    /// Loads every program. Nothing is attached yet.
    ///
    /// # Errors
    /// No privilege, a kernel that lacks something, a program the verifier refuses.
    pub fn load(options: Options) -> Result<(Kernel, Reader), LoadError> {
        options.validate()?;
        machine::check()?;
        let btf = Btf::from_kernel()?;
        let architecture = Architecture::of_this_build().ok_or_else(|| {
            LoadError::Kernel("an architecture that is supported: x86_64 or aarch64".into())
        })?;
        let (layout, missing) = layout::resolve(&btf, architecture)?;
        let scope = machine::node_scope()?;
        let config = Config {
            seed: machine::boot_seed()?,
            node_cgroup: match scope {
                NodeScope::Machine => 0,
                NodeScope::Cgroup { id, .. } => id,
            },
            compat_mask: architecture.compat_mask(),
            shard_mask: options.shards() - 1,
            ring_mark: options.ring_size / 2,
            has_group_dead: u32::from(btf.has_group_dead()?),
            nesting_guard: u32::from(machine::is_preempt_rt() || options.force_nesting_guard),
            process_events: u32::from(options.process_events),
            canary_number: u32::try_from(canary::NUMBER).unwrap_or(u32::MAX),
            padding: 0,
            layout,
        };
        let mut ebpf = make_maps(&options, &config)?;
        load_programs(&mut ebpf)?;
        let reader = make_reader(&mut ebpf, &options)?;
        let mut kernel = Kernel {
            tables: Tables::new(&mut ebpf, options.tables)?,
            cgroups: take(&mut ebpf, map::CGROUPS)?,
            executables: take(&mut ebpf, map::EXECUTABLES)?,
            buckets: take(&mut ebpf, map::BUCKETS)?,
            joins: take(&mut ebpf, map::JOINS)?,
            ledger: take(&mut ebpf, map::LEDGER)?,
            counts: take(&mut ebpf, map::COUNTS)?,
            execs_by_uid: take(&mut ebpf, map::EXECS_BY_UID)?,
            overflow: take(&mut ebpf, map::OVERFLOW)?,
            known: take(&mut ebpf, map::PROCESSES)?,
            ours: take(&mut ebpf, map::SELF)?,
            hints: take(&mut ebpf, map::SELF_HINTS)?,
            ebpf,
            options,
            config,
            scope,
            missing,
            me: WhoAmI::default(),
            syscalls: [None, None],
            standing: Vec::new(),
        };
        kernel.identify()?;
        Ok((kernel, reader))
    }

    /// Asks the kernel who we are, and takes our own doings out of what is reported.
    fn identify(&mut self) -> Result<(), LoadError> {
        self.test_run(program::IDENTIFY, self.options.exclusion.arguments())?;
        let whoami: Array<MapData, Shared<WhoAmI>> = take(&mut self.ebpf, map::WHOAMI)?;
        self.me = whoami.get(&0, 0).map_err(LoadError::map(map::WHOAMI))?.0;
        self.find_readers()
    }

    /// Takes those who read our standard output for ours: `run | cat` must not report what cat
    /// does with what `run` reports. Cheap enough to repeat, for readers that come late.
    ///
    /// # Errors
    /// The kernel refused to run the program.
    pub fn find_readers(&mut self) -> Result<(), LoadError> {
        if self.options.exclusion != Exclusion::SelfAndAncestors {
            return Ok(());
        }
        let mut found = 0;
        for _ in 0..READER_ROUNDS {
            for generation in 0..=GENERATIONS {
                let mut arguments = [0; 12];
                arguments[0] = generation;
                self.test_run(program::FIND_READERS, arguments)?;
            }
            let now = self.ours.keys().flatten().count();
            if now == found {
                break;
            }
            found = now;
        }
        Ok(())
    }

    pub(crate) fn test_run(
        &mut self,
        name: &'static str,
        args: [u64; 12],
    ) -> Result<(), LoadError> {
        let options = RawTracePointRunOptions { args, cpu: None };
        raw_tracepoint(&mut self.ebpf, name)?
            .test_run(options)
            .map_err(|error| LoadError::Program {
                program: name,
                error,
            })?;
        Ok(())
    }

    /// Attaches the programs that follow processes and cgroups. Exec, fork and exit are reported
    /// from here on, if they are to be.
    ///
    /// # Errors
    /// A tracepoint that cannot be attached to.
    pub fn attach_standing(&mut self) -> Result<(), LoadError> {
        for (program, tracepoint) in STANDING_PROGRAMS {
            let link = attach(&mut self.ebpf, program, tracepoint)?;
            self.standing.push((program, link));
        }
        Ok(())
    }

    /// Makes `table` the policy of every cgroup that has `outcome`, all at once, under
    /// `generation` (from 1, never used before). Attaches what the table needs first, and detaches
    /// what nobody needs any more.
    ///
    /// # Errors
    /// A system call number out of range; a failed map operation or attachment. The older policy
    /// then stays.
    pub fn set_outcome(
        &mut self,
        outcome: u32,
        table: &TableSpec,
        generation: u64,
    ) -> Result<Programmed, LoadError> {
        if let Some(number) = table.number_out_of_range() {
            return Err(LoadError::Option {
                option: "system call number",
                expected: "below 511",
                value: number.to_string(),
            });
        }
        let wanted = self.tables.wanted_with(table);
        self.attach_wanted(wanted)?;
        let programmed = self.tables.set(outcome, table, generation)?;
        self.settle()?;
        Ok(programmed)
    }

    /// Takes an outcome out that no cgroup has any more.
    ///
    /// # Errors
    /// A failed map operation or detachment.
    pub fn remove_outcome(&mut self, outcome: u32) -> Result<(), LoadError> {
        self.tables.remove(outcome)?;
        self.settle()
    }

    /// Lets sys_exit forget policies that are gone, once no call waits that began under them. To be
    /// called now and then.
    ///
    /// # Errors
    /// A failed map operation or detachment.
    pub fn sweep_exits(&mut self) -> Result<(), LoadError> {
        if !self.tables.has_lingering() {
            return Ok(());
        }
        let waiting: Vec<u32> = self
            .waiting_calls()?
            .iter()
            .map(|(_, join)| join.number)
            .collect();
        self.tables.sweep_exits(&waiting)?;
        let wanted = self.tables.wanted();
        self.detach_unwanted(wanted)
    }

    fn settle(&mut self) -> Result<(), LoadError> {
        self.tables.settle()?;
        let wanted = self.tables.wanted();
        self.detach_unwanted(wanted)
    }

    fn attach_wanted(&mut self, wanted: Wanted) -> Result<(), LoadError> {
        // sys_exit first: a call that was entered must find it.
        for (place, is_wanted) in [(1, wanted.exit), (0, wanted.enter)] {
            if is_wanted && self.syscalls[place].is_none() {
                let (program, tracepoint) = SYSCALL_PROGRAMS[place];
                self.syscalls[place] = Some(attach(&mut self.ebpf, program, tracepoint)?);
            }
        }
        Ok(())
    }

    fn detach_unwanted(&mut self, wanted: Wanted) -> Result<(), LoadError> {
        for (place, is_wanted) in [(0, wanted.enter), (1, wanted.exit)] {
            if !is_wanted && let Some(link) = self.syscalls[place].take() {
                detach(&mut self.ebpf, SYSCALL_PROGRAMS[place].0, link)?;
            }
        }
        Ok(())
    }

    /// Gives a cgroup an outcome. With `only_if_new`, one that already has any keeps it.
    ///
    /// # Errors
    /// A failed map operation; a full map is one.
    pub fn bind_cgroup(
        &mut self,
        cgroup: u64,
        outcome: u32,
        only_if_new: bool,
    ) -> Result<(), LoadError> {
        let flags = if only_if_new { NOEXIST } else { 0 };
        match self.cgroups.insert(cgroup, outcome, flags) {
            Err(error) if only_if_new && is_already_there(&error) => Ok(()),
            result => result.map_err(LoadError::map(map::CGROUPS)),
        }
    }

    /// Gives a cgroup the node's default.
    pub fn unbind_cgroup(&mut self, cgroup: u64) {
        // Gone already is as good.
        let _ = self.cgroups.remove(&cgroup);
    }

    /// Whether any cgroup has an outcome of its own.
    pub fn has_bound_cgroups(&self) -> bool {
        self.cgroups.keys().next().is_some()
    }

    /// Every cgroup with an outcome of its own, inherited ones included.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn bound_cgroups(&self) -> Result<Vec<(u64, u32)>, LoadError> {
        self.cgroups
            .iter()
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::CGROUPS))
    }

    /// State of every rate limit and sampling: one for each cgroup, generation and bucket.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn buckets(&self) -> Result<Vec<(BucketKey, Bucket)>, LoadError> {
        self.buckets
            .iter()
            .map(|entry| entry.map(|(key, bucket)| (key.0, bucket.0)))
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::BUCKETS))
    }

    /// Drops a bucket. What it left out is no longer known: for one that nobody uses any more.
    pub fn remove_bucket(&mut self, key: BucketKey) {
        // Gone already is as good.
        let _ = self.buckets.remove(&Shared(key));
    }

    /// Generations of the live policies.
    pub fn generations(&self) -> HashSet<u64> {
        self.tables.generations()
    }

    /// Whether an outcome that found no free table would get one now.
    pub fn has_free_table(&self) -> bool {
        self.tables.has_free()
    }

    /// Calls that still wait for their sys_exit, by thread. To be asked once everything is
    /// detached.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn waiting_calls(&self) -> Result<Vec<(u32, Join)>, LoadError> {
        self.joins
            .iter()
            .map(|entry| entry.map(|(tid, join)| (tid, join.0)))
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::JOINS))
    }

    /// Whether any policy wants system calls.
    pub fn is_sys_enter_attached(&self) -> bool {
        self.syscalls[0].is_some()
    }

    /// Whether any table wants what system calls return.
    pub fn is_sys_exit_attached(&self) -> bool {
        self.syscalls[1].is_some()
    }

    /// Tables in use.
    pub fn tables_in_use(&self) -> usize {
        self.tables.in_use()
    }

    /// Detaches everything and waits until no program runs any more: after it the ledger and the
    /// ring buffers get nothing new.
    ///
    /// # Errors
    /// A link that could not be closed, or membarrier(2) refused.
    pub fn detach(&mut self) -> Result<(), LoadError> {
        self.detach_unwanted(Wanted::default())?;
        for (program, link) in std::mem::take(&mut self.standing) {
            detach(&mut self.ebpf, program, link)?;
        }
        machine::wait_for_programs()
    }

    /// Makes a process that is older than the programs known to them.
    ///
    /// `executable` is its path in its mount namespace; `start_ticks` is field 22 of `/proc/<tgid>/stat`, of the initial PID namespace's /proc.
    ///
    /// # Errors
    /// A failed map operation; a full table is one.
    pub fn adopt(
        &mut self,
        tgid: u32,
        start_ticks: u64,
        parent: u32,
        parent_start_ticks: Option<u64>,
        executable: &[u8],
    ) -> Result<ProcessAge, LoadError> {
        let identity = exec_id(self.config.seed, tgid, start_ticks, 0);
        let process = Process {
            exec_id: identity,
            parent_exec_id: parent_start_ticks
                .map_or(0, |ticks| exec_id(self.config.seed, parent, ticks, 0)),
            start_time: start_ticks * ebpf_hello_abi::NANOSECONDS_PER_TICK,
            parent,
            execs: 0,
            previous_comm: [0; 16],
        };
        match self.known.insert(tgid, Shared(process), NOEXIST) {
            Ok(()) => {}
            Err(error) if is_already_there(&error) => return Ok(ProcessAge::Seen),
            Err(error) => return Err(LoadError::map(map::PROCESSES)(error)),
        }
        let mut path = [0; MATCHED_PATH];
        // One that does not fit with its NUL is not matched by any pattern.
        if executable.len() < MATCHED_PATH {
            path[..executable.len()].copy_from_slice(executable);
        }
        match self.executables.insert(tgid, Shared(path), NOEXIST) {
            Err(error) if !is_already_there(&error) => Err(LoadError::map(map::EXECUTABLES)(error)),
            _ => Ok(ProcessAge::Older { exec_id: identity }),
        }
    }

    /// Forgets a process that ended between being listed and being adopted.
    pub fn forget(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.known.remove(&tgid);
        let _ = self.executables.remove(&tgid);
    }

    /// Takes a process for ours: it runs our executable since before the programs did.
    ///
    /// # Errors
    /// A failed map operation; a full table is one.
    pub fn exclude(&mut self, tgid: u32) -> Result<(), LoadError> {
        self.hints
            .set(tgid % SELF_HINTS, 1, 0)
            .map_err(LoadError::map(map::SELF_HINTS))?;
        self.ours
            .insert(tgid, ebpf_hello_abi::SelfKind::Program as u32, 0)
            .map_err(LoadError::map(map::SELF))
    }

    /// Our own tgid in the initial PID namespace, as the kernel says.
    pub fn tgid(&self) -> u32 {
        self.me.tgid
    }

    /// Whether a process is one of ours.
    pub fn is_ours(&self, tgid: u32) -> bool {
        self.ours.get(&tgid, 0).is_ok()
    }

    /// What is reported: the machine, or one node of several on it.
    pub fn scope(&self) -> &NodeScope {
        &self.scope
    }

    /// Outputs that this kernel cannot give, and why.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// How the end of a process is recognized here.
    pub fn exit_source(&self) -> ExitSource {
        if self.config.has_group_dead != 0 {
            ExitSource::GroupDead
        } else {
            ExitSource::LastAlive
        }
    }

    /// Whether process events are reported.
    pub fn are_processes_reported(&self) -> bool {
        self.options.process_events
    }

    /// Whether the programs that follow processes and cgroups are attached.
    pub fn are_standing_attached(&self) -> bool {
        !self.standing.is_empty()
    }

    /// How many tables there is room for.
    pub fn table_capacity(&self) -> u32 {
        self.options.tables
    }

    /// Ring buffers in use, and bytes of each.
    pub fn rings(&self) -> (u32, u32) {
        (self.options.shards(), self.options.ring_size)
    }

    /// The kernel's side of the ledger.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn ledger(&self) -> Result<KernelLedger, LoadError> {
        let per_cpu = self
            .ledger
            .get(&0, 0)
            .map_err(LoadError::map(map::LEDGER))?;
        Ok(KernelLedger::new(per_cpu.iter().map(|cpu| cpu.0).collect()))
    }

    /// What was counted since load.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn counts(&self) -> Result<Counts, LoadError> {
        let mut counts = Counts::default();
        for entry in self.counts.iter() {
            let (key, calls) = entry.map_err(LoadError::map(map::COUNTS))?;
            counts.add(&key.0, calls);
        }
        counts.execs_by_uid = self
            .execs_by_uid
            .iter()
            .collect::<Result<_, _>>()
            .map_err(LoadError::map(map::EXECS_BY_UID))?;
        counts.calls_overflow = self.overflowed(Overflow::Counts)?;
        counts.execs_overflow = self.overflowed(Overflow::ExecsByUid)?;
        counts.out_of_range_overflow = self.overflowed(Overflow::OutOfRange)?;
        counts.cgroups_overflow = self.overflowed(Overflow::Cgroups)?;
        Ok(counts)
    }

    fn overflowed(&self, cell: Overflow) -> Result<u64, LoadError> {
        let cells = self
            .overflow
            .get(&(cell as u32), 0)
            .map_err(LoadError::map(map::OVERFLOW))?;
        Ok(cells.iter().sum())
    }
}

/// Whether a map refused a key because it has it (`BPF_NOEXIST`).
fn is_already_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists)
}

fn make_reader(ebpf: &mut Ebpf, options: &Options) -> Result<Reader, LoadError> {
    let rings = RINGS[..options.shards() as usize]
        .iter()
        .map(|name| take::<RingBuf<MapData>>(ebpf, name))
        .collect::<Result<_, _>>()?;
    Reader::new(rings, take(ebpf, map::DRAINING)?)
}
