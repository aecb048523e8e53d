//! Filters from a real API server into this kernel: whom they select, from which call on, and what becomes of them
//! when they are wrong or the server is away.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ebpf_hello_e2e::eventually;
use ebpf_hello_proto::v1::Event;
use serde_json::json;

use crate::stage::{Agent, Mix, NODE, Stage, call, of_process};

/// A call that nothing else makes.
const CALL: &str = "getppid";
const OTHER: &str = "sched_get_priority_max";
/// A metric: whether the API server answers.
const SERVER: &str = "ebpf_hello_api_server_up";

fn trace(call: &str) -> serde_json::Value {
    json!([{"syscalls": [call], "handler": "Trace"}])
}

fn rule_of(event: &Event) -> (String, u32) {
    let policy = event.policy.as_ref().unwrap();
    (policy.filter.clone(), policy.rule)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_first_call_is_under_its_policy_and_nobody_elses_is() {
    let stage = Stage::set().await;
    stage.server.namespace("shop", &[]).await;
    stage.server.namespace("other", &[]).await;
    let selector = json!({"matchLabels": {"app": "cart"}});
    let generation = stage
        .filter(
            "shop",
            "cart",
            json!({"podSelector": selector, "rules": trace(CALL)}),
        )
        .await;
    let elsewhere =
        json!({"nodeSelector": {"matchLabels": {"disk": "tape"}}, "rules": trace(CALL)});
    stage.filter("shop", "elsewhere", elsewhere).await;
    let reader = stage.reader();
    let agent = stage.agent(&[]);
    agent.await_programmed("shop/cart", generation, 0).await;
    agent.await_ready().await;

    // Bound to the node before there is a cgroup of theirs.
    let mut selected = Vec::new();
    let mut others = Vec::new();
    for number in 0..4 {
        selected.push(
            stage
                .pod("shop", &format!("cart-{number}"), "cart", &["web"])
                .await,
        );
        others.push(
            stage
                .pod("shop", &format!("till-{number}"), "till", &["web"])
                .await,
        );
        others.push(
            stage
                .pod("other", &format!("cart-{number}"), "cart", &["web"])
                .await,
        );
    }
    agent.await_programmed("shop/cart", generation, 4).await;
    eventually("the names are foretold", async || {
        // In the parents of both drivers; and in those of other clusters on this kernel.
        match agent.status()["cgroups"]["foretold"].as_u64() {
            Some(8..) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    let cgroups = |uids: &[String]| -> Vec<_> {
        let uids = uids.iter().enumerate();
        uids.map(|(number, uid)| match number % 2 {
            0 => stage.pod_cgroup(uid).join("0123456789abcdef"),
            _ => stage
                .pod_slice(uid)
                .join("cri-containerd-0123456789abcdef.scope"),
        })
        .collect()
    };
    let call_in = |cgroups: Vec<std::path::PathBuf>| -> Vec<u32> {
        cgroups
            .iter()
            .map(|cgroup| call(cgroup, CALL, 25))
            .collect()
    };
    let inside = call_in(cgroups(&selected));
    let outside = call_in(cgroups(&others));
    for pid in &inside {
        let events = reader.await_events(*pid, 25).await;
        assert_eq!(events.len(), 25);
        assert!(
            events
                .iter()
                .all(|event| rule_of(event) == ("shop/cart".to_owned(), 1))
        );
    }
    let events = reader.events();
    for pid in &outside {
        assert_eq!(of_process(events.clone(), *pid).len(), 0);
    }
    // The pod's labels change while it runs.
    let status = agent.status();
    assert!(
        status["filters"]
            .as_array()
            .unwrap()
            .iter()
            .all(|filter| filter["filter"] != "shop/elsewhere")
    );
    stage.delete_pod("shop", "cart-0").await;
    agent.await_programmed("shop/cart", generation, 3).await;
    stage.server.kubectl(&[
        "label",
        "-n",
        "shop",
        "pod",
        "till-0",
        "app=cart",
        "--overwrite",
    ]);
    agent.await_programmed("shop/cart", generation, 4).await;
    let cgroup = stage.pod_cgroup(&others[0]).join("0123456789abcdef");
    let pid = call(&cgroup, CALL, 10);
    assert_eq!(reader.await_events(pid, 10).await.len(), 10);
    let ledger = agent.end();
    ledger.assert_balanced();
    assert_eq!(
        (ledger.get("lost"), ledger.get("in_flight")),
        (0, 0),
        "{ledger:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_not_asked_tells_nothing() {
    let stage = Stage::set().await;
    stage.server.namespace("shop", &[]).await;
    let generation = stage
        .filter(
            "shop",
            "web",
            json!({"containers": ["web"], "rules": trace(CALL)}),
        )
        .await;
    let everyone = stage
        .filter("shop", "all", json!({"rules": trace(OTHER)}))
        .await;
    let reader = stage.reader();
    let agent = stage.agent(&["--identity-wait", "30s"]);
    agent.await_programmed("shop/web", generation, 0).await;
    agent.await_programmed("shop/all", everyone, 0).await;
    let uid = stage.pod("shop", "cart", "cart", &["web", "db"]).await;
    agent.await_programmed("shop/web", generation, 1).await;
    let pod = stage.pod_cgroup(&uid);
    // Nobody knows yet which is which.
    let web = call(&pod.join("aaaa"), CALL, 20);
    let db = call(&pod.join("bbbb"), CALL, 20);
    let both = call(&pod.join("bbbb"), OTHER, 20);
    let never = call(&pod.join("cccc"), CALL, 20);
    stage
        .run("shop", "cart", &[("web", "aaaa"), ("db", "bbbb")])
        .await;
    assert_eq!(reader.await_events(web, 20).await.len(), 20);
    assert_eq!(reader.await_events(both, 20).await.len(), 20);
    // Now the kernel knows.
    eventually("the containers have tables of their own", async || {
        let pid = call(&pod.join("bbbb"), CALL, 1);
        let suppressed = agent.status()["ledger"]["suppressed"].clone();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let after = agent.status()["ledger"]["suppressed"].clone();
        if suppressed == after && pid > 0 {
            Ok(())
        } else {
            Err(after.to_string())
        }
    })
    .await;
    let late = call(&pod.join("aaaa"), CALL, 5);
    assert_eq!(reader.await_events(late, 5).await.len(), 5);
    // Its end lets go of what still waits for a container.
    let ledger = agent.end();
    ledger.assert_balanced();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = reader.events();
    for pid in [db, never] {
        assert_eq!(of_process(events.clone(), pid).len(), 0);
    }
    assert!(ledger.get("suppressed") >= 40, "{ledger:?}");
    assert_eq!(
        (ledger.get("lost"), ledger.get("in_flight")),
        (0, 0),
        "{ledger:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_priority_changes_no_event_of_a_cluster_filter() {
    let stage = Stage::set().await;
    stage.server.namespace("tenant", &[]).await;
    // Of its own pods: a cluster's filter without a selector is also about those of the tests beside this one.
    let selector = json!({"matchLabels": {"app": "busy"}});
    let guard = stage
        .cluster_filter(
            "guard",
            json!({"podSelector": selector, "rules": trace(CALL)}),
        )
        .await;
    let reader = stage.reader();
    let agent = stage.agent(&[]);
    let uid = stage.pod("tenant", "busy", "busy", &["main"]).await;
    agent.await_programmed("guard", guard, 1).await;
    let cgroup = stage.pod_cgroup(&uid).join("aaaa");
    let before = call(&cgroup, CALL, 50);
    let silence = json!({
        "priority": 1_000_000,
        "rules": [
            {"syscalls": [CALL], "handler": "Ignore"},
            {"syscalls": [OTHER], "handler": "Trace"},
        ],
    });
    let generation = stage.filter("tenant", "silence", silence).await;
    agent
        .await_programmed("tenant/silence", generation, 1)
        .await;
    let after = call(&cgroup, CALL, 50);
    let added = call(&cgroup, OTHER, 50);
    for (pid, filter) in [
        (before, "guard"),
        (after, "guard"),
        (added, "tenant/silence"),
    ] {
        let events = reader.await_events(pid, 50).await;
        assert_eq!(events.len(), 50);
        assert!(
            events.iter().all(|event| rule_of(event).0 == filter),
            "{filter}"
        );
    }
    agent.end().assert_balanced();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_wrong_disturbs_no_other_and_stays_as_it_was_good() {
    let stage = Stage::set().await;
    stage.server.namespace("shop", &[]).await;
    let wrong = || json!({"rules": [{"syscalls": ["getpppid"], "handler": "Trace"}]});
    stage.filter("shop", "never-good", wrong()).await;
    let good = stage
        .filter("shop", "good", json!({"rules": trace(OTHER)}))
        .await;
    let once = stage
        .filter("shop", "once-good", json!({"rules": trace(CALL)}))
        .await;
    let reader = stage.reader();
    let mut agent = stage.agent(&[]);
    let uid = stage.pod("shop", "cart", "cart", &["web"]).await;
    agent.await_programmed("shop/good", good, 1).await;
    agent.await_programmed("shop/once-good", once, 1).await;
    let worse = stage.filter("shop", "once-good", wrong()).await;
    assert!(worse > once);
    // What comes after it is in force: so that was seen.
    let next = json!({"rules": [{"syscalls": ["getpid"], "handler": "Count"}, {"syscalls": [OTHER], "handler": "Trace"}]});
    let next = stage.filter("shop", "good", next).await;
    agent.await_programmed("shop/good", next, 1).await;
    agent.await_programmed("shop/once-good", once, 1).await;
    agent.await_gone("shop/never-good").await;
    let cgroup = stage.pod_cgroup(&uid).join("aaaa");
    let pid = call(&cgroup, CALL, 10);
    assert_eq!(reader.await_events(pid, 10).await.len(), 10);
    assert!(agent.log().contains("getpppid"), "{}", agent.log());
    await_metric(&agent, "ebpf_hello_invalid_filters", 2).await;

    // Also for an agent that never saw it good: its state did.
    eventually("the policy is saved", async || saved(&stage, "once-good")).await;
    agent.kill();
    let agent = stage.agent(&[]);
    agent.await_programmed("shop/good", next, 1).await;
    agent.await_programmed("shop/once-good", once, 1).await;
    agent.await_ready().await;
    // Made again it is another, of which nothing was good.
    stage
        .server
        .kubectl(&["delete", "-n", "shop", "syscallfilter", "once-good"]);
    stage.filter("shop", "once-good", wrong()).await;
    agent.await_gone("shop/once-good").await;
    agent.end().assert_balanced();
}

fn saved(stage: &Stage, text: &str) -> Result<(), String> {
    let saved = std::fs::read_to_string(stage.state().join("policy.json"));
    match saved {
        Ok(saved) if saved.contains(text) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_asks_for_what_is_listed_and_for_namespaces_only_while_they_matter() {
    let stage = Stage::set().await;
    stage.server.namespace("red", &[("team", "red")]).await;
    stage.server.namespace("blue", &[("team", "blue")]).await;
    let reader = stage.reader();
    let agent = stage.agent(&[]);
    let plain = stage
        .filter("red", "plain", json!({"rules": trace(OTHER)}))
        .await;
    let mut cgroups = Vec::new();
    for namespace in ["red", "blue"] {
        let uid = stage.pod(namespace, "cart", "cart", &["web"]).await;
        cgroups.push(stage.pod_cgroup(&uid).join("aaaa"));
    }
    agent.await_programmed("red/plain", plain, 1).await;
    let mine = |request: &ebpf_hello_e2e::Request| request.user.ends_with(":ebpf-hello-agent");
    let asked = || -> BTreeSet<(String, String, String)> {
        let requests = stage.server.requests().into_iter().filter(mine);
        requests
            .map(|request| (request.group, request.resource, request.verb))
            .collect()
    };
    let open = async || {
        let metrics = stage.server.metrics().await;
        let of_namespaces = |line: &&str| {
            line.starts_with("apiserver_longrunning_requests{")
                && line.contains("resource=\"namespaces\"")
                && line.contains("verb=\"WATCH\"")
        };
        let counts = metrics.lines().filter(of_namespaces);
        counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>()
    };
    let before = open().await;
    let by_team = |team: &str| json!({"namespaceSelector": {"matchLabels": {"team": team}}, "rules": trace(CALL)});
    let generation = stage.cluster_filter("team", by_team("red")).await;
    agent.await_programmed("team", generation, 1).await;
    assert_eq!(open().await, before + 1);
    let pids = cgroups
        .iter()
        .map(|cgroup| call(cgroup, CALL, 10))
        .collect::<Vec<_>>();
    assert_eq!(reader.await_events(pids[0], 10).await.len(), 10);
    assert_eq!(of_process(reader.events(), pids[1]).len(), 0);
    // A namespace joins the team.
    stage.server.namespace("blue", &[("team", "red")]).await;
    agent.await_programmed("team", generation, 2).await;
    let pid = call(&cgroups[1], CALL, 10);
    assert_eq!(reader.await_events(pid, 10).await.len(), 10);
    stage.delete_cluster_filter("team").await;
    agent.await_gone("team").await;
    eventually("the watch of namespaces is closed", async || {
        match open().await {
            now if now == before => Ok(()),
            now => Err(format!("{now} are open, {before} were")),
        }
    })
    .await;
    agent.end().assert_balanced();

    let group = "ebpf-hello.dev";
    let allowed: BTreeSet<_> = [
        ("", "pods"),
        ("", "nodes"),
        ("", "namespaces"),
        (group, "syscallfilters"),
        (group, "clustersyscallfilters"),
    ]
    .into_iter()
    .flat_map(|(group, resource)| {
        ["list", "watch"].map(|verb| (group.to_owned(), resource.to_owned(), verb.to_owned()))
    })
    .collect();
    let asked = asked();
    assert!(asked.is_subset(&allowed), "{asked:?}");
    for resource in [
        "pods",
        "nodes",
        "namespaces",
        "syscallfilters",
        "clustersyscallfilters",
    ] {
        assert!(
            asked.iter().any(|(_, one, _)| one == resource),
            "{resource}"
        );
    }
    for request in stage.server.requests().into_iter().filter(mine) {
        // A definition that is new has no storage yet: 429.
        assert!(request.code < 400 || request.code == 429, "{request:?}");
        let selector = match request.resource.as_str() {
            "pods" => format!("fieldSelector=spec.nodeName%3D{NODE}"),
            "nodes" => format!("fieldSelector=metadata.name%3D{NODE}"),
            _ => String::new(),
        };
        assert!(request.uri.contains(&selector), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_namespaces_and_its_node_the_agent_asks_for_metadata_only() {
    let mut stage = Stage::set().await;
    let requests = stage.observe_requests().await;
    let by_team =
        json!({"namespaceSelector": {"matchLabels": {"team": "red"}}, "rules": trace(CALL)});
    let generation = stage.cluster_filter("team", by_team).await;
    let agent = stage.agent(&[]);
    agent.await_programmed("team", generation, 0).await;
    agent.end().assert_balanced();
    let log = requests.log();
    for (resource, is_metadata) in [("nodes", true), ("namespaces", true), ("pods", false)] {
        let url = format!("/api/v1/{resource}?");
        let heads: Vec<_> = log
            .split("\"Request\"")
            .skip(1)
            .map(|head| head.split("\"Response\"").next().unwrap())
            .filter(|head| head.lines().next().unwrap().contains(&url))
            .collect();
        assert!(!heads.is_empty(), "{resource}: {log}");
        for head in heads {
            let asks = head.contains("as=PartialObjectMetadata");
            assert_eq!(asks, is_metadata, "{head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_policy_outlives_the_api_server_and_the_agent() {
    let mut stage = Stage::set().await;
    stage.server.namespace("shop", &[("team", "red")]).await;
    let spec = json!({
        "namespaceSelector": {"matchLabels": {"team": "red"}}, "containers": ["web"],
        "nodeSelector": {"matchLabels": {"disk": "ssd"}}, "rules": trace(CALL),
    });
    let generation = stage.cluster_filter("kept", spec).await;
    let reader = stage.reader();
    let mut agent = stage.agent(&[]);
    let uid = stage.pod("shop", "cart", "cart", &["web", "db"]).await;
    stage
        .run("shop", "cart", &[("web", "aaaa"), ("db", "bbbb")])
        .await;
    agent.await_programmed("kept", generation, 1).await;
    agent.await_ready().await;
    eventually("the policy is saved", async || saved(&stage, "aaaa")).await;
    let cgroup = stage.pod_cgroup(&uid);
    let (web, db) = (cgroup.join("aaaa"), cgroup.join("bbbb"));

    await_metric(&agent, SERVER, 1).await;
    stage.server.kill();
    await_metric(&agent, SERVER, 0).await;
    let pid = call(&web, CALL, 10);
    assert_eq!(reader.await_events(pid, 10).await.len(), 10);
    assert_eq!(agent.unready(), "");
    agent.kill();
    let agent = stage.agent(&[]);
    agent.await_programmed("kept", generation, 1).await;
    agent.await_ready().await;
    let pids = [call(&web, CALL, 10), call(&db, CALL, 10)];
    assert_eq!(reader.await_events(pids[0], 10).await.len(), 10);
    assert_eq!(of_process(reader.events(), pids[1]).len(), 0);

    stage.server.resume().await;
    let back = std::time::Instant::now();
    let next = stage
        .filter("shop", "next", json!({"rules": trace(OTHER)}))
        .await;
    agent.await_programmed("shop/next", next, 1).await;
    println!(
        "after the API server came back, a new filter was in the kernel within {:?}",
        back.elapsed()
    );
    // A cut watch is opened again at once.
    stage.server.kill();
    stage.server.resume().await;
    let back = std::time::Instant::now();
    let after = json!({"rules": [{"syscalls": [OTHER], "handler": "Trace"}, {"syscalls": [CALL], "handler": "Count"}]});
    let after = stage.filter("shop", "next", after).await;
    agent.await_programmed("shop/next", after, 1).await;
    println!(
        "after it was killed and started at once: {:?}",
        back.elapsed()
    );
    agent.await_programmed("kept", generation, 1).await;
    await_metric(&agent, SERVER, 1).await;
    agent.end().assert_balanced();
}

/// Waits until a metric of the agent has a value.
async fn await_metric(agent: &Agent, name: &str, value: u64) {
    let line = format!("\n{name} {value}\n");
    eventually(name, async || {
        let text = agent.metrics();
        text.contains(&line).then_some(()).ok_or(text)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_filter_is_in_the_kernel_soon() {
    const CHANGES: usize = 100;
    let stage = Stage::set().await;
    stage.server.namespace("shop", &[]).await;
    // Rule 1 or rule 2 traces the call.
    let spec = |change: usize| match change % 2 {
        0 => json!({"rules": trace(CALL)}),
        _ => {
            json!({"rules": [{"syscalls": ["getpid"], "handler": "Count"}, {"syscalls": [CALL], "handler": "Trace"}]})
        }
    };
    let first = stage.filter("shop", "cart", spec(0)).await;
    let reader = stage.reader();
    let agent = stage.agent(&[]);
    let uid = stage.pod("shop", "cart", "cart", &["web"]).await;
    agent.await_programmed("shop/cart", first, 1).await;
    let mix = Mix::start(
        &stage.pod_cgroup(&uid).join("aaaa"),
        &[&format!("{CALL}=2000")],
    );
    let pid = mix.pid();
    reader.await_events(pid, 100).await;
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos()
    };
    let mut applied = Vec::new();
    for change in 1..=CHANGES {
        applied.push((now(), change % 2 + 1));
        stage.filter("shop", "cart", spec(change)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("the last change has events", async || {
        let events = of_process(reader.events(), pid);
        let last = events.last().map(|event| rule_of(event).1 as usize);
        match last == Some(CHANGES % 2 + 1) {
            true => Ok(()),
            false => Err(format!("{last:?}")),
        }
    })
    .await;
    mix.end();
    let events = of_process(reader.events(), pid);
    let times: Vec<(u128, usize)> = events
        .iter()
        .map(|event| {
            let time = event.time.as_ref().unwrap();
            let nanos = time.seconds as u128 * 1_000_000_000 + time.nanos as u128;
            (nanos, rule_of(event).1 as usize)
        })
        .collect();
    let mut took: Vec<Duration> = applied
        .iter()
        .map(|(asked, rule)| {
            let flipped = times.iter().find(|(time, by)| time > asked && by == rule);
            let (flipped, _) =
                flipped.unwrap_or_else(|| panic!("no event of rule {rule} after {asked}"));
            Duration::from_nanos((flipped - asked) as u64)
        })
        .collect();
    took.sort();
    println!(
        "filter applied to table flipped, {CHANGES} changes: p50 {:?}, p99 {:?}, max {:?}",
        took[CHANGES / 2],
        took[CHANGES * 99 / 100 - 1],
        took[CHANGES - 1]
    );
    assert!(took[CHANGES / 2] < Duration::from_secs(1));
    let metrics = agent.metrics();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ebpf_hello_filter_apply_seconds_count "))
        .unwrap_or_else(|| panic!("{metrics}"));
    assert!(count.parse::<usize>().unwrap() > CHANGES / 2, "{count}");
    agent.end().assert_balanced();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_who_traces_everything_costs_no_other_an_event() {
    let stage = Stage::set().await;
    for namespace in ["tenant", "quiet"] {
        stage.server.namespace(namespace, &[]).await;
    }
    let everything =
        json!([{"syscalls": ["@all"], "except": ["execve", "execveat"], "handler": "Trace"}]);
    let everything = stage
        .filter("tenant", "everything", json!({"rules": everything}))
        .await;
    let quiet = stage
        .filter("quiet", "some", json!({"rules": trace(OTHER)}))
        .await;
    let reader = stage.reader();
    let agent = stage.agent(&["--namespace-rate", "5000"]);
    let loud = stage.pod("tenant", "loud", "loud", &["main"]).await;
    let calm = stage.pod("quiet", "calm", "calm", &["main"]).await;
    agent
        .await_programmed("tenant/everything", everything, 1)
        .await;
    agent.await_programmed("quiet/some", quiet, 1).await;
    let mix = Mix::start(
        &stage.pod_cgroup(&calm).join("aaaa"),
        &[&format!("{OTHER}=500")],
    );
    let pid = mix.pid();
    reader.await_events(pid, 50).await;
    let loud = stage.pod_cgroup(&loud).join("aaaa");
    let start = std::time::Instant::now();
    let mut flood = 0;
    while start.elapsed() < Duration::from_secs(5) {
        let loud = loud.clone();
        tokio::task::spawn_blocking(move || call(&loud, CALL, 1_000_000))
            .await
            .unwrap();
        flood += 1_000_000_u64;
    }
    let took = start.elapsed();
    let made = mix.end()["total"].as_u64().unwrap();
    let events = reader.await_events(pid, made as usize).await;
    assert_eq!(events.len() as u64, made);
    let status = agent.status();
    let suppressed = &status["ledger"]["suppressed"];
    println!(
        "{flood} calls of a tenant who traces everything in {took:?}: {made} of {made} events of another came; suppressed {suppressed}"
    );
    let told = reader.events().into_iter().any(|event| {
        let Some(ebpf_hello_proto::v1::event::Kind::Counters(counters)) = event.kind else {
            return false;
        };
        counters
            .suppressed
            .iter()
            .any(|row| row.filter == "tenant/*" && row.count > 0)
            && event.pod.is_some_and(|pod| pod.namespace == "tenant")
    });
    assert!(told, "what was left out is told to the tenant");
    let ledger = agent.end();
    ledger.assert_balanced();
    assert_eq!(
        (ledger.get("lost"), ledger.get("in_flight")),
        (0, 0),
        "{ledger:?}"
    );
    let bound = 5000 * (took.as_secs() + 2) + made;
    assert!(
        ledger.get("delivered") <= bound,
        "{ledger:?}, at most {bound}"
    );
    assert!(ledger.get("suppressed") > flood / 2, "{ledger:?}");
}
