//! A filter before it is known to be one: plain data, each piece with its place in the file.
//!
//! Files and the API server's objects both become a [`Node`], so that one validation serves both;
//! only a file's nodes have places. Nothing is lost on the way in (repeated keys, unknown keys,
//! tags), because each is a mistake that somebody wants to be told about with all the others.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Spanned, Tagged};

use crate::problem::{Path, Step};

/// Stands for an unquoted `@` that was reported and then read over; see [`crate::read`].
pub(crate) const READ_OVER: char = '\u{F8FF}';

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// In characters, from 1.
    pub column: u64,
}

/// A value, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Option<Place>,
    /// A YAML tag of our users' own (`!open`), which is always a mistake.
    pub(crate) tag: Option<String>,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A field of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Option<Place>,
    pub(crate) value: Node,
}

// === impl Node ===

impl Node {
    /// The first field `key`, if this is a map and has one.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The items, if this is a list.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The text, if this is a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where the value at `path` is, or its key; if it is missing, the nearest thing around it.
    pub(crate) fn place_of(&self, path: &Path, on_key: bool) -> Option<Place> {
        let mut node = self;
        let mut place = self.place;
        for (position, step) in path.0.iter().enumerate() {
            let last = position + 1 == path.0.len();
            node = match step {
                Step::Index(index) => match node.items().get(*index) {
                    Some(item) => item,
                    None => return place,
                },
                Step::Key(key) => match node.entry(key) {
                    // The last of repeated keys is the one too many.
                    Some(_) if last && on_key => {
                        return node
                            .entries()
                            .iter()
                            .rfind(|entry| entry.key == *key)
                            .and_then(|e| e.key_place);
                    }
                    Some(entry) => &entry.value,
                    None => return place,
                },
            };
            place = node.place;
        }
        place
    }

    /// The same as JSON, without places, tags and repeated keys.
    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    map.entry(entry.key.clone())
                        .or_insert_with(|| entry.value.to_json());
                }
                Value::Object(map)
            }
        }
    }

    /// Makes every [`READ_OVER`] the `@` it stands for.
    pub(crate) fn restore_at_signs(&mut self) {
        match &mut self.content {
            Content::Text(text) => *text = text.replace(READ_OVER, "@"),
            Content::List(items) => items.iter_mut().for_each(Node::restore_at_signs),
            Content::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| entry.value.restore_at_signs()),
            Content::Null | Content::Bool(_) | Content::Number(_) => {}
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(value),
            Value::Number(value) => Content::Number(value),
            Value::String(text) => Content::Text(text),
            Value::Array(items) => Content::List(items.into_iter().map(Node::from).collect()),
            Value::Object(map) => Content::Map(
                map.into_iter()
                    .map(|(key, value)| Entry {
                        key,
                        key_place: None,
                        value: Node::from(value),
                    })
                    .collect(),
            ),
        };
        Node {
            place: None,
            tag: None,
            content,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tagged<Content>>::deserialize(deserializer)?;
        let Tagged(content, tag) = spanned.value;
        let tag = tag.filter(|tag| is_own(tag));
        let mut place = place(spanned.referenced);
        // A tag with nothing after it is placed at its end; its author looks at its start.
        if let (Some(tag), Content::Null, Some(place)) = (&tag, &content, &mut place) {
            place.column = place
                .column
                .saturating_sub(tag.chars().count() as u64)
                .max(1);
        }
        Ok(Node {
            place,
            tag,
            content,
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        // Infinity and NaN are no JSON numbers; as text they are told to be of the wrong type.
        Ok(Number::from_f64(value)
            .map_or_else(|| Content::Text(value.to_string()), Content::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry {
                key: key.value,
                key_place: place(key.referenced),
                value,
            });
        }
        Ok(Content::Map(entries))
    }
}

fn place(location: serde_saphyr::Location) -> Option<Place> {
    (location.line() > 0).then(|| Place {
        line: location.line(),
        column: location.column(),
    })
}

/// Not one of YAML's own (`!!str`), which say nothing new.
fn is_own(tag: &str) -> bool {
    !tag.starts_with("tag:yaml.org,2002:") && !tag.starts_with("!!") && tag != "!"
}
