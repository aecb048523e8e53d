//! A compiled policy as the kernel side wants it.

use ebpf_hello_loader::{HalfSpec, Handler, SlotSpec, TableSpec, abi::Decode};
use ebpf_hello_policy::{
    self as policy, DefaultAction, FilterName, Half, Slot, Table,
    decode::{TimeLayout, TimerCall},
    syscall::Names,
};

/// A wish of a valid filter that this version's kernel side cannot fulfil.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "filter {filter}, rule {rule}, {syscall}: {what} is not supported by this version; leave it out"
)]
pub struct Unsupported {
    filter: String,
    rule: u16,
    syscall: String,
    what: &'static str,
}

/// Translates a table.
///
/// # Errors
/// What the kernel side cannot do: nothing is ever left out silently.
pub fn table_spec(table: &Table, arch: policy::Arch) -> Result<TableSpec, Unsupported> {
    Ok(TableSpec {
        native: half_spec(&table.native, arch, policy::Abi::Native)?,
        compat: half_spec(&table.compat, arch, policy::Abi::Compat)?,
    })
}

fn half_spec(half: &Half, arch: policy::Arch, abi: policy::Abi) -> Result<HalfSpec, Unsupported> {
    let names = Names::of(arch, abi);
    let default = match half.default.action {
        DefaultAction::Trace => Some(Handler::Trace),
        DefaultAction::Count => Some(Handler::Count),
        DefaultAction::Ignore => None,
    };
    if !half.default.match_uids.is_empty() || !half.default.match_binaries.is_empty() {
        return Err(refuse(
            half.default.filter.as_ref(),
            0,
            "default",
            "matchUids or matchBinaries",
        ));
    }
    let mut slots = Vec::new();
    for (number, slot) in &half.slots {
        let name = names.name(*number).unwrap_or("(unnamed)");
        slots.push((*number, slot_spec(slot, abi, name)?));
    }
    Ok(HalfSpec {
        default: default.map(|handler| SlotSpec {
            handler,
            rule: 0,
            decode: Decode::Raw,
        }),
        slots,
    })
}

fn slot_spec(slot: &Slot, abi: policy::Abi, name: &str) -> Result<SlotSpec, Unsupported> {
    let refuse = |what| Err(refuse(slot.filter.as_ref(), slot.rule, name, what));
    let handler = match slot.handler {
        policy::Handler::Exec => Handler::Exec,
        policy::Handler::Timer => Handler::Timer,
        policy::Handler::Trace => Handler::Trace,
        policy::Handler::Count => Handler::Count,
        policy::Handler::Ignore => Handler::Ignore,
        policy::Handler::Path => return refuse("handler Path"),
        policy::Handler::Sock => return refuse("handler Sock"),
        _ => return refuse("this handler"),
    };
    if slot.rate_limit.is_some() {
        return refuse("rateLimit");
    }
    if slot.sampling > 1 {
        return refuse("sampling");
    }
    if slot.returns {
        return refuse("returns");
    }
    if slot.denied {
        return refuse("denied");
    }
    if !slot.match_uids.is_empty() || !slot.match_binaries.is_empty() {
        return refuse("matchUids or matchBinaries");
    }
    let decode = match policy::decode::decode(slot.handler, abi, name) {
        Some(policy::decode::Decode::Timer { call, time }) => timer(call, time),
        _ => Decode::Raw,
    };
    Ok(SlotSpec {
        handler,
        rule: slot.rule,
        decode,
    })
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

fn refuse(
    filter: Option<&FilterName>,
    rule: u16,
    syscall: &str,
    what: &'static str,
) -> Unsupported {
    Unsupported {
        filter: filter.map_or_else(|| "(none)".to_owned(), ToString::to_string),
        rule,
        syscall: syscall.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_hello_policy::{Arch, Subject, compile, read};

    fn spec(rules: &str) -> Result<TableSpec, Unsupported> {
        let text = format!(
            "apiVersion: ebpf-hello.dev/v1alpha1\nkind: ClusterSyscallFilter\nmetadata: {{name: f}}\n\
             spec:\n  host: true\n  rules:\n{rules}"
        );
        let documents = read("test", &text).unwrap();
        let filters: Vec<_> = documents
            .into_iter()
            .map(|document| document.filter)
            .collect();
        table_spec(
            &compile(&filters, &Subject::host(), Arch::X86_64).table,
            Arch::X86_64,
        )
    }

    #[test]
    fn a_timer_call_is_decoded_by_its_abi() {
        let table = spec("  - {syscalls: [timer_settime], handler: Timer}\n").unwrap();
        let decode = |half: &HalfSpec| {
            half.slots
                .iter()
                .map(|(_, slot)| slot.decode)
                .collect::<Vec<_>>()
        };
        assert_eq!(decode(&table.native), [Decode::TimerSettime]);
        assert_eq!(decode(&table.compat), [Decode::TimerSettime32]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let error = spec("  - {syscalls: [openat], handler: Path}\n")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "filter f, rule 1, openat: handler Path is not supported by this version; leave it out"
        );
        let error = spec("  - {syscalls: [getppid], handler: Trace, sampling: 10}\n").unwrap_err();
        assert!(error.to_string().contains("sampling"), "{error}");
    }
}
