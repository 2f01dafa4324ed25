//! Reading and writing the numbers of index files.

use super::Damage;

/// Reads a file's bytes from a place on; says where it stopped when it cannot.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at a place of a file.
    pub fn at(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// The place.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What is expected here is not here.
    pub fn damage(&self, what: &str) -> Damage {
        Damage::new(self.at, what)
    }

    /// The next bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.damage("the file ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }
    pub fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    #[inline]
    pub fn uvarint(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return Err(self.damage("the file ends early")) };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damage("a number of more than 64 bits"))
    }

    pub fn varint(&mut self) -> Result<i64, Damage> {
        Ok(crate::chunk::bits::unzigzag(self.uvarint()?))
    }

    pub fn length(&mut self) -> Result<usize, Damage> {
        usize::try_from(self.uvarint()?).map_err(|_| self.damage("a length beyond memory"))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.length()?;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<&'a str, Damage> {
        let at = self.at;
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::new(at, "a text that is not UTF-8"))
    }

    /// The section `length u32 | content | crc32c u32` here; the checksum is checked.
    pub fn section(&mut self) -> Result<Reader<'a>, Damage> {
        let length = self.u32()? as usize;
        let start = self.at;
        let content = self.take(length)?;
        self.check(content)?;
        Ok(Reader { bytes: &self.bytes[..start + length], at: start })
    }

    /// The checksum of `content` here.
    pub fn check(&mut self, content: &[u8]) -> Result<(), Damage> {
        let at = self.at;
        let matches = self.u32()? == crc32c::crc32c(content);
        #[cfg(test)]
        let matches = matches || IGNORED.get();
        if matches { Ok(()) } else { Err(Damage::new(at, "checksum does not match")) }
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

#[cfg(test)]
thread_local! {
    static IGNORED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `test` with readers that take every checksum for right, so that damaged bytes get as deep as forged ones would.
#[cfg(test)]
pub fn without_checksums(test: impl FnOnce()) {
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            IGNORED.set(false);
        }
    }
    IGNORED.set(true);
    let _until = Until;
    test();
}

/// Appends a LEB128 number.
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, crate::chunk::bits::zigzag(value));
}

/// Appends a text with its length.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}
