//! ia32's socketcall is told as the call that it is.

use ebpf_hello_proto::v1::{Abi, event::Kind};

use crate::{events::of_process, filter::filter, generator::generate, instance::Instance};

pub(crate) fn a_socketcall_tells_call_socket_and_address_and_what_cannot_be_read() {
    let filter = filter("Sock", &["socketcall"]);
    let run = Instance::run(&[
        "--filters",
        filter.path(),
        "--process-events",
        "off",
        "-o",
        "json",
    ]);
    let made = generate(&["socketcall"]);
    let ended = run.end();
    ended.ledger().assert_complete();
    let events = ended.events();
    let calls: Vec<_> = of_process(&events, made.pid())
        .into_iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Sock(sock)) => Some(sock),
            _ => None,
        })
        .collect();
    let [connect, unreadable] = calls[..] else {
        panic!("two calls: {calls:?}");
    };
    for call in [connect, unreadable] {
        assert_eq!(
            (
                call.name.as_str(),
                call.abi(),
                call.number,
                call.call.as_str()
            ),
            ("socketcall", Abi::Ia32, Some(102), "connect")
        );
    }
    assert_eq!(connect.fd, Some(i32::try_from(made.number("fd")).unwrap()));
    assert_eq!(
        (
            connect.family.as_str(),
            connect.address.as_str(),
            connect.port
        ),
        ("AF_INET", "127.0.0.1", Some(8080))
    );
    assert!(!connect.unreadable && unreadable.unreadable);
    assert_eq!((unreadable.fd, unreadable.address.as_str()), (None, ""));
}
