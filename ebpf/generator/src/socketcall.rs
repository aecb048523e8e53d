//! ia32's socketcall: which call it is, and a block of arguments in memory.

use serde_json::{Value, json};

/// A descriptor that nobody has.
const DESCRIPTOR: i32 = 1_000_000;

/// Makes one that connects and one that says nothing.
#[cfg(target_arch = "x86_64")]
pub(crate) fn make() -> anyhow::Result<Value> {
    use anyhow::bail;

    /// In `include/uapi/linux/net.h`.
    const SYS_CONNECT: u32 = 3;
    /// Where an address is, in the page.
    const ADDRESS: usize = 64;
    // 127.0.0.1:8080, in the network's order.
    const IPV4: [u8; 16] = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

    // SAFETY: a page of our own, where 32 bits can point.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        bail!("no memory below 4 GiB: {}", std::io::Error::last_os_error());
    }
    let low = u32::try_from(page as usize)?;
    let words = [DESCRIPTOR as u32, low + ADDRESS as u32, IPV4.len() as u32];
    // SAFETY: both lie within the page, which is aligned.
    unsafe {
        page.cast::<[u32; 3]>().write(words);
        page.byte_add(ADDRESS).cast::<[u8; 16]>().write(IPV4);
    }
    let results = [socketcall(SYS_CONNECT, low), socketcall(SYS_CONNECT, 16)];
    Ok(json!({ "pid": std::process::id(), "total": 2, "fd": DESCRIPTOR, "results": results }))
}

#[cfg(target_arch = "x86_64")]
fn socketcall(call: u32, block: u32) -> i32 {
    const NUMBER: i32 = 102;
    let result: i32;
    // SAFETY: a call that reads memory; rbx belongs to the compiler and is put back. The kernel keeps
    // all other registers but rax, and in old versions clears r8 to r11.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "mov ebx, edx",
            "int 0x80",
            "pop rbx",
            inlateout("eax") NUMBER => result,
            in("edx") call,
            in("ecx") block,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    result
}

/// Makes none.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn make() -> anyhow::Result<Value> {
    anyhow::bail!("`int $0x80` is an x86_64 instruction")
}
