//! Documents as Go reads them: the names of fields in any case.
//!
//! [`Lenient`] is a JSON value that gives a structure its fields under the names that the structure has for them.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// A value that is to be read.
pub(crate) struct Lenient(pub Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A field that is there under its own name wins over others.
fn renamed(object: Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    let (mut exact, mut others) = (Map::new(), Vec::new());
    for (key, value) in object {
        match fields.contains(&key.as_str()) {
            true => drop(exact.insert(key, value)),
            false => others.push((key, value)),
        }
    }
    for (key, value) in others {
        let name = fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
        exact.entry(name.map_or(key, |name| (*name).to_owned())).or_insert(value);
    }
    exact
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(object) => {
                let pairs = object.into_iter().map(|(key, value)| (key, Self(value)));
                visitor.visit_map(MapDeserializer::new(pairs))
            }
            Value::Array(list) => {
                let mut list = SeqDeserializer::new(list.into_iter().map(Self));
                let read = visitor.visit_seq(&mut list)?;
                list.end().map(|()| read)
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(object) => Self(Value::Object(renamed(object, fields))).deserialize_any(visitor),
            Value::Array(_) => Err(Self::Error::custom("expected an object, found a list")),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use knarr_engine::models::{ContainerCreateBody, ExecConfig};
    use serde::Deserialize;
    use serde_json::json;

    use super::Lenient;

    #[test]
    fn names_of_fields_may_be_in_any_case() {
        let exec = ExecConfig::deserialize(Lenient(json!({ "detachKeys": "ctrl-x", "CMD": ["a"] }))).unwrap();
        assert_eq!((exec.detach_keys.as_deref(), exec.cmd), (Some("ctrl-x"), Some(vec!["a".to_owned()])));
        let body = json!({ "image": "bb", "Image": "own", "hostconfig": { "memory": 5, "restartPolicy": { "name": "always" } },
            "Labels": { "lower": "x", "LOWER": "y" } });
        let body = ContainerCreateBody::deserialize(Lenient(body)).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!((body.image.as_deref(), host.memory), (Some("own"), Some(5)));
        assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "always");
        assert_eq!(body.labels.unwrap().len(), 2);
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for bad in [json!([]), json!({ "Memory": "x" }), json!({ "Memory": [1] })] {
            assert!(knarr_engine::models::HostConfig::deserialize(Lenient(bad.clone())).is_err(), "{bad}");
        }
    }
}
