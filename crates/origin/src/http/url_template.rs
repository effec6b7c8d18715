//! [`UrlTemplate`]: the URL of a key.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use larder_core::{KEY_LEN_MAX, Key};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::ConfigError;

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const PLACEHOLDER: &str = "{key}";

/// A URL with `{key}` in its path or query, taken apart once.
///
/// It is put together from its parts as they stand and never parsed as a whole: parsers of the WHATWG kind take the key
/// `..` for a step up, even where it is written `%2E%2E`.
#[derive(Debug)]
pub(super) struct UrlTemplate {
    scheme: Scheme,
    /// Without user and password.
    authority: Authority,
    /// Path and query, with a key wherever two of them meet; at least two.
    parts: Vec<Box<str>>,
}

impl UrlTemplate {
    /// Takes `url` apart; a user and password in it become the value of an `Authorization` header.
    pub(super) fn parse(url: &str) -> Result<(Self, Option<HeaderValue>), ConfigError> {
        let fail = |message: &str| ConfigError::new("url", message);
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::HTTP, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::HTTPS, rest),
            _ => return Err(fail("must begin with http:// or https://")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        if authority.contains(['{', '}']) {
            return Err(fail("may have {key} in its path or query, not in its host"));
        }
        let authority = Authority::try_from(authority)
            .ok()
            .filter(|authority| !authority.host().is_empty())
            .filter(|authority| authority.host() == authority.as_str() || authority.port_u16().is_some())
            .ok_or_else(|| fail("must name a host, and after a colon its port, a number up to 65535"))?;
        if path.contains('#') {
            return Err(fail("has a fragment (#…), which is never sent: remove it"));
        }

        let slash = if path.starts_with('/') { "" } else { "/" };
        let parts: Vec<Box<str>> = format!("{slash}{path}").split(PLACEHOLDER).map(Box::from).collect();
        if parts.len() < 2 {
            return Err(fail("has no {key}, so that every key would get the same value"));
        }
        if parts.iter().any(|part| part.contains(['{', '}'])) {
            return Err(fail("has braces beside {key}: write them as %7B and %7D"));
        }
        let template = Self { scheme, authority, parts };
        // The longest that a key can get is put in: what holds for it holds for every key.
        let longest = "%FF".repeat(KEY_LEN_MAX);
        template.with(&longest).map_err(|error| fail(&format!("can't be requested: {error}")))?;
        let authorization = match userinfo {
            Some(userinfo) => Some(basic(userinfo).ok_or_else(|| fail("has a user or password that can't be sent"))?),
            None => None,
        };
        Ok((template, authorization))
    }

    /// The URL of `key`.
    pub(super) fn of(&self, key: &Key) -> Result<Uri, http::Error> {
        match key.as_bytes() {
            // Proxies and servers take a segment of dots for a step.
            b"." => self.with("%2E"),
            b".." => self.with("%2E%2E"),
            key => self.with(&percent_encode(key, ENCODED).to_string()),
        }
    }

    fn with(&self, key: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::try_from(self.parts.join(key))?)
            .build()
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

/// Names the origin without anything that may be secret: no user, path or query.
impl std::fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// The `Authorization` of a URL's `user:password` (RFC 7617).
fn basic(userinfo: &str) -> Option<HeaderValue> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut credentials: Vec<u8> = percent_decode_str(user).collect();
    if credentials.contains(&b':') {
        return None;
    }
    credentials.push(b':');
    credentials.extend(percent_decode_str(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(url: &str) -> UrlTemplate {
        UrlTemplate::parse(url).unwrap().0
    }

    fn of(url: &str, key: impl AsRef<[u8]>) -> String {
        template(url).of(&Key::copy_from(key.as_ref()).unwrap()).unwrap().to_string()
    }

    #[test]
    fn all_but_the_unreserved_characters_are_encoded() {
        assert_eq!(of("http://h/u/{key}", "aZ09-._~"), "http://h/u/aZ09-._~");
        assert_eq!(of("http://h/u/{key}", "a/b c+d%2F?#é"), "http://h/u/a%2Fb%20c%2Bd%252F%3F%23%C3%A9");
        assert_eq!(of("http://h/u/{key}", b"\x00\xff"), "http://h/u/%00%FF");
    }

    #[test]
    fn dots_that_are_a_whole_key_are_encoded() {
        assert_eq!(of("http://h/u/{key}", "."), "http://h/u/%2E");
        assert_eq!(of("http://h/u/{key}/x", ".."), "http://h/u/%2E%2E/x");
        assert_eq!(of("http://h/u/{key}", "../.."), "http://h/u/..%2F..");
    }

    #[test]
    fn a_key_stands_wherever_the_template_has_it() {
        assert_eq!(of("HTTPS://h:8443?k={key}&again={key}", "1&2"), "https://h:8443/?k=1%262&again=1%262");
        assert_eq!(of("http://[::1]:80/{key}", "1"), "http://[::1]:80/1");
    }

    #[test]
    fn a_user_and_password_become_a_header() {
        let (template, authorization) = UrlTemplate::parse("http://me:p%40ss@h/{key}").unwrap();
        let authorization = authorization.unwrap();
        assert_eq!(authorization, "Basic bWU6cEBzcw==");
        assert!(authorization.is_sensitive());
        assert_eq!(template.of(&Key::new("1").unwrap()).unwrap(), "http://h/1");
        assert_eq!(template.to_string(), "http://h");
    }

    #[test]
    fn a_template_that_cannot_work_is_refused() {
        let too_long = format!("http://h/{{key}}/{}", "x".repeat(65_000));
        for url in [
            "",
            "h/{key}",
            "ftp://h/{key}",
            "http:/h/{key}",
            "http://",
            "http:///{key}",
            "http://h",
            "http://h/",
            "http://{key}/",
            "http://{key}.h/{key}",
            "http://h/{key}#a",
            "http://h/{group}/{key}",
            "http://h/{key",
            "http://h/a b/{key}",
            "http://h:port/{key}",
            "http://h:65536/{key}",
            "http://:80/{key}",
            "http://a b/{key}",
            "http://u%3A:p@h/{key}",
            &too_long,
        ] {
            let error = UrlTemplate::parse(url).expect_err(url);
            assert_eq!(error.setting(), "url");
        }
    }
}
