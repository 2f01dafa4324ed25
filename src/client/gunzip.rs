//! Undoing gzip as the bytes come, with decoders that are used again.
//!
//! A decoder's window is 32 KiB of memory and more: made for every answer it would cost more than what most answers take
//! to decode. A decoder can be taken up again only for bare deflate, so that the frame around it is read here.
//!
//! Source: RFC 1952 (gzip), RFC 1951 (deflate).

use flate2::{Crc, Decompress, FlushDecompress, Status};
use parking_lot::Mutex;

use crate::body::BodyError;

/// How much room the decoder gets at a time.
const STEP_BYTES: usize = 64 << 10;
/// A header's file name and comment have no bound of their own.
const HEADER_BYTES_MAX: usize = 128 << 10;
/// So many idle decoders are kept: as many as scrapes can be read at once, and not more than 3 MB.
const IDLE_MAX: usize = 64;

static IDLE: Mutex<Vec<Decompress>> = Mutex::new(Vec::new());

/// One gzipped body on its way in.
pub(crate) struct Gunzip {
    /// None once it was given back.
    inflate: Option<Decompress>,
    stage: Stage,
    crc: Crc,
}

enum Stage {
    /// What has come of a member's header.
    Header(Vec<u8>),
    Data,
    /// What has come of a member's checksum and length.
    Trailer(Vec<u8>),
    /// A member has ended: the body may too, or another follows.
    Between,
}

impl Gunzip {
    pub(crate) fn new() -> Gunzip {
        let inflate = IDLE.lock().pop().unwrap_or_else(|| Decompress::new(false));
        Gunzip { inflate: Some(inflate), stage: Stage::Header(Vec::new()), crc: Crc::new() }
    }

    /// Whether the body may end here.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.stage, Stage::Between)
    }

    /// Appends what these bytes decode to.
    pub(crate) fn feed(&mut self, mut data: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BodyError> {
        while !data.is_empty() {
            match &mut self.stage {
                Stage::Between => self.stage = Stage::Header(Vec::new()),
                Stage::Header(held) => {
                    // Nearly always the whole header comes at once, and nothing is copied.
                    let before = held.len();
                    if before > 0 {
                        held.extend_from_slice(&data[..data.len().min(HEADER_BYTES_MAX)]);
                    }
                    let known = if before > 0 { &held[..] } else { data };
                    match header_bytes(known)? {
                        Some(length) => {
                            data = &data[length - before..];
                            self.stage = Stage::Data;
                        }
                        None if known.len() >= HEADER_BYTES_MAX => return Err(invalid("header")),
                        None => {
                            if before == 0 {
                                held.extend_from_slice(data);
                            }
                            return Ok(());
                        }
                    }
                }
                Stage::Data => data = self.inflate(data, limit, out)?,
                Stage::Trailer(held) => {
                    let more = data.len().min(8 - held.len());
                    held.extend_from_slice(&data[..more]);
                    data = &data[more..];
                    if let Ok(trailer) = <[u8; 8]>::try_from(&held[..]) {
                        let expected = u64::from(self.crc.sum()) | u64::from(self.crc.amount()) << 32;
                        if u64::from_le_bytes(trailer) != expected {
                            return Err(invalid("checksum"));
                        }
                        self.crc.reset();
                        self.decoder().reset(false);
                        self.stage = Stage::Between;
                    }
                }
            }
        }
        Ok(())
    }

    fn decoder(&mut self) -> &mut Decompress {
        self.inflate.get_or_insert_with(|| Decompress::new(false))
    }

    /// Decodes until the bytes are used up or the member's data ends; answers what is left of them.
    fn inflate<'d>(&mut self, mut data: &'d [u8], limit: usize, out: &mut Vec<u8>) -> Result<&'d [u8], BodyError> {
        loop {
            if out.len() == out.capacity() {
                out.reserve(STEP_BYTES);
            }
            let (was, from) = (self.decoder().total_in(), out.len());
            let status = match self.decoder().decompress_vec(data, out, FlushDecompress::None) {
                Ok(status) => status,
                Err(error) => return Err(BodyError::Gzip(error.to_string())),
            };
            data = &data[(self.decoder().total_in() - was) as usize..];
            self.crc.update(&out[from..]);
            if out.len() > limit {
                return Err(BodyError::TooLarge);
            }
            match status {
                Status::StreamEnd => {
                    self.stage = Stage::Trailer(Vec::with_capacity(8));
                    return Ok(data);
                }
                // Room was left, so there is nothing more in what was given.
                _ if data.is_empty() && out.len() < out.capacity() => return Ok(data),
                _ if out.len() == from && out.len() < out.capacity() => {
                    return Err(BodyError::Gzip("the data goes nowhere".to_owned()));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Gunzip {
    fn drop(&mut self) {
        let Some(mut inflate) = self.inflate.take() else { return };
        inflate.reset(false);
        let mut idle = IDLE.lock();
        if idle.len() < IDLE_MAX {
            idle.push(inflate);
        }
    }
}

fn invalid(what: &str) -> BodyError {
    BodyError::Gzip(format!("invalid {what}"))
}

/// How long the header is that these bytes begin with; none while it is not all there.
fn header_bytes(held: &[u8]) -> Result<Option<usize>, BodyError> {
    const CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let magic = [0x1f, 0x8b, 8];
    if held.iter().zip(magic).any(|(byte, expected)| *byte != expected) {
        return Err(invalid("header"));
    }
    let Some(flags) = held.get(3).filter(|_| held.len() >= 10) else { return Ok(None) };
    let mut length = 10;
    if flags & EXTRA != 0 {
        let Some(extra) = held.get(length..length + 2) else { return Ok(None) };
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = held.get(length..).and_then(|rest| memchr::memchr(0, rest));
            let Some(end) = end else { return Ok(None) };
            length += end + 1;
        }
    }
    if flags & CRC != 0 {
        length += 2;
    }
    Ok((held.len() >= length).then_some(length))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zipped(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// A member whose header has everything that one may have.
    fn with_full_header(text: &[u8]) -> Vec<u8> {
        let header = b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\x05\0extraname.txt\0a comment\0\x12\x34";
        [header, &zipped(text)[10..]].concat()
    }

    fn unzip(body: &[u8], step: usize, limit: usize) -> Result<(Vec<u8>, bool), BodyError> {
        let (mut gunzip, mut out) = (Gunzip::new(), Vec::new());
        for part in body.chunks(step) {
            gunzip.feed(part, limit, &mut out)?;
        }
        Ok((out, gunzip.is_whole()))
    }

    #[test]
    fn members_are_decoded_however_they_come_in_parts() {
        let long: Vec<u8> = (0..300_000u32).flat_map(|number| (number % 977).to_le_bytes()).collect();
        let body = [zipped(b"first"), with_full_header(b", second"), zipped(b""), zipped(&long)].concat();
        let expected = [&b"first, second"[..], &long].concat();
        for step in [1, 7, 4096, body.len()] {
            assert_eq!(unzip(&body, step, usize::MAX), Ok((expected.clone(), true)), "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_gzip_is_refused_and_what_is_cut_is_not_whole() {
        let good = zipped(b"some text that is here");
        for cut in 0..good.len() {
            let cut = unzip(&good[..cut], 5, usize::MAX).map(|(_, whole)| whole);
            assert_eq!(cut, Ok(false));
        }
        let mut wrong = good.clone();
        let place = wrong.len() - 6;
        wrong[place] ^= 1;
        assert_eq!(unzip(&wrong, 100, usize::MAX), Err(invalid("checksum")));
        assert_eq!(unzip(b"not gzip", 100, usize::MAX), Err(invalid("header")));
        assert_eq!(unzip(&[&good[..], b"rest"].concat(), 100, usize::MAX), Err(invalid("header")));
        assert!(unzip(&[&good[..10], b"\xff\xff\xff"].concat(), 100, usize::MAX).is_err());
        let endless_name = [&b"\x1f\x8b\x08\x08\0\0\0\0\0\xff"[..], &[b'a'; 200_000]].concat();
        assert_eq!(unzip(&endless_name, 1 << 14, usize::MAX), Err(invalid("header")));
    }

    #[test]
    fn a_bomb_ends_at_the_cap() {
        assert_eq!(unzip(&zipped(&[0; 50_000_000]), 100, 1 << 20), Err(BodyError::TooLarge));
    }

    #[test]
    fn a_decoder_that_failed_serves_the_next_body() {
        for _ in 0..3 {
            assert!(unzip(&[&zipped(b"text")[..10], &[0xff; 40]].concat(), 9, usize::MAX).is_err());
            assert_eq!(unzip(&zipped(b"text"), 9, usize::MAX), Ok((b"text".to_vec(), true)));
        }
    }
}
