//! `ebpf-hello status`: what a running instance is, has and did; of a server, its fleet.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use ebpf_hello_proto::v1::Ledger;
use serde_json::Value;

use crate::{
    args::{StatusArguments, StatusOutput},
    client,
    control::DIRECTORY,
    exit::Unreachable,
    fleet, ledger, page,
    table::table,
};

/// How long an instance may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Filters that are named; `-o json` names all.
const SHOWN: usize = 10;

pub(crate) fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    if arguments.instance.is_none() && arguments.connect.is_explicit() {
        return of_server(arguments);
    }
    let path = match arguments.instance {
        Some(pid) => Path::new(DIRECTORY).join(format!("{pid}.sock")),
        None => match the_only_instance() {
            Ok(path) => path,
            Err(none) if none.downcast_ref::<Unreachable>().is_some() => {
                return of_server(arguments).map_err(|error| {
                    if error.downcast_ref::<Unreachable>().is_some() {
                        fleet::neither(&none, &error)
                    } else {
                        error
                    }
                });
            }
            Err(error) => return Err(error),
        },
    };
    let status = ask(&path).context(Unreachable)?;
    if let Some(error) = status.get("error").and_then(Value::as_str) {
        bail!("the instance cannot tell its status: {error}");
    }
    if arguments.probe {
        let unready: Vec<_> = list(&status, "/unready")
            .map(|why| show(Some(why)))
            .collect();
        if !unready.is_empty() {
            bail!("the instance is not ready: {}", unready.join("; "));
        }
        return Ok(());
    }
    let text = match arguments.output {
        StatusOutput::Json => format!("{status}\n"),
        StatusOutput::Text => text(&status)?,
    };
    page::print(text.as_bytes()).map(drop)
}

/// The status of every node that a server knows.
fn of_server(arguments: &StatusArguments) -> anyhow::Result<()> {
    let runtime = client::runtime()?;
    if arguments.probe {
        return runtime.block_on(fleet::probe(&arguments.connect));
    }
    let text = runtime.block_on(fleet::page(&arguments.connect, arguments.output))?;
    page::print(text.as_bytes()).map(drop)
}

/// The socket of the one instance that answers.
fn the_only_instance() -> anyhow::Result<PathBuf> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none_runs()),
        Err(error) => {
            return Err(error)
                .context(Unreachable)
                .context(format!("cannot list {DIRECTORY}"));
        }
    };
    let mut alive: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry
                .file_name()
                .to_str()?
                .strip_suffix(".sock")?
                .parse()
                .ok()?;
            // A socket that nobody listens on was left by a killed instance.
            UnixStream::connect(entry.path())
                .is_ok()
                .then(|| (pid, entry.path()))
        })
        .collect();
    alive.sort();
    match alive.as_slice() {
        [] => Err(none_runs()),
        [(_, path)] => Ok(path.clone()),
        several => {
            let pids: Vec<_> = several.iter().map(|(pid, _)| pid.to_string()).collect();
            bail!(
                "several instances run: {}; choose one with --instance PID",
                pids.join(", ")
            )
        }
    }
}

fn none_runs() -> anyhow::Error {
    anyhow::Error::new(Unreachable)
        .context(format!("no instance that you may ask runs here (nothing answers in {DIRECTORY}); start one with `ebpf-hello run`, as root"))
}

fn ask(path: &Path) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .context("cannot set a time limit")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| {
        format!(
            "no answer from {} within {}s",
            path.display(),
            TIMEOUT.as_secs()
        )
    })?;
    serde_json::from_str(&answer)
        .with_context(|| format!("{} answered what is not JSON", path.display()))
}

/// The status for people. What is shown is picked from the JSON, so that an instance one version
/// apart can be asked too.
fn text(status: &Value) -> anyhow::Result<String> {
    let get = |path: &str| show(status.pointer(path));
    let attached = status.pointer("/sysEnterAttached").and_then(Value::as_bool) == Some(true);
    let mut text = format!(
        "ebpf-hello {} (pid {}) on {}\n\
         scope        {}\n\
         execs        {} ({})\n\
         exits        {}\n\
         older        {}\n\
         sys_enter    {}\n\
         io_uring     {}\n\
         tables       {} of {} in use by {} policies ({} without one), generation {}; {} calls with a slot, default {}\n\
         filters      {}\n\
         cgroups      {} known, {} foretold by pods and filters; {} changes untold, {} without room\n\
         ready        {}\n\
         rings        {} of {} bytes\n",
        get("/version"),
        get("/pid"),
        get("/node"),
        scope(status),
        get("/execSource/source"),
        get("/execSource/reason"),
        get("/exitSource"),
        get("/olderProcesses"),
        if attached {
            "attached"
        } else {
            "detached: no policy wants a system call"
        },
        io_uring(status),
        get("/tables/live"),
        get("/tables/capacity"),
        get("/tables/outcomes"),
        get("/tables/exhausted"),
        get("/tables/generation"),
        get("/tables/slots"),
        get("/tables/default"),
        get("/tables/filters"),
        get("/cgroups/known"),
        get("/cgroups/foretold"),
        get("/cgroups/untold"),
        get("/cgroups/withoutRoom"),
        ready(status),
        get("/ringShards"),
        get("/ringBytes"),
    );
    // Those of files are named above, and select no pods.
    let of_objects = list(status, "/filters").filter(|filter| !show(filter.get("uid")).is_empty());
    for filter in of_objects.clone().take(SHOWN) {
        text.push_str(&format!(
            "filter       {} generation {}: {} pods{}\n",
            show(filter.get("filter")),
            show(filter.get("generation")),
            show(filter.get("pods")),
            match filter.get("reason").and_then(Value::as_str) {
                None | Some("") => String::new(),
                Some(reason) => format!(", not programmed: {reason}"),
            },
        ));
    }
    match of_objects.count() {
        0..=SHOWN => {}
        all => text.push_str(&format!("filter       and {} more\n", all - SHOWN)),
    }
    for filter in list(status, "/tables/withoutTable").take(SHOWN) {
        text.push_str(&format!(
            "no table     {}: {} (of {} policies; raise --tables)\n",
            show(filter.get("filter")),
            show(filter.get("reason")),
            show(filter.get("policies")),
        ));
    }
    match list(status, "/tables/withoutTable").count() {
        0..=SHOWN => {}
        all => text.push_str(&format!("no table     and {} filters more\n", all - SHOWN)),
    }
    for missing in list(status, "/missing") {
        text.push_str(&format!("missing      {}\n", show(Some(missing))));
    }
    let ledger = status.pointer("/ledger").cloned().unwrap_or_default();
    let ledger: Ledger = serde_json::from_value(ledger).context("the instance's ledger")?;
    text.push_str(&format!("{}\n\n", ledger::line(&ledger)));
    text.push_str(&rows(
        status,
        "/programs",
        [
            "ID",
            "PROGRAM",
            "TYPE",
            "TAG",
            "ATTACHED TO",
            "RUNS",
            "AVERAGE NS",
        ],
        [
            "id",
            "name",
            "type",
            "tag",
            "attachedTo",
            "runs",
            "averageNanoseconds",
        ],
    ));
    text.push('\n');
    text.push_str(&rows(
        status,
        "/maps",
        ["ID", "MAP", "TYPE", "ENTRIES", "MEMORY"],
        ["id", "name", "type", "maxEntries", "memory"],
    ));
    Ok(text)
}

fn io_uring(status: &Value) -> String {
    let get = |path: &str| status.pointer(path);
    match (get("/ioUring/tracepoint"), get("/ioUring/attached")) {
        (None | Some(Value::Null), _) => {
            "not told by this kernel: operations are not counted".into()
        }
        (_, Some(Value::Bool(true))) => {
            let operations = show(get("/ioUring/operations"));
            format!("{operations} operations, counted and not reported")
        }
        _ => "not counted: no policy wants a call that has an operation".into(),
    }
}

/// The part of the machine that is reported.
fn scope(status: &Value) -> String {
    match status.pointer("/scope/cgroup") {
        None => show(status.get("scope")),
        Some(cgroup) => format!(
            "cgroup {} at {}, one node of several on this kernel",
            show(cgroup.get("id")),
            show(cgroup.get("mount")),
        ),
    }
}

/// `yes`, or what is missing.
fn ready(status: &Value) -> String {
    let lacks: Vec<_> = list(status, "/unready")
        .map(|problem| show(Some(problem)))
        .collect();
    if lacks.is_empty() {
        "yes".to_owned()
    } else {
        format!("no: {}", lacks.join("; "))
    }
}

fn rows<const N: usize>(
    status: &Value,
    list_path: &str,
    header: [&str; N],
    keys: [&str; N],
) -> String {
    let rows: Vec<_> = list(status, list_path)
        .map(|row| keys.map(|key| show(row.get(key))))
        .collect();
    table(header, &rows)
}

fn list<'a>(status: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> + Clone {
    status
        .pointer(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn show(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<_> = items.iter().map(|item| show(Some(item))).collect();
            items.join(", ")
        }
        Some(value) => value.to_string(),
    }
}
