//! Types out of nodes.

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::Error;
use super::node::{Kind, Node};
use super::scalar::{Scalar, is_null};

impl<'de> Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let read = match self.kind {
            Kind::Plain(text) => match Scalar::of(text) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(word) => visitor.visit_bool(word),
                Scalar::Unsigned(number) => visitor.visit_u64(number),
                Scalar::Signed(number) => visitor.visit_i64(number),
                Scalar::Float(number) => visitor.visit_f64(number),
                Scalar::Text(text) => visitor.visit_string(text),
            },
            Kind::Text(text) => visitor.visit_string(text),
            Kind::List(nodes) => {
                let mut nodes = SeqDeserializer::new(nodes.into_iter());
                visitor.visit_seq(&mut nodes).and_then(|list| nodes.end().map(|()| list))
            }
            Kind::Map(pairs) => {
                let mut pairs = MapDeserializer::new(pairs.into_iter());
                visitor.visit_map(&mut pairs).and_then(|map| pairs.end().map(|()| map))
            }
        };
        read.map_err(|error| error.at(self.line))
    }

    /// As it was typed, whatever else it could mean. Nothing at all is no text.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind {
            Kind::Plain(text) if is_null(&text) => {
                Err(Error::invalid_type(Unexpected::Other("null"), &visitor))
            }
            Kind::Plain(text) | Kind::Text(text) => visitor.visit_string(text),
            Kind::List(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            Kind::Map(_) => Err(Error::invalid_type(Unexpected::Map, &visitor)),
        }
        .map_err(|error| error.at(self.line))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::Plain(text) if is_null(text) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// One of several words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let line = self.line;
        let read = match self.kind {
            Kind::Plain(text) | Kind::Text(text) => {
                visitor.visit_enum(StringDeserializer::<Error>::new(text))
            }
            Kind::List(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            Kind::Map(_) => Err(Error::invalid_type(Unexpected::Map, &visitor)),
        };
        read.map_err(|error| error.at(line))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
