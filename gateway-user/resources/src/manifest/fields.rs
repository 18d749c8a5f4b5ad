//! What a type has at a place, asked of its `Deserialize` implementation: it says what it expects to the
//! deserializer before it reads any, and each struct names its fields.

use std::fmt;

use serde::{
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::steps::Step;

/// What a type expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A struct with these fields.
    Struct(&'static [&'static str]),
    /// A list.
    List,
    /// A map whose keys are texts.
    Map,
    /// A text.
    Text,
    /// True or false.
    Flag,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Anything.
    Anything,
}

/// The names of the fields of the struct at `path` in a `T`; empty if there is no struct.
pub(super) fn of<T: DeserializeOwned>(path: &[Step]) -> &'static [&'static str] {
    match shape::<T>(path) {
        Some(Shape::Struct(fields)) => fields,
        _ => &[],
    }
}

/// What `T` expects at `path`; none where it expects nothing. An element of a list is at any index, a value
/// of a map at any key.
pub(crate) fn shape<T: DeserializeOwned>(path: &[Step]) -> Option<Shape> {
    let mut found = None;
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
    found: &'p mut Option<Shape>,
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

impl Probe<'_> {
    /// At the end of the path: notes what is expected there; before: goes on.
    fn expected<'de, V: Visitor<'de>>(self, shape: Shape, visitor: V) -> Result<V::Value, Done> {
        match self.path.first() {
            Some(Step::Key(_)) => visitor.visit_map(self),
            Some(Step::Index(_)) => visitor.visit_seq(self),
            None => {
                *self.found = Some(shape);
                Err(Done)
            }
        }
    }
}

macro_rules! expect {
    ($($method:ident: $shape:ident,)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
            self.expected(Shape::$shape, visitor)
        }
    )+};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Done;

    expect! {
        deserialize_any: Anything,
        deserialize_bool: Flag,
        deserialize_i8: Integer,
        deserialize_i16: Integer,
        deserialize_i32: Integer,
        deserialize_i64: Integer,
        deserialize_u8: Integer,
        deserialize_u16: Integer,
        deserialize_u32: Integer,
        deserialize_u64: Integer,
        deserialize_f32: Number,
        deserialize_f64: Number,
        deserialize_str: Text,
        deserialize_string: Text,
        deserialize_seq: List,
        deserialize_map: Map,
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Done> {
        self.expected(Shape::Struct(fields), visitor)
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
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
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
