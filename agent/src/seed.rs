//! Processes that are older than the programs: told once from /proc, so that the first picture of
//! a node is whole.

use std::{
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use ebpf_hello_loader::{Kernel, ProcessAge, cgroup_mount};
use ebpf_hello_proto::v1::{self, Event, event::Kind};
use procfs::process::{Process, all_processes};

use crate::{
    event::{Origin, exec_id},
    node::AgentError,
    processes::Processes,
    text,
    wall::{Wall, boot_now},
};

const NANOSECONDS_PER_TICK: u64 = ebpf_hello_loader::abi::NANOSECONDS_PER_TICK;
/// The kernel adds this to the link's text where the file has no name any more (d_path).
const DELETED: &str = " (deleted)";
/// Bytes of argv that are shown, as in a live exec.
const ARGV: usize = 4096;

/// Whether the /proc at hand shows the initial PID namespace, so that its numbers are the kernel's:
/// it then has us under the number that the kernel knows us by.
pub(crate) fn sees_all_processes(tgid: u32) -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == &*tgid.to_string())
}

/// Makes older processes known to the programs. Calls `found` with an exec event for each one that
/// is not ours.
///
/// # Errors
/// /proc cannot be listed, or the table of processes cannot be written.
pub(crate) fn seed(
    kernel: &mut Kernel,
    origin: &Origin,
    processes: &mut Processes,
    exclude_own_program: bool,
    mut found: impl FnMut(Event),
) -> Result<(), AgentError> {
    let wall = Wall::now();
    let cgroups = cgroup_mount();
    let own = file_identity(Path::new("/proc/self/exe")).ok();
    let listed = all_processes().map_err(|error| AgentError::Proc(error.to_string()))?;
    for process in listed.flatten() {
        // Whatever cannot be read has ended meanwhile.
        let Ok(stat) = process.stat() else { continue };
        let tgid = process.pid.unsigned_abs();
        let parent = stat.ppid.unsigned_abs();
        let parent_start = Process::new(stat.ppid)
            .and_then(|parent| parent.stat())
            .map(|stat| stat.starttime)
            .ok();
        let executable = format!("/proc/{tgid}/exe");
        // A kernel thread has no executable, a zombie no longer one.
        let link = std::fs::read_link(&executable).ok();
        let link = link.as_ref().map(|path| path.as_os_str().as_bytes());
        let path = link.map(|link| link.strip_suffix(DELETED.as_bytes()).unwrap_or(link));
        let matched = path.unwrap_or_default();
        let age = kernel.adopt(tgid, stat.starttime, parent, parent_start, matched)?;
        if exclude_own_program
            && own.is_some_and(|own| {
                file_identity(Path::new(&executable)).is_ok_and(|exe| exe == own)
            })
        {
            kernel.exclude(tgid)?;
        }
        let ProcessAge::Older { exec_id } = age else {
            continue;
        };
        if !process.is_alive() {
            // Its exit may have been reported before it was adopted.
            kernel.forget(tgid);
            continue;
        }
        let Some(path) = path else { continue };
        let mut binary = text::lossless(path);
        let redacted = origin.redactor.text(&mut binary);
        // Whatever it execs or whoever gets its number is later.
        processes.insert(tgid, exec_id, 0, binary.as_str().into());
        if kernel.is_ours(tgid) {
            continue;
        }
        let seen = Seen {
            process: &process,
            stat: &stat,
            exec_id,
            binary,
            deleted: link != Some(path),
        };
        if let Some(mut event) = synthetic(seen, origin, wall) {
            let cgroup = cgroups
                .as_deref()
                .and_then(|mount| cgroup_id(&process, mount));
            event.cgroup_id = cgroup.unwrap_or_default();
            if let Some(Kind::Exec(exec)) = &mut event.kind {
                exec.redacted = redacted;
            }
            origin.redactor.redact(&mut event);
            found(event);
        }
    }
    Ok(())
}

/// A process that nobody saw exec.
struct Seen<'a> {
    process: &'a Process,
    stat: &'a procfs::process::Stat,
    exec_id: u64,
    /// Path of its executable, as it is shown.
    binary: String,
    /// The file has no name any more.
    deleted: bool,
}

/// Its exec event; `None` when it ended meanwhile.
fn synthetic(seen: Seen<'_>, origin: &Origin, wall: Wall) -> Option<Event> {
    let Seen {
        process,
        stat,
        binary,
        deleted,
        ..
    } = seen;
    let tgid = process.pid.unsigned_abs();
    let status = process.status().ok()?;
    let cmdline = std::fs::read(format!("/proc/{tgid}/cmdline")).ok()?;
    let shown = &cmdline[..cmdline.len().min(ARGV)];
    let argv: Vec<_> = if shown.is_empty() {
        Vec::new()
    } else {
        shown
            .strip_suffix(b"\0")
            .unwrap_or(shown)
            .split(|byte| *byte == 0)
            .map(text::lossless)
            .collect()
    };
    let memfd = deleted && binary.starts_with("/memfd:");
    Some(Event {
        time: Some(wall.time(boot_now())),
        node: origin.node.clone(),
        epoch: origin.epoch,
        process: Some(v1::Process {
            pid: tgid,
            tid: tgid,
            parent_pid: stat.ppid.unsigned_abs(),
            uid: Some(status.ruid),
            gid: Some(status.rgid),
            comm: text::lossless(stat.comm.as_bytes()),
            exec_id: exec_id(seen.exec_id),
            start_time: Some(wall.time(stat.starttime * NANOSECONDS_PER_TICK)),
            login_uid: process.loginuid().ok().filter(|uid| *uid != u32::MAX),
            namespace_pid: status
                .nspid
                .and_then(|pids| pids.last().map(|pid| pid.unsigned_abs())),
            binary: binary.clone(),
            ..v1::Process::default()
        }),
        kind: Some(Kind::Exec(v1::Exec {
            filename: binary,
            argv,
            argv_truncated: cmdline.len() > ARGV,
            cwd: process
                .cwd()
                .map(|cwd| text::lossless(cwd.as_os_str().as_bytes()))
                .unwrap_or_default(),
            source: v1::ExecSource::Procfs.into(),
            deleted,
            memfd,
            ..v1::Exec::default()
        })),
        ..Event::default()
    })
}

/// The id of a process's cgroup v2: the inode of its directory.
fn cgroup_id(process: &Process, mount: &Path) -> Option<u64> {
    let groups = process.cgroups().ok()?;
    let unified = groups.into_iter().find(|group| group.hierarchy == 0)?;
    let path = mount.join(unified.pathname.trim_start_matches('/'));
    Some(std::fs::metadata(path).ok()?.ino())
}

/// What tells files apart, as seen from one mount namespace.
fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
