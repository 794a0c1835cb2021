//! JSON as it is signed: the OLPC canonical form.
//!
//! Keys ascending by their UTF-8 bytes, no space, integers only, in strings nothing escaped but `"` and `\`.
//! The form is defined for fewer texts than JSON is: numbers with a fraction or an exponent, integers beyond
//! 64 bits and objects that name a key twice are refused, so that no two readers can see two documents in
//! the same bytes.

use std::{collections::BTreeMap, fmt, io::Write as _};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// A JSON text that has a canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` and `false`.
    Bool(bool),
    /// An integer that fits into 64 bits, with or without sign.
    Integer(i128),
    /// A string.
    Text(Box<str>),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(BTreeMap<Box<str>, Self>),
}

impl Json {
    /// The canonical bytes.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    // The depth is bounded by the parser's.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Integer(number) => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{number}");
            }
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(fields) => {
                out.push(b'{');
                for (at, (key, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_text(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON that has a canonical form")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Err(E::custom(format_args!("`{value}` is not an integer of 64 bits")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(key) = access.next_key::<Box<str>>()? {
            let value = access.next_value()?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` is there twice")));
            }
            fields.insert(key, value);
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let canonical = serde_json::from_str::<Json>(text).ok().map(|json| json.canonical());
        assert_eq!(canonical.map(|bytes| String::from_utf8(bytes).unwrap()).as_deref(), expected, "{text}");
    }

    #[test]
    fn the_canonical_form_is_the_one_the_reference_implementation_gives() {
        check(
            r#" { "b" : [ 1 , null, true,false ] , "a" : "x" } "#,
            Some(r#"{"a":"x","b":[1,null,true,false]}"#),
        );
        check(r#"{"a":{},"b":[]}"#, Some(r#"{"a":{},"b":[]}"#));
        check(r#""q\" b\\ \/ \u00e9 \u0041""#, Some(r#""q\" b\\ / é A""#));
        check("\"tab\\tline\\nend\"", Some("\"tab\tline\nend\""));
        check("-9223372036854775808", Some("-9223372036854775808"));
        check("18446744073709551615", Some("18446744073709551615"));
        // U+FFFF comes before U+10000 in UTF-8, not in UTF-16.
        check("{\"\\ud800\\udc00\":1,\"\\uffff\":2}", Some("{\"\u{ffff}\":2,\"\u{10000}\":1}"));
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for text in [
            "1.5",
            "1.0",
            "1e3",
            "-0.0",
            "18446744073709551616",
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
        ] {
            check(text, None);
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        check(&"[".repeat(100_000), None);
        check(&r#"{"a":"#.repeat(100_000), None);
    }
}
