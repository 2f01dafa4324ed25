//! Where files come from: an argument, so that tests, the simulator and the API can bring their own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Reads files for the configuration.
pub trait Source {
    /// The bytes of a file.
    ///
    /// # Errors
    /// As the file system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files that match a pattern (`*`, `?` and `[…]`, as Go's `filepath.Glob`), sorted. A pattern without these
    /// signs gives the path itself when it exists; nothing found is an empty list, not an error.
    ///
    /// # Errors
    /// `InvalidInput` for a malformed pattern, else as the file system says.
    fn glob(&self, pattern: &str) -> io::Result<Vec<PathBuf>>;

    /// A variable of the environment, for `${NAME}` in external labels. Nothing by default.
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySource(pub BTreeMap<PathBuf, Vec<u8>>);

impl Source for MemorySource {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file or directory"))
    }

    fn glob(&self, pattern: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for path in self.0.keys() {
            if glob_matches(pattern, &path.to_string_lossy())? {
                found.push(path.clone());
            }
        }
        Ok(found)
    }
}

/// Whether a path matches a pattern of `*`, `?`, `[a-z]`, `[^a-z]` and `\x`; none of them matches a slash.
///
/// # Errors
/// `InvalidInput` for an unclosed bracket or a trailing backslash.
///
/// Source: Go `path/filepath.Match`.
pub fn glob_matches(pattern: &str, path: &str) -> io::Result<bool> {
    let pattern: Vec<char> = pattern.chars().collect();
    let path: Vec<char> = path.chars().collect();
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "syntax error in pattern");
    // The last star and where its match ended: one step of going back is enough, as stars are greedy from the left.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut t) = (0, 0);
    while t < path.len() || p < pattern.len() {
        if p < pattern.len() {
            if pattern[p] == '*' {
                star = Some((p, t));
                p += 1;
                continue;
            }
            let (step, matched) = match_one(&pattern[p..], path.get(t).copied()).ok_or_else(malformed)?;
            if matched {
                p += step;
                t += 1;
                continue;
            }
        }
        match star {
            Some((star_p, star_t)) if star_t < path.len() && path[star_t] != '/' => {
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// How many pattern signs one path sign takes, and whether they match it. `None` when the pattern is malformed.
fn match_one(pattern: &[char], sign: Option<char>) -> Option<(usize, bool)> {
    match pattern[0] {
        '?' => Some((1, sign.is_some_and(|sign| sign != '/'))),
        '\\' => Some((2, sign == Some(*pattern.get(1)?))),
        '[' => {
            let negated = pattern.get(1) == Some(&'^');
            let mut at = if negated { 2 } else { 1 };
            let mut matched = false;
            let first = at;
            while *pattern.get(at)? != ']' || at == first {
                let low = class_sign(pattern, &mut at)?;
                let high = if pattern.get(at) == Some(&'-') {
                    at += 1;
                    class_sign(pattern, &mut at)?
                } else {
                    low
                };
                matched |= sign.is_some_and(|sign| (low..=high).contains(&sign));
            }
            Some((at + 1, sign.is_some_and(|sign| sign != '/') && matched != negated))
        }
        literal => Some((1, sign == Some(literal))),
    }
}

fn class_sign(pattern: &[char], at: &mut usize) -> Option<char> {
    if pattern.get(*at) == Some(&'\\') {
        *at += 1;
    }
    let sign = *pattern.get(*at)?;
    *at += 1;
    Some(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, path, expected) in [
            ("rules/*.yml", "rules/a.yml", true),
            ("rules/*.yml", "rules/b/a.yml", false),
            ("*/*.yml", "rules/a.yml", true),
            ("a?c", "abc", true),
            ("a[b-d]*", "ac-and-more", true),
            ("a[^b-d]", "ac", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*", "", true),
            ("*a*b", "xxaxxbxb", true),
        ] {
            assert_eq!(glob_matches(pattern, path).expect(pattern), expected, "{pattern} {path}");
        }
        assert!(glob_matches("a[", "a").is_err());
    }
}
