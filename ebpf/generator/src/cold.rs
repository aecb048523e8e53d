//! A path on a page that nobody has touched: the call itself is the first to look at it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
    ptr,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// Writes `path` into a new file `file`, maps that, and opens `path` from there.
pub(crate) fn open(file: &Path, path: &Path) -> anyhow::Result<Value> {
    let page = rustix::param::page_size();
    let mut text = path.as_os_str().as_bytes().to_vec();
    ensure!(text.len() < page, "the path is longer than a page");
    text.resize(page, 0);
    let mut written = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(file)
        .with_context(|| format!("cannot make {}", file.display()))?;
    written
        .write_all(&text)
        .and_then(|()| written.sync_all())
        .with_context(|| format!("cannot write {}", file.display()))?;
    forget(&written)?;
    // SAFETY: a new mapping of one page, which lives until the process ends.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            page,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            written.as_raw_fd(),
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        bail!(
            "cannot map {}: {}",
            file.display(),
            io::Error::last_os_error()
        );
    }
    let mut resident = 0u8;
    // SAFETY: one page, and room for its one byte.
    let looked = unsafe { libc::mincore(mapped, page, &raw mut resident) };
    ensure!(looked == 0, "mincore: {}", io::Error::last_os_error());
    // SAFETY: the mapping holds a path with its NUL.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            mapped,
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    let errno = if opened < 0 {
        io::Error::last_os_error().raw_os_error()
    } else {
        None
    };
    Ok(json!({
        "pid": std::process::id(),
        "resident": resident & 1,
        "errno": errno,
    }))
}

/// Out of the page cache too, so that the call has to read the disk.
fn forget(file: &File) -> anyhow::Result<()> {
    // SAFETY: takes no address.
    let advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    ensure!(
        advised == 0,
        "posix_fadvise: {}",
        io::Error::from_raw_os_error(advised)
    );
    Ok(())
}
