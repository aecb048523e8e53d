//! The fields of an event that a CEL expression reads, as CEL's values.
//!
//! Each is found by its path once, when the expression is compiled; per event only these are looked up.

use std::{collections::HashMap, sync::Arc};

use cel::{Value, objects::Key};
use chrono::{DateTime, TimeDelta};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value as Field,
};

use crate::schema;

const TIMESTAMP: &str = "google.protobuf.Timestamp";
const DURATION: &str = "google.protobuf.Duration";

/// What an expression asks of one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    /// From the event down; never empty.
    path: Vec<FieldDescriptor>,
    /// Whether it is set, not what it is.
    presence: bool,
}

// === impl Ask ===

impl Ask {
    /// The longest beginning of `event.names…` that is a field, and how many names it takes: what follows
    /// a map's or a list's name is CEL's.
    ///
    /// # Errors
    /// A sentence that says which name is none.
    pub(super) fn resolve(names: &[String], presence: bool) -> Result<(Ask, usize), String> {
        let mut message = schema::event().clone();
        let mut path = Vec::new();
        for name in names {
            // As CEL has it: only the name in the .proto.
            let field = message.get_field_by_name(name).ok_or_else(|| {
                match schema::field(&message, name) {
                    Ok(field) => format!(
                        "{} has no field {name:?}: it is called {:?} here",
                        message.name(),
                        field.name()
                    ),
                    Err(error) => error,
                }
            })?;
            let next = match field.kind() {
                Kind::Message(next) if !field.is_list() && !field.is_map() => Some(next),
                _ => None,
            };
            path.push(field);
            match next {
                Some(next) if ![TIMESTAMP, DURATION].contains(&next.full_name()) => message = next,
                _ => break,
            }
        }
        let whole = path.len() == names.len();
        let Some(last) = path.last() else {
            return Err("event is a message: name one of its fields".into());
        };
        let is_message = matches!(last.kind(), Kind::Message(ref kind)
            if !last.is_list() && !last.is_map() && ![TIMESTAMP, DURATION].contains(&kind.full_name()));
        if is_message && !presence {
            return Err(format!(
                "{} is a message: name one of its fields, or ask has(event.{})",
                names.join("."),
                names.join(".")
            ));
        }
        if !whole && !last.is_map() {
            return Err(format!("{:?} has no fields", last.name()));
        }
        let used = path.len();
        Ok((
            Ask {
                path,
                // Of a map it is the key that is asked for.
                presence: presence && whole,
            },
            used,
        ))
    }

    /// The answer for one event. What is not set has its type's default, as in protobuf.
    pub(super) fn answer(&self, event: &DynamicMessage) -> Value {
        let Some((last, parents)) = self.path.split_last() else {
            return Value::Null;
        };
        let mut message = std::borrow::Cow::Borrowed(event);
        for parent in parents {
            if !message.has_field(parent) {
                return if self.presence {
                    Value::Bool(false)
                } else {
                    value(last, &Field::default_value_for_field(last))
                };
            }
            let next = match message.get_field(parent).as_ref() {
                Field::Message(next) => next.clone(),
                _ => return Value::Null,
            };
            message = std::borrow::Cow::Owned(next);
        }
        if self.presence {
            Value::Bool(message.has_field(last))
        } else {
            value(last, &message.get_field(last))
        }
    }
}

/// Integers are all CEL's int: 64 bits as they are, so that what is beyond 2^63 comes out negative, like a
/// call's argument -1. Enums are their names.
fn value(field: &FieldDescriptor, of: &Field) -> Value {
    match of {
        Field::Bool(it) => Value::Bool(*it),
        Field::I32(it) => Value::Int(i64::from(*it)),
        Field::I64(it) => Value::Int(*it),
        Field::U32(it) => Value::Int(i64::from(*it)),
        Field::U64(it) => Value::Int(it.cast_signed()),
        Field::F32(it) => Value::Float(f64::from(*it)),
        Field::F64(it) => Value::Float(*it),
        Field::String(it) => Value::String(Arc::new(it.clone())),
        Field::Bytes(it) => Value::Bytes(Arc::new(it.to_vec())),
        Field::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => kind
                .get_value(*number)
                .map_or(Value::Int(i64::from(*number)), |value| {
                    Value::String(Arc::new(value.name().to_owned()))
                }),
            _ => Value::Int(i64::from(*number)),
        },
        Field::List(items) => Value::List(Arc::new(
            items.iter().map(|item| value(field, item)).collect(),
        )),
        Field::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, item)| {
                    let key = match key {
                        MapKey::String(key) => Key::from(key.as_str()),
                        MapKey::Bool(key) => Key::from(*key),
                        MapKey::I32(key) => Key::from(*key),
                        MapKey::I64(key) => Key::from(*key),
                        MapKey::U32(key) => Key::from(i64::from(*key)),
                        MapKey::U64(key) => Key::from(key.cast_signed()),
                    };
                    (key, value(field, item))
                })
                .collect::<HashMap<Key, Value>>()
                .into(),
        ),
        Field::Message(it) => message(it),
    }
}

fn message(of: &DynamicMessage) -> Value {
    let descriptor = of.descriptor();
    let number = |name: &str| match of.get_field_by_name(name).as_deref() {
        Some(Field::I64(it)) => *it,
        Some(Field::I32(it)) => i64::from(*it),
        _ => 0,
    };
    // Nanoseconds are below 10^9 in what agents make; anything else is cut to that.
    let nanos = u32::try_from(number("nanos").clamp(0, 999_999_999)).unwrap_or(0);
    match descriptor.full_name() {
        TIMESTAMP => DateTime::from_timestamp(number("seconds"), nanos)
            .map_or(Value::Null, |time| Value::Timestamp(time.fixed_offset())),
        DURATION => TimeDelta::new(number("seconds"), nanos).map_or(Value::Null, Value::Duration),
        _ => Value::Map(
            descriptor
                .fields()
                .map(|field| {
                    let item = value(&field, &of.get_field(&field));
                    (Key::from(field.name()), item)
                })
                .collect::<HashMap<Key, Value>>()
                .into(),
        ),
    }
}
