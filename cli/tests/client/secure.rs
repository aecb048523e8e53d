//! A collector with TLS, and what the command line shows and trusts.

use std::{path::PathBuf, sync::Arc};

use ebpf_hello_collector::{
    access::{
        AuthorityPem, Credentials, Directory, Door, Limits, Listen, RELOAD, ReaderFile, Reload,
        ServerCertificate, TlsFiles,
    },
    log::Memory,
    serve::{Collector, Listener, Options, serve},
};
use tokio::runtime::Runtime;

use crate::command::{assert_refused, command, text};

/// A collector on a port of loopback; ends when this does.
struct Secure {
    url: String,
    directory: tempfile::TempDir,
    _runtime: Runtime,
}

const TOKEN: &str = "reader-of-everything";

fn start() -> Secure {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("readers"), format!("{TOKEN},*\n")).unwrap();
    std::fs::write(path("token"), format!("{TOKEN}\n")).unwrap();
    std::fs::write(path("unknown"), "a-token-that-nobody-knows").unwrap();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(
        path("other.crt"),
        AuthorityPem::generate().unwrap().certificates,
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let port = runtime.block_on(async {
        let files = TlsFiles {
            authority: Some(Arc::new(Directory(path("tls")))),
            certificate: ServerCertificate::Own(vec!["localhost".into()]),
            readers: None,
        };
        let tls = Reload::start(files, RELOAD).await.unwrap();
        let readers = ReaderFile::open(path("readers"), RELOAD).await.unwrap();
        let socket = Listen::Tcp("127.0.0.1:0".parse().unwrap())
            .bind()
            .await
            .unwrap();
        let ebpf_hello_collector::serve::Socket::Tcp(tcp) = &socket else {
            panic!("not TCP");
        };
        let port = tcp.local_addr().unwrap().port();
        let listener = Listener {
            socket,
            handshake: Some(Arc::new(Door::new(Some(tls), Limits::default()))),
            authenticate: Arc::new(Credentials::new(Some(Arc::new(readers)))),
        };
        let collector = Collector::new(Arc::new(Memory::new(1 << 20)), None, Options::default());
        tokio::spawn(serve(collector, vec![listener]));
        port
    });
    Secure {
        url: format!("https://localhost:{port}"),
        directory,
        _runtime: runtime,
    }
}

impl Secure {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `counts` there, with an authority to trust, and a token's file.
    fn counts(&self, url: &str, ca: &str, token: Option<&str>) -> std::process::Output {
        let ca = self.path(ca);
        let mut command = command(&["counts", "-o", "json", "--server", url, "--ca"]);
        command.arg(ca);
        if let Some(token) = token {
            command.env("EBPF_HELLO_TOKEN_FILE", self.path(token));
        }
        command.output().unwrap()
    }
}

#[test]
fn a_token_over_tls_is_answered() {
    let server = start();
    let output = server.counts(&server.url, "tls/ca.crt", Some("token"));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let server = start();
    let ca = "tls/ca.crt";
    let counts = |ca: &str, token: Option<&str>| server.counts(&server.url, ca, token);
    assert_refused(&counts(ca, None), 1, &["token"]);
    assert_refused(&counts(ca, Some("unknown")), 1, &["unknown"]);
    assert_refused(
        &counts(ca, Some("empty")),
        1,
        &["EBPF_HELLO_TOKEN_FILE", "expected a token"],
    );
    assert_refused(
        &counts(ca, Some("missing")),
        1,
        &["EBPF_HELLO_TOKEN_FILE", "missing"],
    );
    assert_refused(
        &counts("other.crt", Some("token")),
        6,
        &["not trusted here", "--ca"],
    );
    assert_refused(
        &counts("missing.crt", Some("token")),
        1,
        &["--ca", "missing.crt"],
    );

    let url = server.url.replace("localhost", "127.0.0.1");
    assert_refused(&server.counts(&url, ca, Some("token")), 6, &["other names"]);
    let nobody = server.counts("https://localhost:1", ca, None);
    assert_refused(&nobody, 6, &["https://localhost:1", "nothing listens"]);
    let elsewhere = server.counts("http://192.0.2.1:7443", ca, None);
    assert_refused(&elsewhere, 1, &["192.0.2.1", "https://"]);
    let plain = server.url.replace("https", "http");
    assert_refused(&server.counts(&plain, ca, Some("token")), 6, &[&plain]);
}
