//! [`Answer`]: what comes back for a request, taken off a connection's bytes.

/// What came back for one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The value of a header; `""` without it.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find_map(|(it, value)| it.eq_ignore_ascii_case(name).then_some(value)).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The `type` of a problem; `""` if it is none.
    pub(crate) fn problem(&self) -> String {
        if self.header("content-type") != "application/problem+json" {
            return String::new();
        }
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert!(json["title"].as_str().is_some_and(|title| title.ends_with('.')), "{json}");
        assert!(json["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{json}");
        json["type"].as_str().expect("a type").to_owned()
    }

    /// Whether it says that the connection ends with it.
    pub(crate) fn is_last(&self) -> bool {
        self.head.to_ascii_lowercase().contains("connection: close")
    }

    /// Takes an answer off the front of `bytes`; `None` if it isn't all there.
    pub(crate) fn parse(bytes: &mut Vec<u8>) -> Option<Self> {
        Self::parse_to("GET", bytes)
    }

    pub(crate) fn length_of(method: &str, head: &[u8]) -> usize {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        // An answer to HEAD that would have no body has no length.
        let is_bare = method == "HEAD" || head.starts_with("http/1.1 304");
        length.filter(|_| !is_bare).unwrap_or(0)
    }

    /// The same for the answer to a request of this method.
    pub(crate) fn parse_to(method: &str, bytes: &mut Vec<u8>) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).expect("the head is text");
        let status = head.strip_prefix("HTTP/1.").expect("an answer begins so")[2..5].parse().expect("a status");
        let length = Self::length_of(method, head.as_bytes());
        let body = bytes.get(end..end + length)?.to_vec();
        bytes.drain(..end + length);
        Some(Self { status, head, body })
    }
}
