//! How full a ring buffer is: its positions, which the kernel shows to whoever maps them.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// The two positions of a ring buffer (kernel/bpf/ringbuf.c, `struct bpf_ringbuf`): bytes that were ever taken, at the
/// start of the first page; bytes that were ever reserved, at the start of the second.
#[derive(Debug)]
pub(crate) struct Positions {
    pages: *mut libc::c_void,
    page: usize,
}

// SAFETY: the pages are mapped for as long as this lives, and read with atomic loads only.
unsafe impl Send for Positions {}
// SAFETY: as above.
unsafe impl Sync for Positions {}

// === impl Positions ===

impl Positions {
    pub(crate) fn map(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let page = rustix::param::page_size();
        // SAFETY: a new mapping, read only, where the kernel chooses; nothing of ours is replaced.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Positions { pages, page })
    }

    /// Bytes that wait to be taken, headers of records included.
    pub(crate) fn waiting(&self) -> u64 {
        // The consumer first: read last, it could be past the producer that was read.
        let taken = self.load(0);
        self.load(self.page).saturating_sub(taken)
    }

    fn load(&self, offset: usize) -> u64 {
        // SAFETY: both pages are mapped, and begin with an aligned 64-bit number that the kernel stores atomically.
        unsafe { (*self.pages.byte_add(offset).cast::<AtomicU64>()).load(Ordering::Acquire) }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: what `map` mapped, and nobody has a reference into it.
        unsafe { libc::munmap(self.pages, 2 * self.page) };
    }
}
