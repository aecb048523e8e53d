//! Events to serve.

use ebpf_hello_proto::{
    Timestamp,
    v1::{Container, Event, Exec, Loss, LossReason, LossStage, Pod, Process, Syscall, event::Kind},
};

/// An exec in shop/cart-0 on n1; `sequence` tells events apart.
pub(crate) fn exec(sequence: u64) -> Event {
    Event {
        time: Some(Timestamp {
            seconds: 1_795_341_600,
            nanos: 123_456_789,
        }),
        node: "n1".into(),
        cpu: Some(0),
        sequence,
        epoch: 1,
        process: Some(Process {
            pid: 4242,
            tid: 4242,
            uid: Some(1000),
            comm: "ls".into(),
            ..Process::default()
        }),
        pod: Some(Pod {
            namespace: "shop".into(),
            name: "cart-0".into(),
            container: Some(Container {
                name: "web".into(),
                ..Container::default()
            }),
            ..Pod::default()
        }),
        kind: Some(Kind::Exec(Exec {
            filename: "/usr/bin/ls".into(),
            argv: vec!["ls".into(), format!("file-{sequence}")],
            ..Exec::default()
        })),
        ..Event::default()
    }
}

/// A call of a host process.
pub(crate) fn call(name: &str, comm: &str) -> Event {
    let mut event = exec(0);
    event.pod = None;
    event.process.get_or_insert_default().comm = comm.into();
    event.kind = Some(Kind::Syscall(Syscall {
        name: name.into(),
        ..Syscall::default()
    }));
    event
}

/// That many events are lost.
pub(crate) fn loss(count: u64) -> Event {
    let mut loss = Loss {
        count,
        ..Loss::default()
    };
    loss.set_stage(LossStage::Subscriber);
    loss.set_reason(LossReason::QueueFull);
    Event {
        kind: Some(Kind::Loss(loss)),
        ..Event::default()
    }
}
