//! `invalidate`: drops what is cached of keys, of tags, or of a whole group, on every node.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use larder_core::Group;
use serde::Deserialize;

use super::problem::Problem;

/// What a client wants to be gone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unwanted {
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    keys_b64: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    all: bool,
}

/// Does what the request's body asks for. Each part of it may take as long as `left` says then.
pub(super) async fn carry_out(group: &Group, body: &[u8], left: impl Fn() -> Duration) -> Result<(), Problem> {
    let Unwanted { keys, keys_b64, tags, all } = parse(body)?;
    let decoded = keys_b64.iter().map(|key| {
        STANDARD.decode(key).map_err(|_| Problem::bad_request("One of keys_b64 is not Base64, padded (RFC 4648)."))
    });
    let keys = keys.into_iter().map(|key| Ok(key.into_bytes())).chain(decoded).collect::<Result<Vec<_>, Problem>>()?;
    if all {
        group.invalidate_all(left()).await?;
    }
    if !tags.is_empty() {
        let trimmed: Vec<&[u8]> = tags.iter().map(|tag| tag.as_bytes().trim_ascii()).collect();
        group.invalidate_tags(&trimmed, left()).await?;
    }
    Ok(group.invalidate_many(&keys, left()).await?)
}

fn parse(body: &[u8]) -> Result<Unwanted, Problem> {
    let wrong = |reason: &str| {
        let examples = r#"{"keys":["a","b"]}, {"tags":["c"]} or {"all":true}"#;
        Problem::bad_request(format!("The body must be JSON like {examples}: {reason}."))
    };
    if !body.trim_ascii_start().starts_with(b"{") {
        // serde would take a list for an object without names.
        return Err(wrong("this is no object"));
    }
    let unwanted: Unwanted = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
    let Unwanted { keys, keys_b64, tags, all } = &unwanted;
    if keys.is_empty() && keys_b64.is_empty() && tags.is_empty() && !all {
        return Err(wrong("it names nothing"));
    }
    Ok(unwanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_or_something_unknown_is_refused() {
        for body in ["", "[]", "{}", r#"{"all":false}"#, r#"{"keys":[]}"#, r#"{"keys":[1]}"#, r#"{"everything":true}"#]
        {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        for body in [r#"{"all":true}"#, r#"{"keys":["a"]}"#, r#"{"keys_b64":["_"]}"#, r#" {"tags":["a"]}"#] {
            assert!(parse(body.as_bytes()).is_ok(), "{body}");
        }
    }
}
