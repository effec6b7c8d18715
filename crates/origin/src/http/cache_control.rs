//! How long an origin's `Cache-Control` lets a shared cache keep an answer (RFC 9111).

use std::time::Duration;

use http::{
    HeaderMap,
    header::{AGE, CACHE_CONTROL},
};

/// The longest lifetime, in seconds: what RFC 9111, section 1.2.2, has caches read a larger number as.
const SECONDS_MAX: u64 = 1 << 31;

/// The ttl that an answer's headers allow, `None` if they say nothing of it.
///
/// `no-store`, `no-cache` and `private` are a ttl of zero: Larder is a shared cache and does not ask before each use.
/// Else `s-maxage` counts, else `max-age`, less the `Age` that the answer already had. One that can't be read is zero,
/// as section 4.2.1 recommends.
pub(super) fn ttl(headers: &HeaderMap) -> Option<Duration> {
    let mut max_age = None;
    let mut shared_max_age = None;
    for header in headers.get_all(CACHE_CONTROL) {
        for directive in Directives(header.as_bytes()) {
            let (name, argument) = match directive.iter().position(|&byte| byte == b'=') {
                Some(at) => (directive[..at].trim_ascii(), &directive[at + 1..]),
                None => (directive, &directive[..0]),
            };
            if [&b"no-store"[..], b"no-cache", b"private"].iter().any(|never| name.eq_ignore_ascii_case(never)) {
                return Some(Duration::ZERO);
            }
            // Of a directive that stands twice the first one counts (section 4.2.1).
            if name.eq_ignore_ascii_case(b"s-maxage") {
                shared_max_age = shared_max_age.or(Some(argument));
            } else if name.eq_ignore_ascii_case(b"max-age") {
                max_age = max_age.or(Some(argument));
            }
        }
    }
    let lifetime = seconds(shared_max_age.or(max_age)?).unwrap_or(0);
    let age = headers.get(AGE).and_then(|age| seconds(age.as_bytes())).unwrap_or(0);
    Some(Duration::from_secs(lifetime.saturating_sub(age)))
}

/// Reads a number of seconds, in quotes or not.
fn seconds(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let digits = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| str::from_utf8(digits).ok()?.parse().ok();
    Some(number(digits).unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// The directives of one header line: what stands between commas, but for those inside of quotes.
struct Directives<'a>(&'a [u8]);

impl<'a> Iterator for Directives<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let mut quoted = false;
        let mut escaped = false;
        let end = self.0.iter().position(|&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' => return !quoted,
                _ => {}
            }
            false
        });
        let (directive, rest) = match end {
            Some(end) => (&self.0[..end], &self.0[end + 1..]),
            None => (self.0, &self.0[..0]),
        };
        self.0 = rest;
        Some(directive.trim_ascii())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&'static str], age: Option<&'static str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        if let Some(age) = age {
            headers.insert(AGE, HeaderValue::from_static(age));
        }
        ttl(&headers).map(|ttl| ttl.as_secs())
    }

    #[test]
    fn silence_leaves_the_ttl_open() {
        assert_eq!(of(&[], None), None);
        assert_eq!(of(&["", " , ,", "public, must-revalidate, stale-if-error=9"], Some("5")), None);
    }

    #[test]
    fn max_age_counts_less_age() {
        assert_eq!(of(&["max-age=60"], None), Some(60));
        assert_eq!(of(&["public ,\tMax-Age = \"60\" "], None), Some(60));
        assert_eq!(of(&["max-age=60"], Some("25")), Some(35));
        assert_eq!(of(&["max-age=60"], Some("61")), Some(0));
        assert_eq!(of(&["max-age=60"], Some("soon")), Some(60));
        assert_eq!(of(&["max-age=0"], None), Some(0));
    }

    #[test]
    fn s_maxage_goes_before_max_age_wherever_it_stands() {
        assert_eq!(of(&["s-maxage=7, max-age=60"], None), Some(7));
        assert_eq!(of(&["max-age=60", "s-maxage=7"], None), Some(7));
    }

    #[test]
    fn what_must_not_be_kept_has_no_ttl_whatever_else_is_said() {
        for line in ["no-store", "max-age=60, NO-STORE", "no-cache, max-age=60", "private, max-age=60"] {
            assert_eq!(of(&[line], None), Some(0), "{line}");
        }
        assert_eq!(of(&["max-age=60", "private=\"set-cookie\""], None), Some(0));
    }

    #[test]
    fn a_number_that_cannot_be_read_is_zero_and_one_too_large_is_capped() {
        for line in ["max-age", "max-age=", "max-age=-1", "max-age=+1", "max-age=1.5", "max-age=\"", "max-age=x"] {
            assert_eq!(of(&[line], None), Some(0), "{line}");
        }
        assert_eq!(of(&["max-age=99999999999999999999999"], None), Some(SECONDS_MAX));
        assert_eq!(of(&["max-age=60, max-age=5"], None), Some(60));
    }

    #[test]
    fn a_comma_in_quotes_ends_no_directive() {
        assert_eq!(of(&[r#"ext="a, no-store, \", max-age=1", max-age=9"#], None), Some(9));
    }
}
