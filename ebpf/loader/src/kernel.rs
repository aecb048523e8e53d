//! The loaded programs and their maps.

use std::collections::HashMap as StdHashMap;

use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::{
        ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _,
        raw_trace_point::RawTracePointLinkId,
    },
};
use ebpf_hello_abi::{
    Abi, BITMAP_UNION, BITMAPS, Bitmap, CONFIG, Config, CountKey, CpuLedger, Outcome, Overflow,
    Process, RINGS, SLOTS_PER_TABLE, SYSCALL_LIMIT, SlotParameters, WhoAmI, bitmap_of, exec_id,
    map, program, slot,
};

use crate::{
    Counts, Exclusion, KernelLedger, LoadError, NodeScope, Options, Reader, TableSpec,
    btf::{Architecture, Btf, Missing, layout},
    machine,
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("EBPF_HELLO_OBJECT"));

/// Programs that are attached while process events are on, and where.
pub(crate) const PROCESS_PROGRAMS: [(&str, &str); 4] = [
    (program::PROCESS_FORK, "sched_process_fork"),
    (program::PROCESS_RENAME, "task_rename"),
    (program::PROCESS_EXEC, "sched_process_exec"),
    (program::PROCESS_EXIT, "sched_process_exit"),
];
/// Programs that a table's slots call.
const HANDLER_PROGRAMS: [&str; 5] = [
    program::HANDLE_EXEC,
    program::HANDLE_TIMER,
    program::HANDLE_TRACE,
    program::HANDLE_COUNT,
    program::HANDLE_IGNORE,
];
/// `BPF_PROG_LOAD` answers EAGAIN when a signal interrupts the verifier; aya does not try again.
const LOAD_ATTEMPTS: u32 = 10;
/// Ancestors whose children may read our output.
const GENERATIONS: u64 = 32;
/// Rounds of looking for readers of readers.
const READER_ROUNDS: u32 = 4;

/// A map value or key that is shared with the programs.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Shared<T>(T);
// SAFETY: only made for the abi's `repr(C)` types, which have no padding but explicit one and no
// invalid bit patterns.
unsafe impl<T: Copy + 'static> Pod for Shared<T> {}

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
    sys_enter: Option<RawTracePointLinkId>,
    processes: Vec<(&'static str, RawTracePointLinkId)>,
    tables: ProgramArray<MapData>,
    parameters: Array<MapData, Shared<SlotParameters>>,
    bitmaps: Array<MapData, Bitmap>,
    outcomes: Array<MapData, u64>,
    ledger: PerCpuArray<MapData, Shared<CpuLedger>>,
    counts: HashMap<MapData, Shared<CountKey>, u64>,
    execs_by_uid: HashMap<MapData, u32, u64>,
    overflow: PerCpuArray<MapData, u64>,
    known: HashMap<MapData, u32, Shared<Process>>,
    ours: HashMap<MapData, u32, u32>,
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
            padding: 0,
            layout,
        };
        let mut ebpf = make_maps(&options, &config)?;
        load_programs(&mut ebpf)?;
        let reader = make_reader(&mut ebpf, &options)?;
        let mut kernel = Kernel {
            tables: take(&mut ebpf, map::TABLES)?,
            parameters: take(&mut ebpf, map::PARAMETERS)?,
            bitmaps: take(&mut ebpf, map::BITMAPS)?,
            outcomes: take(&mut ebpf, map::OUTCOMES)?,
            ledger: take(&mut ebpf, map::LEDGER)?,
            counts: take(&mut ebpf, map::COUNTS)?,
            execs_by_uid: take(&mut ebpf, map::EXECS_BY_UID)?,
            overflow: take(&mut ebpf, map::OVERFLOW)?,
            known: take(&mut ebpf, map::PROCESSES)?,
            ours: take(&mut ebpf, map::SELF)?,
            ebpf,
            options,
            config,
            scope,
            missing,
            me: WhoAmI::default(),
            sys_enter: None,
            processes: Vec::new(),
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

    fn test_run(&mut self, name: &'static str, args: [u64; 12]) -> Result<(), LoadError> {
        let options = RawTracePointRunOptions { args, cpu: None };
        raw_tracepoint(&mut self.ebpf, name)?
            .test_run(options)
            .map_err(|error| LoadError::Program {
                program: name,
                error,
            })?;
        Ok(())
    }

    /// Attaches the programs that follow processes. Exec, fork and exit are reported from here on.
    ///
    /// # Errors
    /// A tracepoint that cannot be attached to.
    pub fn attach_processes(&mut self) -> Result<(), LoadError> {
        for (program, tracepoint) in PROCESS_PROGRAMS {
            let link = attach(&mut self.ebpf, program, tracepoint)?;
            self.processes.push((program, link));
        }
        Ok(())
    }

    /// Fills the only table there is and makes it everybody's, under `generation`. `sys_enter` is
    /// attached only if the table wants a call.
    ///
    /// # Errors
    /// A system call number out of range; a failed map operation or attachment.
    pub fn install(&mut self, table: &TableSpec, generation: u64) -> Result<(), LoadError> {
        const TABLE: u32 = 0;
        if let Some(number) = table.number_out_of_range() {
            return Err(LoadError::Option {
                option: "system call number",
                expected: "below 511",
                value: number.to_string(),
            });
        }
        let mut union = [0; 8];
        for abi in [Abi::Native, Abi::Compat] {
            let half = table.half(abi);
            let mut slots: StdHashMap<u32, _> = half.filled().collect();
            for number in 0..=SYSCALL_LIMIT {
                let index = slot(TABLE, abi as u32, number);
                match slots.remove(&number) {
                    Some(spec) => self.fill(index, spec)?,
                    // Nothing in the slot is not an error.
                    None => drop(self.tables.clear_index(&index)),
                }
            }
            let wanted = half.wanted();
            self.bitmaps
                .set(bitmap_of(abi as u32), wanted, 0)
                .map_err(LoadError::map(map::BITMAPS))?;
            for (all, bits) in union.iter_mut().zip(wanted) {
                *all |= bits;
            }
        }
        self.outcomes
            .set(0, Outcome::new(TABLE as u16, generation).0, 0)
            .map_err(LoadError::map(map::OUTCOMES))?;
        self.bitmaps
            .set(BITMAP_UNION, union, 0)
            .map_err(LoadError::map(map::BITMAPS))?;
        if union == [0; 8] {
            self.detach_sys_enter()
        } else {
            self.attach_sys_enter()
        }
    }

    fn fill(&mut self, index: u32, spec: crate::SlotSpec) -> Result<(), LoadError> {
        self.parameters
            .set(index, Shared(spec.parameters()), 0)
            .map_err(LoadError::map(map::PARAMETERS))?;
        let name = spec.handler.program();
        let handler = raw_tracepoint(&mut self.ebpf, name)?;
        let fd = handler
            .fd()
            .map_err(|error| LoadError::Program {
                program: name,
                error,
            })?
            .try_clone()
            .map_err(LoadError::system(format!(
                "duplicate the descriptor of program {name}"
            )))?;
        self.tables
            .set(index, &fd, 0)
            .map_err(LoadError::map(map::TABLES))
    }

    fn attach_sys_enter(&mut self) -> Result<(), LoadError> {
        if self.sys_enter.is_none() {
            self.sys_enter = Some(attach(&mut self.ebpf, program::SYS_ENTER, "sys_enter")?);
        }
        Ok(())
    }

    fn detach_sys_enter(&mut self) -> Result<(), LoadError> {
        match self.sys_enter.take() {
            Some(link) => detach(&mut self.ebpf, program::SYS_ENTER, link),
            None => Ok(()),
        }
    }

    /// Whether any table wants system calls.
    pub fn is_sys_enter_attached(&self) -> bool {
        self.sys_enter.is_some()
    }

    /// Detaches everything and waits until no program runs any more: after it the ledger and the
    /// ring buffers get nothing new.
    ///
    /// # Errors
    /// A link that could not be closed, or membarrier(2) refused.
    pub fn detach(&mut self) -> Result<(), LoadError> {
        self.detach_sys_enter()?;
        for (program, link) in std::mem::take(&mut self.processes) {
            detach(&mut self.ebpf, program, link)?;
        }
        machine::wait_for_programs()
    }

    /// Makes a process that is older than the programs known to them.
    ///
    /// `start_ticks` is field 22 of `/proc/<tgid>/stat`, of the initial PID namespace's /proc.
    ///
    /// # Errors
    /// A failed map operation; a full table is one.
    pub fn adopt(
        &mut self,
        tgid: u32,
        start_ticks: u64,
        parent: u32,
        parent_start_ticks: Option<u64>,
    ) -> Result<ProcessAge, LoadError> {
        const BPF_NOEXIST: u64 = 1;
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
        match self.known.insert(tgid, Shared(process), BPF_NOEXIST) {
            Ok(()) => Ok(ProcessAge::Older { exec_id: identity }),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Ok(ProcessAge::Seen)
            }
            Err(error) => Err(LoadError::map(map::PROCESSES)(error)),
        }
    }

    /// Forgets a process that ended between being listed and being adopted.
    pub fn forget(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.known.remove(&tgid);
    }

    /// Takes a process for ours: it runs our executable since before the programs did.
    ///
    /// # Errors
    /// A failed map operation; a full table is one.
    pub fn exclude(&mut self, tgid: u32) -> Result<(), LoadError> {
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

    /// Whether process events are attached.
    pub fn are_processes_attached(&self) -> bool {
        !self.processes.is_empty()
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

fn make_maps(options: &Options, config: &Config) -> Result<Ebpf, LoadError> {
    let slots = options.tables * SLOTS_PER_TABLE;
    let shared = Shared(*config);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(CONFIG, &shared, true)
        .map_max_entries(map::TABLES, slots)
        .map_max_entries(map::PARAMETERS, slots)
        .map_max_entries(map::COUNTS, options.count_entries);
    for ring in &RINGS[..options.shards() as usize] {
        loader.map_max_entries(ring, options.ring_size);
    }
    // A ring that is not in use is a page: the smallest there can be.
    for ring in &RINGS[options.shards() as usize..] {
        loader.map_max_entries(ring, rustix::param::page_size() as u32);
    }
    loader.load(OBJECT).map_err(LoadError::Object)
}

/// Every program of the object.
pub(crate) fn program_names() -> impl Iterator<Item = &'static str> {
    PROCESS_PROGRAMS
        .iter()
        .map(|(program, _)| *program)
        .chain(HANDLER_PROGRAMS)
        .chain([program::SYS_ENTER, program::IDENTIFY, program::FIND_READERS])
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in program_names() {
        let program = raw_tracepoint(ebpf, name)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match program.load() {
                Ok(()) => break,
                Err(ProgramError::LoadError { io_error, .. })
                    if io_error.kind() == std::io::ErrorKind::WouldBlock
                        && attempts < LOAD_ATTEMPTS => {}
                Err(error) => return Err(rejected(name, error)),
            }
        }
    }
    Ok(())
}

/// Tells a verifier's refusal from a lack of privilege.
fn rejected(program: &'static str, error: ProgramError) -> LoadError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            if io_error.kind() == std::io::ErrorKind::PermissionDenied && log.trim().is_empty() {
                return LoadError::Privilege(format!(
                    "the kernel refuses BPF_PROG_LOAD of `{program}` ({io_error}); is CAP_PERFMON \
                     there, and does a security module forbid it?"
                ));
            }
            let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            LoadError::Rejected {
                program,
                error: io_error,
                log: last,
            }
        }
        error => LoadError::Program { program, error },
    }
}

fn make_reader(ebpf: &mut Ebpf, options: &Options) -> Result<Reader, LoadError> {
    let rings = RINGS[..options.shards() as usize]
        .iter()
        .map(|name| take::<RingBuf<MapData>>(ebpf, name))
        .collect::<Result<_, _>>()?;
    Reader::new(rings, take(ebpf, map::DRAINING)?)
}

/// Takes a map out of the object, typed.
fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, LoadError> {
    let found = ebpf
        .take_map(name)
        .ok_or(LoadError::Missing { kind: "map", name })?;
    M::try_from(found).map_err(LoadError::map(name))
}

fn raw_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut RawTracePoint, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing {
            kind: "program",
            name,
        })?
        .try_into()
        .map_err(|error| LoadError::Program {
            program: name,
            error,
        })
}

fn attach(
    ebpf: &mut Ebpf,
    program: &'static str,
    tracepoint: &'static str,
) -> Result<RawTracePointLinkId, LoadError> {
    raw_tracepoint(ebpf, program)?
        .attach(tracepoint)
        .map_err(|error| LoadError::Attach {
            program,
            tracepoint,
            error,
        })
}

fn detach(
    ebpf: &mut Ebpf,
    program: &'static str,
    link: RawTracePointLinkId,
) -> Result<(), LoadError> {
    raw_tracepoint(ebpf, program)?
        .detach(link)
        .map_err(|error| LoadError::Program { program, error })
}

const _: () = assert!(BITMAPS == 3);
