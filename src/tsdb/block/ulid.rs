//! ULIDs: names of blocks that sort by the time of their making.
//!
//! 48 bits of milliseconds and 80 random bits in Crockford's base 32.
//! Source: github.com/ulid/spec.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A ULID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(pub u128);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Ulid {
    /// A ULID of an instant; `entropy` makes those of one instant differ.
    pub fn new(ms: i64, seed: u64, entropy: u64) -> Ulid {
        let random = xxh3_128_with_seed(&entropy.to_le_bytes(), seed);
        let time = u128::from(ms.max(0) as u64 & ((1 << 48) - 1));
        Ulid(time << 80 | random >> 48)
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: [u8; 26] = std::array::from_fn(|place| ALPHABET[(self.0 >> (5 * (25 - place)) & 31) as usize]);
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

/// A text that is no ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a ULID: 26 characters of Crockford's base 32")]
pub struct UlidError;

impl FromStr for Ulid {
    type Err = UlidError;
    fn from_str(text: &str) -> Result<Ulid, UlidError> {
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(UlidError);
        }
        let digit = |byte: u8| ALPHABET.iter().position(|known| *known == byte.to_ascii_uppercase());
        text.bytes().try_fold(0u128, |value, byte| Some(value << 5 | digit(byte)? as u128)).map(Ulid).ok_or(UlidError)
    }
}

impl Serialize for Ulid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ulid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulids_print_and_parse() {
        let text = "01M824CV7H20HDTE86T3KMKGP7";
        assert_eq!(text.parse::<Ulid>().expect("parses").to_string(), text);
        assert!(Ulid::new(5, 1, 1) < Ulid::new(6, 0, 0));
        assert_ne!(Ulid::new(5, 1, 1), Ulid::new(5, 1, 2));
        for bad in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01M824CV7H20HDTE86T3KMKGPU", "wal"] {
            assert!(bad.parse::<Ulid>().is_err(), "{bad}");
        }
    }
}
