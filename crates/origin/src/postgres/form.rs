//! [`Form`]: how the bytes of keys and values are written in the types of PostgreSQL.

use std::{borrow::Cow, error::Error as StdError, fmt};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A type of PostgreSQL, as far as it makes a difference for bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text,
    Json,
    Jsonb,
    Bytea,
    Int2,
    Int4,
    Int8,
    Uuid,
}

impl Form {
    /// The types that there is a form for.
    pub(super) const EXPECTED: &str = "text, varchar, bytea, json, jsonb, uuid or an integer";

    /// The form of a type; `None` if there is none.
    pub(super) fn of(of: &Type) -> Option<Self> {
        Some(match *of {
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => Self::Text,
            Type::JSON => Self::Json,
            Type::JSONB => Self::Jsonb,
            Type::BYTEA => Self::Bytea,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::UUID => Self::Uuid,
            _ => match of.kind() {
                Kind::Domain(of) => return Self::of(of),
                _ if of.name() == "citext" => Self::Text,
                _ => return None,
            },
        })
    }

    /// The form of an array's elements.
    pub(super) fn of_elements(of: &Type) -> Option<Self> {
        match of.kind() {
            Kind::Array(of) => Self::of(of),
            _ => None,
        }
    }

    /// Whether these bytes can be of the type. Of several ways to write a number or a UUID only PostgreSQL's own fits, so that no
    /// two keys are the same row.
    pub(super) fn fits(self, bytes: &[u8]) -> bool {
        let Ok(text) = str::from_utf8(bytes) else { return self == Self::Bytea };
        match self {
            Self::Bytea => true,
            Self::Text | Self::Json | Self::Jsonb => !text.contains('\0'),
            Self::Int2 => text.parse().is_ok_and(|number: i16| number.to_string() == text),
            Self::Int4 => text.parse().is_ok_and(|number: i32| number.to_string() == text),
            Self::Int8 => text.parse().is_ok_and(|number: i64| number.to_string() == text),
            Self::Uuid => uuid_of(text).is_some(),
        }
    }

    /// Writes bytes that [fit](Self::fits) as the type travels.
    fn write(self, bytes: &[u8], out: &mut BytesMut) -> Result<(), BoxError> {
        match self {
            Self::Text | Self::Json | Self::Bytea => out.put_slice(bytes),
            Self::Jsonb => {
                out.put_u8(JSONB_VERSION);
                out.put_slice(bytes);
            }
            Self::Int2 => out.put_i16(str::from_utf8(bytes)?.parse()?),
            Self::Int4 => out.put_i32(str::from_utf8(bytes)?.parse()?),
            Self::Int8 => out.put_i64(str::from_utf8(bytes)?.parse()?),
            Self::Uuid => out.put_u128(uuid_of(str::from_utf8(bytes)?).ok_or("no UUID")?),
        }
        Ok(())
    }

    /// Reads what came over the wire: text as it is, numbers and UUIDs as PostgreSQL writes them.
    pub(super) fn read(self, wire: &[u8]) -> Result<Cow<'_, [u8]>, BoxError> {
        Ok(match self {
            Self::Text | Self::Json | Self::Bytea => wire.into(),
            Self::Jsonb => wire.strip_prefix(&[JSONB_VERSION]).ok_or("jsonb of an unknown version")?.into(),
            Self::Int2 => i16::from_be_bytes(wire.try_into()?).to_string().into_bytes().into(),
            Self::Int4 => i32::from_be_bytes(wire.try_into()?).to_string().into_bytes().into(),
            Self::Int8 => i64::from_be_bytes(wire.try_into()?).to_string().into_bytes().into(),
            Self::Uuid => uuid_text(u128::from_be_bytes(wire.try_into()?)).into_bytes().into(),
        })
    }
}

/// What stands before the text of a `jsonb`.
const JSONB_VERSION: u8 = 1;

/// The number that a UUID in lower case and with hyphens stands for.
fn uuid_of(text: &str) -> Option<u128> {
    let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    (uuid_text(number) == text).then_some(number)
}

fn uuid_text(number: u128) -> String {
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Bytes to be bound, of a form that they fit. Keys and values may be secrets: only their length is shown.
pub(super) struct Bound<'bytes> {
    pub(super) form: Form,
    pub(super) bytes: &'bytes [u8],
}

impl<'bytes> Bound<'bytes> {
    /// What is bound as an array.
    pub(super) fn all(form: Form, elements: &[&'bytes [u8]]) -> Vec<Self> {
        elements.iter().map(|bytes| Self { form, bytes }).collect()
    }
}

impl fmt::Debug for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl ToSql for Bound<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.form.write(self.bytes, out)?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A column as it came over the wire.
pub(super) struct Wire<'row>(pub(super) &'row [u8]);

impl<'row> FromSql<'row> for Wire<'row> {
    fn from_sql(_: &Type, wire: &'row [u8]) -> Result<Self, BoxError> {
        Ok(Self(wire))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGERS: [(Form, &str); 3] =
        [(Form::Int2, "-32768"), (Form::Int4, "2147483647"), (Form::Int8, "-9223372036854775808")];

    #[test]
    fn what_is_written_is_read_again() {
        let uuid = "0193a5c8-e000-7000-8010-00000000002a";
        let texts = [Form::Text, Form::Json, Form::Jsonb, Form::Bytea].map(|form| (form, "{\"a\": 1}"));
        for (form, text) in texts.into_iter().chain(INTEGERS).chain([(Form::Uuid, uuid)]) {
            assert!(form.fits(text.as_bytes()), "{form:?}");
            let mut wire = BytesMut::new();
            form.write(text.as_bytes(), &mut wire).unwrap();
            assert_eq!(form.read(&wire).unwrap(), text.as_bytes(), "{form:?}");
        }
    }

    #[test]
    fn only_one_way_to_write_a_number_or_a_uuid_fits() {
        for text in ["042", "+42", " 42", "42 ", "42.0", "-0", "", "4e2", "9223372036854775808"] {
            assert!(!Form::Int8.fits(text.as_bytes()), "{text:?}");
        }
        assert!(!Form::Int2.fits(b"32768") && !Form::Int4.fits(b"2147483648"));
        for text in [
            "0193A5C8-E000-7000-8010-00000000002A",
            "0193a5c8e000700080100000000000002a",
            "{0193a5c8-e000-7000-8010-00000000002a}",
            "0193a5c8-e000-7000-8010-00000000002",
            "+193a5c8-e000-7000-8010-00000000002a",
            "",
        ] {
            assert!(!Form::Uuid.fits(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn text_can_have_neither_nul_nor_bytes_that_are_not_utf_8() {
        for form in [Form::Text, Form::Json, Form::Jsonb] {
            assert!(form.fits("é".as_bytes()) && !form.fits(b"a\0b") && !form.fits(b"\xff"), "{form:?}");
        }
        assert!(Form::Bytea.fits(b"a\0b") && Form::Bytea.fits(b"\xff"));
    }
}
