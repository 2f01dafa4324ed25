//! Writing the index of a block, front to back: symbols, series in label order, postings.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use hashbrown::HashMap;
use promesh_model::labels::Labels;

use super::ChunkMeta;
use super::codec::{put_text, put_uvarint, put_varint};
use super::index::MAGIC;
use crate::fs::{FileWriter, Fs};

const BUFFER_BYTES: usize = 1 << 20;

/// Writes an index.
pub struct IndexWriter {
    file: Box<dyn FileWriter>,
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    flushed: u64,
    symbols: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    series_at: u64,
    all: Vec<u32>,
    postings: HashMap<(u32, u32), Vec<u32>, foldhash::fast::RandomState>,
    last: Option<Labels>,
    scratch: Vec<u8>,
}

impl IndexWriter {
    /// Begins a file with its symbols, which are sorted and unique and hold every name and value to come.
    pub fn new<'a>(fs: &dyn Fs, path: &Path, symbols: impl IntoIterator<Item = &'a str>) -> io::Result<IndexWriter> {
        let mut writer = IndexWriter {
            file: fs.create(path)?,
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
            flushed: 0,
            symbols: HashMap::default(),
            series_at: 0,
            all: Vec::new(),
            postings: HashMap::default(),
            last: None,
            scratch: Vec::new(),
        };
        writer.buffer.extend_from_slice(&MAGIC.to_be_bytes());
        writer.buffer.push(2);
        let mut section = vec![0; 4];
        for symbol in symbols {
            put_text(&mut section, symbol);
            let number = writer.symbols.len() as u32;
            writer.symbols.insert(symbol.into(), number);
        }
        section[..4].copy_from_slice(&(writer.symbols.len() as u32).to_be_bytes());
        writer.put_section(&section)?;
        writer.series_at = writer.position();
        Ok(writer)
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn put_section(&mut self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("an index section beyond 4 GiB"))?;
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(content);
        self.buffer.extend_from_slice(&crc32c::crc32c(content).to_be_bytes());
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.append(&self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn symbol(&self, text: &str) -> io::Result<u32> {
        let found = self.symbols.get(text).copied();
        found.ok_or_else(|| io::Error::other(format!("the label text {text:?} is missing from the symbols")))
    }

    /// Appends a series; label sets rise strictly from call to call, chunks rise in time.
    pub fn push(&mut self, labels: &Labels, chunks: &[ChunkMeta]) -> io::Result<()> {
        debug_assert!(self.last.as_ref().is_none_or(|last| last < labels), "series come in label order");
        self.last = Some(labels.clone());
        let padding = self.position().wrapping_neg() % 16;
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        let number = u32::try_from(self.position() / 16).map_err(|_| io::Error::other("an index beyond 64 GiB"))?;
        let mut content = std::mem::take(&mut self.scratch);
        content.clear();
        put_uvarint(&mut content, labels.len() as u64);
        for (name, value) in labels {
            let pair = (self.symbol(name)?, self.symbol(value)?);
            put_uvarint(&mut content, u64::from(pair.0));
            put_uvarint(&mut content, u64::from(pair.1));
            self.postings.entry(pair).or_default().push(number);
        }
        put_chunks(&mut content, chunks);
        put_uvarint(&mut self.buffer, content.len() as u64);
        self.buffer.extend_from_slice(&content);
        self.buffer.extend_from_slice(&crc32c::crc32c(&content).to_be_bytes());
        self.scratch = content;
        self.all.push(number);
        self.flush_if_full()
    }

    /// Writes postings and tables; makes the file durable.
    pub fn finish(mut self) -> io::Result<()> {
        let postings_at = self.position().next_multiple_of(4);
        self.buffer.resize(self.buffer.len() + (postings_at - self.position()) as usize, 0);
        // Symbols are numbered in order, so pairs of numbers sort as pairs of texts do.
        let postings: BTreeMap<(u32, u32), Vec<u32>> = std::mem::take(&mut self.postings).into_iter().collect();
        let mut texts: Vec<Box<str>> = vec![Box::from(""); self.symbols.len()];
        for (text, number) in std::mem::take(&mut self.symbols) {
            texts[number as usize] = text;
        }
        let mut table = ((postings.len() + 1) as u32).to_be_bytes().to_vec();
        let all = std::mem::take(&mut self.all);
        self.put_postings(&mut table, "", "", &all)?;
        for ((name, value), series) in &postings {
            self.put_postings(&mut table, &texts[*name as usize], &texts[*value as usize], series)?;
        }
        let table_at = self.position();
        self.put_section(&table)?;
        let mut toc = Vec::new();
        // No label indexes: readers of version 2 do not look at them, and newer Prometheus writes none.
        for place in [5, self.series_at, postings_at, table_at, postings_at, table_at] {
            toc.extend_from_slice(&u64::to_be_bytes(place));
        }
        let checksum = crc32c::crc32c(&toc);
        self.buffer.extend_from_slice(&toc);
        self.buffer.extend_from_slice(&checksum.to_be_bytes());
        self.flush()?;
        self.file.sync()
    }

    fn put_postings(&mut self, table: &mut Vec<u8>, name: &str, value: &str, series: &[u32]) -> io::Result<()> {
        table.push(2);
        put_text(table, name);
        put_text(table, value);
        put_uvarint(table, self.position());
        let mut content = Vec::with_capacity(4 + series.len() * 4);
        content.extend_from_slice(&(series.len() as u32).to_be_bytes());
        series.iter().for_each(|number| content.extend_from_slice(&number.to_be_bytes()));
        self.put_section(&content)
    }
}

fn put_chunks(content: &mut Vec<u8>, chunks: &[ChunkMeta]) {
    put_uvarint(content, chunks.len() as u64);
    let (mut end, mut reference) = (0, 0);
    for (place, chunk) in chunks.iter().enumerate() {
        if place == 0 {
            put_varint(content, chunk.min);
            put_uvarint(content, chunk.max.wrapping_sub(chunk.min) as u64);
            put_uvarint(content, chunk.reference);
        } else {
            put_uvarint(content, chunk.min.wrapping_sub(end) as u64);
            put_uvarint(content, chunk.max.wrapping_sub(chunk.min) as u64);
            put_varint(content, chunk.reference.wrapping_sub(reference) as i64);
        }
        (end, reference) = (chunk.max, chunk.reference);
    }
}
