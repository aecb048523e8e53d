//! Makes known numbers of system calls, timers and processes, and says on stdout in one line of JSON
//! exactly what it made. Tests hold what `ebpf-hello` reports against it.
//!
//! ```text
//! calls.rs      call, int80: bare loops, nothing else between two calls
//! permission.rs  a seccomp filter that refuses nothing
//! io_uring.rs   io-uring: operations without system calls
//! socketcall.rs socketcall: what 32-bit programs may make of socket calls
//! mix.rs        mix: several calls at rates of their own, until it is told to end
//! orders.rs     obey: calls when they are asked for
//! seccomp.rs    denied: calls that are refused before they enter
//! cold.rs       open-cold: a path on a page that nobody has touched
//! sockets.rs    accept: connections to itself
//! timers.rs     timers: a fixed script
//! processes.rs  burst, processes: children, and their statuses as wait() saw them
//! ending.rs     process, exit, wait: what those children do
//! intrusion.rs  hold, replace: faults put into another process
//! objects.rs    objects: makes nothing, lists the kernel's BPF objects
//! measure.rs    measure, chain: loops that are timed, for the benchmarks
//! ```

mod calls;
mod cold;
mod ending;
mod intrusion;
mod io_uring;
mod measure;
mod mix;
mod objects;
mod orders;
mod permission;
mod processes;
mod seccomp;
mod socketcall;
mod sockets;
mod timers;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::{
    calls::Numbers, ending::Ending, io_uring::Operation, measure::MeasureArguments,
    mix::MixArguments,
};

/// Makes known numbers of system calls, and says in one line of JSON what it made.
#[derive(Debug, Parser)]
#[command(name = "ebpf-hello-generator", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make system calls with the arguments -1 to -6, which fit no descriptor and no address.
    ///
    /// Calls that act without looking at their arguments (fork, pause, exit) are the caller's risk.
    Call(CallArguments),
    /// Make 32-bit system calls from 64-bit code with `int $0x80` (x86_64 only).
    Int80 {
        /// ia32 numbers, with commas between.
        numbers: Numbers,
        /// Calls of each number.
        count: u64,
    },
    /// Connect a descriptor that is none to 127.0.0.1:8080 through ia32's socketcall, and make one
    /// whose arguments cannot be read (x86_64 only).
    Socketcall,
    /// Make several calls, each at its own rate, until stdin ends.
    Mix(MixArguments),
    /// Make the calls that each line of stdin asks for, `CALL COUNT`; an empty line says they are made.
    Obey,
    /// Make calls, forbid them with seccomp, and make them again.
    Denied {
        /// As of `call`.
        numbers: Numbers,
        /// Calls of each number, both times.
        count: u64,
    },
    /// Open a path that lies in a mapped file whose page was never touched.
    OpenCold {
        /// The file to make for it; on a disk, to be out of memory.
        file: PathBuf,
        /// The path to open.
        path: PathBuf,
    },
    /// Connect to itself and accept that, once for each of IPv4 and IPv6.
    Accept,
    /// Make one of each timer call, the same ones every time.
    Timers,
    /// Run a program many times, its number appended to its arguments.
    Burst {
        /// How many.
        count: u32,
        /// Processes at a time.
        #[arg(long, default_value_t = 4)]
        jobs: u32,
        /// Run it as this user, who is also its group.
        #[arg(long)]
        uid: Option<u32>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        program: Vec<String>,
    },
    /// Run processes of many threads, which end in every way there is.
    Processes {
        /// How many; their endings take turns.
        count: u32,
        /// Threads of each, from 2.
        #[arg(value_parser = clap::value_parser!(u32).range(2..=1024))]
        threads: u32,
    },
    /// Be one of those processes.
    Process {
        /// Threads, the leader among them.
        #[arg(value_parser = clap::value_parser!(u32).range(2..=1024))]
        threads: u32,
        /// How to end.
        #[arg(value_enum)]
        ending: Ending,
        /// The status, 0 to 254: not for `kill`.
        code: u8,
    },
    /// Exit with a status.
    Exit {
        /// The status.
        code: u8,
        /// Taken and ignored: for who looks at the command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<std::ffi::OsString>,
    },
    /// Have io_uring do what system calls would do.
    IoUring {
        /// What.
        #[arg(value_enum)]
        operation: Operation,
        /// How often.
        count: u64,
    },
    /// Live until stdin ends.
    Wait,
    /// Hold a thread of another process until stdin ends.
    Hold {
        /// Its thread.
        tid: i32,
    },
    /// Have a thread of another process, which waits in a system call, replace a file descriptor (x86_64 only).
    Replace {
        /// Its thread.
        tid: i32,
        /// The descriptor that is put there.
        from: u32,
        /// The one that is replaced.
        to: u32,
    },
    /// List the ids of all BPF programs, maps and links in the kernel, and touch none of them.
    Objects,
    /// Time loops: for each line `WORK BATCHES EACH` on stdin, print the nanoseconds of each batch.
    ///
    /// WORK is a system call, `open-missing`, `fork-exec-exit` or `exec`.
    Measure(MeasureArguments),
    /// Exec this executable so many times, one after the other, in the same process.
    Chain {
        /// How many times.
        left: u32,
    },
}

#[derive(Debug, Args)]
struct CallArguments {
    /// Names, or numbers, which may be ones that no kernel has (-1, 0x40000027), with commas between.
    #[arg(allow_hyphen_values = true)]
    numbers: Numbers,
    /// Calls of each, by each thread.
    count: u64,
    /// Threads. All of them begin with each number at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Keep each thread on one CPU, in turn.
    #[arg(long)]
    pin: bool,
    /// Calls per second of each thread, in portions of a millisecond, instead of all at once.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..))]
    rate: Option<u64>,
    /// Move into this cgroup v2 directory first.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Get a seccomp filter first, one that refuses nothing.
    #[arg(long)]
    seccomp: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ebpf-hello-generator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let made = match command {
        Command::Call(arguments) => calls::call(&arguments)?,
        Command::Int80 { numbers, count } => calls::int80(&numbers, count)?,
        Command::Socketcall => socketcall::make()?,
        Command::Mix(arguments) => mix::mix(&arguments)?,
        Command::Obey => orders::obey()?,
        Command::Denied { numbers, count } => seccomp::denied(&numbers, count)?,
        Command::OpenCold { file, path } => cold::open(&file, &path)?,
        Command::Accept => sockets::accept()?,
        Command::Timers => timers::script()?,
        Command::Burst {
            count,
            jobs,
            uid,
            program,
        } => processes::burst(count, jobs, uid, &program)?,
        Command::Processes { count, threads } => processes::processes(count, threads)?,
        Command::Process {
            threads,
            ending,
            code,
        } => ending::end(threads, ending, code)?,
        Command::IoUring { operation, count } => io_uring::submit(operation, count)?,
        Command::Objects => objects::list()?,
        Command::Hold { tid } => intrusion::hold(tid)?,
        Command::Replace { tid, from, to } => intrusion::replace(tid, from, to)?,
        Command::Measure(arguments) => {
            measure::measure(&arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Chain { left } => {
            measure::chain(left)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Exit { code, .. } => return Ok(ExitCode::from(code)),
        Command::Wait => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
                .context("cannot wait for the end of stdin")?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    report(&made)?;
    Ok(ExitCode::SUCCESS)
}

/// The one line on stdout.
fn report(made: &Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{made}").context("cannot write to stdout")
}
