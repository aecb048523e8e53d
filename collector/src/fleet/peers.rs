//! One fleet of several collectors: what agents say to one of them reaches the others over NATS, so that each lists
//! every node, and the one that writes status hears of all.
//!
//! Plain messages, not stored: a report is said again at its interval, and whoever starts asks for all.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, HeaderValue, Message};
use ebpf_hello_proto::v1;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{Fleet, Said};
use crate::log::Nats;

/// What an agent said, or that its stream began or ended.
const SAID: &str = "ebpf-hello.fleet.said";
/// Who asks for what all agents said.
const ASKED: &str = "ebpf-hello.fleet.asked";
/// Nodes whose news wait to be sent: of what is beyond, the next report tells.
const WAITING: usize = 4096;
/// Time until the next attempt to subscribe.
const RETRY: Duration = Duration::from_secs(1);

/// Shares a fleet until it is dropped.
#[derive(Debug)]
pub struct Peers(JoinHandle<()>);

// === impl Peers ===

impl Peers {
    /// Starts. Needs a Tokio runtime. A server that is away is waited for.
    #[must_use]
    pub fn start(nats: &Nats, fleet: Arc<Fleet>) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        // A fleet is shared once: of a second time nobody would hear.
        let _ = fleet.news.set(sender);
        let share = Share {
            client: nats.client(),
            fleet,
            own: format!("{:032x}", fastrand::u128(..)),
        };
        Peers(tokio::spawn(share.run(news)))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Share {
    client: Client,
    fleet: Arc<Fleet>,
    /// Tells our messages from others'.
    own: String,
}

// === impl Share ===

impl Share {
    async fn run(self, mut news: mpsc::Receiver<String>) {
        loop {
            if let Err(error) = self.share(&mut news).await {
                tracing::warn!(%error, "what agents say is not shared with other collectors");
            }
            sleep(RETRY).await;
        }
    }

    async fn share(&self, news: &mut mpsc::Receiver<String>) -> Result<(), async_nats::Error> {
        let mut said = self.client.subscribe(SAID).await?;
        let mut asked = self.client.subscribe(ASKED).await?;
        let own = self.own.clone();
        self.client.publish(ASKED, own.into()).await?;
        loop {
            tokio::select! {
                message = said.next() => match message {
                    Some(message) => self.take(&message),
                    None => return Ok(()),
                },
                message = asked.next() => match message {
                    Some(message) if *message.payload == *self.own.as_bytes() => {}
                    Some(_) => {
                        for node in self.fleet.own_nodes() {
                            self.say(&node).await;
                        }
                    }
                    None => return Ok(()),
                },
                Some(node) = news.recv() => self.say(&node).await,
            }
        }
    }

    /// Tells the others of a node. That it cannot be done for one keeps them from hearing of no other: a connection
    /// that has ended shows where they are listened to.
    async fn say(&self, node: &str) {
        if let Err(error) = self.publish(node).await {
            tracing::warn!(node, %error, "what an agent says is not shared with other collectors");
        }
    }

    async fn publish(&self, node: &str) -> Result<(), async_nats::Error> {
        let Some(said) = self.fleet.said(node) else {
            return Ok(());
        };
        let headers = headers(&self.own, &said)?;
        let report = said.report.encode_to_vec();
        self.client
            .publish_with_headers(SAID, headers, report.into())
            .await?;
        Ok(())
    }

    /// What is none of ours, or of a version that says it otherwise, is ignored.
    fn take(&self, message: &Message) {
        let header = |name: &str| {
            let value = message.headers.as_ref()?.get(name)?;
            Some(value.as_str().to_owned())
        };
        let Some(from) = header("from").filter(|from| *from != self.own) else {
            return;
        };
        let hello = || {
            Some(v1::AgentHello {
                node: header("node").filter(|node| !node.is_empty())?,
                epoch: header("epoch")?.parse().ok()?,
                version: header("version").unwrap_or_default(),
            })
        };
        match (hello(), v1::NodeReport::decode(message.payload.clone())) {
            (Some(hello), Ok(report)) => self.fleet.hear_of(
                &from,
                Said {
                    has_stream: header("stream").as_deref() == Some("1"),
                    hello,
                    report: Arc::new(report),
                },
            ),
            _ => tracing::debug!(from, "a message that cannot be read"),
        }
    }
}

/// What is said besides the report. Parsed: of text with a line feed the client makes a panic, else an error.
fn headers(own: &str, said: &Said) -> Result<HeaderMap, async_nats::Error> {
    let mut headers = HeaderMap::new();
    headers.insert("from", own.parse::<HeaderValue>()?);
    headers.insert("stream", if said.has_stream { "1" } else { "0" });
    headers.insert("node", said.hello.node.parse::<HeaderValue>()?);
    headers.insert("epoch", HeaderValue::from(said.hello.epoch));
    headers.insert("version", said.hello.version.parse::<HeaderValue>()?);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_header_is_an_error_and_ends_nothing() {
        let said = |node: &str, version: &str| Said {
            has_stream: true,
            hello: v1::AgentHello {
                node: node.into(),
                epoch: u64::MAX,
                version: version.into(),
            },
            report: Arc::default(),
        };
        let good = headers("own", &said("n1", "0.1.0")).unwrap();
        let epoch = good.get("epoch").map(HeaderValue::as_str);
        assert_eq!(epoch, Some(u64::MAX.to_string().as_str()));
        for (node, version) in [("n1", "0.1\n0"), ("n1", "0.1\r"), ("n\n1", "0.1.0")] {
            assert!(headers("own", &said(node, version)).is_err(), "{version:?}");
        }
    }
}
