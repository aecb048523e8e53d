use serde_json::json;

use super::{
    super::object::tests::{bad, good, read},
    *,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A board with its clock.
struct Bench {
    board: Board,
    start: Instant,
    now: Instant,
    agents: BTreeMap<String, Agent>,
    version: u64,
    writes: Vec<(Duration, String)>,
}

impl Bench {
    /// Nodes that should each run an agent, and a holder whose term begins now.
    fn new(nodes: &[&str]) -> Bench {
        let start = Instant::now();
        let mut board = Board::new(start);
        board.set_placement(Some(Placement::default()));
        board.begin(start);
        for name in nodes {
            let place = Place {
                name: (*name).to_owned(),
                ..Place::default()
            };
            board.set_node(place, start);
        }
        Bench {
            board,
            start,
            now: start,
            agents: BTreeMap::new(),
            version: 100,
            writes: Vec::new(),
        }
    }

    fn create(&mut self, spec: serde_json::Value, generation: i64) {
        let known = self.board.filter("u1").cloned();
        self.version += 1;
        let object = Object {
            version: self.version.to_string(),
            status: known.and_then(|known| known.status),
            ..read(spec, generation)
        };
        self.board.set_filter(object, self.now);
    }

    fn report(&mut self, node: &str, generation: i64, programmed: bool) {
        let state = FilterState {
            uid: "u1".into(),
            observed_generation: generation,
            programmed,
            reason: if programmed { "" } else { "TablesExhausted" }.into(),
            pods: 1,
            ..FilterState::default()
        };
        let report = NodeReport {
            filters: vec![state],
            ..NodeReport::default()
        };
        let agent = Agent {
            present: true,
            heard: self.now.into_std(),
            report: Arc::new(report),
        };
        self.agents.insert(node.to_owned(), agent);
        self.tell();
    }

    fn leave(&mut self, node: &str) {
        if let Some(agent) = self.agents.get_mut(node) {
            agent.present = false;
        }
        self.tell();
    }

    fn tell(&mut self) {
        let agents = self.agents.clone().into_iter().collect();
        self.board.set_agents(agents, 8 * SECOND, self.now);
    }

    /// Lets time pass, with agents that are there heard from every second; writes what is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for agent in self.agents.values_mut().filter(|agent| agent.present) {
                agent.heard = self.now.into_std();
            }
            self.tell();
            let wall = Timestamp::from_second(1_000_000 + (self.now - self.start).as_secs() as i64);
            let (writes, next) = self.board.plan(self.now, wall.unwrap(), 8);
            for write in writes {
                self.write(write);
            }
            if self.now >= end {
                return;
            }
            let second = self.now + SECOND;
            self.now = next.unwrap_or(second).min(second).min(end);
        }
    }

    fn write(&mut self, write: Write) {
        let at = self.now - self.start;
        let summary = write.status.nodes.as_ref().unwrap().summary.clone();
        self.writes.push((at, summary));
        self.version += 1;
        let object = Object {
            version: self.version.to_string(),
            status: Some(write.status),
            ..write.object
        };
        self.board
            .answered("u1", Answer::Written(Box::new(object)), self.now);
    }

    fn summaries(&self) -> Vec<&str> {
        self.writes.iter().map(|(_, said)| said.as_str()).collect()
    }

    fn status(&self) -> FilterStatus {
        self.board.filter("u1").unwrap().status.clone().unwrap()
    }
}

#[test]
fn a_good_filter_is_told_in_one_write_as_soon_as_all_nodes_have_it() {
    let mut bench = Bench::new(&["n1", "n2", "n3"]);
    for node in ["n1", "n2", "n3"] {
        bench.report(node, 0, false);
    }
    bench.create(good(), 1);
    for node in ["n1", "n2", "n3"] {
        bench.pass(30 * MILLISECOND);
        assert!(bench.writes.is_empty());
        bench.report(node, 1, true);
    }
    bench.pass(60 * SECOND);
    assert_eq!(bench.writes, [(90 * MILLISECOND, "3/3".to_owned())]);
    assert!(
        bench
            .status()
            .conditions
            .iter()
            .all(|one| one.status == "True")
    );
}

#[test]
fn what_takes_longer_is_told_after_half_a_second_and_again_when_it_is_done() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.report("n2", 0, true);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    bench.pass(SECOND);
    bench.report("n2", 1, true);
    bench.pass(10 * SECOND);
    let expected = [(500 * MILLISECOND, "1/2"), (2500 * MILLISECOND, "2/2")];
    assert_eq!(
        bench.writes,
        expected.map(|(at, said)| (at, said.to_owned()))
    );
}

#[test]
fn a_node_that_fails_and_returns_is_told_within_ten_seconds() {
    let mut bench = Bench::new(&["n1", "n2"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    bench.report("n2", 1, true);
    bench.pass(100 * SECOND);
    bench.leave("n2");
    let left = bench.now;
    bench.pass(10 * SECOND);
    assert_eq!(bench.summaries(), ["2/2", "1/2"]);
    let failure = &bench.status().failures[0];
    assert_eq!(
        (failure.node.as_str(), failure.reason.as_str()),
        ("n2", "AgentMissing")
    );
    assert!(bench.writes[1].0 < left - bench.start + 10 * SECOND);
    bench.pass(100 * SECOND);
    bench.report("n2", 1, true);
    bench.pass(10 * SECOND);
    assert_eq!(bench.summaries(), ["2/2", "1/2", "2/2"]);
}

#[test]
fn an_agent_that_only_reconnects_is_nothing_to_tell() {
    let mut bench = Bench::new(&["n1"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    bench.pass(60 * SECOND);
    bench.leave("n1");
    bench.pass(4 * SECOND);
    bench.report("n1", 1, true);
    bench.pass(60 * SECOND);
    assert_eq!(bench.summaries(), ["1/1"]);
}

#[test]
fn an_agent_with_a_stream_that_falls_silent_is_missing() {
    let mut bench = Bench::new(&["n1"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    bench.pass(60 * SECOND);
    let heard = bench.now;
    while bench.now < heard + 10 * SECOND {
        bench.now += SECOND;
        let (writes, _) = bench.board.plan(bench.now, Timestamp::now(), 8);
        for write in writes {
            bench.write(write);
        }
    }
    assert_eq!(bench.summaries(), ["1/1", "0/1"]);
}

#[test]
fn a_new_holder_does_not_lower_what_the_one_before_wrote_until_agents_had_time() {
    let mut before = Bench::new(&["n1", "n2", "n3"]);
    before.create(good(), 1);
    for node in ["n1", "n2", "n3"] {
        before.report(node, 1, true);
    }
    before.pass(SECOND);
    let status = before.status();

    let mut bench = Bench::new(&["n1", "n2", "n3"]);
    let object = Object {
        status: Some(status),
        ..read(good(), 1)
    };
    bench.board.set_filter(object, bench.now);
    bench.pass(5 * SECOND);
    bench.report("n1", 1, true);
    bench.pass(20 * SECOND);
    bench.report("n2", 1, true);
    bench.pass(4 * SECOND);
    assert!(bench.writes.is_empty(), "{:?}", bench.writes);
    bench.pass(10 * SECOND);
    assert_eq!(bench.writes, [(30 * SECOND, "2/3".to_owned())]);
    bench.report("n3", 1, true);
    bench.pass(10 * SECOND);
    assert_eq!(bench.summaries(), ["2/3", "3/3"]);
}

#[test]
fn a_refused_filter_is_told_at_once() {
    let mut bench = Bench::new(&["n1"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    bench.pass(30 * SECOND);
    bench.create(bad(), 2);
    bench.pass(MILLISECOND);
    assert_eq!(bench.summaries(), ["1/1", "0/1"]);
    let status = bench.status();
    let accepted = find(&status, "Accepted").unwrap();
    assert_eq!(
        (accepted.status.as_str(), accepted.reason.as_str()),
        ("False", "UnknownSyscall")
    );
    assert!(
        accepted.message.contains("Generation 1"),
        "{}",
        accepted.message
    );
}

#[test]
fn nodes_that_the_filter_or_the_daemonset_leaves_out_do_not_count() {
    let mut bench = Bench::new(&["n1", "n2"]);
    let labelled = Place {
        name: "n3".into(),
        labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..Place::default()
    };
    bench.board.set_node(labelled, bench.now);
    let mut spec = good();
    spec["nodeSelector"] = json!({"matchLabels": {"disk": "ssd"}});
    bench.create(spec, 1);
    bench.report("n3", 1, true);
    bench.pass(SECOND);
    assert_eq!(bench.summaries(), ["1/1"]);
}

#[test]
fn a_refused_write_waits_for_the_newer_object_and_a_failed_one_for_a_while() {
    let mut bench = Bench::new(&["n1"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    let (writes, _) = bench.board.plan(bench.now, Timestamp::now(), 8);
    let version = writes[0].object.version.clone();
    bench
        .board
        .answered("u1", Answer::Outdated(version), bench.now);
    bench.pass(10 * SECOND);
    assert!(bench.writes.is_empty());
    bench.create(good(), 1);
    let (writes, _) = bench.board.plan(bench.now, Timestamp::now(), 8);
    assert_eq!(writes.len(), 1);
    bench.board.answered("u1", Answer::Failed, bench.now);
    let failed = bench.now;
    bench.pass(5 * SECOND);
    assert_eq!(bench.writes[0].0, failed - bench.start + SECOND);
}

#[test]
fn an_event_that_comes_late_does_not_undo_what_we_wrote() {
    let mut bench = Bench::new(&["n1"]);
    bench.create(good(), 1);
    bench.report("n1", 1, true);
    let late = bench.board.filter("u1").cloned().unwrap();
    bench.pass(SECOND);
    bench.board.set_filter(late, bench.now);
    bench.pass(10 * SECOND);
    assert_eq!(bench.summaries(), ["1/1"]);
}
