//! Keys in the paths of URLs: percent-encoded once, decoded once, never normalised.
//!
//! `+` stands for itself. golang/groupcache's client writes a space as `+`, and its server reads that back as `+`: a
//! space in a key that a Go node asks for arrives as another key, at Go and Larder nodes alike.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Everything but RFC 3986's unreserved characters.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Appends `bytes` to `path`, percent-encoding all but the unreserved characters of RFC 3986, section 2.3.
///
/// ```
/// # use larder_peer::http::path;
/// let mut uri = String::from("/keys/");
/// path::encode_into(&mut uri, b"a b/\xff+~");
/// assert_eq!(uri, "/keys/a%20b%2F%FF%2B~");
/// ```
pub fn encode_into(path: &mut String, bytes: &[u8]) {
    // Writing to a string can't fail.
    let _ = write!(path, "{}", percent_encode(bytes, &RESERVED));
}

/// Decodes `path` once; `None` if a `%` isn't followed by two hexadecimal digits.
///
/// ```
/// # use larder_peer::http::path;
/// assert_eq!(path::decode("a+b%252F/..").unwrap(), b"a+b%2F/..");
/// assert_eq!(path::decode("50%"), None);
/// ```
#[must_use]
pub fn decode(path: &str) -> Option<Vec<u8>> {
    let whole = |escape: &str| escape.len() >= 2 && escape.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    path.split('%').skip(1).all(whole).then(|| percent_decode(path.as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode_into(&mut text, &bytes);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)), "{text}");
        assert_eq!(decode(&text), Some(bytes));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for bad in ["%", "%4", "a%zz", "%%41", "%2", "x%é1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode("%41%%"), None);
        assert_eq!(decode("%41%00"), Some(b"A\0".to_vec()));
    }
}
