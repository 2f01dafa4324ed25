//! The file system as configuration sees it.

use std::io;
use std::path::{Component, Path, PathBuf};

use promesh_config::Source;
use promesh_config::source::glob_matches;

/// Reads from disk, and variables from the environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Source for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn glob(&self, pattern: &str) -> io::Result<Vec<PathBuf>> {
        // Malformed patterns are errors even where nothing would be looked at.
        glob_matches(pattern, pattern)?;
        let mut found = vec![PathBuf::new()];
        for component in Path::new(pattern).components() {
            found = match component {
                Component::Normal(name) => {
                    let name = name.to_string_lossy();
                    let matching = |folder: PathBuf| entries(&folder, &name);
                    found.into_iter().map(matching).collect::<io::Result<Vec<_>>>()?.concat()
                }
                fixed => found.into_iter().map(|folder| folder.join(fixed)).collect(),
            };
        }
        found.retain(|path| !path.as_os_str().is_empty());
        found.sort();
        Ok(found)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// What in a folder matches one component of a pattern. An unreadable folder has nothing in it, as in Go.
fn entries(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    if !pattern.contains(['*', '?', '[', '\\']) {
        let path = folder.join(pattern);
        return Ok(if path.exists() { vec![path] } else { Vec::new() });
    }
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(listed).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if glob_matches(pattern, &name.to_string_lossy())? {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_files() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a/1.yml", "a/2.yml", "a/3.txt", "b/1.yml"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let found = |pattern: &str| {
            let paths = Disk.glob(&folder.path().join(pattern).to_string_lossy()).expect(pattern);
            let name = |path: &PathBuf| path.strip_prefix(folder.path()).expect("below").to_string_lossy().into_owned();
            paths.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(found("a/*.yml"), ["a/1.yml", "a/2.yml"]);
        assert_eq!(found("*/1.yml"), ["a/1.yml", "b/1.yml"]);
        assert_eq!(found("a/3.txt"), ["a/3.txt"]);
        assert_eq!(found("a/4.txt"), Vec::<String>::new());
        assert!(Disk.glob("a[").is_err());
    }
}
