//! A compiled policy as the kernel side wants it.

use std::collections::HashMap;

use ebpf_hello_loader::{
    ConditionSpec, HalfSpec, Handler, SlotSpec, TableSpec,
    abi::{Decode, NO_ARGUMENT, Opcodes, SlotFlags},
};
use ebpf_hello_policy::{
    self as policy, BinaryPattern, DefaultAction, FilterName, Half, Slot, Table, UidRange,
    decode::{self, Direction, Flags, TimeLayout, TimerCall},
    io_uring,
    syscall::Names,
};

const NANOSECONDS: u32 = 1_000_000_000;

/// Translates a table. `number` is a namespace's: what its filters ask for is taken from its share.
pub(crate) fn table_spec(
    table: &Table,
    arch: policy::Arch,
    number: impl Fn(&str) -> u32,
) -> TableSpec {
    let mut buckets = Buckets::default();
    let number = |filter: Option<&FilterName>| {
        let namespace = filter.and_then(FilterName::namespace);
        namespace.map_or(0, &number)
    };
    TableSpec {
        native: half_spec(
            &table.native,
            arch,
            policy::Abi::Native,
            &number,
            &mut buckets,
        ),
        compat: half_spec(
            &table.compat,
            arch,
            policy::Abi::Compat,
            &number,
            &mut buckets,
        ),
        io_uring: operations(&table.native, arch),
    }
}

/// The io_uring operations that do what the table's calls do.
fn operations(half: &Half, arch: policy::Arch) -> Opcodes {
    let wanted = |call: &str| {
        let number = policy::syscall::number(arch, policy::Abi::Native, call);
        match number.and_then(|number| half.slots.get(&number)) {
            Some(slot) => slot.handler != policy::Handler::Ignore,
            None => number.is_some() && half.default.action != DefaultAction::Ignore,
        }
    };
    let mut opcodes = Opcodes::default();
    for opcode in io_uring::opcodes(wanted) {
        if let Some(word) = opcodes.get_mut(usize::from(opcode / 64)) {
            *word |= 1 << (opcode % 64);
        }
    }
    opcodes
}

/// A rule of a filter.
pub(crate) type Rule = (Option<FilterName>, u16);

/// The rules of a table whose events are limited, by bucket, the first of which is 1.
pub(crate) fn limited_rules(table: &Table) -> Vec<Rule> {
    let mut buckets = Buckets::default();
    for slot in [&table.native, &table.compat]
        .into_iter()
        .flat_map(|half| half.slots.values())
    {
        buckets.of(slot);
    }
    let mut rules: Vec<_> = buckets.0.into_iter().collect();
    rules.sort_by_key(|(_, bucket)| *bucket);
    rules
        .into_iter()
        .map(|((filter, rule), _)| (filter.cloned(), rule))
        .collect()
}

/// A number for every limited rule of every filter of a table: what a rate limit is per.
#[derive(Default)]
struct Buckets<'t>(HashMap<(Option<&'t FilterName>, u16), u16>);

impl<'t> Buckets<'t> {
    /// 0 for a slot without limits.
    fn of(&mut self, slot: &'t Slot) -> u16 {
        if slot.rate_limit.is_none() && slot.sampling <= 1 {
            return 0;
        }
        // A table has at most 1,024 slots, so the number fits.
        let next = self.0.len() as u16 + 1;
        let rule = (slot.filter.as_ref(), slot.rule);
        *self.0.entry(rule).or_insert(next)
    }
}

fn half_spec<'t>(
    half: &'t Half,
    arch: policy::Arch,
    abi: policy::Abi,
    namespace: &impl Fn(Option<&FilterName>) -> u32,
    buckets: &mut Buckets<'t>,
) -> HalfSpec {
    let names = Names::of(arch, abi);
    let default = match half.default.action {
        DefaultAction::Trace => Some(Handler::Trace),
        DefaultAction::Count => Some(Handler::Count),
        DefaultAction::Ignore => None,
    };
    let slots = half.slots.iter().map(|(number, slot)| {
        let name = names.name(*number).unwrap_or_default();
        let spec = SlotSpec {
            namespace: namespace(slot.filter.as_ref()),
            ..slot_spec(slot, abi, name, buckets)
        };
        (*number, spec)
    });
    HalfSpec {
        slots: slots.collect(),
        default: default.map(|handler| SlotSpec {
            condition: condition(&half.default.match_uids, &half.default.match_binaries),
            namespace: namespace(half.default.filter.as_ref()),
            ..SlotSpec::new(handler, 0)
        }),
    }
}

fn slot_spec<'t>(
    slot: &'t Slot,
    abi: policy::Abi,
    name: &str,
    buckets: &mut Buckets<'t>,
) -> SlotSpec {
    let handler = match slot.handler {
        policy::Handler::Exec => Handler::Exec,
        policy::Handler::Timer => Handler::Timer,
        policy::Handler::Trace => Handler::Trace,
        policy::Handler::Path => Handler::Path,
        policy::Handler::Sock => Handler::Sock,
        policy::Handler::Count => Handler::Count,
        policy::Handler::Ignore => Handler::Ignore,
        // The policy's handlers are marked as growing; one that this build does not know is not
        // in a table that this build compiled.
        _ => Handler::Ignore,
    };
    let mut spec = SlotSpec {
        condition: condition(&slot.match_uids, &slot.match_binaries),
        sampling: slot.sampling,
        ..SlotSpec::new(handler, slot.rule)
    };
    if let Some(limit) = slot.rate_limit {
        spec.interval = NANOSECONDS / limit.events_per_second.max(1);
        spec.burst = limit.burst;
    }
    spec.bucket = buckets.of(slot);
    let exec = handler == Handler::Exec;
    if slot.returns {
        spec.flags |= if exec {
            SlotFlags::FAILED_EXEC
        } else {
            SlotFlags::JOIN
        };
    }
    if slot.denied {
        spec.flags |= SlotFlags::DENIED;
    }
    if exec {
        spec.decode = if name == "execveat" {
            Decode::Execveat
        } else {
            Decode::Execve
        };
    }
    match decode::decode(slot.handler, abi, name) {
        Some(decode::Decode::Timer { call, time }) => {
            spec.decode = timer(call, time);
            if matches!(call, TimerCall::TimerCreate | TimerCall::TimerfdCreate) {
                // Which timer it made is known when it returns.
                spec.flags |= SlotFlags::JOIN;
            }
        }
        Some(decode::Decode::Path {
            path,
            dirfd,
            flags,
            new,
        }) => {
            spec.fourth = new.map_or(NO_ARGUMENT, |new| new.path);
            spec.fifth = new.and_then(|new| new.dirfd).unwrap_or(NO_ARGUMENT);
            spec.pointer = path;
            spec.second = dirfd.unwrap_or(NO_ARGUMENT);
            spec.third = match flags {
                None => NO_ARGUMENT,
                Some(Flags::Argument(number)) => number,
                Some(Flags::Pointee(number)) => {
                    spec.flags |= SlotFlags::FLAGS_POINTEE;
                    number
                }
            };
        }
        Some(decode::Decode::Sock {
            address,
            length,
            direction,
        }) => {
            spec.pointer = address;
            spec.second = length;
            if direction == Direction::Out {
                spec.flags |= SlotFlags::ADDRESS_OUT | SlotFlags::JOIN;
            }
        }
        Some(decode::Decode::Socketcall) => spec.decode = Decode::Socketcall,
        None => {}
    }
    spec
}

fn condition(uids: &[UidRange], binaries: &[BinaryPattern]) -> ConditionSpec {
    ConditionSpec {
        uids: uids.iter().map(|range| [range.first, range.last]).collect(),
        binaries: binaries
            .iter()
            .map(|pattern| (pattern.path.clone().into_bytes(), pattern.prefix))
            .collect(),
    }
}

fn timer(call: TimerCall, time: TimeLayout) -> Decode {
    match (call, time) {
        (TimerCall::TimerCreate, _) => Decode::TimerCreate,
        (TimerCall::TimerSettime, TimeLayout::Wide) => Decode::TimerSettime,
        (TimerCall::TimerSettime, TimeLayout::Narrow) => Decode::TimerSettime32,
        (TimerCall::TimerfdCreate, _) => Decode::TimerfdCreate,
        (TimerCall::TimerfdSettime, TimeLayout::Wide) => Decode::TimerfdSettime,
        (TimerCall::TimerfdSettime, TimeLayout::Narrow) => Decode::TimerfdSettime32,
        (TimerCall::TimerfdGettime, _) => Decode::TimerfdGettime,
        (TimerCall::Setitimer, TimeLayout::Wide) => Decode::Setitimer,
        (TimerCall::Setitimer, TimeLayout::Narrow) => Decode::Setitimer32,
        // gettime, getoverrun, delete: a timer id and nothing to read.
        _ => Decode::TimerId,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_policy::{Arch, Subject, compile, read};

    fn spec(rules: &str) -> TableSpec {
        table_spec(&table(rules), Arch::X86_64, |_| 0)
    }

    fn table(rules: &str) -> Table {
        let text = format!(
            "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: f}}\n\
             spec:\n  host: true\n  rules:\n{rules}"
        );
        let documents = read("test", &text).unwrap();
        let filters: Vec<_> = documents
            .into_iter()
            .map(|document| document.filter)
            .collect();
        compile(&filters, &Subject::host(), Arch::X86_64).table
    }

    fn only(half: &HalfSpec) -> &SlotSpec {
        assert_eq!(half.slots.len(), 1);
        &half.slots[0].1
    }

    #[test]
    fn a_timer_call_is_decoded_by_its_abi() {
        let table = spec("  - {syscalls: [timer_settime], handler: Timer}\n");
        assert_eq!(only(&table.native).decode, Decode::TimerSettime);
        assert_eq!(only(&table.compat).decode, Decode::TimerSettime32);
    }

    #[test]
    fn a_rate_is_an_interval_and_rules_have_buckets_of_their_own() {
        let table = spec(
            "  - {syscalls: [getppid], handler: Trace, rateLimit: {eventsPerSecond: 1000, burst: 10}}\n  \
             - {syscalls: [getpid], handler: Trace, sampling: 3}\n",
        );
        let slots: HashMap<_, _> = table
            .native
            .slots
            .iter()
            .map(|(number, slot)| (*number, slot))
            .collect();
        let (getpid, getppid) = (slots[&39], slots[&110]);
        assert_eq!(
            (getppid.interval, getppid.burst, getppid.sampling),
            (1_000_000, 10, 1)
        );
        assert_eq!((getpid.interval, getpid.sampling), (0, 3));
        assert_ne!(getpid.bucket, getppid.bucket);
        assert!(getpid.bucket > 0 && getppid.bucket > 0);
    }

    #[test]
    fn the_rule_of_a_bucket_is_found_again() {
        let rules = "  - {syscalls: [getpid], handler: Trace}\n  \
             - {syscalls: [getppid, read], handler: Trace, sampling: 3}\n  \
             - {syscalls: [write], handler: Trace, rateLimit: {eventsPerSecond: 5}}\n";
        let table = table(rules);
        let rules: Vec<_> = limited_rules(&table)
            .into_iter()
            .map(|(filter, rule)| (filter.unwrap().to_string(), rule))
            .collect();
        let spec = table_spec(&table, Arch::X86_64, |_| 0);
        for half in [&spec.native, &spec.compat] {
            for (number, slot) in &half.slots {
                match slot.rule {
                    1 => assert_eq!(slot.bucket, 0, "{number}"),
                    rule => assert_eq!(
                        rules[usize::from(slot.bucket) - 1],
                        ("f".to_owned(), rule),
                        "{number}"
                    ),
                }
            }
        }
        assert_eq!(rules.len(), 2);
    }

    #[test]
    fn what_only_sys_exit_knows_is_joined() {
        let flags = |rule: &str| only(&spec(rule).native).flags;
        assert_eq!(flags("  - {syscalls: [getppid], handler: Trace}\n"), 0);
        assert_eq!(
            flags("  - {syscalls: [getppid], handler: Trace, returns: true}\n"),
            SlotFlags::JOIN
        );
        assert_eq!(
            flags("  - {syscalls: [execve], handler: Exec, returns: true}\n"),
            SlotFlags::FAILED_EXEC
        );
        assert_eq!(
            flags("  - {syscalls: [timer_create], handler: Timer}\n"),
            SlotFlags::JOIN
        );
        assert_eq!(
            flags("  - {syscalls: [accept], handler: Sock}\n"),
            SlotFlags::JOIN | SlotFlags::ADDRESS_OUT
        );
        assert_eq!(
            flags("  - {syscalls: [getppid], handler: Trace, denied: true}\n"),
            SlotFlags::DENIED
        );
    }

    #[test]
    fn operations_are_those_of_the_calls_that_rules_name() {
        let opcodes = |rule: &str| spec(rule).io_uring;
        assert_eq!(
            opcodes("  - {syscalls: [getppid], handler: Trace}\n"),
            [0; 4]
        );
        assert_eq!(
            opcodes("  - {syscalls: [openat], handler: Path}\n"),
            [1 << 18, 0, 0, 0]
        );
        assert_eq!(
            opcodes("  - {syscalls: [openat], handler: Ignore}\n"),
            [0; 4]
        );
    }

    #[test]
    fn a_path_calls_arguments_are_found() {
        let slot = spec("  - {syscalls: [openat], handler: Path}\n");
        let slot = only(&slot.native);
        assert_eq!((slot.pointer, slot.second, slot.third), (1, 0, 2));
        assert_eq!((slot.fourth, slot.fifth), (NO_ARGUMENT, NO_ARGUMENT));
        let slot = spec("  - {syscalls: [linkat], handler: Path}\n");
        let slot = only(&slot.native);
        assert_eq!((slot.pointer, slot.second, slot.third), (1, 0, 4));
        assert_eq!((slot.fourth, slot.fifth), (3, 2));
    }
}
