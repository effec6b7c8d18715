//! A strict look at a request's head, before the HTTP library parses it.
//!
//! Two programs that read the same bytes as different requests can be played off against each other: request smuggling
//! (RFC 9112, section 11.2). Where the RFC leaves a choice, hyper takes what it can make sense of; what it took is gone
//! before anybody can ask. So this looks first, and refuses whatever another program might read in another way: both
//! `Content-Length` and `Transfer-Encoding`, either of them twice, lines that end without a carriage return, a fragment
//! in the target, a missing or second `Host`.
//!
//! It parses nothing but that. Whether a head is well-formed at all remains hyper's to say, and its reading is the only
//! one that counts: a head that passes here unseen is refused there.

/// What follows a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// A body of this many bytes.
    Length(u64),
    /// A body in chunks.
    Chunked,
}

/// What the first bytes of a request amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// No whole head yet. The first `scanned` bytes need not be looked at again.
    Partial { scanned: usize },
    /// A head of `len` bytes, fit to be parsed.
    Whole { len: usize, framing: Framing },
    /// Not to be answered, for this reason.
    Refused(&'static str),
}

/// The longest `Content-Length`, in digits: any number of so many fits into 64 bits.
const LENGTH_DIGITS_MAX: usize = 19;

/// Looks at `bytes`, the first `scanned` of which an earlier look has seen.
pub(super) fn vet(bytes: &[u8], scanned: usize) -> Verdict {
    let mut line = scanned;
    while let Some(len) = bytes[line..].iter().position(|byte| *byte == b'\n') {
        let end = line + len;
        match bytes[line..end] {
            [.., b'\r'] if len > 1 => line = end + 1,
            [b'\r'] => return whole(&bytes[..=end]),
            _ => return Verdict::Refused("a line ends without a carriage return"),
        }
    }
    Verdict::Partial { scanned: line }
}

/// Looks at a whole head, up to and including its empty line.
fn whole(head: &[u8]) -> Verdict {
    match framing(head) {
        Ok(framing) => Verdict::Whole { len: head.len(), framing },
        Err(reason) => Verdict::Refused(reason),
    }
}

fn framing(head: &[u8]) -> Result<Framing, &'static str> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    if request_line.contains(&b'#') {
        return Err("the target has a fragment");
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // The lengths of the names tell most of them apart without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let parsed = parse_length(value).ok_or("the Content-Length is not a number")?;
                if length.replace(parsed).is_some() {
                    return Err("the Content-Length stands twice");
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("the Transfer-Encoding is not just chunked");
                }
                chunked = true;
            }
            _ => {}
        }
    }
    let modern = request_line.ends_with(b" HTTP/1.1");
    match (length, chunked) {
        _ if hosts > 1 || (modern && hosts == 0) => Err("there is not exactly one Host"),
        (Some(_), true) => Err("there are both Content-Length and Transfer-Encoding"),
        (None, true) if !modern => Err("there is a Transfer-Encoding before HTTP/1.1"),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// Digits and nothing else: no sign, no list, no space between.
fn parse_length(value: &[u8]) -> Option<u64> {
    if !(1..=LENGTH_DIGITS_MAX).contains(&value.len()) {
        return None;
    }
    value.iter().try_fold(0, |sum: u64, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(headers: &str) -> Result<Framing, &'static str> {
        let head = format!("PUT /k HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        match vet(head.as_bytes(), 0) {
            Verdict::Whole { len, framing } => {
                assert_eq!(len, head.len());
                Ok(framing)
            }
            Verdict::Refused(reason) => Err(reason),
            Verdict::Partial { .. } => panic!("{head:?} is whole"),
        }
    }

    #[test]
    fn the_framing_of_a_plain_head_is_told() {
        assert_eq!(framing_of(""), Ok(Framing::Length(0)));
        assert_eq!(framing_of("content-LENGTH:\t 42 \r\n"), Ok(Framing::Length(42)));
        assert_eq!(framing_of("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing_of("X-Content-Length: 7\r\nX: Content-Length: 8\r\n"), Ok(Framing::Length(0)));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
            "Host: other\r\n",
        ] {
            assert!(framing_of(headers).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn what_another_program_reads_otherwise_is_refused() {
        for head in [
            "GET /k HTTP/1.1\nHost: h\r\n\r\n",
            "GET /k HTTP/1.1\r\nHost: h\n\r\n",
            "GET /k HTTP/1.1\r\nHost: h\r\n\n",
            "\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /k#f HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /k HTTP/1.1\r\n\r\n",
            "GET /k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /k HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
        ] {
            assert!(matches!(vet(head.as_bytes(), 0), Verdict::Refused(_)), "{head:?}");
        }
        assert!(matches!(vet(b"GET /k HTTP/1.0\r\n\r\n", 0), Verdict::Whole { .. }));
    }

    #[test]
    fn a_head_in_pieces_comes_to_the_same_verdict() {
        let bytes = b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let mut scanned = 0;
        for end in 0..bytes.len() - 3 {
            match vet(&bytes[..end], scanned) {
                Verdict::Partial { scanned: now } => scanned = now,
                verdict => panic!("{verdict:?} after {end} bytes"),
            }
        }
        let verdict = Verdict::Whole { len: bytes.len() - 3, framing: Framing::Length(3) };
        assert_eq!(vet(bytes, scanned), verdict);
        assert_eq!(vet(bytes, 0), verdict);
    }
}
