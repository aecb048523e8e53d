//! What must hold whatever the filters are.

use std::collections::{BTreeMap, BTreeSet};

use ebpf_hello_policy::{
    Abi, Arch, Compiled, DefaultAction, Filter, Handler, LossReason, Pod, Slot, Subject, compile,
    crd::{
        ClusterSyscallFilter, ClusterSyscallFilterSpec, FilterRule, RateLimitSpec, SyscallFilter,
        SyscallFilterSpec,
    },
    syscall,
};
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

const CALLS: [&str; 6] = ["openat", "close", "read", "connect", "kill", "timer_create"];

fn rule() -> impl Strategy<Value = FilterRule> {
    let calls = btree_set(select(CALLS.to_vec()), 1..4);
    let handler = select(vec![Handler::Trace, Handler::Count, Handler::Ignore]);
    (calls, handler, option::of(2..5u32), option::of(1..100u32)).prop_map(
        |(calls, handler, sampling, rate)| {
            let events = handler == Handler::Trace;
            FilterRule {
                syscalls: calls.into_iter().map(str::to_owned).collect(),
                except: Vec::new(),
                handler,
                rate_limit: rate.filter(|_| events).map(|rate| RateLimitSpec {
                    events_per_second: rate,
                    burst: None,
                }),
                sampling: sampling.filter(|_| events),
                returns: false,
                denied: false,
            }
        },
    )
}

fn spec() -> impl Strategy<Value = SyscallFilterSpec> {
    let default = select(vec![
        DefaultAction::Ignore,
        DefaultAction::Count,
        DefaultAction::Trace,
    ]);
    (vec(rule(), 0..4), default, -2..3i32, any::<bool>()).prop_map(
        |(rules, default, priority, root)| SyscallFilterSpec {
            rules,
            default,
            priority,
            match_uids: if root {
                vec!["0".to_owned()]
            } else {
                Vec::new()
            },
            ..SyscallFilterSpec::default()
        },
    )
}

/// Filters with names of their own; a name's order is independent of its filter's content.
fn namespaced() -> impl Strategy<Value = Vec<Filter>> {
    vec(spec(), 0..5).prop_map(|specs| {
        let object = |(index, spec)| {
            let mut object = SyscallFilter::new(&format!("n{index}"), spec);
            object.metadata.namespace = Some("shop".to_owned());
            Filter::try_from(&object).expect("generated filters are valid")
        };
        specs.into_iter().enumerate().map(object).collect()
    })
}

fn clusterwide(
    overridable: impl Strategy<Value = bool> + 'static,
) -> impl Strategy<Value = Vec<Filter>> {
    vec((spec(), overridable), 0..4).prop_map(|specs| {
        let object = |(index, (common, overridable))| {
            let spec = ClusterSyscallFilterSpec {
                common,
                overridable,
                ..Default::default()
            };
            let object = ClusterSyscallFilter::new(&format!("m{index}"), spec);
            Filter::try_from(&object).expect("generated filters are valid")
        };
        specs.into_iter().enumerate().map(object).collect()
    })
}

fn compiled(filters: &[Filter]) -> Compiled {
    let pod = Pod {
        namespace: "shop".to_owned(),
        container: Some("web".to_owned()),
        ..Pod::default()
    };
    compile(filters, &Subject::Pod(pod), Arch::X86_64)
}

/// What happens to a call: its slot, or the default as one.
fn effect(compiled: &Compiled, call: &str) -> Slot {
    let number = syscall::number(Arch::X86_64, Abi::Native, call).expect(call);
    let half = &compiled.table.native;
    half.slots.get(&number).cloned().unwrap_or_else(|| Slot {
        handler: half.default.action.handler_for(call),
        filter: half.default.filter.clone(),
        rule: 0,
        rate_limit: None,
        sampling: 1,
        returns: false,
        denied: false,
        match_uids: half.default.match_uids.clone(),
        match_binaries: half.default.match_binaries.clone(),
    })
}

/// 0 nothing, 1 counts, 2 events.
fn shown(handler: Handler) -> u8 {
    match handler {
        Handler::Ignore => 0,
        Handler::Count => 1,
        _ => 2,
    }
}

proptest! {
    #[test]
    fn order_of_input_never_matters(
        (filters, shuffled) in (clusterwide(any::<bool>()), namespaced())
            .prop_map(|(mut all, more)| { all.extend(more); all })
            .prop_flat_map(|filters| (Just(filters.clone()), Just(filters).prop_shuffle()))
    ) {
        prop_assert_eq!(compiled(&filters), compiled(&shuffled));
    }

    #[test]
    fn filter_for_other_pods_changes_nothing(
        mut filters in namespaced(), cluster in clusterwide(any::<bool>()), mut foreign in spec(), elsewhere in any::<bool>()
    ) {
        filters.extend(cluster);
        let before = compiled(&filters);
        let namespace = if elsewhere { "bank" } else { "shop" };
        if !elsewhere {
            foreign.containers = vec!["proxy".to_owned()];
        }
        foreign.priority = 1000;
        let mut object = SyscallFilter::new("aaa", foreign);
        object.metadata.namespace = Some(namespace.to_owned());
        filters.push(Filter::try_from(&object).expect("valid"));
        prop_assert_eq!(before, compiled(&filters));
    }

    /// Every wish (a filter's rule naming a call) either is the owner, or is told to have lost, once.
    #[test]
    fn call_never_has_two_owners(cluster in clusterwide(any::<bool>()), specs in vec(spec(), 0..5)) {
        let mut wishes: BTreeMap<String, BTreeSet<(String, u16)>> = BTreeMap::new();
        let mut filters = cluster;
        // The wishes of cluster filters are not known here; theirs are checked as losers' winners.
        for (index, spec) in specs.into_iter().enumerate() {
            let mut object = SyscallFilter::new(&format!("n{index}"), spec);
            object.metadata.namespace = Some("shop".to_owned());
            for (rule, calls) in object.spec.rules.iter().enumerate().map(|(i, r)| (i as u16 + 1, &r.syscalls)) {
                for call in calls {
                    wishes.entry(call.clone()).or_default().insert((format!("shop/n{index}"), rule));
                }
            }
            filters.push(Filter::try_from(&object).expect("valid"));
        }
        let outcome = compiled(&filters);
        for call in CALLS {
            let slot = effect(&outcome, call);
            let owner = (slot.filter.map(|name| name.to_string()).unwrap_or_default(), slot.rule);
            let lost: Vec<_> = outcome.overridden.iter().filter(|loss| loss.syscall == Some(call)).collect();
            let losers: BTreeSet<_> = lost.iter().map(|loss| (loss.filter.to_string(), loss.rule)).collect();
            prop_assert_eq!(losers.len(), lost.len(), "told once");
            prop_assert!(!losers.contains(&owner), "{} {:?} both owns and lost", call, owner);
            for wish in wishes.get(call).into_iter().flatten() {
                prop_assert!(*wish == owner || losers.contains(wish), "{} {:?} neither owns nor lost", call, wish);
            }
            for loss in lost.iter().filter(|loss| loss.reason != LossReason::WouldWeaken && loss.filter != loss.by) {
                prop_assert_eq!((loss.by.to_string(), loss.by_rule), owner.clone(), "lost to the owner");
            }
        }
    }

    #[test]
    fn namespaced_filter_never_takes_away_from_a_cluster_filter(
        cluster in clusterwide(Just(false)), namespaced in namespaced()
    ) {
        let before = compiled(&cluster);
        let after = compiled(&[cluster, namespaced].concat());
        for call in CALLS.into_iter().chain(["execve", "execveat", "write"]) {
            let (asked, got) = (effect(&before, call), effect(&after, call));
            if asked.rule > 0 {
                prop_assert_eq!(asked, got, "{}: a cluster filter's rule", call);
                continue;
            }
            prop_assert!(shown(got.handler) >= shown(asked.handler), "{}: {:?} became {:?}", call, asked, got);
            if shown(asked.handler) > 0 {
                prop_assert!(got.rate_limit.is_none() && got.sampling == 1, "{}: limited: {:?}", call, got);
                let as_wide = got.match_uids.is_empty() || got.match_uids == asked.match_uids;
                prop_assert!(as_wide, "{}: restricted: {:?} became {:?}", call, asked, got);
            }
        }
    }

    /// The union wants at least what each of the two wants, of every call.
    #[test]
    fn union_misses_nothing(one in namespaced(), other in namespaced()) {
        let [one, other] = [one, other].map(|filters| compiled(&filters));
        let mut both = one.clone();
        both.table = one.table.union(&other.table);
        for call in CALLS.into_iter().chain(["execve", "write"]) {
            let union = effect(&both, call);
            for part in [effect(&one, call), effect(&other, call)] {
                prop_assert!(shown(union.handler) >= shown(part.handler), "{}", call);
                if shown(part.handler) > 0 {
                    prop_assert!(union.sampling <= part.sampling, "{}", call);
                    prop_assert!(part.rate_limit.is_some() || union.rate_limit.is_none(), "{}", call);
                    prop_assert!(union.match_uids.is_empty() || !part.match_uids.is_empty(), "{}", call);
                }
            }
        }
    }
}
