//! How much a text resembles a term, from 0 to 1.
//!
//! A beginning resembles wholly. Else, by choice: the term's letters in their order, better the fewer stretches they come in
//! and the less stands between; or Jaro and Winkler's measure, for misspelt words.

/// The measure for what is no plain part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Subsequence,
    JaroWinkler,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Term {
    text: String,
    letters: Vec<char>,
    algorithm: Algorithm,
    threshold: f64,
    case_sensitive: bool,
}

/// A part that is no beginning.
const PART: f64 = 0.9;
/// Letters of a text that are looked at: more than any name has.
const LETTERS_MAX: usize = 512;

impl Term {
    /// `threshold`: what resembles less is left out; at 0 by Jaro and Winkler, only parts of the text resemble.
    pub fn new(text: &str, algorithm: Algorithm, threshold: f64, case_sensitive: bool) -> Term {
        let text = if case_sensitive { text.to_owned() } else { text.to_lowercase() };
        let letters = text.chars().collect();
        Term { text, letters, algorithm, threshold, case_sensitive }
    }

    /// How much a text resembles it; nothing when too little.
    pub fn score(&self, text: &str) -> Option<f64> {
        let lowered;
        let text = if self.case_sensitive {
            text
        } else {
            lowered = text.to_lowercase();
            &lowered
        };
        if text.starts_with(&self.text) {
            return Some(1.0);
        }
        let letters = || text.chars().take(LETTERS_MAX).collect::<Vec<char>>();
        match self.algorithm {
            Algorithm::Subsequence => subsequence(&self.letters, &letters()).filter(|score| *score >= self.threshold),
            Algorithm::JaroWinkler if text.contains(&self.text) => Some(PART),
            Algorithm::JaroWinkler if self.threshold > 0.0 => {
                Some(jaro_winkler(&self.letters, &letters())).filter(|score| *score >= self.threshold)
            }
            Algorithm::JaroWinkler => None,
        }
    }
}

/// The term's letters in their order: the squares of their stretches' lengths less what stands between, as a part of what
/// one stretch would give. The best over all places to begin at; nothing when the letters are not there.
fn subsequence(term: &[char], text: &[char]) -> Option<f64> {
    let begins = (0..text.len()).filter(|at| text[*at] == term[0]);
    begins.map_while(|begin| from(term, text, begin)).reduce(f64::max)
}

fn from(term: &[char], text: &[char], begin: usize) -> Option<f64> {
    let (mut at, mut stretch, mut gaps, mut squares) = (begin, 0_usize, 0_usize, 0_usize);
    for letter in term {
        let next = text[at..].iter().position(|other| other == letter)? + at;
        if next > at && stretch > 0 {
            gaps += next - at;
            squares += stretch * stretch;
            stretch = 0;
        }
        stretch += 1;
        at = next + 1;
    }
    squares += stretch * stretch;
    let whole = (term.len() * term.len()) as f64;
    let score = (squares as f64 - gaps as f64 / text.len() as f64) / whole;
    Some(score.clamp(f64::MIN_POSITIVE, 1.0))
}

/// Source: Winkler, String Comparator Metrics and Enhanced Decision Rules (1990): a tenth of what is missing for each of up
/// to four common letters at the beginning.
fn jaro_winkler(a: &[char], b: &[char]) -> f64 {
    let jaro = jaro(a, b);
    let common = a.iter().zip(b).take(4).take_while(|(a, b)| a == b).count();
    jaro + common as f64 * 0.1 * (1.0 - jaro)
}

fn jaro(a: &[char], b: &[char]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let reach = (a.len().max(b.len()) / 2).saturating_sub(1);
    let mut taken = vec![false; b.len()];
    let mut of_a = Vec::new();
    for (at, letter) in a.iter().enumerate() {
        let window = at.saturating_sub(reach)..(at + reach + 1).min(b.len());
        if let Some(place) = window.into_iter().find(|place| !taken[*place] && b[*place] == *letter) {
            taken[place] = true;
            of_a.push(*letter);
        }
    }
    if of_a.is_empty() {
        return 0.0;
    }
    let of_b = b.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(letter, _)| letter);
    let swapped = of_a.iter().zip(of_b).filter(|(a, b)| a != b).count() as f64 / 2.0;
    let matches = of_a.len() as f64;
    (matches / a.len() as f64 + matches / b.len() as f64 + (matches - swapped) / matches) / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(term: &str, text: &str, algorithm: Algorithm, expected: Option<f64>) {
        let found = Term::new(term, algorithm, 0.5, true).score(text);
        let rounded = found.map(|score| (score * 1000.0).round() / 1000.0);
        assert_eq!(rounded, expected, "{term} in {text}");
    }

    #[test]
    fn beginnings_resemble_wholly_and_other_parts_less() {
        use Algorithm::{JaroWinkler, Subsequence};
        check("http", "http_requests_total", Subsequence, Some(1.0));
        check("http", "http_requests_total", JaroWinkler, Some(1.0));
        check("requests", "http_requests_total", Subsequence, Some(1.0));
        check("requests", "http_requests_total", JaroWinkler, Some(0.9));
        // Two stretches, one letter between: (9 + 9 − 1/7) / 36 is too little, (16 + 1 − 1/6) / 25 is not.
        check("abcdef", "abcxdef", Subsequence, None);
        check("abcde", "abcdxe", Subsequence, Some(0.673));
        check("cba", "abc", Subsequence, None);
        // Winkler's own examples.
        check("MARTHA", "MARHTA", JaroWinkler, Some(0.961));
        check("DWAYNE", "DUANE", JaroWinkler, Some(0.84));
        check("DIXON", "DICKSONX", JaroWinkler, Some(0.813));
        check("abc", "xyz", JaroWinkler, None);
        check("", "anything", Subsequence, Some(1.0));
    }

    #[test]
    fn letters_of_another_case_count_only_if_asked() {
        let score = |case_sensitive| Term::new("HTTP", Algorithm::Subsequence, 0.0, case_sensitive).score("http_x");
        assert_eq!((score(true), score(false)), (None, Some(1.0)));
        // Without a threshold misspelt words do not resemble.
        assert_eq!(Term::new("MARTHA", Algorithm::JaroWinkler, 0.0, true).score("MARHTA"), None);
    }
}
