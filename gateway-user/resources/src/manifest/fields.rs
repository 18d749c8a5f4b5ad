//! Which fields a type has at a place, asked of its `Deserialize` implementation: each struct names
//! its fields to the deserializer before it reads any.

use std::fmt;

use serde::{
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::steps::Step;

/// The names of the fields of the struct at `path` in a `T`; empty if there is no struct.
pub(super) fn of<T: DeserializeOwned>(path: &[Step]) -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    let probe = Probe {
        path,
        found: &mut found,
    };
    // Always an error: the probe has no values to give.
    drop(T::deserialize(probe));
    found
}

/// A deserializer that holds exactly the one path, and nothing at its end.
struct Probe<'p> {
    path: &'p [Step],
    found: &'p mut &'static [&'static str],
}

/// The probe is where it wanted to be, or cannot get there.
#[derive(Debug)]
struct Done;

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }
}

impl std::error::Error for Done {}

impl serde::de::Error for Done {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Done;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        match self.path.first() {
            Some(Step::Key(_)) => visitor.visit_map(self),
            Some(Step::Index(_)) => visitor.visit_seq(self),
            None => Err(Done),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Done> {
        if self.path.is_empty() {
            *self.found = fields;
            return Err(Done);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Done> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Done;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Done> {
        match self.path.first() {
            Some(Step::Key(key)) => seed.deserialize(StrDeserializer::new(key)).map(Some),
            _ => Err(Done),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Done> {
        let probe = Probe {
            path: self.path.get(1..).ok_or(Done)?,
            found: &mut *self.found,
        };
        seed.deserialize(probe)
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Done;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Done> {
        let probe = Probe {
            path: self.path.get(1..).ok_or(Done)?,
            found: &mut *self.found,
        };
        seed.deserialize(probe).map(Some)
    }
}
