//! Kubernetes events about filters: what `kubectl describe` shows under the object.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use ebpf_hello_policy::crd::{FilterStatus, GROUP, VERSION};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    content::{ACCEPTED, find},
    metrics::Counts,
    object::Object,
};

/// Events that may be sent at once, and the time in which one more may.
const BURST: u32 = 25;
const EVERY: Duration = Duration::from_secs(5);
/// Longest note, in bytes, that the API server takes.
const MAX_NOTE: usize = 1024;

/// One event.
#[derive(Debug, PartialEq)]
pub(super) struct Announcement {
    about: ObjectReference,
    reason: String,
    action: &'static str,
    note: String,
    node: Option<String>,
}

/// Sends them; never holds up a write.
pub(super) struct Announcer {
    sender: mpsc::Sender<Announcement>,
    counts: Arc<Counts>,
    left: u32,
    at: Instant,
}

/// What a status that was written says for the first time: that the filter was refused, that a node failed.
pub(super) fn announcements(object: &Object, status: &FilterStatus) -> Vec<Announcement> {
    let about = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(object.kind.name().to_owned()),
        name: Some(object.name.clone()),
        namespace: object.namespace.clone(),
        uid: Some(object.uid.clone()),
        ..ObjectReference::default()
    };
    let before = object.status.as_ref();
    let mut all = Vec::new();
    let was_refused = before
        .and_then(|before| find(before, ACCEPTED))
        .is_some_and(|accepted| accepted.status == "False");
    if let Some(accepted) =
        find(status, ACCEPTED).filter(|one| one.status == "False" && !was_refused)
    {
        all.push(Announcement {
            about: about.clone(),
            reason: accepted.reason.clone(),
            action: "Validate",
            note: accepted.message.clone(),
            node: None,
        });
    }
    let failed_before = |node: &str, reason: &str| {
        before.is_some_and(|before| {
            let failures = &mut before.failures.iter();
            failures.any(|one| one.node == node && one.reason == reason)
        })
    };
    for failure in &status.failures {
        if !failed_before(&failure.node, &failure.reason) {
            all.push(Announcement {
                about: about.clone(),
                reason: failure.reason.clone(),
                action: "Program",
                note: format!("Not in force on node {}: {}", failure.node, failure.message),
                node: Some(failure.node.clone()),
            });
        }
    }
    all
}

// === impl Announcement ===

impl Announcement {
    fn event(self) -> (Event, ObjectReference) {
        let related = self.node.map(|node| ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node),
            ..ObjectReference::default()
        });
        let mut note = self.note;
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        let event = Event {
            type_: EventType::Warning,
            reason: self.reason,
            note: Some(note),
            action: self.action.to_owned(),
            secondary: related,
        };
        (event, self.about)
    }
}

// === impl Announcer ===

impl Announcer {
    /// Spawns the task that sends.
    pub(super) fn start(client: Client, counts: Arc<Counts>, tasks: &mut JoinSet<()>) -> Self {
        let (sender, mut waiting) = mpsc::channel::<Announcement>(BURST as usize);
        let recorder = Recorder::new(client, Reporter::from("ebpf-hello-collector"));
        tasks.spawn(async move {
            while let Some(announcement) = waiting.recv().await {
                // The same about the same node within six minutes raises the count of the one before.
                let (event, about) = announcement.event();
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::warn!(filter = about.name, %error, "an event could not be sent");
                }
            }
        });
        Announcer {
            sender,
            counts,
            left: BURST,
            at: Instant::now(),
        }
    }

    /// Sends it, unless there have been too many.
    pub(super) fn announce(&mut self, announcement: Announcement, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs() / EVERY.as_secs();
        if gained > 0 {
            self.left = BURST.min(
                self.left
                    .saturating_add(u32::try_from(gained).unwrap_or(BURST)),
            );
            self.at = now;
        }
        if self.left == 0 || self.sender.try_send(announcement).is_err() {
            self.counts.events_left_out.fetch_add(1, Relaxed);
        } else {
            self.left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use ebpf_hello_policy::crd::NodeFailure;
    use k8s_openapi::jiff::Timestamp;

    use super::{
        super::{
            content::{Content, Word},
            object::tests::{bad, good, read},
        },
        *,
    };

    fn status(object: &Object, words: &[Word<'_>]) -> FilterStatus {
        let names = ["n1", "n2"].into_iter().zip(words.iter().copied());
        Content::of(object, names).status(object.generation, None, Timestamp::UNIX_EPOCH)
    }

    fn said(object: &Object, status: &FilterStatus) -> Vec<(String, Option<String>)> {
        let all = announcements(object, status).into_iter();
        all.map(|one| (one.reason, one.node)).collect()
    }

    #[test]
    fn a_refusal_is_announced_when_it_begins() {
        let mut object = read(bad(), 2);
        let refused = status(&object, &[]);
        object.status = Some(status(&read(good(), 1), &[]));
        assert_eq!(
            said(&object, &refused),
            [("UnknownSyscall".to_owned(), None)]
        );
        object.status = Some(refused.clone());
        assert_eq!(said(&object, &refused), []);
    }

    #[test]
    fn a_nodes_failure_is_announced_once() {
        let mut object = read(good(), 1);
        let failed = status(&object, &[Word::Missing("gone"), Word::Silent]);
        let expected = [("AgentMissing".to_owned(), Some("n1".to_owned()))];
        assert_eq!(said(&object, &failed), expected);
        object.status = Some(failed.clone());
        assert_eq!(said(&object, &failed), []);
        let other = NodeFailure {
            reason: "TablesExhausted".into(),
            ..failed.failures[0].clone()
        };
        let other = FilterStatus {
            failures: vec![other],
            ..failed
        };
        assert_eq!(
            said(&object, &other).len(),
            1,
            "another reason is another event"
        );
    }
}
