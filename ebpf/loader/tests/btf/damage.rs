//! Damaged BTF is an error, never a panic and never endless.

use ebpf_hello_loader::btf::{self, Btf, LookupError, layout};

use crate::{
    builder::{ARRAY, Builder, TYPEDEF},
    debian, x86_64,
};

#[test]
fn foreign_data_is_told_from_btf() {
    let parse = |data: &[u8]| Btf::parse(data).expect_err("not BTF").to_string();
    assert!(parse(b"\x7fELF\x02\x01\x01\x00").contains("starts with 0x457f, expected 0xeb9f"));
    assert!(parse(&[0xeb, 0x9f, 1, 0]).contains("big-endian"));
    assert!(parse(&[0x9f, 0xeb, 2, 0]).contains("version 2 is not known, expected 1"));
    assert!(parse(&[0x9f, 0xeb, 1, 0, 8, 0, 0, 0]).contains("8 bytes, expected at least 24"));
    assert!(parse(b"").contains("ends inside the header"));
    let mut btf = Builder::default();
    btf.record("", 31, 0, 0, &[]);
    let error = btf.parse().expect_err("kind 31").to_string();
    assert!(
        error.contains("type 1 is of kind 31, this version knows 1 to 19"),
        "{error}"
    );
}

#[test]
fn a_longer_header_of_a_later_kernel_is_passed_over() {
    let (data, btf) = debian();
    let mut longer = data[..24].to_vec();
    longer[4] = 32;
    longer.extend([0xff; 8]);
    longer.extend(&data[24..]);
    assert_eq!(
        x86_64(&Btf::parse(&longer).expect("valid BTF")),
        x86_64(&btf)
    );
}

#[test]
fn types_that_contain_themselves_are_refused() {
    let mut btf = Builder::default();
    btf.record("loop", TYPEDEF, 0, 1, &[]);
    btf.structure("of_loop", 8, &[("member", 1, 0)]);
    btf.structure("of_itself", 8, &[("", 3, 0), ("", 3, 0)]);
    btf.record("", ARRAY, 0, 0, &[4, 4, 1]);
    btf.structure("of_array", 8, &[("member", 4, 0), ("nowhere", 99, 0)]);
    let btf = btf.parse().expect("ids are checked where they are used");
    for (structure, id) in [("of_loop", 1), ("of_itself", 3), ("of_array", 4)] {
        assert_eq!(
            btf.member(structure, "member"),
            Err(LookupError::TooDeep { id }),
            "{structure}"
        );
    }
    let error = btf.member("of_array", "nowhere").expect_err("type 99");
    assert_eq!(error, LookupError::TypeId { id: 99, types: 6 });
}

#[test]
fn a_search_through_many_anonymous_members_ends() {
    let mut btf = Builder::default();
    let int = btf.integer("int", 4);
    let mut inner = btf.structure("", 4, &[("leaf", int, 0)]);
    // 2 to the 30 ways to the leaf, none of which has the member.
    for _ in 0..30 {
        inner = btf.structure("", 4, &[("", inner, 0), ("", inner, 0)]);
    }
    btf.structure("wide", 4, &[("", inner, 0)]);
    let btf = btf.parse().expect("valid BTF");
    assert_eq!(
        btf.member("wide", "leaf").map(|member| member.offset),
        Ok(0)
    );
    assert!(matches!(
        btf.member("wide", "absent"),
        Err(LookupError::TooDeep { .. })
    ));
}

#[test]
fn every_truncation_is_an_error() {
    let (data, _) = debian();
    for length in 0..data.len() {
        assert!(
            Btf::parse(&data[..length]).is_err(),
            "the first {length} bytes"
        );
    }
}

#[test]
fn damage_never_panics() {
    let (data, _) = debian();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64: the same damage in every run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut refused, mut incomplete, mut usable) = (0, 0, 0);
    for round in 0..4_000 {
        let mut damaged = data.to_vec();
        for _ in 0..=round % 8 {
            // Mostly the header and the types; names are harmless.
            let at = next() as usize % if round % 2 == 0 { data.len() } else { 600 };
            damaged[at] ^= 1 << (next() % 8);
        }
        match Btf::parse(&damaged) {
            Err(_) => refused += 1,
            Ok(btf) => {
                let names: Vec<_> = layout::structures().collect();
                let _ = btf::minimize(&btf, &names, &["sys_enter", "sched_process_exit"]);
                let _ = btf.has_group_dead();
                match x86_64(&btf) {
                    Err(_) => incomplete += 1,
                    Ok(_) => usable += 1,
                }
            }
        }
    }
    // Damage reached all three: else this test has stopped testing something.
    assert!(
        refused > 100 && incomplete > 100 && usable > 100,
        "{refused} {incomplete} {usable}"
    );
}

#[test]
fn a_long_chain_of_types_does_not_exhaust_the_stack() {
    let mut btf = Builder::default();
    let mut chain = btf.integer("int", 4);
    for _ in 0..500_000 {
        chain = btf.record("", TYPEDEF, 0, chain, &[]);
    }
    btf.structure("of_chain", 4, &[("member", chain, 0)]);
    let btf = btf.parse().expect("valid BTF");
    assert!(matches!(
        btf.member("of_chain", "member"),
        Err(LookupError::TooDeep { .. })
    ));
    let minimized = btf::minimize(&btf, &["of_chain"], &[]);
    assert!(matches!(minimized, Err(LookupError::TooDeep { .. })));
}
