use std::os::unix::fs::PermissionsExt as _;

use ebpf_hello_loader::abi::Handler;

use super::*;

fn batch(epoch: u64, number: u64, length: usize) -> Encoded {
    let mut tally = Tally::default();
    tally.add(Some(Handler::Trace), Some(2), number);
    Encoded {
        key: Key { epoch, number },
        bytes: contents(number, length).into(),
        tally,
        spooled: false,
    }
}

/// Bytes that occur nowhere else, the same for the same number.
fn contents(number: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

fn options(directory: &tempfile::TempDir, bytes: u64) -> SpoolOptions {
    SpoolOptions {
        directory: directory.path().join("spool"),
        bytes,
    }
}

fn read_all(spool: &mut Spool) -> Vec<(u64, u64, usize)> {
    std::iter::from_fn(|| spool.read())
        .map(|read| match read {
            Read::Batch(batch) => (batch.key.epoch, batch.key.number, batch.bytes.len()),
            Read::Damaged(key, _) => panic!("{key:?} is damaged"),
        })
        .collect()
}

/// Numbers of the batches that are whole, and of those that are not with the events they held.
fn read_some(spool: &mut Spool) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    while let Some(read) = spool.read() {
        match read {
            Read::Batch(batch) => {
                assert_eq!(batch.bytes, contents(batch.key.number, batch.bytes.len()));
                whole.push(batch.key.number);
            }
            Read::Damaged(key, tally) => damaged.push((key.number, tally.events())),
        }
    }
    (whole, damaged)
}

fn segments(spool: &Spool) -> Vec<PathBuf> {
    let keys = list(&spool.options.directory).unwrap();
    keys.into_iter().map(|key| spool.path(key)).collect()
}

fn key(epoch: u64, number: u64) -> Key {
    Key { epoch, number }
}

#[test]
fn it_survives_a_restart_older_runs_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    spool.write(&batch(5, 4, 10)).unwrap();
    spool.write(&batch(5, 300, 5000)).unwrap();
    drop(spool);
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    spool.write(&batch(256, 1, 10)).unwrap();
    assert_eq!(spool.unread(), 3);
    assert!((5020..5600).contains(&spool.bytes()), "{}", spool.bytes());
    assert_eq!(
        read_all(&mut spool),
        [(5, 4, 10), (5, 300, 5000), (256, 1, 10)]
    );
    assert_eq!(spool.unread(), 0);
    spool.remove(key(5, 300)).unwrap();
    drop(spool);
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    assert_eq!(read_all(&mut spool), [(256, 1, 10)]);
    let mode = std::fs::metadata(directory.path().join("spool"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_is_acknowledged_is_not_read_again_though_its_segment_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    for number in 1..=3 {
        spool.write(&batch(1, number, 100)).unwrap();
    }
    spool.remove(key(1, 2)).unwrap();
    assert_eq!(segments(&spool).len(), 1);
    drop(spool);
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    assert_eq!(read_all(&mut spool), [(1, 3, 100)]);
}

#[test]
fn its_size_is_bounded_and_room_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 400 << 10)).unwrap();
    let mut written = 0;
    while spool.has_room(&batch(1, written + 1, 10 << 10)) {
        written += 1;
        spool.write(&batch(1, written, 10 << 10)).unwrap();
    }
    assert!((35..=39).contains(&written), "{written}");
    let on_disk: u64 = segments(&spool)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, spool.bytes());
    // A segment of 64 KiB goes with its last batch.
    spool.remove(key(1, 5)).unwrap();
    assert_eq!(spool.bytes(), on_disk);
    spool.remove(key(1, 7)).unwrap();
    assert!(spool.bytes() < on_disk - (64 << 10));
    spool.remove(key(1, written)).unwrap();
    assert_eq!((spool.bytes(), spool.batches()), (0, 0));
    assert!(segments(&spool).is_empty());
    spool.write(&batch(1, written + 1, 10)).unwrap();
    assert_eq!(read_all(&mut spool), [(1, written + 1, 10)]);
}

#[test]
fn changed_bytes_cost_their_batch_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let write = || {
        let mut spool = Spool::open(options(&directory, 64 << 20)).unwrap();
        for number in 1..=8 {
            spool.write(&batch(1, number, 4096)).unwrap();
        }
        let path = segments(&spool).pop().unwrap();
        (spool, path)
    };
    let place_of_fifth = |bytes: &[u8]| {
        let pattern = contents(5, 64);
        let place = bytes.windows(64).position(|here| here == pattern);
        place.unwrap()
    };
    // In its bytes, in its row, in its head: while it is open, and before it is.
    for behind in [9, -20, -80] {
        for is_open in [true, false] {
            let (mut spool, path) = write();
            let mut bytes = std::fs::read(&path).unwrap();
            let place = place_of_fifth(&bytes).checked_add_signed(behind).unwrap();
            bytes[place] ^= 0xff;
            std::fs::write(&path, bytes).unwrap();
            if !is_open {
                drop(spool);
                spool = Spool::open(options(&directory, 64 << 20)).unwrap();
            }
            let (whole, damaged) = read_some(&mut spool);
            assert_eq!(whole, [1, 2, 3, 4, 6, 7, 8], "{behind} {is_open}");
            assert_eq!(damaged, [(5, 1)], "{behind} {is_open}");
            spool.remove(key(1, 8)).unwrap();
        }
    }
}

#[test]
fn a_stretch_that_cannot_be_read_is_told_batch_by_batch() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 64 << 20)).unwrap();
    for number in 1..=8 {
        spool.write(&batch(1, number, 4096)).unwrap();
    }
    let path = segments(&spool).pop().unwrap();
    drop(spool);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6000..16_000].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let mut spool = Spool::open(options(&directory, 64 << 20)).unwrap();
    let (whole, damaged) = read_some(&mut spool);
    assert_eq!(whole, [1, 5, 6, 7, 8]);
    // The head of the second is whole, the fifth says what the fourth held, the third nobody knows.
    assert_eq!(damaged, [(2, 1), (3, 0), (4, 1)]);
}

#[test]
fn a_whole_segment_that_is_gone_or_garbage_costs_what_was_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    for number in 1..=30 {
        spool.write(&batch(1, number, 10 << 10)).unwrap();
    }
    let all = segments(&spool);
    assert!(all.len() >= 4, "{all:?}");
    drop(spool);
    std::fs::write(&all[1], "garbage").unwrap();
    std::fs::remove_file(&all[2]).unwrap();
    std::fs::create_dir(&all[2]).unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    let (whole, damaged) = read_some(&mut spool);
    assert_eq!(whole.len() + damaged.len(), 30);
    assert_eq!(damaged.len(), 14, "{damaged:?}");
    spool.remove(key(1, 30)).unwrap_err();
    std::fs::remove_dir(&all[2]).unwrap();
    spool.write(&batch(1, 31, 10)).unwrap();
    spool.remove(key(1, 31)).unwrap();
    assert_eq!(spool.bytes(), 0);
}

#[test]
fn a_torn_end_is_told_and_written_past() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    spool.write(&batch(1, 1, 1000)).unwrap();
    spool.write(&batch(1, 2, 1000)).unwrap();
    let path = segments(&spool).pop().unwrap();
    drop(spool);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
    let mut spool = Spool::open(options(&directory, 1 << 20)).unwrap();
    spool.write(&batch(2, 1, 1000)).unwrap();
    assert_eq!(read_some(&mut spool), (vec![1, 1], vec![(2, 1)]));
}

#[test]
fn two_agents_do_not_share_one() {
    let directory = tempfile::tempdir().unwrap();
    let first = Spool::open(options(&directory, 1 << 20)).unwrap();
    let error = Spool::open(options(&directory, 1 << 20)).unwrap_err();
    assert!(
        error.to_string().contains("another agent uses it"),
        "{error}"
    );
    drop(first);
    Spool::open(options(&directory, 1 << 20)).unwrap();
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Spool::open(SpoolOptions {
        directory: file.path().join("spool"),
        bytes: 1,
    })
    .unwrap_err();
    assert!(error.to_string().starts_with("cannot use /"), "{error}");
}
