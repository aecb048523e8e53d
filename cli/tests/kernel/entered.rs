//! A call that was entered is never told as one that seccomp refused, whatever became of its entry.

use crate::{
    events::{of_process, syscall},
    filter::{FilterFile, UNUSED_CALL},
    generator::generate,
    instance::Instance,
};

pub(crate) fn a_call_that_sampling_leaves_out_is_not_told_as_refused() {
    let filter = FilterFile::of(&format!(
        "  - {{syscalls: [{UNUSED_CALL}], handler: Trace, denied: true, sampling: 10}}\n"
    ));
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
        "-v",
    ]);
    // It answers ENOSYS, as a refused call could.
    let made = generate(&["call", UNUSED_CALL, "1000", "--seccomp"]);
    let ended = run.end();
    let ledger = ended.ledger();
    ledger.assert_complete();
    assert_eq!(
        ledger.get("seen") - ledger.get("self") - ledger.get("canary"),
        1000
    );
    assert_eq!(
        (ledger.get("delivered"), ledger.get("suppressed")),
        (100, 900)
    );
    let events = ended.events();
    let calls: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(syscall)
        .collect();
    assert_eq!(calls.len(), 100);
    assert!(calls.iter().all(|call| !call.denied), "{calls:?}");
}

#[cfg(target_arch = "x86_64")]
pub(crate) use full::a_call_that_finds_no_room_to_wait_is_told_once_and_not_as_refused;

/// With pause(2), which other architectures do not have.
#[cfg(target_arch = "x86_64")]
mod full {
    use std::{thread, time::Duration};

    use ebpf_hello_loader::{
        CgroupView, DEFAULT_OUTCOME, Exclusion, HalfSpec, Handler, Kernel, Options, Record,
        RecordError, Sink, SlotSpec, TableSpec,
        abi::{HeaderFlags, SlotFlags},
    };

    use crate::generator::{generate, generate_in_background};

    /// Flags of the calls of one number.
    struct Flags {
        number: u32,
        flags: Vec<u32>,
    }

    impl Sink for Flags {
        fn record(&mut self, record: Record<'_>) {
            if let Record::Syscall(record) = record
                && record.number == self.number
            {
                self.flags.push(record.header.flags);
            }
        }
        fn cgroup(&mut self, _: CgroupView<'_>) {}
        fn malformed(&mut self, error: RecordError) {
            panic!("{error}");
        }
        fn flush(&mut self) {}
    }

    /// No flag makes the map this small: the loader is asked, below the product.
    pub(crate) fn a_call_that_finds_no_room_to_wait_is_told_once_and_not_as_refused() {
        const CALLS: usize = 1000;
        // No kernel has it yet: nothing else makes it.
        const UNUSED: u16 = 509;
        // pause(2): its caller waits in it for ever, and so takes the only room.
        const WAITING: u16 = 34;
        let options = Options {
            join_entries: 1,
            process_events: false,
            exclusion: Exclusion::Nobody,
            ..Options::default()
        };
        let (mut kernel, reader) = Kernel::load(options).unwrap();
        let joined = |flags| SlotSpec {
            flags: SlotFlags::JOIN | flags,
            ..SlotSpec::new(Handler::Trace, 1)
        };
        let table = TableSpec {
            native: HalfSpec {
                default: None,
                slots: vec![(WAITING, joined(0)), (UNUSED, joined(SlotFlags::DENIED))],
            },
            ..TableSpec::default()
        };
        kernel.set_outcome(DEFAULT_OUTCOME, &table, 1).unwrap();
        let number = UNUSED.to_string();
        let some = generate(&["call", &number, "10", "--seccomp"]);
        assert_eq!(some.total(), 10);
        let sleeper = generate_in_background(&["call", &WAITING.to_string(), "1"]);
        while kernel.waiting_calls().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        let count = CALLS.to_string();
        generate(&["call", &number, &count, "--seccomp"]);
        assert_eq!(kernel.waiting_calls().unwrap().len(), 1, "still full");
        kernel.detach().unwrap();
        drop(sleeper);
        let mut flags = Flags {
            number: UNUSED.into(),
            flags: Vec::new(),
        };
        reader.stop_handle().stop().unwrap();
        reader.run(&mut flags).unwrap();
        let with = |flag: u32| {
            flags
                .flags
                .iter()
                .filter(|flags| **flags & flag != 0)
                .count()
        };
        assert_eq!(flags.flags.len(), 10 + CALLS, "each once");
        assert_eq!(with(HeaderFlags::RETURNED), 10, "those that found room");
        assert_eq!(with(HeaderFlags::DENIED), 0);
    }
}
