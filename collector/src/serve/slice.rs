//! Judging the events of a batch, a slice at a time: a batch may have many, an expression may take milliseconds for
//! each, and the thread that does it serves others too.

use std::{
    num::NonZero,
    sync::LazyLock,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use ebpf_hello_proto::wire;
use tokio::sync::Semaphore;

use crate::selection::{BatchVerdict, Selector, Verdict};

/// Time after which others have their turn.
const SLICE: Duration = Duration::from_millis(5);
/// Events of a slice at most: as many as an agent's batch has, so that one of those is cut only by its time.
const MAX_EVENTS: usize = 4096;
/// Events from one look at the clock to the next: without an expression, and with one, of which most cost microseconds.
const LOOK: usize = 64;
const LOOK_EVALUATING: usize = 4;

/// Places for who evaluates expressions: half of the processors. However many streams have one, and whatever it
/// costs, the rest is left for ingest and for streams without. The process's, like its processors.
static EVALUATORS: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, NonZero::get);
    Semaphore::new((processors / 2).max(1))
});

/// The verdicts on a batch's events from one on, in their order: at least one if there is one, and no more than a
/// slice has time for. `looked` is `None` where the selector takes everything.
pub(super) async fn judge(
    selector: &Selector,
    looked: Option<&BatchVerdict>,
    batch: &wire::Batch,
    from: usize,
) -> Vec<Verdict> {
    let all = batch.events.len().saturating_sub(from);
    let most = all.min(MAX_EVENTS);
    let verdicts = match looked {
        None => vec![Verdict::Selected; most],
        Some(looked) => {
            let evaluates = selector.has_expression();
            let place = match evaluates {
                true => EVALUATORS.acquire().await.ok(), // never closed
                false => None,
            };
            let verdicts = judge_slice(selector, looked, batch, from..from + most, evaluates);
            drop(place);
            verdicts
        }
    };
    if verdicts.len() < all {
        tokio::task::yield_now().await;
    }
    verdicts
}

fn judge_slice(
    selector: &Selector,
    looked: &BatchVerdict,
    batch: &wire::Batch,
    events: std::ops::Range<usize>,
    evaluates: bool,
) -> Vec<Verdict> {
    let look = if evaluates { LOOK_EVALUATING } else { LOOK };
    let began = Instant::now();
    let mut scratch = Vec::new();
    let mut verdicts = Vec::with_capacity(events.len());
    for index in events {
        verdicts.push(selector.judge(looked, batch, index, &mut scratch));
        if verdicts.len().is_multiple_of(look) && began.elapsed() >= SLICE {
            break;
        }
    }
    verdicts
}
