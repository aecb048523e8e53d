//! The process that consumes in the measurements of the way through a collector: any gRPC client with generated code,
//! which decodes every event and looks at it.

use std::{collections::HashMap, io::Write as _, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use ebpf_hello_proto::{
    Timestamp,
    v1::{
        Event, ObserveRequest, event::Kind, observe_response::Message,
        observer_service_client::ObserverServiceClient,
    },
};
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use crate::publisher::{cpu, nanoseconds};

/// Patience before the first event, and without an end to silence.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct ConsumerArguments {
    /// Where to observe.
    #[arg(long)]
    server: String,
    /// It ends when so many events have come, lost ones that were told included; with --execs-of so many of those execs.
    #[arg(long)]
    events: u64,
    /// It ends earlier when nothing more comes for so many milliseconds.
    #[arg(long)]
    silence: Option<u64>,
    /// Which executable's execs are timed.
    #[arg(long)]
    execs_of: Option<String>,
}

/// What came; times are of `CLOCK_MONOTONIC`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Consumed {
    /// Events that came, each once and in the order of its CPU.
    pub(crate) events: u64,
    /// Events told as lost.
    pub(crate) lost: u64,
    /// Nanoseconds at the last one.
    pub(crate) ended: u64,
    /// Seconds of processor time from the first one on.
    pub(crate) cpu: f64,
    /// Milliseconds from each timed exec to its event here.
    pub(crate) delays: Vec<f64>,
}

struct Consumer<'a> {
    arguments: &'a ConsumerArguments,
    consumed: Consumed,
    /// The last sequence number of each CPU.
    sequences: HashMap<u32, u64>,
}

pub(crate) fn run(arguments: &ConsumerArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let mut consumer = Consumer {
        arguments,
        consumed: Consumed::default(),
        sequences: HashMap::new(),
    };
    runtime.block_on(consumer.consume())?;
    let line = serde_json::to_string(&consumer.consumed).context("cannot tell what came")?;
    writeln!(std::io::stderr(), "{line}").context("cannot write to stderr")
}

// === impl Consumer ===

impl Consumer<'_> {
    async fn consume(&mut self) -> anyhow::Result<()> {
        let server = &self.arguments.server;
        let channel = Endpoint::from_shared(server.clone())
            .with_context(|| format!("--server {server}"))?
            .connect()
            .await
            .with_context(|| format!("cannot connect to {server}"))?;
        let request = ObserveRequest {
            follow: true,
            ..ObserveRequest::default()
        };
        let mut stream = ObserverServiceClient::new(channel)
            .observe(request)
            .await
            .context("cannot observe")?
            .into_inner();
        let silence = self.arguments.silence.map(Duration::from_millis);
        let mut first_cpu = None;
        while self.come() < self.arguments.events {
            let patience = silence.filter(|_| first_cpu.is_some()).unwrap_or(DEADLINE);
            let Ok(message) = timeout(patience, stream.message()).await else {
                ensure!(first_cpu.is_some(), "no event in {DEADLINE:?}");
                break;
            };
            let response = message?.context("the collector ended the stream")?;
            match response.message {
                Some(Message::Hello(_)) => tell(0)?,
                Some(Message::Events(list)) => {
                    first_cpu.get_or_insert_with(cpu);
                    for event in &list.events {
                        self.look_at(event)?;
                    }
                    self.consumed.ended = nanoseconds(ClockId::Monotonic);
                    tell(self.consumed.events + self.consumed.lost)?;
                }
                _ => {}
            }
        }
        self.consumed.cpu = cpu() - first_cpu.unwrap_or_default();
        Ok(())
    }

    fn come(&self) -> u64 {
        match self.arguments.execs_of {
            Some(_) => self.consumed.delays.len() as u64,
            None => self.consumed.events + self.consumed.lost,
        }
    }

    fn look_at(&mut self, event: &Event) -> anyhow::Result<()> {
        if let Some(Kind::Loss(loss)) = &event.kind {
            self.consumed.lost += loss.count;
            return Ok(());
        }
        if let Some(cpu) = event.cpu {
            let last = self.sequences.insert(cpu, event.sequence).unwrap_or(0);
            if event.sequence <= last {
                bail!("event {} of CPU {cpu} after {last}", event.sequence);
            }
        }
        self.consumed.events += 1;
        let binary = event
            .process
            .as_ref()
            .map(|process| process.binary.as_str());
        if let Some(Kind::Exec(_)) = event.kind
            && binary.is_some_and(|binary| Some(binary) == self.arguments.execs_of.as_deref())
        {
            let time = event.time.context("an event without its time")?;
            let now = Timestamp::from(std::time::SystemTime::now());
            let nanoseconds =
                (now.seconds - time.seconds) * 1_000_000_000 + i64::from(now.nanos - time.nanos);
            self.consumed.delays.push(nanoseconds as f64 / 1e6);
        }
        Ok(())
    }
}

/// Says how many have come, to whoever reads it.
fn tell(come: u64) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let told = stdout
        .write_all(&come.to_le_bytes())
        .and_then(|()| stdout.flush());
    match told {
        // Who published it all, and knows that it is stored, has ended and reads no more.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        told => told.context("cannot say how many have come"),
    }
}
