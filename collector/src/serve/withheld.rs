//! What a reader of namespaces hears of a loss that may be others': that there was one, where and when, and not how
//! many events it took.

use ebpf_hello_proto::{v1, wire};
use prost::Message as _;

use crate::selection::shape::{Kind, Shape};

/// The loss at `index` of a batch without its count, its CPU and its sequences, which tell of everybody's events
/// together; `None` if it is no loss.
pub(super) fn withhold(batch: &wire::Batch, index: usize) -> Option<v1::Event> {
    let shape = Shape::decode(batch.events.get(index)?.event.clone()).ok()?;
    let Some(Kind::Loss(loss)) = shape.kind else {
        return None;
    };
    Some(v1::Event {
        time: shape.time,
        node: batch.node.clone(),
        epoch: batch.epoch,
        kind: Some(v1::event::Kind::Loss(v1::Loss {
            stage: loss.stage,
            reason: loss.reason,
            node: batch.node.clone(),
            count_withheld: true,
            // When only the time of the report is known, the hole ends there.
            first_time: loss.first_time,
            last_time: loss.last_time.or(shape.time),
            ..v1::Loss::default()
        })),
        ..v1::Event::default()
    })
}

#[cfg(test)]
mod tests {
    use ebpf_hello_proto::Timestamp;

    use super::*;

    #[test]
    fn neither_count_nor_cpu_nor_sequences_are_told() {
        let at = |second: u64| Some(Timestamp::from_unix_nanos(second * 1_000_000_000));
        let loss = v1::Event {
            time: at(9),
            cpu: Some(3),
            cgroup_id: 77,
            kind: Some(v1::event::Kind::Loss(v1::Loss {
                stage: v1::LossStage::Kernel.into(),
                reason: v1::LossReason::RingbufFull.into(),
                count: 4711,
                node: "n1".into(),
                first_sequence: 100,
                last_sequence: 4811,
                first_time: at(7),
                ..v1::Loss::default()
            })),
            ..v1::Event::default()
        };
        let batch = v1::Batch {
            node: "n1".into(),
            epoch: 5,
            number: 1,
            events: vec![v1::BatchedEvent {
                event: Some(loss),
                ..v1::BatchedEvent::default()
            }],
            ..v1::Batch::default()
        };
        let batch = wire::Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
        let told = v1::Event {
            time: at(9),
            node: "n1".into(),
            epoch: 5,
            kind: Some(v1::event::Kind::Loss(v1::Loss {
                stage: v1::LossStage::Kernel.into(),
                reason: v1::LossReason::RingbufFull.into(),
                node: "n1".into(),
                count_withheld: true,
                first_time: at(7),
                last_time: at(9),
                ..v1::Loss::default()
            })),
            ..v1::Event::default()
        };
        assert_eq!(withhold(&batch, 0), Some(told));
        assert_eq!(withhold(&batch, 1), None);
    }
}
