//! What `check` says about filters that are valid.

use std::fs;

use ebpf_hello_policy::{Arch, Filter, Pod, Subject, explain, explain_overlap, read};

fn filters() -> Vec<Filter> {
    let text = "
apiVersion: ebpf-hello.dev/v1alpha1
kind: ClusterSyscallFilter
metadata: {name: baseline}
spec:
  default: Count
  rules:
    - {syscalls: [execve, execveat], handler: Exec, returns: true}
---
apiVersion: ebpf-hello.dev/v1alpha1
kind: SyscallFilter
metadata: {name: cart, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  matchUids: ['1000-1999']
  rules:
    - {syscalls: [connect], handler: Sock}
---
apiVersion: ebpf-hello.dev/v1alpha1
kind: SyscallFilter
metadata: {name: files, namespace: shop}
spec:
  priority: 5
  rules:
    - {syscalls: [open, openat], handler: Path}
    - {syscalls: [execve], handler: Count}
---
apiVersion: ebpf-hello.dev/v1alpha1
kind: SyscallFilter
metadata: {name: ledger, namespace: bank}
spec: {default: Trace}
";
    let documents = read("test", text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    documents
        .into_iter()
        .map(|document| document.filter)
        .collect()
}

fn cart() -> Subject {
    let labels = [("app".to_owned(), "cart".to_owned())].into();
    Subject::Pod(Pod {
        namespace: "shop".to_owned(),
        labels,
        ..Pod::default()
    })
}

#[test]
fn text_names_handler_filter_rule_and_losers() {
    let page = explain(&filters(), &cart(), Arch::X86_64).render();
    let expected = "\
selected by baseline, shop/files, shop/cart (in order of precedence)
not selected by bank/ledger

connect   Count    baseline, default
            over shop/cart, rule 1: it would show less than the default of baseline, which is a cluster filter and not overridable
execve    Exec     baseline, rule 1  with return value
            over shop/files, rule 2: baseline is a cluster filter and not overridable
execveat  Exec     baseline, rule 1  with return value
open      Path     shop/files, rule 1
openat    Path     shop/files, rule 1

every other system call  Count  baseline, default
";
    assert_eq!(page, expected);
}

#[test]
fn names_that_the_architecture_has_not_are_told() {
    let explained = explain(&filters(), &cart(), Arch::Aarch64);
    assert_eq!(explained.absent, Vec::<&str>::new(), "32-bit ARM has open");
    let text = "{apiVersion: ebpf-hello.dev/v1alpha1, kind: ClusterSyscallFilter, metadata: {name: a}, \
                spec: {rules: [{syscalls: [arch_prctl, read], handler: Trace}]}}";
    let filter = read("test", text).expect("valid").remove(0).filter;
    let explained = explain(&[filter], &cart(), Arch::Aarch64);
    assert_eq!(explained.absent, ["arch_prctl"]);
    assert!(
        explained.render().ends_with("not on aarch64: arch_prctl\n"),
        "{}",
        explained.render()
    );
}

#[test]
fn json_has_the_same_as_data() {
    let json =
        serde_json::to_value(explain(&filters(), &cart(), Arch::X86_64)).expect("plain data");
    assert_eq!(
        json["selected"],
        serde_json::json!(["baseline", "shop/files", "shop/cart"])
    );
    let openat = json["syscalls"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|call| call["syscall"] == "openat");
    let openat = openat.expect("openat is decided");
    assert_eq!(openat["number"], 257);
    assert_eq!(openat["filter"], "shop/files");
    assert_eq!(openat["rule"], 1);
    assert_eq!(openat["decode"]["path"]["dirfd"], 0);
    let execve = json["syscalls"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|call| call["syscall"] == "execve");
    assert_eq!(
        execve.expect("execve is decided")["overrode"][0]["reason"],
        "ClusterFilter"
    );
}

#[test]
fn nothing_selected_says_so() {
    let nobody = Subject::Pod(Pod {
        namespace: "attic".to_owned(),
        ..Pod::default()
    });
    let page = explain(&filters()[1..], &nobody, Arch::X86_64).render();
    assert!(
        page.starts_with("no filter selects this workload"),
        "{page}"
    );
}

#[test]
fn overlap_takes_every_filter_that_could_meet_another() {
    let explained = explain_overlap(&filters(), Some("shop"), Arch::X86_64);
    let names: Vec<_> = explained.selected.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["baseline", "shop/files", "shop/cart"]);
    let explained = explain_overlap(&filters(), None, Arch::X86_64);
    assert_eq!(explained.selected.len(), 1, "only the cluster filter");
}

#[test]
fn diagnostics_are_data_with_a_place() {
    let path = format!(
        "{}/tests/broken/syscall-misspelt.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let errors = read(
        "cart.yaml",
        &fs::read_to_string(path).expect("in the corpus"),
    )
    .expect_err("broken");
    assert_eq!(
        errors[0].to_string(),
        "cart.yaml:6:18: error: unknown system call \"opneat\": did you mean \"openat\" or \"openat2\"?"
    );
    let json = serde_json::to_value(&errors[0]).expect("plain data");
    let fields =
        ["file", "line", "column", "severity", "reason", "path"].map(|field| json[field].clone());
    assert_eq!(
        serde_json::Value::from(fields.to_vec()),
        serde_json::json!([
            "cart.yaml",
            6,
            18,
            "error",
            "UnknownSyscall",
            "spec.rules[0].syscalls[0]"
        ])
    );
}
