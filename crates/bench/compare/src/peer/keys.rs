//! The keys that every system holds, and the value of each: both follow from the key's index, so that the asking side
//! can tell a wrong answer.

/// How many keys, all of them held by the serving side.
pub(crate) const KEYS: u64 = 100_000;

pub(crate) const KEY_LEN: usize = 16;

/// One in so many answers is compared whole. Of the others the length and the beginning are: to look at each byte of
/// 4 KiB would be a cost of its own.
const COMPARED_PART: u64 = 64;

/// `key:` and twelve digits, which is what redis-benchmark asks for too.
pub(crate) fn key(index: u64) -> [u8; KEY_LEN] {
    let mut key = *b"key:000000000000";
    let mut rest = index;
    for digit in key.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// A key as those take it who want text.
pub(crate) fn text(key: &[u8; KEY_LEN]) -> &str {
    str::from_utf8(key).unwrap_or_default()
}

/// The index of a key that [`key`] made.
pub(crate) fn index(key: &[u8]) -> Option<u64> {
    str::from_utf8(key.strip_prefix(b"key:")?).ok()?.parse().ok()
}

/// The key, over and over.
pub(crate) fn value(index: u64, len: usize) -> Vec<u8> {
    key(index).into_iter().cycle().take(len).collect()
}

/// Whether an answer is the value of this key.
pub(crate) fn is_right(index: u64, len: usize, answer: &[u8]) -> bool {
    let begins_right = answer.len() == len && answer.iter().zip(key(index)).all(|(is, should)| *is == should);
    begins_right && (!index.is_multiple_of(COMPARED_PART) || answer == value(index, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_index() {
        for number in [0, 7, 42, KEYS - 1] {
            assert_eq!(index(&key(number)), Some(number));
        }
        assert_eq!(&key(42), b"key:000000000042");
    }

    #[test]
    fn an_answer_of_another_key_or_length_is_wrong() {
        assert!(is_right(64, 100, &value(64, 100)));
        assert!(!is_right(64, 100, &value(65, 100)));
        assert!(!is_right(64, 100, &value(64, 99)));
        let mut spoilt = value(64, 100);
        spoilt[99] ^= 1;
        assert!(!is_right(64, 100, &spoilt));
    }
}
