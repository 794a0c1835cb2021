//! JSON objects whose keys come in the order in which they were declared.

use std::fmt;

use serde::{Serialize, Serializer};

use super::value::Value;

/// An object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object(pub(crate) Vec<(&'static str, Part)>);

/// A value in it.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Value(Value),
    Objects(Vec<Object>),
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, part)| (name, part)))
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Objects(objects) => objects.serialize(serializer),
        }
    }
}

/// On one line.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}
