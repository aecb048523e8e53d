use prost::Message as _;

use super::*;

/// A database of the segments 1, 11 and 21, each of an entry of ten events.
fn three_segments(directory: &Path) {
    let (disk, _) = Disk::open(directory, "boot", 0).unwrap();
    for first in [1, 11, 21] {
        let key = BatchKey {
            epoch: 1,
            number: first,
        };
        let batch = ebpf_hello_proto::v1::Batch {
            node: "n1".into(),
            ..Default::default()
        };
        let record = record::compress(&batch.encode_to_vec()).unwrap();
        let extent = Extent {
            first,
            end: first + 10,
            bytes: record.len() as u64,
            oldest: first,
            newest: first,
        };
        let addition = Addition {
            node: "n1".into(),
            key,
            position: first,
            record,
        };
        disk.append(extent, vec![addition]).unwrap();
    }
}

/// Deletes the entries of segments, as a trim does, and leaves their rows.
fn delete_entries(directory: &Path, firsts: &[u64]) {
    let database = Database::builder(directory).open().unwrap();
    for first in firsts {
        let segment = database.keyspace(&segment_name(*first), entries).unwrap();
        database.delete_keyspace(segment).unwrap();
    }
}

fn open_firsts(directory: &Path) -> Result<Vec<u64>> {
    let (disk, contents) = Disk::open(directory, "boot", 0)?;
    assert_eq!(contents.end, 31);
    Ok(disk.extents().iter().map(|extent| extent.first).collect())
}

#[test]
fn a_trim_that_the_loss_of_power_cut_in_two_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    three_segments(directory);
    assert_eq!(open_firsts(directory), Ok(vec![1, 11, 21]));
    delete_entries(directory, &[1]);
    assert_eq!(open_firsts(directory), Ok(vec![11, 21]));
    assert_eq!(open_firsts(directory), Ok(vec![11, 21]), "the row is gone");
    // All of them were too old.
    delete_entries(directory, &[11, 21]);
    assert_eq!(open_firsts(directory), Ok(vec![]));
}

#[test]
fn entries_that_are_missing_between_others_are_an_error() {
    for missing in [11, 21] {
        let directory = tempfile::tempdir().unwrap();
        three_segments(directory.path());
        delete_entries(directory.path(), &[missing]);
        let error = open_firsts(directory.path()).unwrap_err();
        assert_eq!(
            error,
            format!("the entries from {missing} to {} are missing", missing + 10)
        );
    }
}

#[test]
fn a_trim_takes_row_and_entries() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    let (disk, _) = Disk::open(directory.path(), "boot", 0).unwrap();
    disk.drop_oldest().unwrap();
    drop(disk);
    assert_eq!(open_firsts(directory.path()), Ok(vec![11, 21]));
}

#[test]
fn positions_that_were_given_are_not_given_again_where_the_disk_has_lost_them() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    for (given, end) in [(31, 31), (32, 31 + JUMP)] {
        let (_, contents) = Disk::open(directory.path(), "boot", given).unwrap();
        assert_eq!(contents.end, end);
    }
}
