//! What a filter's status should say: from the filter and from what its nodes' agents reported. Pure.

use ebpf_hello_policy::crd::{FilterStatus, NodeCounts, NodeFailure};
use ebpf_hello_proto::v1::FilterState;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::object::Object;

/// Failures that are listed.
const MAX_FAILURES: usize = 10;
/// Nodes that a message names.
const MAX_NAMES: usize = 3;
/// Longest message of a failure, as the definition bounds it, in characters.
const MAX_MESSAGE: usize = 1024;
/// Longest reason of a failure.
const MAX_REASON: usize = 64;

/// Whether the filter is valid.
pub(super) const ACCEPTED: &str = "Accepted";
/// Whether every node that should run it does.
pub(super) const PROGRAMMED: &str = "Programmed";

/// What a node that should run a filter says of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word<'a> {
    /// No agent, and none is to be waited for any longer.
    Missing(&'static str),
    /// Nothing yet: it may still come.
    Awaited,
    /// The agent reports, but not of this filter.
    Silent,
    /// This.
    Says(&'a FilterState),
}

/// The status, but for the times of transitions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub(super) accepted: Aspect,
    pub(super) programmed: Aspect,
    pub(super) nodes: NodeCounts,
    pub(super) pods: i32,
    pub(super) failures: Vec<NodeFailure>,
    /// Every node has said what became of this generation.
    pub(super) is_complete: bool,
    /// Nodes that nothing was heard of yet.
    pub(super) awaited: i32,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aspect {
    pub(super) holds: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

#[derive(Default)]
struct Count {
    desired: i32,
    programmed: i32,
    failed: i32,
    awaited: i32,
    /// Nodes where an older generation still acts.
    older: i32,
    older_generation: i64,
    told: i32,
    pods: i32,
    failures: Vec<NodeFailure>,
    pending: Vec<String>,
}

// === impl Content ===

impl Content {
    /// From what each node that should run it says, in the order of names.
    pub(super) fn of<'a>(
        object: &Object,
        nodes: impl Iterator<Item = (&'a str, Word<'a>)>,
    ) -> Content {
        let mut count = Count::default();
        for (node, word) in nodes {
            count.take(object.generation, node, word);
        }
        if object.refusal.is_some() {
            // Nodes cannot fail at what they were never to do.
            count.failed = 0;
            count.failures.clear();
        }
        Content {
            accepted: accepted(object, &count),
            programmed: programmed(object, &count),
            nodes: NodeCounts {
                desired: count.desired,
                programmed: count.programmed,
                failed: count.failed,
                summary: format!("{}/{}", count.programmed, count.desired),
            },
            pods: count.pods,
            failures: count.failures,
            is_complete: object.refusal.is_some() || count.told == count.desired,
            awaited: count.awaited,
        }
    }

    /// The whole status; a condition whose status is as before keeps the time of its transition.
    pub(super) fn status(
        &self,
        generation: i64,
        before: Option<&FilterStatus>,
        now: Timestamp,
    ) -> FilterStatus {
        let condition = |type_: &str, aspect: &Aspect| {
            let status = if aspect.holds { "True" } else { "False" };
            let before = before.and_then(|before| find(before, type_));
            let since = before.filter(|before| before.status == status);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: aspect.reason.clone(),
                message: aspect.message.clone(),
                observed_generation: Some(generation),
                last_transition_time: since
                    .map_or(Time(now), |since| since.last_transition_time.clone()),
            }
        };
        FilterStatus {
            observed_generation: Some(generation),
            conditions: vec![
                condition(ACCEPTED, &self.accepted),
                condition(PROGRAMMED, &self.programmed),
            ],
            nodes: Some(self.nodes.clone()),
            pods: Some(self.pods),
            failures: self.failures.clone(),
        }
    }
}

/// The condition of a type.
pub(super) fn find<'a>(status: &'a FilterStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|one| one.type_ == type_)
}

fn accepted(object: &Object, count: &Count) -> Aspect {
    let Some(refusal) = &object.refusal else {
        return Aspect {
            holds: true,
            reason: "Valid".into(),
            message: "The filter is valid.".into(),
        };
    };
    let kept = match count.older {
        0 => "Nothing of the filter is in force.".to_owned(),
        nodes => format!(
            "Generation {}, which was valid, stays in force on {nodes} of {} nodes.",
            count.older_generation, count.desired
        ),
    };
    Aspect {
        holds: false,
        reason: refusal.reason.clone(),
        message: format!("{}{} {kept}", refusal.message, stop(&refusal.message)),
    }
}

/// What is missing at the end of a sentence.
fn stop(sentence: &str) -> &'static str {
    if sentence.ends_with(['.', '?']) {
        ""
    } else {
        "."
    }
}

fn programmed(object: &Object, count: &Count) -> Aspect {
    let of = format!("{} of {}", count.programmed, count.desired);
    let aspect = |holds, reason: &str, message| Aspect {
        holds,
        reason: reason.into(),
        message,
    };
    if object.refusal.is_some() {
        let generation = object.generation;
        aspect(
            false,
            "NotAccepted",
            format!("Generation {generation} is not valid."),
        )
    } else if count.desired == 0 {
        aspect(true, "NoNodes", "No node should run it.".into())
    } else if count.programmed == count.desired {
        aspect(true, "Programmed", format!("In force on {of} nodes."))
    } else if count.failed > 0 {
        let failed = count.failed;
        aspect(
            false,
            "NodesFailed",
            format!("In force on {of} nodes; {failed} cannot, see failures."),
        )
    } else {
        let named = count.pending.join(", ");
        let more = count.desired
            - count.programmed
            - i32::try_from(count.pending.len()).unwrap_or(i32::MAX);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        aspect(
            false,
            "Pending",
            format!("In force on {of} nodes; waiting for {named}{more}."),
        )
    }
}

// === impl Count ===

impl Count {
    fn take(&mut self, generation: i64, node: &str, word: Word<'_>) {
        self.desired += 1;
        match word {
            Word::Missing(message) => {
                self.told += 1;
                self.fail(node, "AgentMissing", message);
            }
            Word::Awaited => {
                self.awaited += 1;
                self.wait_for(node);
            }
            Word::Silent => self.wait_for(node),
            Word::Says(state) => {
                let pods = i32::try_from(state.pods).unwrap_or(i32::MAX);
                self.pods = self.pods.saturating_add(pods);
                let is_current = state.observed_generation == generation;
                if state.programmed && is_current {
                    self.programmed += 1;
                    self.told += 1;
                } else if !state.programmed && !state.reason.is_empty() {
                    self.told += i32::from(is_current);
                    self.fail(node, &state.reason, &state.message);
                } else {
                    if state.programmed {
                        self.older += 1;
                        self.older_generation =
                            self.older_generation.max(state.observed_generation);
                    }
                    self.wait_for(node);
                }
            }
        }
    }

    fn fail(&mut self, node: &str, reason: &str, message: &str) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(NodeFailure {
                node: node.to_owned(),
                reason: word(reason),
                message: message.chars().take(MAX_MESSAGE).collect(),
            });
        }
    }

    fn wait_for(&mut self, node: &str) {
        if self.pending.len() < MAX_NAMES {
            self.pending.push(node.to_owned());
        }
    }
}

/// An agent's reason, as the definition wants one: an agent of another version may say anything.
fn word(reason: &str) -> String {
    let fits = reason.len() <= MAX_REASON
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    if fits { reason } else { "Failed" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::object::tests::{bad, good, read},
        *,
    };

    fn state(observed_generation: i64, programmed: bool, reason: &str) -> FilterState {
        FilterState {
            observed_generation,
            programmed,
            pods: 2,
            reason: reason.into(),
            message: "why".into(),
            ..FilterState::default()
        }
    }

    fn content(object: &Object, words: &[Word<'_>]) -> Content {
        let names: Vec<String> = (1..=words.len()).map(|n| format!("n{n:02}")).collect();
        let nodes = names.iter().map(String::as_str).zip(words.iter().copied());
        Content::of(object, nodes)
    }

    #[test]
    fn a_good_filter_on_all_nodes_is_accepted_and_programmed() {
        let (object, done) = (read(good(), 3), state(3, true, ""));
        let content = content(&object, &[Word::Says(&done), Word::Says(&done)]);
        assert!(content.accepted.holds && content.programmed.holds && content.is_complete);
        assert_eq!((content.nodes.summary.as_str(), content.pods), ("2/2", 4));
        assert_eq!(content.programmed.message, "In force on 2 of 2 nodes.");
    }

    #[test]
    fn an_older_generation_in_force_is_not_this_one() {
        let (object, old) = (read(good(), 3), state(2, true, ""));
        let done = state(3, true, "");
        let content = content(&object, &[Word::Says(&done), Word::Says(&old)]);
        assert_eq!(content.nodes.summary, "1/2");
        assert_eq!(content.programmed.reason, "Pending");
        assert!(content.programmed.message.ends_with("waiting for n02."));
        assert!(!content.is_complete);
    }

    #[test]
    fn failures_have_their_node_and_reason_and_are_ten_at_most() {
        let (object, full) = (read(good(), 1), state(1, false, "TablesExhausted"));
        let mut words = vec![Word::Missing("gone")];
        words.extend([Word::Says(&full); 14]);
        let content = content(&object, &words);
        assert_eq!((content.nodes.failed, content.failures.len()), (15, 10));
        assert_eq!(content.failures[0].reason, "AgentMissing");
        assert_eq!(content.failures[1].reason, "TablesExhausted");
        assert_eq!(content.programmed.reason, "NodesFailed");
        assert!(content.is_complete, "all have said what became of it");
    }

    #[test]
    fn an_agents_odd_words_fit_the_definition() {
        let odd = FilterState {
            reason: "no such thing!".into(),
            message: "ü".repeat(5000),
            ..FilterState::default()
        };
        let content = content(&read(good(), 1), &[Word::Says(&odd)]);
        assert_eq!(content.failures[0].reason, "Failed");
        assert_eq!(content.failures[0].message.chars().count(), 1024);
    }

    #[test]
    fn a_refused_filter_says_why_and_what_stays_in_force() {
        let (object, old) = (read(bad(), 2), state(1, true, ""));
        let kept = content(&object, &[Word::Says(&old), Word::Missing("gone")]);
        assert!(!kept.accepted.holds && kept.is_complete);
        assert_eq!(kept.accepted.reason, "UnknownSyscall");
        let says = "Generation 1, which was valid, stays in force on 1 of 2 nodes.";
        assert!(
            kept.accepted.message.ends_with(says),
            "{}",
            kept.accepted.message
        );
        assert_eq!(kept.programmed.reason, "NotAccepted");
        assert_eq!((kept.nodes.failed, kept.failures.len()), (0, 0));
        let never = content(&object, &[Word::Silent]);
        assert!(
            never
                .accepted
                .message
                .ends_with("Nothing of the filter is in force.")
        );
    }

    #[test]
    fn no_node_to_run_it_is_told() {
        let content = content(&read(good(), 1), &[]);
        assert_eq!(content.programmed.reason, "NoNodes");
        assert!(content.programmed.holds && content.is_complete);
    }

    #[test]
    fn a_transitions_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (object, done) = (read(good(), 3), state(3, true, ""));
        let both = content(&object, &[Word::Says(&done), Word::Says(&done)]);
        let first = both.status(3, None, at(1));
        assert_eq!(both.status(3, Some(&first), at(2)), first);
        let one = content(&object, &[Word::Says(&done), Word::Missing("gone")]);
        let second = one.status(3, Some(&first), at(3));
        let time =
            |status: &FilterStatus, type_| find(status, type_).unwrap().last_transition_time.0;
        assert_eq!(time(&second, ACCEPTED), at(1));
        assert_eq!(time(&second, PROGRAMMED), at(3));
    }
}
