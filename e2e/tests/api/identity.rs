//! Whose events are: real processes in cgroups of pods that a real API server tells of, early, late, and while the watch
//! is cut. Needs root and the kernel's BPF.

mod fixture;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ebpf_hello_e2e::{ApiServer, Process, Stalls, eventually, product};
use ebpf_hello_policy::crd::ClusterSyscallFilter;
use ebpf_hello_proto::v1::{Event, GetCountersResponse, event::Kind};
use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{sleep, sleep_until},
};

use fixture::{Fixture, NAMESPACE, NODE, Place, Proxy};

const PODS: usize = 500;
/// In which they come and go.
const MINUTE: Duration = Duration::from_secs(60);
/// Names are used again, as a StatefulSet does: only the UID tells one pod from the next.
const NAMES: usize = 100;
/// How long after the API server knew it an event's pod may be told.
const PROMISE: Duration = Duration::from_secs(5);

/// What one pod is, and what became of it.
struct Plan {
    number: usize,
    nonce: String,
    container: String,
    /// When the pod is bound to the node, after its exec; `None`: before.
    bound_after: Option<Duration>,
    /// When its status names the container, after the exec.
    status_after: Duration,
    /// When its container ends, after the exec.
    lives: Duration,
    /// Whether the kubelet's link names the container at once.
    has_link: bool,
}

/// The truth about one pod.
#[derive(Clone, Debug)]
struct Truth {
    name: String,
    uid: String,
    container: String,
    cgroup: u64,
    made: SystemTime,
    /// When the API server knew of the pod on its node, and of the container.
    bound: SystemTime,
    named: SystemTime,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_churned_pods_events_are_its_own_or_told_soon() {
    let fixture = Fixture::start().await;
    let Fixture {
        server,
        proxy,
        place,
        url,
        ..
    } = &fixture;
    let observe = Process::start(
        "observe",
        Command::new(product())
            .args(["observe", "--server", url, "-f", "-o", "json"])
            .args(["--type", "exec,identity"]),
    );
    eventually("what is executed is observed", async || {
        let done = Command::new("/bin/true").arg("probe").status();
        assert!(done.unwrap().success());
        sleep(Duration::from_millis(100)).await;
        match observe.log().contains("\"probe\"") {
            true => Ok(()),
            false => Err("not yet"),
        }
    })
    .await;
    let stalls = Stalls::watch();

    let truths = churn(server, place, proxy).await;
    sleep(PROMISE + Duration::from_secs(3)).await;
    let live = events(&observe.log());
    let seen = judge(&live, &truths);
    let figures = figures(&live, &truths, &seen, &stalls);
    println!("{figures}");
    println!("{}", identity_metrics(fixture.metrics).await);

    // Read again, whoever is late has its pod as well.
    let output = Command::new(product())
        .args(["observe", "--server", url, "-o", "json"])
        .args(["--type", "exec", "-n", NAMESPACE])
        .output()
        .unwrap();
    let history = events(&String::from_utf8_lossy(&output.stdout));
    judge(&history, &truths);
    for truth in truths.keys() {
        let found = history.iter().find(|event| nonce(event) == Some(truth));
        let pod = found.and_then(|event| event.pod.as_ref());
        let name = pod.and_then(|pod| Some(pod.container.as_ref()?.name.as_str()));
        assert_eq!(name, Some("web"), "{truth} in the history");
    }
    fixture.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_counted_is_told_by_pod() {
    let fixture = Fixture::start().await;
    let filter: ClusterSyscallFilter = serde_json::from_value(json!({
        "apiVersion": "ebpf-hello.dev/v1alpha1",
        "kind": "ClusterSyscallFilter",
        "metadata": {"name": "all"},
        "spec": {"default": "Count"},
    }))
    .unwrap();
    Api::all(fixture.server.client())
        .create(&PostParams::default(), &filter)
        .await
        .unwrap();
    // What runs before it is in the kernel is not counted.
    eventually("the filter is in the kernel", async || {
        let output = Command::new(product())
            .args(["status", "--server", &fixture.url, "-o", "json"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_there = text.contains("\"all\"") && text.contains("\"programmed\":true");
        is_there.then_some(()).ok_or(text)
    })
    .await;
    let plan = Plan {
        number: 1,
        nonce: "nonce-counted".into(),
        container: "c0de".into(),
        bound_after: None,
        status_after: Duration::ZERO,
        lives: Duration::from_secs(5),
        has_link: false,
    };
    let life = tokio::spawn({
        let (client, place) = (fixture.server.client(), Arc::clone(&fixture.place));
        async move { run(client, &place, plan).await }
    });
    let counts = eventually("the pod's calls are counted", async || {
        let output = Command::new(product())
            .args(["counts", "--server", &fixture.url, "-o", "json"])
            .args(["-n", NAMESPACE])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_there = text.contains("\"web-1\"") && text.contains("\"exit_group\"");
        is_there.then(|| text.clone()).ok_or(text)
    })
    .await;
    let counts: GetCountersResponse = serde_json::from_str(&counts).unwrap();
    let rows: Vec<_> = counts
        .rows
        .iter()
        .map(|row| (row.node.as_str(), row.namespace.as_str(), row.pod.as_str()))
        .collect();
    assert_eq!(rows, [(NODE, NAMESPACE, "web-1")], "no other namespace's");
    life.await.unwrap();
    fixture.stop();
}

/// Makes and deletes all pods within a minute, and cuts the watch twice.
async fn churn(server: &ApiServer, place: &Arc<Place>, proxy: &Proxy) -> BTreeMap<String, Truth> {
    let start = tokio::time::Instant::now();
    let truths = Arc::new(Mutex::new(BTreeMap::new()));
    let mut pods = tokio::task::JoinSet::new();
    let secret: u64 = std::process::id().into();
    for number in 0..PODS {
        let plan = Plan {
            number,
            nonce: format!("nonce-{secret:x}-{number}"),
            container: format!("{secret:08x}{number:056x}"),
            // Half of them, up to 3 s.
            bound_after: (number % 2 == 1)
                .then(|| Duration::from_millis(number as u64 * 37 % 3000)),
            status_after: Duration::from_millis(number as u64 * 101 % 5000),
            lives: match number % 10 {
                7 => Duration::from_millis(50 + number as u64 % 200),
                _ => Duration::from_millis(1000 + number as u64 * 13 % 4000),
            },
            has_link: number % 3 == 0,
        };
        let at = start + (MINUTE - Duration::from_secs(8)) * number as u32 / PODS as u32;
        let (client, place, truths) = (server.client(), Arc::clone(place), Arc::clone(&truths));
        pods.spawn(async move {
            sleep_until(at).await;
            let nonce = plan.nonce.clone();
            let truth = run(client, &place, plan).await;
            truths.lock().unwrap().insert(nonce, truth);
        });
    }
    for at in [15, 35] {
        sleep_until(start + Duration::from_secs(at)).await;
        proxy.cut(Duration::from_millis(700)).await;
    }
    while let Some(ended) = pods.join_next().await {
        ended.unwrap();
    }
    println!("{PODS} pods came and went in {:?}", start.elapsed());
    truths.lock().unwrap().clone()
}

/// One pod's life.
async fn run(client: Client, place: &Place, plan: Plan) -> Truth {
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    // The name comes from a pod that is gone.
    let name = format!("web-{}", plan.number % NAMES);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"nonce": plan.nonce}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}], "terminationGracePeriodSeconds": 0},
    }))
    .unwrap();
    let pod = loop {
        match pods.create(&PostParams::default(), &pod).await {
            Ok(pod) => break pod,
            // Its predecessor is late.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    };
    let uid = pod.uid().unwrap();
    let mut bound = None;
    if plan.bound_after.is_none() {
        bind(&pods, &name).await;
        bound = Some(SystemTime::now());
    }
    if plan.has_link {
        place.link(&name, &plan.container);
    }
    // The container starts: a cgroup, and at once a process in it.
    let (directory, nonce) = (place.pod(&uid), plan.nonce.clone());
    let container = directory.join(&plan.container);
    let (cgroup, made) = {
        let container = container.clone();
        tokio::task::spawn_blocking(move || {
            fs::create_dir(&directory).unwrap();
            fs::create_dir(&container).unwrap();
            let made = SystemTime::now();
            exec_in(&container, &nonce);
            (fs::metadata(&container).unwrap().ino(), made)
        })
        .await
        .unwrap()
    };
    let start = tokio::time::Instant::now();
    let end = async {
        sleep_until(start + plan.lives).await;
        place.remove(&uid, &plan.container).await;
    };
    let tell = async {
        let bound_at = plan.bound_after.unwrap_or_default();
        sleep_until(start + bound_at).await;
        let bound = match bound {
            Some(bound) => bound,
            None => {
                bind(&pods, &name).await;
                SystemTime::now()
            }
        };
        // A kubelet that does not know the pod has no status of it.
        sleep_until(start + plan.status_after.max(bound_at)).await;
        set_status(&pods, &name, &plan.container).await;
        (bound, SystemTime::now())
    };
    let ((), (bound, named)) = tokio::join!(end, tell);
    sleep(Duration::from_millis(100)).await;
    let now = DeleteParams::default().grace_period(0);
    pods.delete(&name, &now).await.unwrap();
    Truth {
        name,
        uid,
        container: plan.container,
        cgroup,
        made,
        bound,
        named: if plan.has_link { bound } else { named },
    }
}

/// A process that moves into the cgroup and execs there.
fn exec_in(container: &Path, nonce: &str) {
    let status = Command::new("/bin/sh")
        .args([
            "-c",
            "echo $$ > \"$0/cgroup.procs\" && exec /bin/true \"$1\"",
        ])
        .arg(container)
        .arg(nonce)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", container.display());
}

/// What the scheduler does.
async fn bind(pods: &Api<Pod>, name: &str) {
    let binding: Binding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "target": {"kind": "Node", "name": NODE},
    }))
    .unwrap();
    let _: serde_json::Value = pods
        .create_subresource("binding", name, &PostParams::default(), &binding)
        .await
        .unwrap();
}

/// What the kubelet does.
async fn set_status(pods: &Api<Pod>, name: &str, container: &str) {
    let status = json!({"status": {"containerStatuses": [{
        "name": "web", "image": "web:1", "imageID": "web:1", "ready": true, "restartCount": 0,
        "containerID": format!("containerd://{container}"),
    }]}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

/// Asserts that every pod's exec is there, and that nothing says it was another's. By nonce, when it was told whose the
/// exec was: the pod, and its container.
fn judge(events: &[Event], truths: &BTreeMap<String, Truth>) -> HashMap<String, Seen> {
    let cgroups: HashMap<u64, &String> = truths
        .iter()
        .map(|(nonce, truth)| (truth.cgroup, nonce))
        .collect();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    for event in events {
        let nonce = match &event.kind {
            Some(Kind::Identity(_)) => cgroups.get(&event.cgroup_id).copied(),
            _ => nonce(event),
        };
        let truth = nonce.and_then(|nonce| Some((nonce, truths.get(nonce)?)));
        let Some((nonce, truth)) = truth else {
            // Somebody else's process is in none of our pods.
            let pod = event.pod.as_ref();
            assert!(
                pod.is_none_or(|pod| pod.namespace != NAMESPACE),
                "{event:?}"
            );
            continue;
        };
        assert_eq!(event.cgroup_id, truth.cgroup, "{event:?}");
        let of = seen.entry(nonce.clone()).or_default();
        let at = time(event);
        let is_exec = matches!(event.kind, Some(Kind::Exec(_)));
        if is_exec {
            assert!(of.exec.replace(at).is_none(), "twice: {event:?}");
        }
        let Some(pod) = &event.pod else { continue };
        assert_eq!(
            (
                pod.namespace.as_str(),
                &pod.name,
                &pod.uid,
                &pod.labels["nonce"]
            ),
            (NAMESPACE, &truth.name, &truth.uid, nonce),
            "of another pod: {event:?}"
        );
        of.pod.get_or_insert(at);
        of.pod_at_export |= is_exec;
        let container = pod.container.as_ref().unwrap();
        assert_eq!(container.id, truth.container, "{event:?}");
        if !container.name.is_empty() {
            assert_eq!(container.name, "web", "{event:?}");
            of.container.get_or_insert(at);
            of.container_at_export |= is_exec;
        }
    }
    for nonce in truths.keys() {
        let exec = seen.get(nonce).and_then(|seen| seen.exec);
        assert!(exec.is_some(), "no exec of {nonce}");
    }
    seen
}

/// What was told of one pod's exec, and when: the time of the event that told.
#[derive(Default)]
struct Seen {
    exec: Option<SystemTime>,
    pod: Option<SystemTime>,
    container: Option<SystemTime>,
    pod_at_export: bool,
    container_at_export: bool,
}

/// Asserts the promise, and tells how it was kept.
fn figures(
    live: &[Event],
    truths: &BTreeMap<String, Truth>,
    seen: &HashMap<String, Seen>,
    stalls: &Stalls,
) -> String {
    let (mut late_pod, mut late_container) = (Vec::new(), Vec::new());
    let mut delays = Vec::new();
    for (nonce, truth) in truths {
        let seen = &seen[nonce];
        let exec = seen.exec.unwrap();
        delays.push(exec.duration_since(truth.made).unwrap_or_default());
        for (told, known, late, what) in [
            (seen.pod, truth.bound, &mut late_pod, "pod"),
            (
                seen.container,
                truth.named,
                &mut late_container,
                "container",
            ),
        ] {
            let told =
                told.unwrap_or_else(|| panic!("nobody told the {what} of {nonce}: {truth:?}"));
            let known = exec.max(known);
            let after = told.duration_since(known).unwrap_or_default();
            assert!(
                after <= PROMISE + stalls.within(known, told),
                "the {what} of {nonce} was told {after:?} after it was known"
            );
            if told > exec {
                late.push(told.duration_since(exec).unwrap());
            }
        }
    }
    let unresolved =
        |resolved: fn(&Seen) -> bool| seen.values().filter(|seen| !resolved(seen)).count();
    let identities = live
        .iter()
        .filter(|event| matches!(event.kind, Some(Kind::Identity(_))))
        .count();
    format!(
        "unresolved at export: pod {} of {}, container {} of {}; {identities} identity events\n\
         mkdir to exec: {}\npod told after the exec: {}\ncontainer told after the exec: {}",
        unresolved(|seen| seen.pod_at_export),
        truths.len(),
        unresolved(|seen| seen.container_at_export),
        truths.len(),
        spread(&mut delays),
        spread(&mut late_pod),
        spread(&mut late_container),
    )
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    format!(
        "{} times, p50 {:?}, p99 {:?}, most {:?}",
        times.len(),
        at(50),
        at(99),
        times.last()
    )
}

fn events(log: &str) -> Vec<Event> {
    // The last line may not be whole.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn nonce(event: &Event) -> Option<&String> {
    match &event.kind {
        Some(Kind::Exec(exec)) if exec.argv.len() == 2 => exec
            .argv
            .get(1)
            .filter(|argument| argument.starts_with("nonce-")),
        _ => None,
    }
}

fn time(event: &Event) -> SystemTime {
    let time = event.time.unwrap();
    UNIX_EPOCH + Duration::new(time.seconds.unsigned_abs(), time.nanos.unsigned_abs())
}

/// What the agent says of identity to Prometheus.
async fn identity_metrics(address: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.0\r\nHost: n1\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let lines: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with("ebpf_hello_identity"))
        .filter(|line| !line.contains("_bucket"))
        .collect();
    assert!(lines.len() >= 8, "{answer}");
    lines.join("\n")
}
