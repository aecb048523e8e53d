//! Precedence, case by case: each test is a sentence of the design.

use std::collections::BTreeMap;

use ebpf_hello_policy::{
    Abi, Arch, Compiled, DefaultAction, Filter, Handler, Host, LossReason, Pod, RateLimit, Slot,
    Subject, builtin, compile, compile_pod, read, syscall,
};

/// A filter of namespace `shop`, from the inside of its spec.
fn shop(name: &str, spec: &str) -> Filter {
    filter(
        "SyscallFilter",
        &format!("{{name: {name}, namespace: shop}}"),
        spec,
    )
}

fn cluster(name: &str, spec: &str) -> Filter {
    filter("ClusterSyscallFilter", &format!("{{name: {name}}}"), spec)
}

fn filter(kind: &str, metadata: &str, spec: &str) -> Filter {
    let text = format!(
        "{{apiVersion: ebpf-hello.dev/v1alpha1, kind: {kind}, metadata: {metadata}, spec: {{{spec}}}}}"
    );
    let mut documents = read("test", &text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    documents.pop().expect("one").filter
}

fn pod(labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: "shop".into(),
        labels: labels
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        container: Some("web".into()),
        ..Pod::default()
    }
}

fn on_pod(filters: &[Filter]) -> Compiled {
    compile(
        filters,
        &Subject::Pod(pod(&[("app", "cart")])),
        Arch::X86_64,
    )
}

fn slot<'c>(compiled: &'c Compiled, call: &str) -> Option<&'c Slot> {
    let number = syscall::number(Arch::X86_64, Abi::Native, call).expect(call);
    compiled.table.native.slots.get(&number)
}

/// `handler filter#rule` of a call, or the default's.
fn owner(compiled: &Compiled, call: &str) -> String {
    match slot(compiled, call) {
        Some(slot) => format!(
            "{} {}#{}",
            slot.handler,
            slot.filter.as_ref().expect("an owner"),
            slot.rule
        ),
        None => format!("{} by default", compiled.table.native.default.action),
    }
}

fn losses(compiled: &Compiled) -> Vec<(String, u16, String, LossReason)> {
    let loss = |o: &ebpf_hello_policy::Overridden| {
        (o.filter.to_string(), o.rule, o.by.to_string(), o.reason)
    };
    compiled.overridden.iter().map(loss).collect()
}

#[test]
fn no_filter_wants_nothing() {
    let compiled = on_pod(&[]);
    assert!(!compiled.table.wants_system_calls());
    assert!(compiled.table.native.slots.is_empty() && compiled.overridden.is_empty());
}

#[test]
fn priority_decides_then_name() {
    let low = shop("a", "rules: [{syscalls: [openat], handler: Trace}]");
    let high = shop(
        "b",
        "priority: 1, rules: [{syscalls: [openat], handler: Path}]",
    );
    let same = shop(
        "c",
        "priority: 1, rules: [{syscalls: [openat], handler: Count}]",
    );
    let compiled = on_pod(&[low, same, high]);
    assert_eq!(owner(&compiled, "openat"), "Path shop/b#1");
    assert_eq!(
        losses(&compiled),
        [
            ("shop/a".into(), 1, "shop/b".into(), LossReason::Priority),
            ("shop/c".into(), 1, "shop/b".into(), LossReason::Name),
        ]
    );
}

#[test]
fn cluster_filter_goes_first_whatever_the_priorities() {
    let baseline = cluster(
        "baseline",
        "priority: -5, rules: [{syscalls: [openat], handler: Path}]",
    );
    let mine = shop(
        "mine",
        "priority: 100, rules: [{syscalls: [openat], handler: Ignore}]",
    );
    let compiled = on_pod(&[mine, baseline]);
    assert_eq!(owner(&compiled, "openat"), "Path baseline#1");
    assert_eq!(
        losses(&compiled),
        [(
            "shop/mine".into(),
            1,
            "baseline".into(),
            LossReason::ClusterFilter
        )]
    );
}

#[test]
fn overridable_cluster_filter_yields_to_priority() {
    let baseline = cluster(
        "baseline",
        "overridable: true, rules: [{syscalls: [openat], handler: Path}]",
    );
    let mine = |priority| {
        shop(
            "mine",
            &format!("priority: {priority}, rules: [{{syscalls: [openat], handler: Ignore}}]"),
        )
    };
    assert_eq!(
        owner(&on_pod(&[baseline.clone(), mine(1)]), "openat"),
        "Ignore shop/mine#1"
    );
    assert_eq!(
        owner(&on_pod(&[baseline, mine(-1)]), "openat"),
        "Path baseline#1"
    );
}

/// C1 guards the call from namespaced filters, and among cluster filters priority decides: even
/// though, two by two, the overridable C2 beats C1, C1 beats N, and N beats C2.
#[test]
fn call_that_a_protected_filter_names_stays_with_cluster_filters() {
    let protected = cluster("c1", "rules: [{syscalls: [openat], handler: Path}]");
    let yielding = cluster(
        "c2",
        "priority: 5, overridable: true, rules: [{syscalls: [openat], handler: Trace}]",
    );
    let mine = shop(
        "n",
        "priority: 10, rules: [{syscalls: [openat], handler: Count}]",
    );
    assert_eq!(
        owner(&on_pod(&[protected, yielding, mine]), "openat"),
        "Trace c2#1"
    );
}

#[test]
fn namespaced_filter_adds_to_a_cluster_default_and_never_takes_away() {
    let baseline = cluster("baseline", "default: Count");
    let mine = shop(
        "mine",
        "priority: 9, rules: [{syscalls: [openat], handler: Path}, {syscalls: [close], handler: Ignore}, \
         {syscalls: [connect], handler: Sock, sampling: 2}, {syscalls: [read], handler: Count}]",
    );
    let compiled = on_pod(&[baseline, mine]);
    assert_eq!(owner(&compiled, "openat"), "Path shop/mine#1");
    assert_eq!(owner(&compiled, "close"), "Count by default");
    assert_eq!(owner(&compiled, "connect"), "Count by default");
    assert_eq!(owner(&compiled, "read"), "Count shop/mine#4");
    let refused: Vec<_> = losses(&compiled)
        .into_iter()
        .map(|(_, rule, by, reason)| (rule, by, reason))
        .collect();
    assert_eq!(
        refused,
        [
            (2, "baseline".into(), LossReason::WouldWeaken),
            (3, "baseline".into(), LossReason::WouldWeaken)
        ]
    );
}

#[test]
fn restricted_rule_does_not_take_a_call_from_a_cluster_default() {
    let baseline = cluster("baseline", "default: Trace");
    let mine = shop(
        "mine",
        "matchUids: ['0'], default: Trace, rules: [{syscalls: [openat], handler: Path}]",
    );
    let compiled = on_pod(&[baseline, mine]);
    assert_eq!(owner(&compiled, "openat"), "Trace by default");
    assert_eq!(
        compiled
            .table
            .native
            .default
            .filter
            .as_ref()
            .map(ToString::to_string),
        Some("baseline".into())
    );
    assert!(compiled.table.native.default.match_uids.is_empty());
}

#[test]
fn rule_beats_a_default_of_its_own_kind() {
    let traced = shop("a", "priority: 100, default: Trace");
    let ignored = shop("b", "rules: [{syscalls: [openat], handler: Ignore}]");
    assert_eq!(
        owner(&on_pod(&[traced, ignored]), "openat"),
        "Ignore shop/b#1"
    );
}

#[test]
fn strongest_default_wins() {
    let filters = [
        shop("a", "priority: 9, default: Count"),
        shop("b", "default: Trace"),
        shop("c", "default: Ignore"),
    ];
    let compiled = on_pod(&filters);
    assert_eq!(compiled.table.native.default.action, DefaultAction::Trace);
    assert_eq!(
        losses(&compiled),
        [(
            "shop/a".into(),
            0,
            "shop/b".into(),
            LossReason::StrongerDefault
        )]
    );
}

#[test]
fn default_trace_means_exec_on_execve_and_execveat() {
    let compiled = on_pod(&[shop("a", "default: Trace")]);
    assert_eq!(owner(&compiled, "execve"), "Exec shop/a#0");
    assert_eq!(owner(&compiled, "execveat"), "Exec shop/a#0");
    assert_eq!(slot(&compiled, "openat"), None);
    let counted = on_pod(&[shop("a", "default: Count")]);
    assert_eq!(slot(&counted, "execve"), None, "Count counts them");
}

#[test]
fn first_rule_of_a_filter_that_names_a_call_has_it() {
    let compiled = on_pod(&[shop(
        "a",
        "rules: [{syscalls: [openat], handler: Path}, {syscalls: ['@file'], handler: Count}]",
    )]);
    assert_eq!(owner(&compiled, "openat"), "Path shop/a#1");
    assert_eq!(owner(&compiled, "close"), "Count shop/a#2");
    assert_eq!(
        losses(&compiled),
        [("shop/a".into(), 2, "shop/a".into(), LossReason::EarlierRule)]
    );
}

#[test]
fn slot_carries_everything_the_kernel_needs() {
    let compiled = on_pod(&[shop(
        "a",
        "matchUids: ['1000-1999', '0'], matchBinaries: ['/usr/bin/*'], rules: [{syscalls: [openat], handler: Path, \
         rateLimit: {eventsPerSecond: 500}, sampling: 10, returns: true, denied: true}]",
    )]);
    let slot = slot(&compiled, "openat").expect("selected");
    assert_eq!(
        slot.rate_limit,
        Some(RateLimit {
            events_per_second: 500,
            burst: 50
        }),
        "a tenth of the rate"
    );
    assert_eq!((slot.sampling, slot.returns, slot.denied), (10, true, true));
    assert_eq!(
        slot.match_uids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["0", "1000-1999"]
    );
    assert!(
        slot.match_binaries[0].matches("/usr/bin/env")
            && !slot.match_binaries[0].matches("/usr/sbin/x")
    );
    assert!(compiled.table.wants_exits());
}

#[test]
fn ia32_goes_by_its_own_names_and_numbers() {
    let compiled = on_pod(&[shop("a", "rules: [{syscalls: ['@timer'], handler: Timer}]")]);
    let compat = &compiled.table.compat.slots;
    let number = |name| syscall::number(Arch::X86_64, Abi::Compat, name).expect("ia32");
    assert!(
        compat.contains_key(&number("timer_settime"))
            && compat.contains_key(&number("timer_settime64"))
    );
    assert!(
        !compat.contains_key(&222),
        "timer_create's native number is another call on ia32"
    );
    assert_eq!(compat.len(), 13);
    assert_eq!(compiled.table.native.slots.len(), 9);
}

#[test]
fn selection_is_by_namespace_labels_container_and_node() {
    let selects = |filter: &Filter, pod: &Pod| filter.selects(&Subject::Pod(pod.clone()));
    let cart = pod(&[("app", "cart")]);
    let elsewhere = Pod {
        namespace: "bank".into(),
        ..cart.clone()
    };
    let by_label = shop("a", "podSelector: {matchLabels: {app: cart}}");
    assert!(
        selects(&by_label, &cart)
            && !selects(&by_label, &elsewhere)
            && !selects(&by_label, &pod(&[]))
    );

    let by_container = shop("a", "containers: [web]");
    let sidecar = Pod {
        container: Some("proxy".into()),
        ..cart.clone()
    };
    let unknown = Pod {
        container: None,
        ..cart.clone()
    };
    assert!(
        selects(&by_container, &cart)
            && !selects(&by_container, &sidecar)
            && !selects(&by_container, &unknown)
    );

    let by_node = shop(
        "a",
        "nodeSelector: {matchExpressions: [{key: gpu, operator: Exists}]}",
    );
    let on_gpu = Pod {
        node_labels: BTreeMap::from([("gpu".into(), "a100".into())]),
        ..cart.clone()
    };
    assert!(selects(&by_node, &on_gpu) && !selects(&by_node, &cart));

    let by_namespace = cluster("a", "namespaceSelector: {matchLabels: {team: web}}");
    let labelled = Pod {
        namespace_labels: BTreeMap::from([("team".into(), "web".into())]),
        ..cart.clone()
    };
    assert!(selects(&by_namespace, &labelled) && !selects(&by_namespace, &cart));

    assert!(!by_label.selects(&Subject::host()));
    assert!(!cluster("a", "default: Count").selects(&Subject::host()));
    let host = cluster("a", "host: true");
    assert!(
        host.selects(&Subject::host()) && selects(&host, &cart),
        "host adds to the pods"
    );
}

#[test]
fn cgroup_glob_selects_what_it_matches_and_everything_below() {
    let filter = cluster("a", "matchCgroup: '/system.slice/cron*'");
    let selects = |path: &str| {
        filter.selects(&Subject::Host(Host {
            cgroup: Some(path.into()),
            ..Host::default()
        }))
    };
    assert!(selects("/system.slice/cron.service"));
    assert!(selects("/system.slice/cron.service/"));
    assert!(
        selects("/system.slice/cron.service/job/1"),
        "a child starts with its parent's outcome"
    );
    assert!(
        !selects("/system.slice")
            && !selects("/system.slice/ssh.service")
            && !selects("/a/system.slice/cron")
    );
    assert!(!filter.selects(&Subject::host()), "no path is no match");
    let root = cluster("a", "matchCgroup: /");
    assert!(root.selects(&Subject::Host(Host {
        cgroup: Some("/x/y".into()),
        ..Host::default()
    })));
}

#[test]
fn pod_cgroup_gets_the_union_of_its_containers() {
    let filters = [
        shop(
            "quiet",
            "priority: 9, containers: [web], rules: [{syscalls: [openat], handler: Ignore}]",
        ),
        shop(
            "all",
            "rules: [{syscalls: [openat], handler: Path, rateLimit: {eventsPerSecond: 10}}]",
        ),
        shop(
            "proxy",
            "containers: [proxy], rules: [{syscalls: [connect], handler: Sock, sampling: 4}]",
        ),
        shop(
            "web",
            "containers: [web], rules: [{syscalls: [connect], handler: Count}]",
        ),
    ];
    let table = compile_pod(&filters, &pod(&[]), ["web", "proxy"], Arch::X86_64);
    let slot =
        |name| &table.native.slots[&syscall::number(Arch::X86_64, Abi::Native, name).expect(name)];
    assert_eq!(
        slot("openat").handler,
        Handler::Path,
        "one container is silent, the other is not"
    );
    assert!(slot("openat").rate_limit.is_some());
    assert_eq!(
        (slot("connect").handler, slot("connect").sampling),
        (Handler::Sock, 1),
        "the looser bound"
    );
    let one = compile_pod(&filters, &pod(&[]), ["web"], Arch::X86_64);
    assert_eq!(
        one,
        on_pod(&filters).table,
        "of one container, its own table"
    );
}

#[test]
fn builtin_is_hello_tail_by_name() {
    let compiled = |default, arch| {
        let filter = Filter::try_from(&builtin(default, arch)).expect("valid");
        compile([&filter], &Subject::host(), arch)
    };
    let x86 = compiled(DefaultAction::Count, Arch::X86_64);
    let handler = |number: u16| x86.table.native.slots.get(&number).map(|slot| slot.handler);
    assert_eq!(
        (handler(59), handler(322)),
        (Some(Handler::Exec), Some(Handler::Exec))
    );
    assert!((222..=226).all(|number| handler(number) == Some(Handler::Timer)));
    let ignored: Vec<u16> = x86
        .table
        .native
        .slots
        .iter()
        .filter(|(_, s)| s.handler == Handler::Ignore)
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(
        ignored,
        [
            21, 22, 25, 29, 56, 57, 63, 64, 66, 72, 73, 79, 98, 101, 115, 131, 134, 135, 139, 172,
            233, 280, 291
        ]
    );
    assert_eq!(x86.table.native.default.action, DefaultAction::Count);

    let arm = compiled(DefaultAction::Trace, Arch::Aarch64);
    let clone = syscall::number(Arch::Aarch64, Abi::Native, "clone").expect("clone");
    assert_eq!(
        arm.table.native.slots[&clone].handler,
        Handler::Ignore,
        "56, by name"
    );
    assert!(
        !compiled(DefaultAction::Ignore, Arch::X86_64)
            .table
            .wants_system_calls()
    );
}

#[test]
fn equal_outcomes_are_equal_values() {
    let one = shop(
        "a",
        "matchUids: ['5', '0'], rules: [{syscalls: [openat, close], handler: Trace}]",
    );
    let other = shop(
        "a",
        "matchUids: ['0', '5'], rules: [{syscalls: [close, openat], handler: Trace}]",
    );
    assert_eq!(on_pod(&[one]).table, on_pod(&[other]).table);
}
