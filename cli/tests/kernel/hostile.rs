//! Hostile text: names and arguments that a terminal would obey, or that are no text at all.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    events::{bytes, exec, exit, of_process, process},
    executable,
    instance::Instance,
};

/// Colour, a title, a newline with a forged line, C1 and DEL, a reversal, bytes that are no UTF-8, a
/// backslash that could be taken for ours.
const ARGUMENTS: [&[u8]; 7] = [
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;owned\x07",
    b"line\n00:00:00.000 1 0 sshd exec /bin/forged\r",
    b"\xc2\x9b2J\x7f\x08\x08",
    "\u{202e}gnp.exe\u{200b}".as_bytes(),
    b"\xff\xfe\x80 half \xc3",
    b"\\x1b \\n \\",
];
/// Of a file, a directory and so a command's name; the kernel keeps 15 bytes of that.
const NAME: &[u8] = b"\x1b[2J\n\xff\\x\xe2\x80\xaey";

/// A program with a hostile name in a directory with one.
struct Program {
    directory: TempDir,
}

// === impl Program ===

impl Program {
    fn make() -> Program {
        let directory = tempfile::tempdir().unwrap();
        let program = Program { directory };
        fs::create_dir(program.cwd()).unwrap();
        fs::copy(executable::generator(), program.path()).unwrap();
        program
    }

    fn cwd(&self) -> PathBuf {
        self.directory.path().join(OsStr::from_bytes(NAME))
    }

    fn path(&self) -> PathBuf {
        self.cwd().join(OsStr::from_bytes(NAME))
    }

    /// Runs it; returns its process id.
    fn run(&self) -> u32 {
        let mut child = Command::new(self.path())
            .args(["exit", "3", "--"])
            .args(ARGUMENTS.map(OsStr::from_bytes))
            .current_dir(self.cwd())
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        child.id()
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

pub(crate) fn hostile_text_is_lossless_in_json() {
    let program = Program::make();
    let run = Instance::run(&["--default", "ignore", "-o", "json"]);
    let pid = program.run();
    let ended = run.end();
    ended.ledger().assert_complete();
    assert_harmless(&ended.stdout);
    let events = ended.events();
    let own = of_process(&events, pid);
    let event = own.iter().find(|event| exec(event).is_some()).unwrap();
    let exec = exec(event).unwrap();
    let argv: Vec<_> = exec.argv[4..].iter().map(|text| bytes(text)).collect();
    assert_eq!(argv, ARGUMENTS);
    assert_eq!(bytes(&exec.filename), path_bytes(&program.path()));
    assert_eq!(bytes(&exec.cwd), path_bytes(&program.cwd()));
    assert_eq!(bytes(&process(event).binary), path_bytes(&program.path()));
    assert_eq!(bytes(&process(event).comm), NAME[..NAME.len().min(15)]);
    let end = own.iter().find(|event| exit(event).is_some()).unwrap();
    assert_eq!(bytes(&process(end).comm), NAME[..NAME.len().min(15)]);
}

pub(crate) fn hostile_text_never_reaches_the_terminal_raw() {
    let program = Program::make();
    for output in ["compact", "wide"] {
        let run = Instance::run(&["--default", "ignore", "-o", output]);
        let pid = program.run();
        let ended = run.end();
        let ledger = ended.ledger();
        ledger.assert_complete();
        assert_harmless(&ended.stdout);
        assert_eq!(
            ended.stdout.len() as u64,
            ledger.get("delivered"),
            "an event is one line, whatever is in it"
        );
        let number = pid.to_string();
        let shown: Vec<_> = ended
            .stdout
            .iter()
            .map(|line| std::str::from_utf8(line).unwrap())
            .filter(|line| line.split_whitespace().any(|word| word == number))
            .filter(|line| line.contains(" exec "))
            .collect();
        let [line] = shown[..] else {
            panic!("{} lines of one exec: {shown:?}", shown.len());
        };
        assert!(
            line.contains("\\u{1b}[31mred"),
            "what it was can still be read: {line}"
        );
    }
}

/// Nothing that a terminal obeys, and all of it UTF-8.
fn assert_harmless(lines: &[Vec<u8>]) {
    for line in lines {
        let text = std::str::from_utf8(line)
            .unwrap_or_else(|error| panic!("{error}: {}", line.escape_ascii()));
        let raw = text.chars().find(|character| {
            character.is_control()
                // Unicode's Bidi_Control, and what has no width.
                || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        });
        assert_eq!(raw, None, "in {text:?}");
    }
}
