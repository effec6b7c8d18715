//! `get-many`: the values of several keys in one request.

use std::{collections::HashSet, hash::Hash};

use base64::{Engine, display::Base64Display, engine::general_purpose::STANDARD};
use larder_core::{Answer, Error, Value, group::GET_MANY_VALUES_LEN_MAX};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::problem::Problem;

/// The longest request, in bytes: a thousand keys of a thousand bytes, each byte written as six characters.
pub(super) const REQUEST_LEN_MAX: usize = 8 << 20;

/// What a client asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    keys_b64: Vec<String>,
}

impl Wanted {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let wrong = |reason: &str| {
            let example = r#"{"keys":["a","b"]}"#;
            Problem::bad_request(format!("The body must be JSON like {example}, with keys or keys_b64: {reason}."))
        };
        if !body.trim_ascii_start().starts_with(b"{") {
            // serde would take a list for an object without names.
            return Err(wrong("this is no object"));
        }
        let Self { keys, keys_b64 } = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { keys: once(keys), keys_b64: once(keys_b64) })
    }

    /// The keys' bytes, in the order in which [`answer`](Self::answer) takes the answers.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, Problem> {
        let texts = self.keys.iter().map(|key| Ok(key.clone().into_bytes()));
        let encoded = self.keys_b64.iter().map(|key| {
            STANDARD.decode(key).map_err(|_| Problem::bad_request("One of keys_b64 is not Base64, padded (RFC 4648)."))
        });
        texts.chain(encoded).collect()
    }

    /// The answer's body.
    pub(super) fn answer(&self, answers: &[Result<Answer, Error>]) -> Vec<u8> {
        self.answer_within(GET_MANY_VALUES_LEN_MAX, answers)
    }

    fn answer_within(&self, len_max: usize, answers: &[Result<Answer, Error>]) -> Vec<u8> {
        let (texts, encoded) = answers.split_at(self.keys.len().min(answers.len()));
        let mut left = len_max;
        let texts = Sorted::new(&self.keys, texts, &mut left);
        let encoded = (!self.keys_b64.is_empty()).then(|| Sorted::new(&self.keys_b64, encoded, &mut left));
        let told = Told { texts, encoded };
        // Maps of strings: there is nothing in it that could fail to be written as JSON.
        serde_json::to_vec(&told).unwrap_or_default()
    }
}

/// Each key once: an answer has one place for it.
fn once<K: Clone + Eq + Hash>(keys: Vec<K>) -> Vec<K> {
    let mut seen = HashSet::with_capacity(keys.len());
    keys.into_iter().filter(|key| seen.insert(key.clone())).collect()
}

/// Answers, sorted by what became of their keys.
#[derive(Default)]
struct Sorted<'a> {
    values: Vec<(&'a str, &'a Value)>,
    missing: Vec<&'a str>,
    errors: Vec<(&'a str, &'a str)>,
}

impl<'a> Sorted<'a> {
    fn new(keys: &'a [String], answers: &'a [Result<Answer, Error>], left: &mut usize) -> Self {
        let mut sorted = Self::default();
        for (key, answer) in keys.iter().zip(answers) {
            match answer {
                Ok(Answer { value: Some(value), .. }) => match left.checked_sub(value.len()) {
                    Some(rest) => {
                        *left = rest;
                        sorted.values.push((key, value));
                    }
                    None => sorted.errors.push((key, "the answer is full: ask for this key in another request")),
                },
                Ok(_) => sorted.missing.push(key),
                Err(error) => sorted.errors.push((key, error.message())),
            }
        }
        sorted
    }
}

struct Told<'a> {
    texts: Sorted<'a>,
    /// Only told to who asked so.
    encoded: Option<Sorted<'a>>,
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { texts, encoded } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("values", &Pairs(&texts.values, encode))?;
        map.serialize_entry("missing", &texts.missing)?;
        map.serialize_entry("errors", &Pairs(&texts.errors, as_it_is))?;
        if let Some(encoded) = encoded {
            map.serialize_entry("values_b64", &Pairs(&encoded.values, encode))?;
            map.serialize_entry("missing_b64", &encoded.missing)?;
            map.serialize_entry("errors_b64", &Pairs(&encoded.errors, as_it_is))?;
        }
        map.end()
    }
}

/// Pairs as a map, each value shown in its way.
struct Pairs<'a, V, F>(&'a [(&'a str, V)], F);

impl<'a, V, D: std::fmt::Display, F: Fn(&'a V) -> D> Serialize for Pairs<'a, V, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, &Shown(self.1(value)))?;
        }
        map.end()
    }
}

/// What is displayed, as a string; written without being gathered first.
struct Shown<D>(D);

impl<D: std::fmt::Display> Serialize for Shown<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn as_it_is<'a>(text: &'a &str) -> &'a str {
    text
}

fn encode<'a>(value: &'a &Value) -> Base64Display<'a, 'static, base64::engine::GeneralPurpose> {
    Base64Display::new(value, &STANDARD)
}

#[cfg(test)]
mod tests {
    use larder_core::{Outcome, store::Tier, version::Reading};
    use serde_json::json;

    use super::*;

    fn found(value: Option<&'static str>) -> Result<Answer, Error> {
        Ok(Answer {
            value: value.map(Value::from),
            version: None,
            load_start: Reading::default(),
            ttl_left: None,
            outcome: Outcome::Hit(Tier::Main),
        })
    }

    #[test]
    fn each_key_comes_back_under_what_became_of_it() {
        let wanted = Wanted::parse(br#"{"keys":["a","b","\u00fc"],"keys_b64":["/w==","AA==","AQ=="]}"#).unwrap();
        assert_eq!(wanted.keys().unwrap(), [&b"a"[..], b"b", "ü".as_bytes(), b"\xff", b"\0", b"\x01"]);
        let failed = || Err(Error::origin("down"));
        let answers = [found(Some("va")), found(None), failed(), found(Some("")), found(None), failed()];
        let told: serde_json::Value = serde_json::from_slice(&wanted.answer(&answers)).unwrap();
        let expected = json!({
            "values": { "a": "dmE=" }, "missing": ["b"], "errors": { "ü": "down" },
            "values_b64": { "/w==": "" }, "missing_b64": ["AA=="], "errors_b64": { "AQ==": "down" },
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn who_asks_in_text_only_is_answered_in_text_only() {
        let told = Wanted::parse(br#"{"keys":["a"]}"#).unwrap().answer(&[found(None)]);
        assert_eq!(told, br#"{"values":{},"missing":["a"],"errors":{}}"#);
    }

    #[test]
    fn a_key_that_stands_twice_is_asked_for_once() {
        let wanted = Wanted::parse(br#"{"keys":["a","b","a"]}"#).unwrap();
        assert_eq!(wanted.keys().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_such_request_is_refused_with_an_example() {
        for body in ["", "[]", "{\"keys\":\"a\"}", "{\"key\":[\"a\"]}", "{\"keys\":[1]}", "{\"keys\":[\"a\"]} x"] {
            let Err(problem) = Wanted::parse(body.as_bytes()) else { panic!("{body}") };
            assert!(problem.detail().contains(r#"{"keys":["a","b"]}"#));
        }
        assert!(Wanted::parse(b"{\"keys_b64\":[\"/w\"]}").unwrap().keys().is_err());
    }

    #[test]
    fn an_answer_that_grows_too_long_says_which_keys_to_ask_for_again() {
        let wanted = Wanted::parse(br#"{"keys":["a","b","c"]}"#).unwrap();
        let answers = [found(Some("six by")), found(Some("six by")), found(Some("four"))];
        let told: serde_json::Value = serde_json::from_slice(&wanted.answer_within(10, &answers)).unwrap();
        assert_eq!(told["values"].as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "c"]);
        assert!(told["errors"]["b"].as_str().unwrap().contains("another request"));
    }
}
