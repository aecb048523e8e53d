//! Bytes from a ring buffer to typed records. Length and tag are checked before a field is read.

use ebpf_hello_abi::{
    CgroupChange, CgroupRecord, ExecRecord, ExitRecord, ForkRecord, Header, PathRecord, RecordKind,
    SockRecord, SyscallRecord, TimerRecord,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What a ring buffer holds, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// Something that becomes an event.
    Record(Record<'a>),
    /// A cgroup came or went.
    Cgroup(CgroupView<'a>),
}

/// A cgroup that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupView<'a> {
    /// Which of the two.
    pub change: CgroupChange,
    /// Its cgroup v2 id.
    pub id: u64,
    /// The id of the cgroup it is in.
    pub parent: u64,
    /// Its directory's name.
    pub name: &'a [u8],
}

/// One record, borrowed from its ring buffer.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A successful exec.
    Exec(ExecView<'a>),
    /// A process was made.
    Fork(&'a ForkRecord),
    /// A process ended.
    Exit(&'a ExitRecord),
    /// A traced system call.
    Syscall(&'a SyscallRecord),
    /// A timer call.
    Timer(&'a TimerRecord),
    /// A call that takes a path.
    Path(PathView<'a>),
    /// A call that takes a socket address.
    Sock(&'a SockRecord),
}

/// A path record and its paths.
#[derive(Clone, Copy, Debug)]
pub struct PathView<'a> {
    /// The fixed part.
    pub record: &'a PathRecord,
    /// The path as it was asked for.
    pub path: &'a [u8],
    /// The second path, of calls that have one.
    pub new_path: &'a [u8],
}

/// An exec record and its variable parts.
#[derive(Clone, Copy, Debug)]
pub struct ExecView<'a> {
    /// The fixed part.
    pub record: &'a ExecRecord,
    /// The path given to execve.
    pub filename: &'a [u8],
    /// Arguments, each ended by a NUL; the last may be cut.
    pub argv: &'a [u8],
    binary: &'a [u8],
    cwd: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the record's kind needs.
    #[error("a record of {length} bytes, where {what} needs {needed}")]
    Short {
        /// What should have been there.
        what: &'static str,
        /// Bytes there are.
        length: usize,
        /// Bytes it takes.
        needed: usize,
    },
    /// A kind this version does not know.
    #[error("a record of unknown kind {0}")]
    UnknownKind(u16),
    /// Neither made nor removed.
    #[error("a cgroup with unknown change {0}")]
    UnknownChange(u16),
}

impl<'a> Entry<'a> {
    /// Reads what a ring buffer holds. `bytes` must be aligned to 8, as ring buffers align them.
    ///
    /// # Errors
    /// Bytes that are too few, unaligned, or of an unknown kind.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let kind = bytes.first_chunk().map(|kind| u16::from_ne_bytes(*kind));
        if kind == Some(RecordKind::Cgroup as u16) {
            return CgroupView::parse(bytes).map(Entry::Cgroup);
        }
        Record::parse(bytes).map(Entry::Record)
    }
}

impl<'a> CgroupView<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (record, _): (&CgroupRecord, _) = fixed(bytes, "a cgroup")?;
        let change = match record.change {
            change if change == CgroupChange::Made as u16 => CgroupChange::Made,
            change if change == CgroupChange::Removed as u16 => CgroupChange::Removed,
            change => return Err(RecordError::UnknownChange(change)),
        };
        let name = &record.name;
        let length = name.iter().position(|byte| *byte == 0);
        Ok(CgroupView {
            change,
            id: record.id,
            parent: record.parent,
            name: &name[..length.unwrap_or(name.len())],
        })
    }
}

impl<'a> Record<'a> {
    /// Reads a record. `bytes` must be aligned to 8, as ring buffers align them.
    ///
    /// # Errors
    /// Bytes that are too few, unaligned, or of an unknown kind.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let header: &Header = fixed(bytes, "a header")?.0;
        Ok(match header.kind {
            kind if kind == RecordKind::Exec as u16 => Record::Exec(ExecView::parse(bytes)?),
            kind if kind == RecordKind::Fork as u16 => Record::Fork(fixed(bytes, "a fork")?.0),
            kind if kind == RecordKind::Exit as u16 => Record::Exit(fixed(bytes, "an exit")?.0),
            kind if kind == RecordKind::Syscall as u16 => {
                Record::Syscall(fixed(bytes, "a system call")?.0)
            }
            kind if kind == RecordKind::Timer as u16 => Record::Timer(fixed(bytes, "a timer")?.0),
            kind if kind == RecordKind::Path as u16 => Record::Path(PathView::parse(bytes)?),
            kind if kind == RecordKind::Sock as u16 => {
                Record::Sock(fixed(bytes, "a socket call")?.0)
            }
            kind => return Err(RecordError::UnknownKind(kind)),
        })
    }

    /// What every record begins with.
    pub fn header(&self) -> &'a Header {
        match self {
            Record::Exec(exec) => &exec.record.header,
            Record::Fork(record) => &record.header,
            Record::Exit(record) => &record.header,
            Record::Syscall(record) => &record.header,
            Record::Timer(record) => &record.header,
            Record::Path(path) => &path.record.header,
            Record::Sock(record) => &record.header,
        }
    }
}

impl<'a> PathView<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (record, rest): (&PathRecord, _) = fixed(bytes, "a path call")?;
        let take = |from: &'a [u8], length: u32, what| {
            from.split_at_checked(length as usize)
                .ok_or(RecordError::Short {
                    what,
                    length: from.len(),
                    needed: length as usize,
                })
        };
        let (path, rest) = take(rest, record.path_length, "a path")?;
        let (new_path, _) = take(rest, record.new_path_length, "a second path")?;
        Ok(PathView {
            record,
            path,
            new_path,
        })
    }
}

impl<'a> ExecView<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (record, rest): (&ExecRecord, _) = fixed(bytes, "an exec")?;
        let mut rest = rest;
        let mut take = |length: u16, what| {
            let (taken, left) =
                rest.split_at_checked(usize::from(length))
                    .ok_or(RecordError::Short {
                        what,
                        length: rest.len(),
                        needed: usize::from(length),
                    })?;
            rest = left;
            Ok(taken)
        };
        Ok(ExecView {
            record,
            filename: take(record.filename_length, "an exec's filename")?,
            argv: take(record.argv_length, "an exec's argv")?,
            binary: take(record.binary_length, "an exec's binary")?,
            cwd: take(record.cwd_length, "an exec's working directory")?,
        })
    }

    /// Path of the executed file in its mount namespace, below its root.
    pub fn binary(&self) -> Vec<u8> {
        path(self.binary)
    }

    /// Path of the working directory, as [`ExecView::binary`].
    pub fn cwd(&self) -> Vec<u8> {
        path(self.cwd)
    }

    /// The arguments. One that the limit cut is the last; none is made up.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> {
        let argv = self.argv.strip_suffix(b"\0").unwrap_or(self.argv);
        let count = if self.argv.is_empty() { 0 } else { usize::MAX };
        argv.split(|byte| *byte == 0).take(count)
    }
}

/// Names from leaf to root, each ended by a NUL, to a path.
fn path(names: &[u8]) -> Vec<u8> {
    let Some(names) = names.strip_suffix(b"\0") else {
        return if names.is_empty() {
            b"/".to_vec()
        } else {
            names.to_vec()
        };
    };
    let mut path = Vec::with_capacity(names.len() + 1);
    for name in names.rsplit(|byte| *byte == 0) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

fn fixed<'a, T: FromBytes + Immutable + KnownLayout>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<(&'a T, &'a [u8]), RecordError> {
    T::ref_from_prefix(bytes).map_err(|_| RecordError::Short {
        what,
        length: bytes.len(),
        needed: size_of::<T>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    /// Bytes at an alignment of 8.
    struct Aligned(Vec<u64>, usize);

    impl Aligned {
        fn new(bytes: &[u8]) -> Self {
            let mut words = vec![0u64; bytes.len().div_ceil(8)];
            words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
            Aligned(words, bytes.len())
        }
        fn bytes(&self) -> &[u8] {
            &self.0.as_bytes()[..self.1]
        }
    }

    fn exec(filename: &[u8], argv: &[u8], binary: &[u8], cwd: &[u8]) -> Vec<u8> {
        let mut record = ExecRecord::read_from_bytes(&[0; size_of::<ExecRecord>()]).unwrap();
        record.header.kind = RecordKind::Exec as u16;
        record.filename_length = filename.len() as u16;
        record.argv_length = argv.len() as u16;
        record.binary_length = binary.len() as u16;
        record.cwd_length = cwd.len() as u16;
        [record.as_bytes(), filename, argv, binary, cwd].concat()
    }

    #[test]
    fn an_exec_is_taken_apart() {
        let bytes = Aligned::new(&exec(b"ls", b"ls\0\0-la\0", b"ls\0bin\0usr\0", b""));
        let Record::Exec(exec) = Record::parse(bytes.bytes()).unwrap() else {
            panic!("not an exec");
        };
        assert_eq!(exec.filename, b"ls");
        assert_eq!(
            exec.arguments().collect::<Vec<_>>(),
            [&b"ls"[..], b"", b"-la"]
        );
        assert_eq!(exec.binary(), b"/usr/bin/ls");
        assert_eq!(exec.cwd(), b"/");
    }

    #[test]
    fn no_arguments_is_not_one_empty_argument() {
        for (argv, expected) in [(&b""[..], 0), (b"\0", 1), (b"a\0", 1), (b"a\0b", 2)] {
            let bytes = Aligned::new(&exec(b"", argv, b"", b""));
            let Record::Exec(exec) = Record::parse(bytes.bytes()).unwrap() else {
                panic!("not an exec");
            };
            assert_eq!(exec.arguments().count(), expected, "{argv:?}");
        }
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let whole = exec(b"/bin/ls", b"ls\0", b"ls\0bin\0", b"a\0");
        for length in 0..whole.len() {
            let bytes = Aligned::new(&whole[..length]);
            assert!(
                matches!(Record::parse(bytes.bytes()), Err(RecordError::Short { .. })),
                "{length}"
            );
        }
    }

    #[test]
    fn a_cgroup_is_made_or_removed_and_nothing_else() {
        let mut record = CgroupRecord::read_from_bytes(&[0; size_of::<CgroupRecord>()]).unwrap();
        record.kind = RecordKind::Cgroup as u16;
        record.id = 7;
        record.name[..3].copy_from_slice(b"web");
        for (change, expected) in [
            (1, Some(CgroupChange::Made)),
            (2, Some(CgroupChange::Removed)),
            (3, None),
        ] {
            record.change = change;
            let bytes = Aligned::new(record.as_bytes());
            match Entry::parse(bytes.bytes()) {
                Ok(Entry::Cgroup(view)) => {
                    assert_eq!(
                        (Some(view.change), view.id, view.name),
                        (expected, 7, &b"web"[..])
                    );
                }
                Ok(entry) => panic!("{entry:?}"),
                Err(error) => assert_eq!((error, expected), (RecordError::UnknownChange(3), None)),
            }
            let cut = Aligned::new(&record.as_bytes()[..279]);
            assert!(matches!(
                Entry::parse(cut.bytes()),
                Err(RecordError::Short { .. })
            ));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let bytes = Aligned::new(&[0xff; 200]);
        assert_eq!(
            Record::parse(bytes.bytes()).unwrap_err(),
            RecordError::UnknownKind(0xffff)
        );
    }
}
