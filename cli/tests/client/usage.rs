//! Wrong usage, servers that are not there, and the pages made from the command line itself.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::command::{assert_done, assert_refused, command, output};

#[test]
fn a_wrong_flag_is_status_2_and_names_flag_value_and_what_was_expected() {
    let cases: [(&[&str], &[&str]); 12] = [
        (
            &["observe", "--type", "execs"],
            &["--type", "execs", "syscall"],
        ),
        (
            &["observe", "--uid", "root"],
            &["--uid", "root", "1000-1999"],
        ),
        (&["observe", "--pid", "x"], &["--pid", "x"]),
        (&["observe", "--last", "0"], &["--last", "0", "1..=100000"]),
        (&["observe", "--last", "100001"], &["--last", "100001"]),
        (
            &["observe", "--since", "yesterday"],
            &["--since", "yesterday", "10m", "2026-11-22T10:00:00Z"],
        ),
        (&["observe", "--until", "5"], &["--until", "5", "10m"]),
        (
            &["observe", "--last", "5", "--since", "1m"],
            &["--last", "--since"],
        ),
        (&["observe", "-o", "yaml"], &["--output", "yaml", "dict"]),
        (
            &["top", "--interval", "0s"],
            &["--interval", "0s", "greater than zero"],
        ),
        (&["top", "--sort", "size"], &["--sort", "size", "rate"]),
        (&["completions", "cmd"], &["cmd", "bash"]),
    ];
    for (arguments, words) in cases {
        assert_refused(&output(arguments), 2, words);
    }
}

#[test]
fn a_server_that_is_not_there_is_status_6_and_is_named() {
    for arguments in [
        &["observe"][..],
        &["observe", "-f"],
        &["top", "--once"],
        &["counts"],
        &["counts", "--watch", "1s"],
        &["status"],
        &["status", "--probe"],
    ] {
        for server in ["unix:///nonexistent/x.sock", "http://127.0.0.1:1"] {
            let output = command(arguments)
                .args(["--server", server])
                .output()
                .unwrap();
            assert_refused(&output, 6, &[server.rsplit('/').next().unwrap()]);
            let output = command(arguments)
                .env("EBPF_HELLO_SERVER", server)
                .output()
                .unwrap();
            assert_refused(&output, 6, &[server.rsplit('/').next().unwrap()]);
        }
    }
}

#[test]
fn completions_are_what_the_shell_understands() {
    let script = assert_done(&output(&["completions", "bash"]));
    for word in ["observe", "--namespace", "completions"] {
        assert!(script.contains(word), "{word}");
    }
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(bash.wait().unwrap().success());
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(
            assert_done(&output(&["completions", shell])).contains("observe"),
            "{shell}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let all = assert_done(&output(&["man"]));
    assert!(all.contains(".TH") && all.contains("observe"), "{all}");
    let page = assert_done(&output(&["man", "observe"]));
    for word in [".TH", "follow", "namespace", "log\\-format"] {
        assert!(page.contains(word), "{word} in:\n{page}");
    }
    assert_refused(&output(&["man", "nosuch"]), 1, &["nosuch", "observe"]);
    let folder = tempfile::tempdir().unwrap();
    assert_done(&output(&["man", "--dir", folder.path().to_str().unwrap()]));
    for name in ["ebpf-hello.1", "ebpf-hello-observe.1", "ebpf-hello-top.1"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
    assert_refused(
        &output(&["man", "--dir", "/nonexistent/x"]),
        1,
        &["--dir", "/nonexistent/x"],
    );
}
