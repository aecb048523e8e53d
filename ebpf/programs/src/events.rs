//! The events of system calls, from the call in the scratch: made on entry, or at sys_exit.

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use ebpf_hello_abi::{
    Abi, CpuLedger, Decode, ExecFlags, ExecRecord, Fate, Handler, Header, HeaderFlags, NO_ARGUMENT,
    PathRecord, RecordKind, SOCKET_ADDRESS, SlotFlags, SockRecord, SyscallRecord, TimerRecord,
};

use crate::emit::{self, Call, READ, Scratch, VARIABLE_MASK};

/// `AT_FDCWD` (`include/uapi/linux/fcntl.h`): relative to the working directory.
const AT_FDCWD: i32 = -100;
/// Calls of a socketcall (`include/uapi/linux/net.h`).
const SYS_SOCKET: u32 = 1;
const SYS_BIND: u32 = 2;
const SYS_CONNECT: u32 = 3;
const SYS_ACCEPT: u32 = 5;
const SYS_SOCKETPAIR: u32 = 8;
const SYS_SENDTO: u32 = 11;
const SYS_ACCEPT4: u32 = 18;
/// Arguments of a failed exec that are followed.
const ARGUMENTS: usize = 24;
/// Bytes of one of them.
const ARGUMENT: usize = 512;
/// Bytes of all of them.
const ARGUMENT_BYTES: usize = 4096;

/// Who, where, when, and under which policy.
#[inline(always)]
fn stamp(
    header: &mut Header,
    call: &Call,
    ledger: &mut CpuLedger,
    kind: RecordKind,
    handler: Handler,
) {
    emit::stamp(header, ledger, kind, handler);
    header.time = call.time;
    header.abi = call.abi as u8;
    header.cgroup_id = call.cgroup_id;
    header.generation = call.generation;
    header.table = call.table as u16;
    header.suppressed = call.suppressed;
    header.return_value = call.return_value;
    header.flags = call.flags;
    header.rule = call.parameters.rule;
    header.bucket = call.parameters.bucket as u32;
}

/// The record in the scratch, and the call beside it.
#[inline(always)]
fn record<T>(scratch: &mut Scratch) -> (&mut T, &Call) {
    let call: *const Call = &raw const scratch.call;
    // SAFETY: the call and the record are different fields of the scratch.
    (scratch.fixed::<T>(), unsafe { &*call })
}

/// Number and raw arguments.
#[inline(always)]
pub(crate) fn trace(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    let (record, call) = record::<SyscallRecord>(scratch);
    stamp(
        &mut record.header,
        call,
        ledger,
        RecordKind::Syscall,
        Handler::Trace,
    );
    record.arguments = call.arguments;
    record.number = call.number;
    record.padding = 0;
    emit::send_fixed(record, ledger, Handler::Trace);
}

/// Clock, timer, interval.
#[inline(always)]
pub(crate) fn timer(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    let (record, call) = record::<TimerRecord>(scratch);
    stamp(
        &mut record.header,
        call,
        ledger,
        RecordKind::Timer,
        Handler::Timer,
    );
    let decode = call.parameters.decode;
    let is = |candidate: Decode| decode == candidate as u8;
    record.number = call.number;
    record.decode = decode as u32;
    record.subject = call.arguments[0] as i32;
    record.flags = 0;
    record.has_setting = 0;
    record.interval_seconds = 0;
    record.interval_fraction = 0;
    record.initial_seconds = 0;
    record.initial_fraction = 0;
    record.created = -1;
    if is(Decode::TimerSettime) || is(Decode::TimerfdSettime) {
        record.flags = call.arguments[1] as u32;
        read_setting::<i64>(record, call.arguments[2]);
    } else if is(Decode::TimerSettime32) || is(Decode::TimerfdSettime32) {
        record.flags = call.arguments[1] as u32;
        read_setting::<i32>(record, call.arguments[2]);
    } else if is(Decode::Setitimer) {
        read_setting::<i64>(record, call.arguments[1]);
    } else if is(Decode::Setitimer32) {
        read_setting::<i32>(record, call.arguments[1]);
    } else if is(Decode::TimerfdCreate) {
        record.flags = call.arguments[1] as u32;
    } else if is(Decode::TimerCreate)
        && call.flags & HeaderFlags::RETURNED != 0
        && call.return_value == 0
    {
        let mut created = -1i32;
        if read_user(&mut created, call.arguments[2]) {
            record.created = created;
        } else {
            record.header.flags |= HeaderFlags::UNREADABLE;
        }
    }
    emit::send_fixed(record, ledger, Handler::Timer);
}

/// `struct itimerspec` or `itimerval`: interval then initial value, seconds then fraction each.
#[inline(always)]
fn read_setting<T: Copy + Default + Into<i64>>(record: &mut TimerRecord, address: u64) {
    record.has_setting = 1;
    let mut words = [T::default(); 4];
    if read_user(&mut words, address) {
        record.interval_seconds = words[0].into();
        record.interval_fraction = words[1].into();
        record.initial_seconds = words[2].into();
        record.initial_fraction = words[3].into();
    } else {
        record.header.flags |= HeaderFlags::UNREADABLE;
    }
}

/// Reads the call's paths into the scratch; false when a page of theirs is not there.
#[inline(always)]
pub(crate) fn read_path(scratch: &mut Scratch) -> bool {
    scratch.call.flags &= !(HeaderFlags::UNREADABLE | HeaderFlags::TRUNCATED);
    let first = read_path_at(scratch, 0, scratch.call.parameters.pointer);
    scratch.path.path_length = first;
    scratch.path.new_path_length = 0;
    if scratch.call.parameters.fourth != NO_ARGUMENT {
        let second = read_path_at(scratch, first as usize, scratch.call.parameters.fourth);
        scratch.path.new_path_length = second;
    }
    scratch.call.flags & HeaderFlags::UNREADABLE == 0
}

/// Reads one path to where the one before it ends; its length, 0 when it cannot be read.
#[inline(always)]
fn read_path_at(scratch: &mut Scratch, start: usize, number: u8) -> u32 {
    let address = argument(&scratch.call, number);
    // SAFETY: `path_bytes` has 2 * READ bytes, and starts are below READ; the helper takes any user
    // address.
    let length = unsafe {
        bpf_probe_read_user_str(
            scratch
                .path_bytes
                .as_mut_ptr()
                .add(start & (READ - 1))
                .cast(),
            READ as u32,
            address as *const _,
        )
    };
    if length <= 0 {
        scratch.call.flags |= HeaderFlags::UNREADABLE;
        return 0;
    }
    if length as usize == READ {
        scratch.call.flags |= HeaderFlags::TRUNCATED;
    }
    length as u32 - 1
}

/// The paths that [`read_path`] found, or none.
#[inline(always)]
pub(crate) fn path(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    let call: *const Call = &raw const scratch.call;
    // SAFETY: the call and the record are different fields of the scratch.
    let call = unsafe { &*call };
    let parameters = &call.parameters;
    let record = &mut scratch.path;
    stamp(
        &mut record.header,
        call,
        ledger,
        RecordKind::Path,
        Handler::Path,
    );
    record.number = call.number;
    record.has = 0;
    record.directory = AT_FDCWD;
    record.new_directory = AT_FDCWD;
    record.open_flags = 0;
    if parameters.fifth != NO_ARGUMENT {
        record.has |= 4;
        record.new_directory = argument(call, parameters.fifth) as i32;
    }
    if parameters.second != NO_ARGUMENT {
        record.has |= 1;
        record.directory = argument(call, parameters.second) as i32;
    }
    if parameters.third != NO_ARGUMENT {
        let value = argument(call, parameters.third);
        record.has |= 2;
        record.open_flags = value;
        if parameters.flags & SlotFlags::FLAGS_POINTEE != 0 {
            let mut flags = 0u64;
            if !read_user(&mut flags, value) {
                record.has &= !2;
            }
            record.open_flags = flags;
        }
    }
    let first = record.path_length as usize & (READ - 1);
    record.path_length = first as u32;
    let second = record.new_path_length as usize & (READ - 1);
    record.new_path_length = second as u32;
    emit::send(
        core::ptr::from_ref(record).cast(),
        size_of::<PathRecord>() + first + second,
        ledger,
        Handler::Path,
    );
}

/// Makes a socketcall the call that it is; false when its arguments' page is not there.
#[inline(always)]
fn unpack_socketcall(scratch: &mut Scratch) -> bool {
    let call = &mut scratch.call;
    let which = call.arguments[0] as u32;
    let block = call.arguments[1];
    call.parameters.call = which as u16;
    let mut words = [0u32; 6];
    let is_read = match which {
        SYS_BIND | SYS_CONNECT | SYS_ACCEPT | SYS_ACCEPT4 => {
            let mut three = [0u32; 3];
            let is_read = read_user(&mut three, block);
            [words[0], words[1], words[2]] = three;
            is_read
        }
        SYS_SENDTO => read_user(&mut words, block),
        // Neither has a socket yet.
        SYS_SOCKET | SYS_SOCKETPAIR => {
            words[0] = u32::MAX;
            true
        }
        _ => read_user(&mut words[0], block),
    };
    if !is_read {
        return false;
    }
    // In an order that serves all of them: socket, address, length.
    let (address, length) = if which == SYS_SENDTO {
        (words[4], words[5])
    } else {
        (words[1], words[2])
    };
    call.arguments[0] = words[0] as u64;
    call.arguments[1] = address as u64;
    call.arguments[2] = length as u64;
    call.parameters.pointer = 1;
    call.parameters.second = 2;
    call.parameters.decode = Decode::Raw as u8;
    if which == SYS_ACCEPT || which == SYS_ACCEPT4 {
        call.parameters.flags |= SlotFlags::ADDRESS_OUT;
    }
    true
}

/// Reads the call's socket address into the scratch; false when its page is not there, or when the
/// kernel has yet to fill it in.
#[inline(always)]
pub(crate) fn read_address(scratch: &mut Scratch) -> bool {
    if scratch.call.parameters.decode == Decode::Socketcall as u8 && !unpack_socketcall(scratch) {
        scratch.fixed::<SockRecord>().address_length = 0;
        scratch.call.flags |= HeaderFlags::UNREADABLE;
        return false;
    }
    let (record, call) = record::<SockRecord>(scratch);
    let parameters = &call.parameters;
    record.address_length = 0;
    let returned = call.flags & HeaderFlags::RETURNED != 0;
    let address = argument(call, parameters.pointer);
    let mut length = argument(call, parameters.second) as u32;
    if address == 0 {
        // sendto on a connected socket, accept without interest: there is none to read.
        return true;
    }
    if parameters.flags & SlotFlags::ADDRESS_OUT != 0 {
        if !returned {
            return false;
        }
        if call.return_value < 0 {
            return true;
        }
        let pointer = argument(call, parameters.second);
        if !read_user(&mut length, pointer) {
            scratch.call.flags |= HeaderFlags::UNREADABLE;
            return false;
        }
    }
    let kept = if length as usize > SOCKET_ADDRESS {
        SOCKET_ADDRESS
    } else {
        length as usize
    };
    // SAFETY: at most SOCKET_ADDRESS bytes, which is what the record has; the helper takes any user
    // address.
    let failed = unsafe {
        bpf_probe_read_user(
            record.address.as_mut_ptr().cast(),
            kept as u32,
            address as *const _,
        )
    };
    if failed != 0 {
        scratch.call.flags |= HeaderFlags::UNREADABLE;
        return false;
    }
    record.address_length = kept as u32;
    scratch.call.flags &= !HeaderFlags::UNREADABLE;
    true
}

/// The address that [`read_address`] found, or none.
#[inline(always)]
pub(crate) fn sock(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    let (record, call) = record::<SockRecord>(scratch);
    stamp(
        &mut record.header,
        call,
        ledger,
        RecordKind::Sock,
        Handler::Sock,
    );
    record.number = call.number;
    // Of a socketcall whose arguments could not be read nobody knows it.
    record.descriptor = if call.parameters.decode == Decode::Socketcall as u8 {
        -1
    } else {
        call.arguments[0] as i32
    };
    record.call = call.parameters.call as u32;
    emit::send_fixed(record, ledger, Handler::Sock);
}

/// An exec that failed: path and arguments are still the caller's.
#[inline(always)]
pub(crate) fn failed_exec(scratch: &mut Scratch, ledger: &mut CpuLedger) {
    emit::count(ledger, Handler::Exec, Fate::Seen);
    let call: *const Call = &raw const scratch.call;
    // SAFETY: the call and the record are different fields of the scratch.
    let call = unsafe { &*call };
    stamp(
        &mut scratch.exec.header,
        call,
        ledger,
        RecordKind::Exec,
        Handler::Exec,
    );
    let first = (call.parameters.decode == Decode::Execveat as u8) as u8;
    let record = &mut scratch.exec;
    record.parent_exec_id = 0;
    record.login_uid = u32::MAX;
    record.namespace_pid = 0;
    record.flags = 0;
    record.padding = 0;
    record.previous_comm = [0; 16];
    record.binary_length = 0;
    record.cwd_length = 0;
    // SAFETY: READ bytes lie within the variable part; the helper takes any user address.
    let length = unsafe {
        bpf_probe_read_user_str(
            scratch.variable.as_mut_ptr().cast(),
            READ as u32,
            argument(call, first) as *const _,
        )
    };
    let mut end = if length > 0 {
        (length as usize - 1) & VARIABLE_MASK
    } else {
        0
    };
    if length <= 0 {
        scratch.exec.header.flags |= HeaderFlags::UNREADABLE;
    }
    scratch.exec.filename_length = end as u16;
    let start = end;
    let mut list = argument(call, first + 1);
    for index in 0..=ARGUMENTS {
        let pointer = read_pointer(list, call.abi);
        if pointer == 0 {
            break;
        }
        if index == ARGUMENTS || end.wrapping_sub(start) > ARGUMENT_BYTES - ARGUMENT {
            scratch.exec.flags |= ExecFlags::ARGV_TRUNCATED;
            break;
        }
        // SAFETY: VARIABLE_MASK + ARGUMENT bytes lie within the variable part.
        let length = unsafe {
            bpf_probe_read_user_str(
                scratch
                    .variable
                    .as_mut_ptr()
                    .add(end & VARIABLE_MASK)
                    .cast(),
                ARGUMENT as u32,
                pointer as *const _,
            )
        };
        if length > 0 {
            end = (end + length as usize) & VARIABLE_MASK;
        }
        list += if call.abi == Abi::Compat as u32 { 4 } else { 8 };
    }
    scratch.exec.argv_length = end.wrapping_sub(start) as u16;
    let length = size_of::<ExecRecord>() + (end & VARIABLE_MASK);
    emit::send(
        (&raw const scratch.exec).cast(),
        length,
        ledger,
        Handler::Exec,
    );
}

/// An element of an array of pointers; 0 at its end, or where it cannot be read.
#[inline(always)]
fn read_pointer(address: u64, abi: u32) -> u64 {
    if abi == Abi::Compat as u32 {
        let mut pointer = 0u32;
        read_user(&mut pointer, address);
        pointer as u64
    } else {
        let mut pointer = 0u64;
        read_user(&mut pointer, address);
        pointer
    }
}

/// One of the six arguments.
#[inline(always)]
fn argument(call: &Call, number: u8) -> u64 {
    match number {
        0 => call.arguments[0],
        1 => call.arguments[1],
        2 => call.arguments[2],
        3 => call.arguments[3],
        4 => call.arguments[4],
        5 => call.arguments[5],
        _ => 0,
    }
}

/// Reads numbers from user memory; false, and zeros, where they cannot be read.
#[inline(always)]
fn read_user<T: Copy>(value: &mut T, address: u64) -> bool {
    // SAFETY: `value` has its own size; any bits are numbers; the helper takes any user address.
    unsafe {
        bpf_probe_read_user(
            core::ptr::from_mut(value).cast(),
            size_of::<T>() as u32,
            address as *const _,
        ) == 0
    }
}
