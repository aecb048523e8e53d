//! Real kernels: every number is the one that `bpftool` sees.

use std::collections::BTreeMap;

use ebpf_hello_loader::btf::{self, Bits, Btf, Kind, Parameter, layout};

use crate::{KERNELS, by_name, debian};

const OFFSETS: &str = include_str!("../../testdata/btf/offsets.txt");

#[test]
fn every_member_of_every_kernel_is_where_bpftool_sees_it() {
    for (column, (kernel, architecture, data)) in KERNELS.into_iter().enumerate() {
        let expected: BTreeMap<String, u32> = OFFSETS
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let mut words = line.split_whitespace();
                let name = words.next().expect("a name").to_owned();
                (
                    name,
                    words
                        .nth(column)
                        .expect("a column")
                        .parse()
                        .expect("a number"),
                )
            })
            .collect();
        let btf = Btf::parse(data).expect(kernel);
        let (layout, missing) = layout::resolve(&btf, architecture).expect(kernel);
        assert_eq!(missing, [], "{kernel}");
        assert_eq!(by_name(&layout), expected, "{kernel}");
    }
}

#[test]
fn members_of_the_next_tables_are_in_the_fixtures() {
    // struct, path, size, offset by kernel: `bpftool btf dump file … format raw`.
    let members = [
        ("cgroup", "kn", 8, [248, 248, 256, 256, 256]),
        ("cgroup", "root", 8, [480, 656, 720, 720, 696]),
        ("cgroup", "level", 4, [208, 208, 216, 216, 216]),
        ("kernfs_node", "id", 8, [104, 104, 96, 96, 96]),
        ("kernfs_node", "name", 8, [16, 16, 16, 16, 16]),
        ("task_struct", "flags", 4, [36, 44, 44, 44, 44]),
        ("linux_binprm", "interp", 8, [104, 104, 104, 104, 104]),
        ("list_head", "next", 8, [0, 0, 0, 0, 0]),
    ];
    for (structure, path, size, offsets) in members {
        for ((kernel, _, data), offset) in KERNELS.into_iter().zip(offsets) {
            let member = Btf::parse(data)
                .expect(kernel)
                .member(structure, path)
                .expect(kernel);
            assert_eq!(
                (member.offset, member.size),
                (offset, size),
                "{kernel} {structure}.{path}"
            );
        }
    }
}

#[test]
fn group_dead_is_seen_where_the_kernel_has_it() {
    let seen = KERNELS.map(|(kernel, _, data)| {
        let btf = Btf::parse(data).expect(kernel);
        (kernel, btf.has_group_dead().expect(kernel))
    });
    let expected = [
        ("5.10", false),
        ("6.1", false),
        ("6.12", false),
        ("6.12-aarch64", false),
        ("6.18", true),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn tracepoint_parameters_leave_out_the_kernels_own() {
    let (_, btf) = debian();
    let pointer = Parameter {
        kind: Kind::Pointer,
        size: 8,
    };
    let number = Parameter {
        kind: Kind::Integer,
        size: 8,
    };
    let parameters = |name| btf.tracepoint_parameters(name).expect("valid BTF");
    assert_eq!(parameters("sys_enter"), Some(vec![pointer, number]));
    assert_eq!(parameters("cgroup_mkdir"), Some(vec![pointer, pointer]));
    assert_eq!(parameters("sched_process_exit"), Some(vec![pointer]));
    assert_eq!(parameters("no_such_tracepoint"), None);
}

#[test]
fn bitfields_are_told_from_whole_members() {
    let (_, btf) = debian();
    // bpftool: 'has_child_subreaper' type_id=… bits_offset=1025 bitfield_size=1
    let member = btf
        .member("signal_struct", "has_child_subreaper")
        .expect("a member");
    assert_eq!(
        (member.offset, member.bits),
        (128, Some(Bits { first: 1, width: 1 }))
    );
    assert_eq!(
        btf.member("signal_struct", "flags").expect("a member").bits,
        None
    );
}

#[test]
fn minimizing_again_changes_nothing_that_is_read() {
    for (kernel, architecture, data) in KERNELS {
        let btf = Btf::parse(data).expect(kernel);
        let structures: Vec<_> = layout::structures()
            .chain(["thread_info", "path", "qstr"])
            .collect();
        let smaller = btf::minimize(&btf, &structures, &["sched_process_exit"]).expect(kernel);
        assert!(
            smaller.len() < data.len(),
            "{kernel}: cgroup and kernfs_node are left out"
        );
        let smaller = Btf::parse(&smaller).expect(kernel);
        assert_eq!(
            layout::resolve(&smaller, architecture),
            layout::resolve(&btf, architecture),
            "{kernel}"
        );
        assert_eq!(smaller.has_group_dead(), btf.has_group_dead(), "{kernel}");
        assert_eq!(
            smaller.tracepoint_parameters("sys_enter"),
            Ok(None),
            "{kernel}"
        );
    }
}
