//! The first request line of a connection, as people type it.
//!
//! `curl -g 'http://peer:9090/api/v1/query?query=up{job="node"}'` sends the quotes as they stand. RFC 3986 has no such URL,
//! a Prometheus answers it all the same, and upstream's own documentation has such lines; hyper refuses them before a
//! route could say anything. So what no URL may contain is percent-encoded on its way in: of the first line of a
//! connection only, since where a later request begins is known to hyper alone, and guessing it would let a body pass for
//! a request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A longer line is passed on as it is.
const LINE_BYTES_MAX: usize = 64 << 10;
const STEP_BYTES: usize = 4 << 10;

/// A stream whose first line is a request line that can be parsed.
pub(crate) struct FirstLine<S> {
    stream: S,
    /// None once the line has passed.
    line: Option<Line>,
}

#[derive(Default)]
struct Line {
    seen: usize,
    has_ended: bool,
    /// What was read and encoded, and how much of it was handed on.
    ready: Vec<u8>,
    taken: usize,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        for (place, byte) in bytes.iter().enumerate() {
            if self.has_ended {
                self.ready.extend_from_slice(&bytes[place..]);
                return;
            }
            match byte {
                b'"' => self.ready.extend_from_slice(b"%22"),
                b'<' => self.ready.extend_from_slice(b"%3C"),
                b'>' => self.ready.extend_from_slice(b"%3E"),
                byte => self.ready.push(*byte),
            }
            self.seen += 1;
            self.has_ended = *byte == b'\n' || self.seen == LINE_BYTES_MAX;
        }
    }
}

impl<S> FirstLine<S> {
    pub(crate) fn new(stream: S) -> FirstLine<S> {
        FirstLine { stream, line: Some(Line::default()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstLine<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(line) = &mut this.line else { return Pin::new(&mut this.stream).poll_read(cx, buf) };
        if line.taken == line.ready.len() && !line.has_ended {
            let mut bytes = [0; STEP_BYTES];
            let mut step = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut step))?;
            line.ready.clear();
            line.taken = 0;
            line.push(step.filled());
        }
        let count = buf.remaining().min(line.ready.len() - line.taken);
        buf.put_slice(&line.ready[line.taken..line.taken + count]);
        line.taken += count;
        if line.has_ended && line.taken == line.ready.len() {
            this.line = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstLine<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn through(parts: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut server = FirstLine::new(server);
        let mut all = Vec::new();
        for part in parts {
            client.write_all(part).await.unwrap();
            // As small as a reader may come.
            let mut byte = [0; 7];
            let count = server.read(&mut byte).await.unwrap();
            all.extend_from_slice(&byte[..count]);
        }
        drop(client);
        server.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn what_no_url_may_contain_is_encoded_in_the_first_line_only() {
        let (line, rest) = ("GET /q?query=up{a=\"b\"}>1 HTTP/1.1\r\n", "X: \"<>\"\r\n\r\n\"body\"\nGET /\"");
        let expected = format!("GET /q?query=up{{a=%22b%22}}%3E1 HTTP/1.1\r\n{rest}");
        let whole = format!("{line}{rest}");
        assert_eq!(through(&[whole.as_bytes()]).await, expected.as_bytes());
        let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        assert_eq!(through(&bytes).await, expected.as_bytes());
    }

    #[tokio::test]
    async fn a_line_without_end_is_passed_on() {
        let long = vec![b'"'; LINE_BYTES_MAX + 10];
        assert_eq!(through(&[&long]).await.len(), LINE_BYTES_MAX * 3 + 10);
    }
}
