//! The loaded programs and their maps.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePointRunOptions, TestRun as _, raw_trace_point::RawTracePointLinkId},
};
use ebpf_hello_abi::{
    ABSENT, Bucket, BucketKey, Config, CountKey, CpuLedger, Join, RINGS, SELF_HINTS, WhoAmI, map,
    program,
};

use crate::{
    Counts, Exclusion, KernelLedger, LoadError, NodeScope, Options, Programmed, Reader, TableSpec,
    adoption::ProcessMaps,
    btf::{Architecture, Btf, Missing, layout},
    canary,
    cgroups::CgroupMaps,
    counts::Counters,
    inspect::{self, MapStatus},
    interest::Wanted,
    io_uring::IoUring,
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

/// How the end of a process is told from that of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitSource {
    /// The tracepoint says so (Linux 6.16).
    GroupDead,
    /// Nobody of the group is alive, and the process's entry could be taken out.
    LastAlive,
}

const NANOSECONDS: u32 = 1_000_000_000;

/// The loaded programs. Everything goes when this is dropped: nothing is pinned.
pub struct Kernel {
    pub(crate) ebpf: Ebpf,
    options: Options,
    pub(crate) config: Config,
    scope: NodeScope,
    missing: Vec<Missing>,
    me: WhoAmI,
    /// By place in [`SYSCALL_PROGRAMS`].
    syscalls: [Option<RawTracePointLinkId>; 2],
    standing: Vec<(&'static str, RawTracePointLinkId)>,
    io_uring: Option<IoUring>,
    io_uring_link: Option<RawTracePointLinkId>,
    tables: Tables,
    pub(crate) cgroups: CgroupMaps,
    pub(crate) processes: ProcessMaps,
    buckets: HashMap<MapData, Shared<BucketKey>, Shared<Bucket>>,
    joins: HashMap<MapData, u32, Shared<Join>>,
    ledger: PerCpuArray<MapData, Shared<CpuLedger>>,
    counters: Counters,
    ours: HashMap<MapData, u32, u32>,
    hints: Array<MapData, u64>,
    pub(crate) maps: Vec<MapStatus>,
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
        let io_uring = IoUring::find(&btf);
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
            // Without CONFIG_SECCOMP nothing is refused.
            seccomp_mode: btf
                .member("task_struct", "seccomp.mode")
                .map_or(ABSENT, |member| member.offset),
            io_uring_argument: io_uring.map_or(0, |found| found.argument),
            io_uring_opcode: io_uring.map_or(ABSENT, |found| found.opcode),
            canary_number: u32::try_from(canary::NUMBER).unwrap_or(u32::MAX),
            namespace_interval: NANOSECONDS.checked_div(options.namespace_rate).unwrap_or(0),
            namespace_tolerance: NANOSECONDS / 10,
            layout,
        };
        let mut ebpf = make_maps(&options, &config)?;
        load_programs(&mut ebpf)?;
        let maps = inspect::map_statuses(&ebpf)?;
        let reader = make_reader(&mut ebpf, &options)?;
        let mut kernel = Kernel {
            tables: Tables::new(&mut ebpf, options.tables)?,
            cgroups: CgroupMaps::new(&mut ebpf)?,
            processes: ProcessMaps::new(&mut ebpf)?,
            buckets: take(&mut ebpf, map::BUCKETS)?,
            joins: take(&mut ebpf, map::JOINS)?,
            ledger: take(&mut ebpf, map::LEDGER)?,
            counters: Counters::new(&mut ebpf)?,
            ours: take(&mut ebpf, map::SELF)?,
            hints: take(&mut ebpf, map::SELF_HINTS)?,
            maps,
            ebpf,
            options,
            config,
            scope,
            missing,
            me: WhoAmI::default(),
            syscalls: [None, None],
            standing: Vec::new(),
            io_uring,
            io_uring_link: None,
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
        if let Some(IoUring { tracepoint, .. }) = self.io_uring
            && wanted.io_uring
            && self.io_uring_link.is_none()
        {
            let link = attach(&mut self.ebpf, program::IO_URING, tracepoint)?;
            self.io_uring_link = Some(link);
        }
        Ok(())
    }

    fn detach_unwanted(&mut self, wanted: Wanted) -> Result<(), LoadError> {
        for (place, is_wanted) in [(0, wanted.enter), (1, wanted.exit)] {
            if !is_wanted && let Some(link) = self.syscalls[place].take() {
                detach(&mut self.ebpf, SYSCALL_PROGRAMS[place].0, link)?;
            }
        }
        if !wanted.io_uring
            && let Some(link) = self.io_uring_link.take()
        {
            detach(&mut self.ebpf, program::IO_URING, link)?;
        }
        Ok(())
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

    /// The tracepoint that io_uring's operations pass here; `None` where there is none.
    pub fn io_uring_tracepoint(&self) -> Option<&'static str> {
        self.io_uring.map(|found| found.tracepoint)
    }

    /// Whether any table wants calls that io_uring has operations for.
    pub fn is_io_uring_attached(&self) -> bool {
        self.io_uring_link.is_some()
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
        self.counters.read()
    }

    /// Under which keys anything was counted: those of the kernel's map, and those of what was folded.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn count_keys(&self) -> Result<Vec<CountKey>, LoadError> {
        self.counters.keys()
    }

    /// Makes room in the kernel's map: what was counted under the first key of each pair is told under the second from
    /// here on, whose generation is [`FOLDED`](crate::FOLDED). For keys that no program begins to count under any more:
    /// one that has begun is waited for (about 10 ms), so that no call is lost.
    ///
    /// # Errors
    /// membarrier(2) refused, or a failed map operation; each key then is folded or as it was.
    pub fn fold_counts(&mut self, folds: &[(CountKey, CountKey)]) -> Result<(), LoadError> {
        self.counters.fold(folds)
    }
}

fn make_reader(ebpf: &mut Ebpf, options: &Options) -> Result<Reader, LoadError> {
    let rings = RINGS[..options.shards() as usize]
        .iter()
        .map(|name| take::<RingBuf<MapData>>(ebpf, name))
        .collect::<Result<_, _>>()?;
    Reader::new(rings, take(ebpf, map::DRAINING)?)
}
