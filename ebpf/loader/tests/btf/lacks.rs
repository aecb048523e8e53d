//! Kernels that lack something that the layout table asks for.

use std::path::Path;

use ebpf_hello_abi::ABSENT;
use ebpf_hello_loader::btf::{
    self, Architecture, Btf, BtfError, Kind, Member,
    layout::{self, Output, Reason, Shape},
};

use crate::{builder::Builder, by_name, debian, x86_64};

/// Linux 6.12 without one struct.
fn without(structure: &str) -> Btf {
    let (_, btf) = debian();
    let kept: Vec<_> = layout::structures()
        .chain(["thread_info", "path", "qstr"])
        .filter(|name| *name != structure)
        .collect();
    Btf::parse(&btf::minimize(&btf, &kept, &[]).expect("valid BTF")).expect("valid BTF")
}

#[test]
fn a_missing_required_struct_is_an_error_that_names_every_member() {
    let error = x86_64(&without("mm_struct")).expect_err("mm_struct is required");
    let paths: Vec<_> = error.refusals.iter().map(|refusal| refusal.path).collect();
    assert_eq!(paths, ["arg_start", "arg_end", "exe_file"]);
    assert!(
        error
            .to_string()
            .contains("mm_struct.arg_start: this kernel has no struct mm_struct")
    );
}

#[test]
fn a_missing_optional_struct_disables_its_whole_output_and_nothing_else() {
    let (complete, _) = x86_64(&debian().1).expect("complete");
    let (layout, missing) = x86_64(&without("fs_struct")).expect("fs_struct is optional");
    assert_eq!(
        missing.len(),
        4,
        "root and pwd, each mnt and dentry: {missing:?}"
    );
    assert!(
        missing
            .iter()
            .all(|missing| missing.disables == Output::Paths)
    );
    assert_eq!(
        missing[0].to_string(),
        "working directory and binary path are left out: fs_struct.root.mnt: this kernel has no \
         struct fs_struct"
    );
    let absent = [
        "fs_pwd_dentry",
        "fs_pwd_mnt",
        "fs_root_dentry",
        "fs_root_mnt",
        "mount_mnt",
        "mount_mountpoint",
        "mount_parent",
        "task_fs",
        "vfsmount_root",
    ];
    for (name, value) in by_name(&layout) {
        let is_absent = absent.contains(&name.as_str());
        let expected = if is_absent {
            ABSENT
        } else {
            by_name(&complete)[&name]
        };
        assert_eq!(value, expected, "{name}");
    }
}

#[test]
fn a_member_of_another_size_is_refused_with_both_sizes() {
    let mut btf = Builder::default();
    let long = btf.integer("unsigned long", 8);
    btf.structure("pid", 8, &[("level", long, 0)]);
    let error = x86_64(&btf.parse().expect("valid BTF")).expect_err("nearly all is missing");
    let level = error
        .refusals
        .iter()
        .find(|refusal| refusal.structure == "pid");
    let level = level.expect("pid.level is refused");
    let found = Member {
        offset: 0,
        size: 8,
        kind: Kind::Integer,
        bits: None,
    };
    assert_eq!(
        level.reason,
        Reason::Shape {
            expected: Shape::Integer(4),
            found
        }
    );
    let text = "pid.level: expected an integer of 4 bytes, this kernel has an integer of 8 bytes";
    assert_eq!(level.to_string(), text);
}

#[test]
fn the_layout_of_another_architecture_is_refused() {
    let error = layout::resolve(&debian().1, Architecture::Aarch64).expect_err("an x86 kernel");
    assert!(
        error
            .to_string()
            .contains("pt_regs.orig_x0: pt_regs has no member orig_x0")
    );
}

#[test]
fn a_kernel_without_btf_is_told_so() {
    let error = Btf::from_file(Path::new("/no/such/vmlinux")).expect_err("there is no such file");
    assert!(matches!(error, BtfError::NotBuilt { .. }));
    let text = error.to_string();
    assert!(
        text.contains("/no/such/vmlinux") && text.contains("CONFIG_DEBUG_INFO_BTF=y"),
        "{text}"
    );
    let error = Btf::from_file(Path::new("/")).expect_err("a directory");
    assert!(matches!(error, BtfError::Read { .. }), "{error:?}");
}
