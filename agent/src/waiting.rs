//! Calls that had not returned when the programs were detached: reported as far as they are known.

use ebpf_hello_loader::{
    PathView, Record,
    abi::{
        Handler, Header, HeaderFlags, Join, PathRecord, RecordKind, SockRecord, SyscallRecord,
        TimerRecord,
    },
};

use crate::{
    event::{Origin, event},
    intake::Item,
    processes::Processes,
    wall::Wall,
};

/// The event of a call that waits; `None` for an attempted exec, whose attempt is counted already.
pub(crate) fn item(tid: u32, join: &Join, origin: &Origin) -> Option<Item> {
    let handler = *Handler::ALL.get(usize::from(join.parameters.handler))?;
    let header = header(tid, join);
    let mut processes = Processes::default();
    let mut make = |record: Record<'_>| {
        let mut event = event(record, origin, &mut processes, Wall::now());
        // The entry told the call, not who made it.
        event.cpu = None;
        if let Some(process) = &mut event.process {
            (process.uid, process.gid, process.start_time) = (None, None, None);
        }
        event
    };
    let event = match handler {
        Handler::Trace => make(Record::Syscall(&SyscallRecord {
            header,
            arguments: join.arguments,
            number: join.number,
            padding: 0,
        })),
        Handler::Timer => make(Record::Timer(&TimerRecord {
            header,
            interval_seconds: 0,
            interval_fraction: 0,
            initial_seconds: 0,
            initial_fraction: 0,
            number: join.number,
            decode: u32::from(join.parameters.decode),
            subject: join.arguments[0] as i32,
            flags: 0,
            has_setting: 0,
            created: -1,
        })),
        Handler::Path => make(Record::Path(PathView {
            record: &PathRecord {
                header,
                open_flags: 0,
                number: join.number,
                directory: 0,
                path_length: 0,
                new_path_length: 0,
                new_directory: 0,
                has: 0,
            },
            path: b"",
            new_path: b"",
        })),
        Handler::Sock => make(Record::Sock(&SockRecord {
            header,
            address: [0; 128],
            number: join.number,
            descriptor: join.arguments[0] as i32,
            address_length: 0,
            call: u32::from(join.parameters.call),
        })),
        _ => return None,
    };
    Some(Item {
        handler: Some(handler),
        event,
    })
}

/// Who and where, as far as the call's entry told. What it points to was not read yet.
fn header(tid: u32, join: &Join) -> Header {
    let points = [Handler::Path, Handler::Sock].map(|handler| handler as u8);
    let unread = points.contains(&join.parameters.handler);
    Header {
        kind: RecordKind::Syscall as u16,
        handler: join.parameters.handler,
        abi: u8::try_from(join.abi).unwrap_or_default(),
        cpu: 0,
        sequence: 0,
        time: join.time,
        cgroup_id: join.cgroup_id,
        exec_id: 0,
        start_time: 0,
        generation: join.generation,
        suppressed: join.suppressed,
        return_value: 0,
        tgid: join.tgid,
        tid,
        parent: 0,
        uid: 0,
        gid: 0,
        table: u16::try_from(join.table).unwrap_or_default(),
        rule: join.parameters.rule,
        comm: [0; 16],
        flags: if unread { HeaderFlags::UNREADABLE } else { 0 },
        bucket: u32::from(join.parameters.bucket),
    }
}
