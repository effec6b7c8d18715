//! `env:NAME` and `file:PATH`: values that stand elsewhere, so that no secret need stand in the configuration.

use std::{env, fs::File, io::Read};

use super::document::Value;

/// The longest text taken from a file: keys and tokens are short, and a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What `value` stands for: itself, unless it is text that names another place.
///
/// # Errors
///
/// A sentence that says what is missing.
pub(super) fn follow(value: &Value) -> Result<Option<Value>, String> {
    let (Value::Text(text) | Value::Plain(text)) = value else { return Ok(None) };
    let fetched = if let Some(name) = text.strip_prefix("env:") {
        variable(name)?
    } else if let Some(path) = text.strip_prefix("file:") {
        contents(path)?
    } else {
        return Ok(None);
    };
    Ok(Some(Value::Fetched { text: fetched, source: text.clone() }))
}

fn variable(name: &str) -> Result<String, String> {
    // `env::var` takes any name, but these can't be set.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("expected the name of an environment variable after \"env:\", but found {name:?}"));
    }
    match env::var(name) {
        Ok(text) => Ok(text),
        Err(env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set: set it")),
        Err(env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} does not hold UTF-8 text")),
    }
}

/// The file's text without the line break at its end, which editors and `echo` leave there.
fn contents(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("the file {path:?} can't be read: {error}")),
        Ok(len) if len as u64 > FILE_BYTES_MAX => {
            Err(format!("the file {path:?} is too long: {FILE_BYTES_MAX} bytes is the most"))
        }
        Ok(_) => {
            let end = text.strip_suffix('\n').map_or(text.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
            text.truncate(end);
            Ok(text)
        }
    }
}
