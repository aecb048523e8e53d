//! A whole page to stdout, a line to stderr.

use std::io::{self, Write as _};

use anyhow::Context as _;

/// Writes a page. False: whoever closed stdout before its end had seen enough.
///
/// # Errors
///
/// Stdout takes no more, for another reason.
pub(crate) fn print(page: &[u8]) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(page).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("cannot write to stdout"),
    }
}

/// Writes a line to stderr. Unlike `eprintln!` it does not panic where nobody reads that any more.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
