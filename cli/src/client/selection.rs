//! Flags that select events, and the request they make.

use clap::{Args, builder::PossibleValuesParser};
use ebpf_hello_proto::v1::Selection;

/// The kinds of events, as `Selection.types` names them.
const TYPES: [&str; 10] = [
    "exec", "exit", "fork", "syscall", "timer", "path", "sock", "counters", "loss", "identity",
];

/// Where: what events and counters have in common.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection (repeat a flag for any of several; all flags must fit)")]
pub(crate) struct PlaceArgs {
    /// Of pods in this namespace.
    #[arg(
        short = 'n',
        long = "namespace",
        value_name = "NS",
        value_delimiter = ','
    )]
    pub(crate) namespaces: Vec<String>,
    /// Of pods whose names fit (`*`, `?`, `[a-z]`).
    #[arg(long = "pod", value_name = "GLOB")]
    pub(crate) pods: Vec<String>,
    /// On nodes whose names fit.
    #[arg(long = "node", value_name = "GLOB")]
    pub(crate) nodes: Vec<String>,
}

/// Which events.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection (repeat a flag for any of several; all flags must fit)")]
pub(crate) struct SelectionArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Of pods with these labels, as kubectl's -l: app=cart,tier in (web,api),!canary.
    #[arg(short = 'l', long = "selector", value_name = "SELECTOR")]
    pub(crate) label_selector: Option<String>,
    /// Of containers of this name.
    #[arg(
        short = 'c',
        long = "container",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(crate) containers: Vec<String>,
    /// Of this kind. Losses are shown whatever is selected.
    #[arg(long = "type", value_name = "KIND", value_delimiter = ',', value_parser = PossibleValuesParser::new(TYPES))]
    pub(crate) types: Vec<String>,
    /// Of this system call, or a group such as @file.
    #[arg(long = "syscall", value_name = "NAME", value_delimiter = ',')]
    pub(crate) syscalls: Vec<String>,
    /// Of threads whose names fit.
    #[arg(long = "comm", value_name = "GLOB")]
    pub(crate) comms: Vec<String>,
    /// Of executables whose paths fit; `*` also matches `/`.
    #[arg(long = "binary", value_name = "GLOB")]
    pub(crate) binaries: Vec<String>,
    /// Of this user id, or a range such as 1000-1999.
    #[arg(long = "uid", value_name = "UID", value_delimiter = ',', value_parser = uids)]
    pub(crate) uids: Vec<String>,
    /// Of this process.
    #[arg(long = "pid", value_name = "PID", value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
    /// For which this expression over `event` is true: 'event.exec.argv.exists(a, a.contains("curl"))'.
    #[arg(long, value_name = "EXPR")]
    pub(crate) cel: Option<String>,
}

// === impl PlaceArgs ===

impl PlaceArgs {
    /// What goes into a request for counters.
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            nodes: self.nodes.clone(),
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
            ..Selection::default()
        }
    }
}

// === impl SelectionArgs ===

impl SelectionArgs {
    /// What goes into a request for events.
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            label_selector: self.label_selector.clone().unwrap_or_default(),
            containers: self.containers.clone(),
            types: self.types.clone(),
            syscalls: self.syscalls.clone(),
            comms: self.comms.clone(),
            binaries: self.binaries.clone(),
            uids: self.uids.clone(),
            pids: self.pids.clone(),
            cel: self.cel.clone().unwrap_or_default(),
            ..self.place.selection()
        }
    }

    /// Whether it asks for more than a place: counters, which are kept by node and pod, cannot be
    /// selected so.
    pub(crate) fn is_finer_than_place(&self) -> bool {
        self.selection() != self.place.selection()
    }
}

/// A user id or a range of them.
fn uids(text: &str) -> Result<String, String> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let valid = match text.split_once('-') {
        None => number(text).is_some(),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) => first <= last,
            _ => false,
        },
    };
    if valid {
        Ok(text.to_owned())
    } else {
        Err("expected a user id such as 0, or a range such as 1000-1999".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: SelectionArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Selection, String> {
        let line = ["x"].into_iter().chain(arguments.iter().copied());
        Line::try_parse_from(line)
            .map(|line| line.selection.selection())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_flag_has_its_field() {
        let selection = parse(&[
            "-n",
            "shop,web",
            "-n",
            "db",
            "--pod",
            "cart-*",
            "-l",
            "app=cart,tier in (a,b)",
            "-c",
            "app",
            "--node",
            "n?",
            "--type",
            "exec,exit",
            "--syscall",
            "openat",
            "--comm",
            "ba*",
            "--binary",
            "/usr/*",
            "--uid",
            "0,1000-1999",
            "--pid",
            "1",
            "--cel",
            "true",
        ])
        .unwrap();
        assert_eq!(selection.namespaces, ["shop", "web", "db"]);
        assert_eq!(selection.pods, ["cart-*"]);
        assert_eq!(selection.label_selector, "app=cart,tier in (a,b)");
        assert_eq!(selection.containers, ["app"]);
        assert_eq!(selection.nodes, ["n?"]);
        assert_eq!(selection.types, ["exec", "exit"]);
        assert_eq!(selection.syscalls, ["openat"]);
        assert_eq!(selection.comms, ["ba*"]);
        assert_eq!(selection.binaries, ["/usr/*"]);
        assert_eq!(selection.uids, ["0", "1000-1999"]);
        assert_eq!(selection.pids, [1]);
        assert_eq!(selection.cel, "true");
        assert_eq!(parse(&[]).unwrap(), Selection::default());
    }

    #[test]
    fn a_mistake_names_flag_value_and_what_was_expected() {
        for (line, words) in [
            (["--type", "execs"], ["--type", "execs", "exec, exit"]),
            (["--uid", "9-1"], ["--uid", "9-1", "1000-1999"]),
            (["--uid", "root"], ["--uid", "root", "user id"]),
            (["--pid", "x"], ["--pid", "x", "digit"]),
        ] {
            let error = parse(&line).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{line:?}: {error}");
            }
        }
    }
}
