//! Sizes as people write them: `512MB`, `1GiB`, `1.5KB`; units are powers of 1024 with and without the `i`.
//!
//! Source: alecthomas/units `ParseBase2Bytes`.

use std::fmt;

use crate::yaml::{Node, Reader, Show, Yaml};

/// A count of bytes; negative ones can be written and are refused where they make no sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub i64);

const UNITS: [(&str, f64); 13] = [
    ("EiB", 1152921504606846976.0),
    ("EB", 1152921504606846976.0),
    ("PiB", 1125899906842624.0),
    ("PB", 1125899906842624.0),
    ("TiB", 1099511627776.0),
    ("TB", 1099511627776.0),
    ("GiB", 1073741824.0),
    ("GB", 1073741824.0),
    ("MiB", 1048576.0),
    ("MB", 1048576.0),
    ("KiB", 1024.0),
    ("KB", 1024.0),
    ("B", 1.0),
];

impl ByteSize {
    /// Reads a size.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn parse(text: &str) -> Result<ByteSize, String> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(ByteSize(0));
        }
        if rest.is_empty() {
            return Err(format!("units: invalid {text}"));
        }
        let mut total = 0.0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
            let (number, tail) = rest.split_at(digits);
            let number: f64 = number.parse().map_err(|_| format!("units: invalid {text}"))?;
            let letters = tail.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
            let (unit, tail) = tail.split_at(letters);
            let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
            total += number * factor.ok_or_else(|| format!("units: unknown unit {unit} in {text}"))?;
            rest = tail;
        }
        if total > i64::MAX as f64 {
            return Err(format!("units: invalid {text}: too large"));
        }
        Ok(ByteSize(if negative { -(total as i64) } else { total as i64 }))
    }

    /// The count; zero for negative ones.
    pub fn bytes(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.unsigned_abs();
        if rest == 0 {
            return f.write_str("0B");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        for (unit, factor) in UNITS.iter().filter(|(unit, _)| unit.ends_with("iB") || *unit == "B") {
            let count = rest / *factor as u64;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                rest -= count * *factor as u64;
            }
        }
        Ok(())
    }
}

impl Yaml for ByteSize {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "size").unwrap_or_default();
        if text.is_empty() {
            return ByteSize(0);
        }
        ByteSize::parse(text).unwrap_or_else(|message| {
            reader.problem(node.at, message);
            ByteSize(0)
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.to_string())
    }
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in
            [("15MB", 15 << 20, "15MiB"), ("1.5KiB", 1536, "1KiB512B"), ("0", 0, "0B"), ("-1GB", -(1 << 30), "-1GiB")]
        {
            let size = ByteSize::parse(text).expect(text);
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
        }
        assert_eq!(ByteSize::parse("100"), Err("units: unknown unit  in 100".to_owned()));
    }
}
