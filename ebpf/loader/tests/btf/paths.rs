//! Where a path leads, and why another leads nowhere.

use ebpf_hello_loader::btf::{Kind, LookupError};

use crate::builder::{ARRAY, Builder, CONST, PTR, TYPE_TAG, TYPEDEF, UNION, VOLATILE};

/// `struct outer { const inner_t by_value; struct inner *pointer; union { struct { int deep; };
/// long wide; }; int numbers[4]; void *old; };`, `inner_t` being a typedef of a volatile struct.
fn outer() -> Builder {
    let mut btf = Builder::default();
    let int = btf.integer("int", 4);
    let long = btf.integer("long", 8);
    let inner = btf.structure("inner", 8, &[("a", int, 0), ("b", int, 32)]);
    let volatile = btf.record("", VOLATILE, 0, inner, &[]);
    let typedef = btf.record("inner_t", TYPEDEF, 0, volatile, &[]);
    let constant = btf.record("", CONST, 0, typedef, &[]);
    let pointer = btf.record("", PTR, 0, inner, &[]);
    let tagged = btf.record("rcu", TYPE_TAG, 0, int, &[]);
    let deep = btf.structure("", 8, &[("pad", int, 0), ("deep", tagged, 32)]);
    let anonymous = btf.aggregate(UNION, "", 8, &[("", deep, 0), ("wide", long, 0)]);
    let numbers = btf.record("", ARRAY, 0, 0, &[int, int, 4]);
    btf.structure(
        "outer",
        48,
        &[
            ("by_value", constant, 0),
            ("pointer", pointer, 64),
            ("", anonymous, 128),
            ("numbers", numbers, 192),
            ("old", pointer, 320),
        ],
    );
    btf
}

#[test]
fn paths_lead_through_qualifiers_anonymous_members_and_arrays() {
    let btf = outer().parse().expect("valid BTF");
    let offset_and_size = |path| {
        let member = btf.member("outer", path).expect("a member");
        (member.offset, member.size, member.kind)
    };
    assert_eq!(offset_and_size("by_value"), (0, 8, Kind::Struct));
    assert_eq!(offset_and_size("by_value.b"), (4, 4, Kind::Integer));
    assert_eq!(offset_and_size("pointer"), (8, 8, Kind::Pointer));
    assert_eq!(offset_and_size("deep"), (20, 4, Kind::Integer));
    assert_eq!(offset_and_size("wide"), (16, 8, Kind::Integer));
    assert_eq!(offset_and_size("numbers"), (24, 16, Kind::Array));
    assert_eq!(offset_and_size("numbers[3]"), (36, 4, Kind::Integer));
    assert_eq!(btf.struct_size("outer"), Ok(48));
    assert!(btf.has_struct("inner") && !btf.has_struct("inner_t") && !btf.has_struct(""));
}

#[test]
fn an_older_name_is_found_and_none_is_told() {
    let btf = outer().parse().expect("valid BTF");
    assert_eq!(
        btf.member_of_any("outer", &["new", "old"])
            .map(|member| member.offset),
        Ok(40)
    );
    let error = btf
        .member_of_any("outer", &["new", "newer"])
        .expect_err("neither is there");
    assert_eq!(error.to_string(), "struct outer has none of new, newer");
    let error = btf
        .member_of_any("absent", &["new", "newer"])
        .expect_err("no such struct");
    assert_eq!(error.to_string(), "this kernel has no struct absent");
}

#[test]
fn paths_that_have_no_offset_say_why() {
    let btf = outer().parse().expect("valid BTF");
    let cases = [
        ("absent", "outer has no member absent"),
        ("by_value.c", "outer.by_value has no member c"),
        (
            "pointer.a",
            "outer.pointer is a pointer: only members embedded by value have an offset",
        ),
        ("deep.a", "outer.deep is neither struct nor union"),
        (
            "numbers[4]",
            "outer.numbers[4] has no such element: the array has 4, counted from 0",
        ),
        (
            "wide[0]",
            "outer.wide[0] has no such element: it is not an array",
        ),
        ("", "is not a member path"),
        ("by_value.", "is not a member path"),
        ("numbers[x]", "is not a member path"),
        ("numbers[1", "is not a member path"),
    ];
    for (path, expected) in cases {
        let error = btf.member("outer", path).expect_err(path).to_string();
        assert!(error.contains(expected), "{path:?}: {error}");
    }
    let error = btf.member("absent", "a").expect_err("no such struct");
    assert_eq!(
        error,
        LookupError::NoStruct {
            name: "absent".into()
        }
    );
}

#[test]
fn definitions_of_one_name_must_agree_where_they_have_the_member() {
    let mut btf = Builder::default();
    let int = btf.integer("int", 4);
    btf.structure("twice", 8, &[("same", int, 0), ("moved", int, 32)]);
    btf.structure("twice", 8, &[("moved", int, 0), ("once", int, 32)]);
    let btf = btf.parse().expect("valid BTF");
    assert_eq!(
        btf.member("twice", "same").map(|member| member.offset),
        Ok(0)
    );
    assert_eq!(
        btf.member("twice", "once").map(|member| member.offset),
        Ok(4)
    );
    let ambiguous = LookupError::Ambiguous {
        path: "twice.moved".into(),
    };
    assert_eq!(btf.member("twice", "moved"), Err(ambiguous));
}
