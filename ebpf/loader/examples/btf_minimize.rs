//! Makes the test data in `testdata/btf/`: `btf_minimize INPUT OUTPUT [STRUCT…]` reads raw BTF
//! and writes what the layout table and the programs ask of it, and the structs named besides.

use std::{env, error::Error, fs, path::Path, process::ExitCode};

use ebpf_hello_loader::btf::{self, Btf, layout};

/// Embedded in the table's structs, on a path that the table walks.
const EMBEDDED: &[&str] = &["thread_info", "path", "qstr"];

/// What the programs attach to.
const TRACEPOINTS: &[&str] = &[
    "sys_enter",
    "sys_exit",
    "sched_process_exec",
    "sched_process_fork",
    "sched_process_exit",
    "cgroup_mkdir",
    "cgroup_rmdir",
    "cgroup_attach_task",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [input, output, more @ ..] = arguments.as_slice() else {
        eprintln!("usage: btf_minimize INPUT OUTPUT [STRUCT…]");
        return ExitCode::from(2);
    };
    match minimize(Path::new(input), Path::new(output), more) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("btf_minimize: {input} to {output}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn minimize(input: &Path, output: &Path, more: &[String]) -> Result<(), Box<dyn Error>> {
    let btf = Btf::from_file(input)?;
    if let Some(unknown) = more.iter().find(|name| !btf.has_struct(name)) {
        return Err(format!("no struct {unknown} in the input").into());
    }
    let mut structures: Vec<&str> = layout::structures().collect();
    structures.extend(EMBEDDED);
    structures.extend(more.iter().map(String::as_str));
    fs::write(output, btf::minimize(&btf, &structures, TRACEPOINTS)?)?;
    Ok(())
}
