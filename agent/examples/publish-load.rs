//! How fast events leave the agent: feeds synthetic events to the publisher, over a Unix socket to a sink that
//! acknowledges, or to a collector.
//!
//! usage: publish-load [EVENTS [ADDRESS]]      ADDRESS such as unix:///run/ebpf-hello/publish.sock
//!
//! Prints nanoseconds of processor time of the offering thread per event (batching; making the events is not in
//! it), and the events per second until the last acknowledgement.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ebpf_hello_agent::{
    Accounts, Batch, Item, Outcome,
    publish::{MEMORY, PublishOptions, Publisher},
};
use ebpf_hello_loader::abi::Handler;
use ebpf_hello_proto::{
    Timestamp,
    server::collector_service_server::{CollectorService, CollectorServiceServer},
    v1::{self, Event, event::Kind, publish_response::Message},
    wire::{self, PublishRequest, publish_request},
};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server},
};

const BATCH: u64 = 512;
const PROCESSES: u64 = 16;

struct Sink;

#[tonic::async_trait]
impl CollectorService for Sink {
    type PublishStream = Pin<Box<dyn Stream<Item = Result<v1::PublishResponse, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let answers = request.into_inner().filter_map(|request| {
            let message = match request {
                Ok(request) => match request.message? {
                    publish_request::Message::Hello(_) => {
                        Message::Hello(v1::CollectorHello::default())
                    }
                    publish_request::Message::Batch(batch) => match wire::Batch::decode(batch) {
                        Ok(batch) => Message::Acknowledgement(v1::Acknowledgement {
                            epoch: batch.epoch,
                            number: batch.number,
                        }),
                        Err(error) => {
                            return Some(Err(Status::invalid_argument(error.to_string())));
                        }
                    },
                    publish_request::Message::Report(_) => return None,
                },
                Err(status) => return Some(Err(status)),
            };
            Some(Ok(v1::PublishResponse {
                message: Some(message),
            }))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn enroll(
        &self,
        _: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        Err(Status::unimplemented("a sink"))
    }
}

/// An event as `trace` makes it, of one of a few processes.
fn event(sequence: u64) -> Event {
    let process = sequence / 8 % PROCESSES;
    Event {
        time: Some(Timestamp::from_unix_nanos(
            1_795_341_600_000_000_000 + sequence * 1000,
        )),
        node: "node-1".into(),
        cpu: Some((process % 2) as u32),
        sequence,
        epoch: 1,
        cgroup_id: 1000 + process,
        process: Some(v1::Process {
            pid: 1000 + process as u32,
            tid: 1000 + process as u32,
            parent_pid: 1,
            uid: Some(0),
            gid: Some(0),
            comm: "worker".into(),
            binary: "/usr/local/bin/worker".into(),
            exec_id: format!("{process:016x}"),
            start_time: Some(Timestamp::from_unix_nanos(1_795_341_000_000_000_000)),
            ..v1::Process::default()
        }),
        policy: Some(v1::Policy {
            filter: "shop/cart-timers".into(),
            rule: 1,
            table: 3,
            generation: 7,
            suppressed_since_last: 0,
        }),
        kind: Some(Kind::Syscall(v1::Syscall {
            name: "getppid".into(),
            number: Some(110),
            abi: v1::Abi::X8664.into(),
            args: vec![0x7ffe_1234_5678, 3, 0, 0, 1, 0],
            ..v1::Syscall::default()
        })),
        ..Event::default()
    }
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let events: u64 = arguments
        .next()
        .map_or(Ok(2_000_000), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let address = match arguments.next() {
        Some(address) => address,
        None => {
            let socket = directory.path().join("sink.sock");
            let listener = UnixListenerStream::new(UnixListener::bind(&socket)?);
            let service = CollectorServiceServer::new(Sink);
            tokio::spawn(
                Server::builder()
                    .add_service(service)
                    .serve_with_incoming(listener),
            );
            format!("unix://{}", socket.display())
        }
    };
    let accounts = Arc::new(Accounts::default());
    let epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_micros();
    let options = PublishOptions {
        node: "node-1".into(),
        epoch: u64::try_from(epoch)?,
        version: "load".into(),
        memory: MEMORY,
        spool: None,
        compress: false,
    };
    let publisher = Publisher::start(
        options,
        Endpoint::from_shared(address)?,
        Arc::clone(&accounts),
    )?;
    let start = Instant::now();
    let publisher = tokio::task::spawn_blocking(move || {
        let (mut made, mut offered) = (Duration::ZERO, Duration::ZERO);
        for first in (1..=events).step_by(usize::try_from(BATCH).unwrap_or(1)) {
            let making = cpu_time();
            let batch: Batch = (first..(first + BATCH).min(events + 1))
                .map(|sequence| Item {
                    handler: Some(Handler::Trace),
                    event: event(sequence),
                })
                .collect();
            made += cpu_time() - making;
            let offering = cpu_time();
            publisher.offer(batch, Duration::from_secs(60));
            offered += cpu_time() - offering;
        }
        let each = |time: Duration| time.as_nanos() as f64 / events as f64;
        println!("make   {:7.0} ns/event (the generator's own)", each(made));
        println!(
            "offer  {:7.0} ns/event (batching: processor time of its thread)",
            each(offered)
        );
        publisher
    })
    .await?;
    publisher.drain(Duration::from_secs(60)).await;
    let elapsed = start.elapsed();
    let delivered = accounts.settled(Handler::Trace, Outcome::Delivered);
    println!(
        "end    {:7.0} ns/event, {:.0} events/s",
        elapsed.as_nanos() as f64 / events as f64,
        events as f64 / elapsed.as_secs_f64()
    );
    println!("delivered {delivered} of {events}");
    Ok(())
}
