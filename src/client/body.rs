//! Reading bodies: gzip undone on the way, never more than the cap.

use bytes::Buf;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::gunzip::Gunzip;

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Uncompressed, it is longer than allowed.
    #[error("body size limit exceeded")]
    TooLarge,
    /// The connection broke off.
    #[error("reading body: {0}")]
    Broken(String),
    /// It is not what its `Content-Encoding` says.
    #[error("gzip: {0}")]
    Gzip(String),
    /// An encoding that was not asked for.
    #[error("unsupported content encoding {0:?}")]
    Encoding(String),
}

/// Appends a body to `out`, undone of gzip. Returns how many bytes came over the wire.
///
/// # Errors
/// As [`BodyError`] says; `out` then holds a part.
pub async fn read_body(
    mut body: Incoming,
    headers: &HeaderMap,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<usize, BodyError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let mut gzip = match encoding.as_deref() {
        None | Some(b"" | b"identity") => None,
        Some(b"gzip" | b"x-gzip") => Some(Gunzip::new()),
        Some(other) => return Err(BodyError::Encoding(String::from_utf8_lossy(other).into_owned())),
    };
    let limit = out.len().saturating_add(bytes_max);
    let mut wire_bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(crate::causes(&error)))?;
        let Ok(mut data) = frame.into_data() else { continue };
        wire_bytes += data.remaining();
        match &mut gzip {
            None => {
                if out.len() + data.remaining() > limit {
                    return Err(BodyError::TooLarge);
                }
                out.extend_from_slice(&data);
                data.advance(data.remaining());
            }
            Some(gzip) => gzip.feed(&data, limit, out)?,
        }
    }
    match gzip {
        Some(gzip) if !gzip.is_whole() => Err(BodyError::Gzip("unexpected end".to_owned())),
        _ => Ok(wire_bytes),
    }
}

/// The lines of a body that may never end.
#[derive(Debug)]
pub struct LineReader {
    body: Incoming,
    held: Vec<u8>,
    /// So many of the bytes held have no line end.
    searched: usize,
}

impl LineReader {
    /// A reader of a body that is not compressed.
    pub fn new(body: Incoming) -> LineReader {
        LineReader { body, held: Vec::new(), searched: 0 }
    }

    /// The next line, without its end; `None` once the body has ended. What stands behind the last line end is no line:
    /// whoever sends lines was cut off in it.
    ///
    /// Cancelling loses nothing: the bytes that came are kept for the next call.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] for a line of more than `bytes_max`, [`BodyError::Broken`].
    pub async fn next(&mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, BodyError> {
        loop {
            if let Some(length) = self.held[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(self.searched + length + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError::Broken(crate::causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
