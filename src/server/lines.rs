//! A file of JSON lines that only grows, until it is written anew: what was appended is durable, what a crash tore is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The file; it is made with the first line.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: Option<File>,
    /// How many lines there are.
    count: usize,
    /// How long they are together: what lies behind was not acknowledged.
    bytes: u64,
    /// Whether something may lie behind.
    torn: bool,
}

impl Lines {
    /// Reads a file back.
    ///
    /// # Errors
    /// When it cannot be read, or a line that was written whole is not what it should be: which.
    pub fn open<T: DeserializeOwned>(path: PathBuf) -> io::Result<(Lines, Vec<T>)> {
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // A line without its end is torn, whatever stands in it.
        let good = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut read = Vec::new();
        for line in content[..good].split_inclusive(|byte| *byte == b'\n') {
            read.push(serde_json::from_slice(line).map_err(|error| {
                let why = format!("{}:{}: {error}", path.display(), read.len() + 1);
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?);
        }
        let torn = good < content.len();
        Ok((Lines { path, file: None, count: read.len(), bytes: good as u64, torn }, read))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Appends lines and makes them durable.
    ///
    /// # Errors
    /// As the system says; none of them counts then.
    pub fn append<T: Serialize>(&mut self, lines: &[T]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, line).map_err(io::Error::other)?;
            bytes.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open_to_append(&self.path)?),
        };
        if self.torn {
            file.set_len(self.bytes)?;
        }
        // Until it is known to be there it may be there in part.
        self.torn = true;
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.torn = false;
        self.bytes += bytes.len() as u64;
        self.count += lines.len();
        Ok(())
    }

    /// Makes the file these lines and nothing else.
    ///
    /// # Errors
    /// As the system says; the old file is in place.
    pub fn replace<'a, T: Serialize + 'a>(&mut self, lines: impl IntoIterator<Item = &'a T>) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut bytes = Vec::new();
        let mut count = 0;
        for line in lines {
            serde_json::to_writer(&mut bytes, line).map_err(io::Error::other)?;
            bytes.push(b'\n');
            count += 1;
        }
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        self.file = None;
        (self.count, self.bytes, self.torn) = (count, bytes.len() as u64, false);
        sync_folder(&self.path)
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    sync_folder(path)?;
    Ok(file)
}

/// A file's name is on the disk only then.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Lines, Vec<String>) {
        Lines::open(path.to_owned()).expect("opens")
    }

    #[test]
    fn whatever_a_crash_tears_is_cut_off_and_what_follows_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records/some.jsonl");
        let (mut lines, read) = open(&path);
        assert!(read.is_empty());
        lines.append(&["a", "ä"]).expect("written");
        let whole = std::fs::read(&path).expect("there");
        // Torn anywhere in the second line, in the middle of a character too, and before its end.
        for end in 5..whole.len() {
            std::fs::write(&path, &whole[..end]).expect("written");
            let (mut lines, read) = open(&path);
            assert_eq!((read, lines.count()), (vec!["a".to_owned()], 1), "torn at {end}");
            lines.append(&["b"]).expect("written");
            assert_eq!(open(&path).1, ["a", "b"], "torn at {end}");
        }
        let (mut lines, _) = open(&path);
        lines.replace(&["c".to_owned()]).expect("written");
        lines.append(&["d"]).expect("written");
        assert_eq!(open(&path).1, ["c", "d"]);
        std::fs::write(&path, "\"a\"\n{\n\"b\"\n").expect("written");
        let error = Lines::open::<String>(path).expect_err("a whole line that says nothing");
        assert!(error.to_string().contains("some.jsonl:2: "), "{error}");
    }
}
