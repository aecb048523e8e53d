//! Whether a batch is what the protocol says, so that nothing after the store meets one that is not.
//!
//! Events are not decoded for it: they are walked along a table made of the schema, which allocates nothing
//! (what it costs, the ignored test `what_checking_costs` prints). Fields and kinds newer than this build pass:
//! agents may be one version ahead.

use std::{collections::HashMap, sync::LazyLock};

use bytes::{Buf as _, Bytes};
use ebpf_hello_proto::{Duration, Timestamp, time::MAX_DURATION_SECONDS, wire};
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_reflect::{Kind, MessageDescriptor};

use crate::{refusal::Invalid, schema};

/// Largest batch, encoded.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// Most events of a batch, and most parts of one kind.
pub const MAX_EVENTS: usize = 65_536;
/// Deepest nesting of messages in an event.
const MAX_DEPTH: usize = 16;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: `google/protobuf/timestamp.proto`.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// Field numbers of `Event` and `Policy`.
mod tag {
    pub(super) const NODE: u32 = 2;
    pub(super) const EPOCH: u32 = 5;
    pub(super) const PROCESS: u32 = 7;
    pub(super) const POD: u32 = 8;
    pub(super) const POLICY: u32 = 9;
    pub(super) const SUPPRESSED_SINCE_LAST: u32 = 5;
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Holds {
    /// A number of that wire type; packed where it is a list.
    Number(WireType),
    Text,
    Bytes,
    /// A message, by its place in the table.
    Message(usize),
}

/// A message of the schema.
#[derive(Debug, Default)]
struct Shape {
    /// By field number.
    fields: Vec<Option<Holds>>,
    span: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Span {
    #[default]
    None,
    Timestamp,
    Duration,
}

#[derive(Debug)]
struct Table {
    shapes: Vec<Shape>,
    event: usize,
    process: usize,
    pod: usize,
    policy: usize,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// Decodes a batch as far as the store needs, and checks the rest.
///
/// # Errors
/// The first field that is not as the protocol says.
pub(super) fn batch(bytes: &Bytes) -> Result<wire::Batch, Invalid> {
    let wrong = |field: String, what: String| Invalid::new(format!("batch{field}"), what);
    if bytes.len() > MAX_BATCH_BYTES {
        let what = format!("{} bytes: expected at most {MAX_BATCH_BYTES}", bytes.len());
        return Err(wrong(String::new(), what));
    }
    let batch = wire::Batch::decode(bytes.clone())
        .map_err(|error| wrong(String::new(), format!("no Batch: {error}")))?;
    for (field, number) in [(".epoch", batch.epoch), (".number", batch.number)] {
        if number == 0 {
            return Err(wrong(field.into(), "0: expected 1 or more".into()));
        }
    }
    let table = &*TABLE;
    for (field, parts, shape) in [
        (".processes", &batch.processes, table.process),
        (".pods", &batch.pods, table.pod),
        (".policies", &batch.policies, table.policy),
    ] {
        bounded(field, parts.len())?;
        for (index, part) in parts.iter().enumerate() {
            table
                .walk(shape, part, 0)
                .map_err(|what| wrong(format!("{field}[{index}]"), what))?;
        }
    }
    bounded(".events", batch.events.len())?;
    if batch.events.is_empty() {
        return Err(wrong(".events".into(), "empty: expected an event".into()));
    }
    for (index, event) in batch.events.iter().enumerate() {
        let wrong = |field: &str, what: String| wrong(format!(".events[{index}]{field}"), what);
        for (field, part, parts) in [
            (".process", event.process, batch.processes.len()),
            (".pod", event.pod, batch.pods.len()),
            (".policy", event.policy, batch.policies.len()),
        ] {
            if part as usize > parts {
                return Err(wrong(field, format!("{part}: the batch has {parts}")));
            }
        }
        table
            .walk_event(&event.event)
            .map_err(|what| wrong(".event", what))?;
    }
    Ok(batch)
}

fn bounded(field: &str, length: usize) -> Result<(), Invalid> {
    if length <= MAX_EVENTS {
        return Ok(());
    }
    Err(Invalid::new(
        format!("batch{field}"),
        format!("{length}: expected at most {MAX_EVENTS}"),
    ))
}

// === impl Table ===

impl Table {
    fn new() -> Self {
        let mut table = Table {
            shapes: Vec::new(),
            event: 0,
            process: 0,
            pod: 0,
            policy: 0,
        };
        let mut places = HashMap::new();
        table.event = table.add(schema::event(), &mut places);
        let of = |name: &str| places.get(name).copied().unwrap_or_default();
        table.process = of("ebpfhello.v1.Process");
        table.pod = of("ebpfhello.v1.Pod");
        table.policy = of("ebpfhello.v1.Policy");
        table
    }

    fn add(&mut self, message: &MessageDescriptor, places: &mut HashMap<String, usize>) -> usize {
        if let Some(place) = places.get(message.full_name()) {
            return *place;
        }
        let place = self.shapes.len();
        places.insert(message.full_name().to_owned(), place);
        self.shapes.push(Shape::default());
        let mut fields = Vec::new();
        for field in message.fields() {
            let holds = match field.kind() {
                Kind::Message(of) => Holds::Message(self.add(&of, places)),
                Kind::String => Holds::Text,
                Kind::Bytes => Holds::Bytes,
                Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                    Holds::Number(WireType::SixtyFourBit)
                }
                Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                    Holds::Number(WireType::ThirtyTwoBit)
                }
                _ => Holds::Number(WireType::Varint),
            };
            let number = field.number() as usize;
            if fields.len() <= number {
                fields.resize(number + 1, None);
            }
            fields[number] = Some(holds);
        }
        self.shapes[place] = Shape {
            fields,
            span: match message.full_name() {
                "google.protobuf.Timestamp" => Span::Timestamp,
                "google.protobuf.Duration" => Span::Duration,
                _ => Span::None,
            },
        };
        place
    }

    /// An event of a batch: what it shares with others is not in it.
    fn walk_event(&self, event: &[u8]) -> Result<(), String> {
        self.walk(self.event, event, 0)?;
        let mut rest = event;
        while !rest.is_empty() {
            let not = |_| "not an Event".to_owned();
            let (number, wire_type) = decode_key(&mut rest).map_err(not)?;
            match number {
                tag::NODE => return Err("has a node: it is the batch's".into()),
                tag::EPOCH => return Err("has an epoch: it is the batch's".into()),
                tag::PROCESS => return Err("has a process: name it by its place".into()),
                tag::POD => return Err("has a pod: name it by its place".into()),
                tag::POLICY => own_policy(delimited(&mut rest)?)?,
                _ => skip_field(wire_type, number, &mut rest, DecodeContext::default())
                    .map_err(not)?,
            }
        }
        Ok(())
    }

    fn walk(&self, shape: usize, message: &[u8], depth: usize) -> Result<(), String> {
        let not = |_| "not the message it should be".to_owned();
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let shape = &self.shapes[shape];
        let mut rest = message;
        while !rest.is_empty() {
            let (number, wire_type) = decode_key(&mut rest).map_err(not)?;
            let holds = shape.fields.get(number as usize).copied().flatten();
            match (holds, wire_type) {
                (Some(Holds::Text), WireType::LengthDelimited) => {
                    std::str::from_utf8(delimited(&mut rest)?)
                        .map_err(|_| format!("field {number}: not UTF-8"))?;
                }
                (Some(Holds::Bytes), WireType::LengthDelimited) => {
                    delimited(&mut rest)?;
                }
                (Some(Holds::Message(place)), WireType::LengthDelimited) => {
                    self.walk(place, delimited(&mut rest)?, depth + 1)?;
                }
                (Some(Holds::Number(WireType::Varint)), WireType::LengthDelimited) => {
                    let mut packed = delimited(&mut rest)?;
                    while !packed.is_empty() {
                        decode_varint(&mut packed).map_err(not)?;
                    }
                }
                (Some(Holds::Number(_)), WireType::LengthDelimited) => {
                    delimited(&mut rest)?;
                }
                (Some(Holds::Number(expected)), found) if expected != found => {
                    return Err(format!("field {number}: {found:?} where a number belongs"));
                }
                (Some(Holds::Number(_)) | None, _) => {
                    skip_field(wire_type, number, &mut rest, DecodeContext::default())
                        .map_err(not)?;
                }
                (Some(_), found) => {
                    return Err(format!("field {number}: {found:?} where bytes belong"));
                }
            }
        }
        // What JSON could not print.
        let printable = match shape.span {
            Span::None => true,
            Span::Timestamp => Timestamp::decode(message).is_ok_and(|time| {
                TIMESTAMP_SECONDS.contains(&time.seconds)
                    && (0..NANOS_PER_SECOND).contains(&time.nanos)
            }),
            Span::Duration => Duration::decode(message).is_ok_and(|span| {
                (-MAX_DURATION_SECONDS..=MAX_DURATION_SECONDS).contains(&span.seconds)
                    && (1 - NANOS_PER_SECOND..NANOS_PER_SECOND).contains(&span.nanos)
                    && span.seconds.signum() * i64::from(span.nanos.signum()) >= 0
            }),
        };
        if printable {
            Ok(())
        } else {
            Err("a time out of protobuf's range".into())
        }
    }
}

fn own_policy(policy: &[u8]) -> Result<(), String> {
    let mut rest = policy;
    while !rest.is_empty() {
        let not = |_| "not a Policy".to_owned();
        let (number, wire_type) = decode_key(&mut rest).map_err(not)?;
        if number < tag::SUPPRESSED_SINCE_LAST {
            return Err("has a policy of its own: name it by its place".into());
        }
        skip_field(wire_type, number, &mut rest, DecodeContext::default()).map_err(not)?;
    }
    Ok(())
}

fn delimited<'m>(rest: &mut &'m [u8]) -> Result<&'m [u8], String> {
    let cut = || "cut short".to_owned();
    let length = decode_varint(rest).map_err(|_| cut())?;
    let length = usize::try_from(length).map_err(|_| cut())?;
    let part = rest.get(..length).ok_or_else(cut)?;
    rest.advance(length);
    Ok(part)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
