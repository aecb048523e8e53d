//! Records of system calls to events.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_hello_loader::{
    PathView,
    abi::{Decode, Header, HeaderFlags, SockRecord, SyscallRecord, TimerRecord},
};
use ebpf_hello_policy as policy;
use ebpf_hello_proto::{Duration, v1};

use crate::{
    event::{Origin, policy_abi, proto_abi, syscall_name},
    flags, text,
};

/// `TIMER_ABSTIME` of timer_settime(2) and `TFD_TIMER_ABSTIME` of timerfd_settime(2) are both 1.
const ABSOLUTE: u32 = 1;
/// `socket(2)`'s families whose addresses are decoded (`include/linux/socket.h`).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A call, and the node it was made on.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) header: &'a Header,
    pub(crate) origin: &'a Origin,
}

// === impl Call ===

impl Call<'_> {
    fn abi(&self) -> policy::Abi {
        policy_abi(self.header.abi)
    }

    fn name(&self, number: u32) -> String {
        syscall_name(self.origin.arch, self.abi(), number)
    }

    fn proto_abi(&self) -> i32 {
        proto_abi(self.origin.arch, self.abi()).into()
    }

    fn has(&self, flag: u32) -> bool {
        self.header.flags & flag != 0
    }

    fn return_value(&self) -> Option<i64> {
        self.has(HeaderFlags::RETURNED)
            .then_some(self.header.return_value)
    }

    pub(crate) fn policy(&self, number: u32) -> v1::Policy {
        v1::Policy {
            filter: self
                .origin
                .policies
                .filter(self.header.generation, self.abi(), number),
            rule: u32::from(self.header.rule),
            table: u32::from(self.header.table),
            generation: self.header.generation,
            suppressed_since_last: self.origin.suppressed.since_last(self.header),
        }
    }

    pub(crate) fn syscall(&self, record: &SyscallRecord) -> v1::Syscall {
        v1::Syscall {
            name: self.name(record.number),
            number: Some(record.number),
            abi: self.proto_abi(),
            args: record.arguments.to_vec(),
            return_value: self.return_value(),
            denied: self.has(HeaderFlags::DENIED),
        }
    }

    pub(crate) fn timer(&self, record: &TimerRecord) -> v1::Timer {
        let mut timer = v1::Timer {
            name: self.name(record.number),
            number: Some(record.number),
            abi: self.proto_abi(),
            unreadable: self.has(HeaderFlags::UNREADABLE),
            absolute: record.flags & ABSOLUTE != 0,
            return_value: self.return_value(),
            denied: self.has(HeaderFlags::DENIED),
            ..v1::Timer::default()
        };
        let is = |decode: Decode| record.decode == decode as u32;
        let succeeded = self.return_value().filter(|value| *value >= 0);
        if is(Decode::TimerCreate) {
            timer.clock = clock_name(record.subject);
            timer.timer_id = (record.created >= 0).then_some(record.created);
        } else if is(Decode::TimerfdCreate) {
            timer.clock = clock_name(record.subject);
            timer.fd = succeeded.and_then(|fd| i32::try_from(fd).ok());
            // Its flags are not a time's.
            timer.absolute = false;
        } else if is(Decode::Setitimer) || is(Decode::Setitimer32) {
            timer.clock = interval_timer_name(record.subject);
        } else if is(Decode::TimerfdSettime)
            || is(Decode::TimerfdSettime32)
            || is(Decode::TimerfdGettime)
        {
            timer.fd = Some(record.subject);
        } else {
            timer.timer_id = Some(record.subject);
        }
        if record.has_setting != 0 && !timer.unreadable {
            let microseconds = is(Decode::Setitimer) || is(Decode::Setitimer32);
            let span = |seconds, fraction: i64| {
                let unit = if microseconds { 1000 } else { 1 };
                let nanoseconds = fraction.checked_mul(unit)?;
                Duration::from_timespec(seconds, nanoseconds).ok()
            };
            timer.interval = span(record.interval_seconds, record.interval_fraction);
            timer.initial = span(record.initial_seconds, record.initial_fraction);
            timer.out_of_range = timer.interval.is_none() || timer.initial.is_none();
        }
        timer
    }

    pub(crate) fn path(&self, view: &PathView<'_>) -> v1::Path {
        let record = view.record;
        let name = self.name(record.number);
        v1::Path {
            path: text::lossless(view.path),
            new_path: text::lossless(view.new_path),
            new_dirfd: (record.has & 4 != 0).then_some(record.new_directory),
            dirfd: (record.has & 1 != 0).then_some(record.directory),
            flags: if record.has & 2 != 0 {
                flags::of_path_call(&name, record.open_flags)
            } else {
                Vec::new()
            },
            number: Some(record.number),
            abi: self.proto_abi(),
            unreadable: self.has(HeaderFlags::UNREADABLE),
            truncated: self.has(HeaderFlags::TRUNCATED),
            return_value: self.return_value(),
            denied: self.has(HeaderFlags::DENIED),
            name,
            ..v1::Path::default()
        }
    }

    pub(crate) fn sock(&self, record: &SockRecord) -> v1::Sock {
        let kept = (record.address_length as usize).min(record.address.len());
        let (family, address, port) = socket_address(&record.address[..kept]);
        v1::Sock {
            name: self.name(record.number),
            number: Some(record.number),
            abi: self.proto_abi(),
            call: socketcall_name(record.call),
            fd: (record.call == 0 || record.descriptor >= 0).then_some(record.descriptor),
            family,
            address,
            port,
            flags: Vec::new(),
            unreadable: self.has(HeaderFlags::UNREADABLE),
            return_value: self.return_value(),
            denied: self.has(HeaderFlags::DENIED),
        }
    }
}

/// The call behind a socketcall (`include/uapi/linux/net.h`); empty for other calls, a number where
/// it has no name.
fn socketcall_name(call: u32) -> String {
    const NAMES: [&str; 21] = [
        "",
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    usize::try_from(call)
        .ok()
        .and_then(|call| NAMES.get(call))
        .map_or_else(|| call.to_string(), |name| (*name).to_owned())
}

/// Family, address and port of a `struct sockaddr`, as much of it as there is.
fn socket_address(bytes: &[u8]) -> (String, String, Option<u32>) {
    let Some(family) = bytes
        .first_chunk()
        .map(|family| u16::from_ne_bytes(*family))
    else {
        return Default::default();
    };
    let port = || {
        Some(u32::from(u16::from_be_bytes(
            *bytes.get(2..)?.first_chunk()?,
        )))
    };
    match family {
        AF_INET => {
            let address = bytes.get(4..).and_then(|bytes| bytes.first_chunk::<4>());
            let address = address.map(|octets| Ipv4Addr::from(*octets).to_string());
            ("AF_INET".to_owned(), address.unwrap_or_default(), port())
        }
        AF_INET6 => {
            let address = bytes.get(8..).and_then(|bytes| bytes.first_chunk::<16>());
            let address = address.map(|octets| Ipv6Addr::from(*octets).to_string());
            ("AF_INET6".to_owned(), address.unwrap_or_default(), port())
        }
        AF_UNIX => ("AF_UNIX".to_owned(), unix_address(&bytes[2..]), None),
        // unix(7)'s neighbours: the number is what there is to say.
        family => (flags::family_name(family), String::new(), None),
    }
}

/// unix(7): a path ends at its NUL; an abstract name begins with one, shown as `@`.
fn unix_address(name: &[u8]) -> String {
    match name {
        [] => String::new(),
        [0, rest @ ..] => format!("@{}", text::lossless(rest)),
        path => text::name(path),
    }
}

/// clock_gettime(2)'s name of a clock id; a number where it has none (a descriptor's or a
/// process's clock, or nonsense).
fn clock_name(id: i32) -> String {
    match id {
        0 => "CLOCK_REALTIME",
        1 => "CLOCK_MONOTONIC",
        2 => "CLOCK_PROCESS_CPUTIME_ID",
        3 => "CLOCK_THREAD_CPUTIME_ID",
        4 => "CLOCK_MONOTONIC_RAW",
        5 => "CLOCK_REALTIME_COARSE",
        6 => "CLOCK_MONOTONIC_COARSE",
        7 => "CLOCK_BOOTTIME",
        8 => "CLOCK_REALTIME_ALARM",
        9 => "CLOCK_BOOTTIME_ALARM",
        11 => "CLOCK_TAI",
        id => return id.to_string(),
    }
    .to_owned()
}

/// setitimer(2)'s name of `which`.
fn interval_timer_name(which: i32) -> String {
    match which {
        0 => "ITIMER_REAL",
        1 => "ITIMER_VIRTUAL",
        2 => "ITIMER_PROF",
        which => return which.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Redactor;

    pub(crate) fn header() -> Header {
        Header {
            kind: 0,
            handler: 0,
            abi: 0,
            cpu: 0,
            sequence: 0,
            time: 10,
            cgroup_id: 0,
            exec_id: 0,
            start_time: 3,
            generation: 0,
            suppressed: 0,
            return_value: 0,
            tgid: 0,
            tid: 0,
            parent: 0,
            uid: 0,
            gid: 0,
            table: 0,
            rule: 0,
            comm: [0; 16],
            flags: 0,
            bucket: 0,
        }
    }

    fn timer(decode: Decode, subject: i32, setting: [i64; 4]) -> v1::Timer {
        let origin = Origin {
            node: String::new(),
            epoch: 1,
            arch: policy::Arch::X86_64,
            policies: Arc::default(),
            suppressed: Arc::default(),
            redactor: Redactor::default(),
        };
        let record = TimerRecord {
            header: header(),
            interval_seconds: setting[0],
            interval_fraction: setting[1],
            initial_seconds: setting[2],
            initial_fraction: setting[3],
            number: 222,
            decode: decode as u32,
            subject,
            flags: 0,
            has_setting: 1,
            created: -1,
        };
        Call {
            header: &record.header,
            origin: &origin,
        }
        .timer(&record)
    }

    #[test]
    fn a_setting_is_in_nanoseconds_whatever_its_unit_was() {
        let timer = timer(Decode::Setitimer, 0, [1, 500_000, 0, 1]);
        assert_eq!(timer.clock, "ITIMER_REAL");
        assert_eq!(timer.interval, Some(Duration::from_nanos(1_500_000_000)));
        assert_eq!(timer.initial, Some(Duration::from_nanos(1_000)));
    }

    #[test]
    fn an_absurd_setting_is_marked_not_printed() {
        let timer = timer(Decode::TimerSettime, 3, [i64::MAX, i64::MAX, 1, 0]);
        assert!(timer.out_of_range);
        assert_eq!(
            (timer.interval, timer.initial),
            (None, Some(Duration::from_nanos(1_000_000_000)))
        );
        assert_eq!(timer.timer_id, Some(3));
    }

    #[test]
    fn a_clock_without_a_name_keeps_its_number() {
        assert_eq!(
            timer(Decode::TimerCreate, 1, [0; 4]).clock,
            "CLOCK_MONOTONIC"
        );
        assert_eq!(timer(Decode::TimerCreate, -6, [0; 4]).clock, "-6");
    }

    #[test]
    fn addresses_of_every_length_are_read() {
        let inet = [2, 0, 0x1f, 0x90, 127, 0, 0, 1];
        assert_eq!(
            socket_address(&inet),
            ("AF_INET".into(), "127.0.0.1".into(), Some(8080))
        );
        let mut inet6 = vec![10, 0, 0, 53, 0, 0, 0, 0];
        inet6.extend([0; 15]);
        inet6.push(1);
        assert_eq!(
            socket_address(&inet6),
            ("AF_INET6".into(), "::1".into(), Some(53))
        );
        assert_eq!(socket_address(b"\x01\0/run/x\0junk").1, "/run/x");
        assert_eq!(socket_address(b"\x01\0\0name").1, "@name");
        for length in 0..inet6.len() {
            socket_address(&inet6[..length]);
        }
        assert_eq!(socket_address(&[]), Default::default());
    }
}
