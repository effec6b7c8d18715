//! [`parse_member`]: a member as people write it into a list.

use larder_core::{Error, ErrorKind, Member};

/// Reads a member from `NAME=ADDRESS`, such as `a=127.0.0.1:5274` or `a=http://10.0.0.1:8080`.
///
/// The address is kept exactly as it is written: golang/groupcache's ring is made of these very bytes. What an address must
/// look like is the affair of the [`Transport`](larder_core::Transport) that uses it.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] if there is no `=`, nothing before or behind the first one, or white space or control characters
/// anywhere.
///
/// # Examples
///
/// ```
/// let member = larder_cluster::parse_member("a=http://10.0.0.1:8080")?;
/// assert_eq!((&*member.name, &*member.address), ("a", "http://10.0.0.1:8080"));
///
/// let error = larder_cluster::parse_member("10.0.0.1:8080").unwrap_err();
/// assert!(error.message().contains(r#"expected NAME=ADDRESS, such as "a=127.0.0.1:5274""#));
/// # Ok::<(), larder_core::Error>(())
/// ```
pub fn parse_member(entry: &str) -> Result<Member, Error> {
    let wrong = |what: &str| {
        let message = format!("{entry:?} is no member, {what}: expected NAME=ADDRESS, such as \"a=127.0.0.1:5274\"");
        Error::new(ErrorKind::Invalid, message)
    };
    let (name, address) = entry.split_once('=').ok_or_else(|| wrong("it has no \"=\""))?;
    if name.is_empty() {
        return Err(wrong("it has no name"));
    }
    if address.is_empty() {
        return Err(wrong("it has no address"));
    }
    if entry.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(wrong("it holds white space or control characters"));
    }
    Ok(Member::new(name, address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrong_with_an_entry_is_said_and_what_was_expected() {
        for (entry, what) in [
            ("", "no \"=\""),
            ("127.0.0.1:5274", "no \"=\""),
            ("=127.0.0.1:5274", "no name"),
            ("a=", "no address"),
            ("=", "no name"),
            ("a = 127.0.0.1:5274", "white space"),
            ("a=127.0.0.1:5274\n", "white space"),
            ("a\0=127.0.0.1:5274", "control"),
        ] {
            let error = parse_member(entry).unwrap_err();
            assert!(error.is_invalid() && error.message().contains(what), "{entry:?}: {error}");
            assert!(error.message().contains(&format!("{entry:?}")) && error.message().contains("NAME=ADDRESS"));
        }
    }

    proptest! {
        #[test]
        fn a_name_and_an_address_come_back_to_the_byte(name in "[^=\\s\\pC]{1,80}", address in "[^\\s\\pC]{1,80}") {
            let member = parse_member(&format!("{name}={address}")).unwrap();
            prop_assert_eq!(member, Member::new(name, address));
        }

        #[test]
        fn any_text_is_a_member_or_an_error(entry in any::<String>()) {
            if let Ok(member) = parse_member(&entry) {
                prop_assert_eq!(format!("{}={}", member.name, member.address), entry);
            }
        }
    }
}
