//! Broken requests from a seed, for whatever answers HTTP.

use fastrand::Rng;

const HOSTILE_HEADERS: &[&str] = &[
    "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    "Content-Length: 0\r\nContent-Length: 36\r\n",
    "Content-Length: 0\r\ncontent-length: 0\r\n",
    "Content-Length: 0,36\r\n",
    "Content-Length: +0\r\n",
    "Content-Length: -0\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, gzip\r\n",
    "Transfer-Encoding : chunked\r\n",
    "X: y\r\n\tContent-Length: 36\r\n",
    "X: y\nContent-Length: 36\r\n",
    "X: a\0b\r\n",
    "Host: other\r\n",
];

const SPECIAL: &[u8] = b"\0\r\n\t :;,+-#%/?0159afxX\x7f\x80\xff";

/// One connection's worth of bytes, and what must come of it.
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    /// How many requests it holds at most.
    pub(crate) len: usize,
    /// So many at its beginning are well-formed and have to be answered.
    pub(crate) good: usize,
}

/// A few requests in a row. `good` makes the well-formed ones from a number and a body, `target` the path of the others;
/// `smuggled` is a request that stands only where no program that reads the bytes rightly takes it for one.
pub(crate) fn script(
    rng: &mut Rng,
    smuggled: &str,
    target: impl Fn(usize) -> String,
    good: impl Fn(&mut Rng, usize, &str) -> String,
) -> Script {
    let mut script = Script { bytes: Vec::new(), len: rng.usize(1..5), good: 0 };
    let mut intact = true;
    for id in 0..script.len {
        // Behind a broken request anything may be read as anything.
        let body = if intact { smuggled } else { "a plain body" };
        match rng.u8(..10) {
            0..5 => {
                script.bytes.extend(good(rng, id, body).bytes());
                script.good += usize::from(intact);
            }
            5..7 => {
                let headers = *rng.choice(HOSTILE_HEADERS).expect("some");
                let target = target(id);
                script
                    .bytes
                    .extend(format!("POST {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n0\r\n\r\n{body}").bytes());
                intact = false;
            }
            7 => {
                script.bytes.extend(chunked(rng, &target(id)).bytes());
                intact = false;
            }
            _ => {
                let mut bytes = good(rng, id, "a plain body").into_bytes();
                mutate(rng, &mut bytes);
                script.bytes.extend(bytes);
                intact = false;
            }
        }
    }
    script
}

fn chunked(rng: &mut Rng, target: &str) -> String {
    let size = *rng
        .choice(&["5", "05", "5;x=y", "5 ", "-5", "+5", "5,5", "0x5", "ffffffffffffffff", "10000000000000005"])
        .expect("some");
    let end = *rng.choice(&["0\r\n\r\n", "0\r\nT: t\r\n\r\n", "0\n\n", "0\r\n", ""]).expect("some");
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n{end}")
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        let special = *rng.choice(SPECIAL).expect("some");
        match rng.u8(..4) {
            0 => bytes[at] = special,
            1 => bytes.insert(at, special),
            2 => {
                bytes.drain(at..(at + rng.usize(1..6)).min(bytes.len()));
            }
            _ => bytes.truncate(at + 1),
        }
        if bytes.is_empty() {
            bytes.push(special);
        }
    }
}
