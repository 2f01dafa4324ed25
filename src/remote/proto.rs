//! Protobuf's wire format, written.

/// A message as it grows.
#[derive(Clone, Debug, Default)]
pub struct Writer(
    /// What was written.
    pub Vec<u8>,
);

impl Writer {
    /// A bare number.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, number: u32, wire: u8) {
        self.varint(u64::from(number << 3) | u64::from(wire));
    }

    /// A number; nothing for zero, as proto3 has it.
    pub fn unsigned(&mut self, number: u32, value: u64) {
        if value != 0 {
            self.key(number, 0);
            self.varint(value);
        }
    }

    /// An `int64`.
    pub fn signed(&mut self, number: u32, value: i64) {
        self.unsigned(number, value as u64);
    }

    /// A `sint32` or `sint64`.
    pub fn zigzag(&mut self, number: u32, value: i64) {
        self.unsigned(number, zigzag(value));
    }

    /// A `double`; nothing for zero.
    pub fn double(&mut self, number: u32, value: f64) {
        if value.to_bits() != 0 {
            self.double_always(number, value);
        }
    }

    /// A `double` of a `oneof`: zero is said.
    pub fn double_always(&mut self, number: u32, value: f64) {
        self.key(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A number of a `oneof`: zero is said.
    pub fn unsigned_always(&mut self, number: u32, value: u64) {
        self.key(number, 0);
        self.varint(value);
    }

    /// Bytes, a text or a message.
    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.key(number, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text; nothing when it is empty.
    pub fn text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(number, text.as_bytes());
        }
    }

    /// A message.
    pub fn message(&mut self, number: u32, message: &Writer) {
        self.bytes(number, &message.0);
    }

    /// A packed list; nothing when it is empty.
    pub fn packed(&mut self, number: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        if !inner.0.is_empty() {
            self.message(number, &inner);
        }
    }
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
