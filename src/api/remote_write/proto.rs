//! Protobuf's wire format, read from borrowed bytes.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use thiserror::Error;

/// Bytes that are not the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ProtoError {
    /// They end within a field.
    #[error("proto: unexpected EOF")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field of another kind than it must be, or of no kind at all.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// The field's number.
        field: u32,
        /// The kind it has.
        wire: u8,
    },
    /// A text that is not UTF-8.
    #[error("proto: string field contains invalid UTF-8")]
    Utf8,
    /// Field number 0, or beyond 2^29.
    #[error("proto: illegal field number {0}")]
    FieldNumber(u64),
    /// A reference to a symbol that is not there.
    #[error("invalid symbol reference {0}")]
    Symbol(u32),
    /// An odd number of label references.
    #[error("labels_refs has an odd length {0}")]
    OddLabels(usize),
    /// A histogram that says neither or contradicts itself.
    #[error("histogram: {0}")]
    Histogram(&'static str),
}

/// A field's value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Field<'a> {
    pub number: u32,
    wire: Wire<'a>,
}

/// The fields of a message, in order.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, ProtoError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn read(&mut self) -> Result<Field<'a>, ProtoError> {
        let key = take_varint(&mut self.0)?;
        let (number, wire) = (key >> 3, (key & 7) as u8);
        if number == 0 || number >= 1 << 29 {
            return Err(ProtoError::FieldNumber(number));
        }
        let number = number as u32;
        let wire = match wire {
            0 => Wire::Varint(take_varint(&mut self.0)?),
            1 => Wire::Fixed64(u64::from_le_bytes(*take_array(&mut self.0)?)),
            2 => {
                let length = usize::try_from(take_varint(&mut self.0)?).map_err(|_| ProtoError::Truncated)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(ProtoError::Truncated)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(*take_array(&mut self.0)?)),
            wire => return Err(ProtoError::WireType { field: number, wire }),
        };
        Ok(Field { number, wire })
    }
}

impl<'a> Field<'a> {
    fn wrong(&self) -> ProtoError {
        let wire = match self.wire {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32(_) => 5,
        };
        ProtoError::WireType { field: self.number, wire }
    }

    /// Whether the field's bytes lie in a part of the message.
    pub fn is_within(&self, part: &[u8]) -> bool {
        matches!(self.wire, Wire::Bytes(bytes) if part.as_ptr_range().start <= bytes.as_ptr_range().start
            && bytes.as_ptr_range().end <= part.as_ptr_range().end)
    }

    pub fn bytes(&self) -> Result<&'a [u8], ProtoError> {
        if let Wire::Bytes(bytes) = self.wire { Ok(bytes) } else { Err(self.wrong()) }
    }

    pub fn text(&self) -> Result<&'a str, ProtoError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtoError::Utf8)
    }

    pub fn message(&self) -> Result<Fields<'a>, ProtoError> {
        self.bytes().map(Fields)
    }

    pub fn unsigned(&self) -> Result<u64, ProtoError> {
        if let Wire::Varint(value) = self.wire { Ok(value) } else { Err(self.wrong()) }
    }

    pub fn signed(&self) -> Result<i64, ProtoError> {
        self.unsigned().map(|value| value as i64)
    }

    pub fn zigzag(&self) -> Result<i64, ProtoError> {
        self.unsigned().map(unzigzag)
    }

    pub fn double(&self) -> Result<f64, ProtoError> {
        if let Wire::Fixed64(bits) = self.wire { Ok(f64::from_bits(bits)) } else { Err(self.wrong()) }
    }

    /// A repeated number, packed or one by one.
    pub fn each_varint(&self, mut each: impl FnMut(u64)) -> Result<(), ProtoError> {
        match self.wire {
            Wire::Varint(value) => each(value),
            Wire::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    each(take_varint(&mut bytes)?);
                }
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    /// A repeated double, packed or one by one.
    pub fn each_double(&self, mut each: impl FnMut(f64)) -> Result<(), ProtoError> {
        match self.wire {
            Wire::Fixed64(bits) => each(f64::from_bits(bits)),
            Wire::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    each(f64::from_le_bytes(*take_array(&mut bytes)?));
                }
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], ProtoError> {
    let (array, rest) = bytes.split_first_chunk().ok_or(ProtoError::Truncated)?;
    *bytes = rest;
    Ok(array)
}

/// How many bytes at the front of a message are fields of this number (1 to 15) that hold bytes.
pub(crate) fn leading_bytes(message: &[u8], number: u8) -> usize {
    let mut rest = message;
    loop {
        let before = rest.len();
        if rest.first() != Some(&(number << 3 | 2)) {
            return message.len() - before;
        }
        rest = &rest[1..];
        let length = take_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok());
        match length.and_then(|length| rest.get(length..)) {
            Some(after) => rest = after,
            None => return message.len() - before,
        }
    }
}

#[inline]
fn take_varint(bytes: &mut &[u8]) -> Result<u64, ProtoError> {
    // Keys and lengths are nearly always one byte.
    if let Some((&byte, rest)) = bytes.split_first()
        && byte < 0x80
    {
        *bytes = rest;
        return Ok(u64::from(byte));
    }
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate() {
        if index == 9 && byte > 1 {
            return Err(ProtoError::Overflow);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(ProtoError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_from_the_specifications_examples() {
        let fields = |bytes: &'static [u8]| Fields(bytes).collect::<Vec<_>>();
        assert_eq!(fields(&[0x08, 0x96, 0x01]), [Ok(Field { number: 1, wire: Wire::Varint(150) })]);
        assert_eq!(fields(b"\x12\x07testing"), [Ok(Field { number: 2, wire: Wire::Bytes(b"testing") })]);
        assert_eq!(fields(b"\x12\x08testing"), [Err(ProtoError::Truncated)]);
        assert_eq!(fields(&[0x0b]), [Err(ProtoError::WireType { field: 1, wire: 3 })]);
        assert_eq!(fields(&[0x00, 0x01]), [Err(ProtoError::FieldNumber(0))]);
        assert_eq!(fields(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), [Err(ProtoError::Overflow)]);
        assert_eq!([0, 1, 2, 3, u64::MAX].map(unzigzag), [0, -1, 1, -2, i64::MIN]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            for field in Fields(&bytes) {
                let Ok(field) = field else { break };
                let _ = field.each_varint(|_| {});
                let _ = field.each_double(|_| {});
            }
        }
    }
}
