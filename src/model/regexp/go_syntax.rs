//! Rewriting a pattern from Go's syntax to that of `regex-syntax`.
//!
//! They agree but for details: in Go `\d`, `\w`, `\s` and `\b` are ASCII, `\Q…\E` quotes, `{` that begins no count is
//! itself, classes know no set operations, counts end at 1000, and a count cannot be repeated.
//!
//! Source: Go `regexp/syntax` (`Parse` with `Perl`), whose error texts are used.

/// The largest count in `{…}`.
const COUNT_MAX: u32 = 1000;

/// A pattern in the syntax of `regex-syntax`.
///
/// # Errors
/// What Go says about the pattern.
pub fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator {
        pattern,
        rest: pattern,
        out: String::with_capacity(pattern.len() + 16),
        depth: 0,
        last: Last::Nothing,
    };
    translator.run()?;
    Ok(translator.out)
}

struct Translator<'a> {
    pattern: &'a str,
    rest: &'a str,
    out: String,
    depth: usize,
    last: Last<'a>,
}

/// What stands before: can it be repeated?
#[derive(Clone, Copy)]
enum Last<'a> {
    /// Nothing: the beginning of the pattern, a group or an alternative.
    Nothing,
    /// Something.
    Item,
    /// A repetition, and the pattern from its operator on.
    Repeated(&'a str),
}

fn error<T>(code: &str, at: &str) -> Result<T, String> {
    Err(format!("{code}: `{at}`"))
}

impl<'a> Translator<'a> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest.chars().next() {
            match next {
                '(' => self.open()?,
                ')' => {
                    if self.depth == 0 {
                        return error("unexpected )", self.pattern);
                    }
                    self.depth -= 1;
                    self.keep(1);
                    self.last = Last::Item;
                }
                '|' => {
                    self.keep(1);
                    self.last = Last::Nothing;
                }
                '*' | '+' | '?' => self.repeat(1)?,
                '{' => match count_length(self.rest)? {
                    Some(length) => self.repeat(length)?,
                    None => self.literal('{'),
                },
                '[' => {
                    let (class, rest) = Class::parse(self.rest)?;
                    self.out.push_str(&class);
                    self.rest = rest;
                    self.last = Last::Item;
                }
                '\\' => self.escape()?,
                '.' | '^' | '$' => {
                    self.keep(1);
                    self.last = Last::Item;
                }
                other => self.literal(other),
            }
        }
        if self.depth > 0 { error("missing closing )", self.pattern) } else { Ok(()) }
    }

    /// Copies bytes as they are.
    fn keep(&mut self, bytes: usize) {
        self.out.push_str(&self.rest[..bytes]);
        self.rest = &self.rest[bytes..];
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.out, c);
        self.rest = &self.rest[c.len_utf8()..];
        self.last = Last::Item;
    }

    fn repeat(&mut self, length: usize) -> Result<(), String> {
        let at = self.rest;
        let lazy = usize::from(at[length..].starts_with('?'));
        match self.last {
            Last::Nothing => return error("missing argument to repetition operator", &at[..length]),
            Last::Repeated(first) => {
                let operators = first.len() - at.len() + length + lazy;
                return error("invalid nested repetition operator", &first[..operators]);
            }
            Last::Item => {}
        }
        self.keep(length + lazy);
        self.last = Last::Repeated(at);
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        self.depth += 1;
        self.last = Last::Nothing;
        if !self.rest.starts_with("(?") {
            self.keep(1);
            return Ok(());
        }
        for start in ["(?P<", "(?<"] {
            if let Some(named) = self.rest.strip_prefix(start) {
                let Some(end) = named.find('>') else { return error("invalid named capture", self.rest) };
                let name = &named[..end];
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return error("invalid named capture", &self.rest[..start.len() + end + 1]);
                }
                // The name says nothing to a matcher, and Go allows more of them.
                self.out.push('(');
                self.rest = &named[end + 1..];
                return Ok(());
            }
        }
        let flags: usize = self.rest[2..].chars().take_while(|c| "imsU-".contains(*c)).count();
        let bad = |at: &str| {
            let end = at.char_indices().nth(flags + 3).map_or(at.len(), |(place, _)| place);
            error("invalid or unsupported Perl syntax", &at[..end])
        };
        let text = &self.rest[2..2 + flags];
        if text.matches('-').count() > 1 || text.ends_with('-') {
            return bad(self.rest);
        }
        match self.rest[2 + flags..].chars().next() {
            Some(':') => self.keep(flags + 3),
            Some(')') if flags > 0 => {
                self.depth -= 1;
                self.keep(flags + 3);
            }
            None => return error("missing closing )", self.pattern),
            _ => return bad(self.rest),
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(next) = self.rest[1..].chars().next() else {
            return error("trailing backslash at end of expression", "");
        };
        let class = match next {
            'Q' => {
                self.quoted();
                return Ok(());
            }
            'A' | 'z' => {
                self.keep(2);
                self.last = Last::Item;
                return Ok(());
            }
            'b' => Some("(?-u:\\b)"),
            'B' => Some("(?-u:\\B)"),
            'd' => Some("[0-9]"),
            'D' => Some("[^0-9]"),
            's' => Some("[\\t\\n\\x0C\\r ]"),
            'S' => Some("[^\\t\\n\\x0C\\r ]"),
            'w' => Some("[0-9A-Za-z_]"),
            'W' => Some("[^0-9A-Za-z_]"),
            'p' | 'P' => {
                let length = unicode_class_length(self.rest)?;
                self.keep(length);
                self.last = Last::Item;
                return Ok(());
            }
            _ => None,
        };
        match class {
            Some(class) => {
                self.out.push_str(class);
                self.rest = &self.rest[2..];
            }
            None => {
                let (c, rest) = escaped(self.rest)?;
                push_literal(&mut self.out, c);
                self.rest = rest;
            }
        }
        self.last = Last::Item;
        Ok(())
    }

    fn quoted(&mut self) {
        let quoted = &self.rest[2..];
        let (text, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        for c in text.chars() {
            push_literal(&mut self.out, c);
            self.last = Last::Item;
        }
        self.rest = rest;
    }
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_punctuation() && c != '_' || c == ' ' {
        // Not every escaped character means itself; every number does.
        out.push_str(&format!("\\x{:02X}", c as u32));
    } else {
        out.push(c);
    }
}

/// The length of `{n}`, `{n,}` or `{n,m}` here; nothing when it is none, and `{` is itself.
fn count_length(rest: &str) -> Result<Option<usize>, String> {
    let Some(end) = rest.find('}') else { return Ok(None) };
    let inside = &rest[1..end];
    let (low, high) = match inside.split_once(',') {
        None => (inside, Some(inside)),
        Some((low, "")) => (low, None),
        Some((low, high)) => (low, Some(high)),
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A leading zero is no number to Go.
        (digits && (text.len() == 1 || !text.starts_with('0'))).then(|| text.parse::<u32>().unwrap_or(u32::MAX))
    };
    let Some(low) = number(low) else { return Ok(None) };
    let high = match high.map(number) {
        Some(None) => return Ok(None),
        Some(Some(high)) => Some(high),
        None => None,
    };
    if low > COUNT_MAX || high.is_some_and(|high| high > COUNT_MAX || high < low) {
        return error("invalid repeat count", &rest[..=end]);
    }
    Ok(Some(end + 1))
}

/// The length of `\pN`, `\PN`, `\p{^Name}` here.
fn unicode_class_length(rest: &str) -> Result<usize, String> {
    match rest[2..].chars().next() {
        None => error("invalid character class range", rest),
        Some('{') => match rest.find('}') {
            Some(end) => Ok(end + 1),
            None => error("invalid character class range", rest),
        },
        Some(c) => Ok(2 + c.len_utf8()),
    }
}

/// The character that an escape here stands for, and what follows it.
fn escaped(rest: &str) -> Result<(char, &str), String> {
    let mut chars = rest[1..].chars();
    let Some(c) = chars.next() else { return error("trailing backslash at end of expression", "") };
    let after = chars.as_str();
    let bad = |after: &str| error("invalid escape sequence", &rest[..rest.len() - after.len()]);
    match c {
        '0'..='7' => {
            let more = after.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            // A single digit would be a back reference.
            if c != '0' && more == 0 {
                return bad(after);
            }
            let value = u32::from_str_radix(&rest[1..2 + more], 8).unwrap_or(0);
            char::from_u32(value).map_or_else(|| bad(after), |c| Ok((c, &after[more..])))
        }
        'x' => {
            let (digits, end) = match after.strip_prefix('{') {
                Some(braced) => match braced.find('}') {
                    Some(end) => (&braced[..end], end + 2),
                    None => return bad(""),
                },
                None if after.len() >= 2 && after.is_char_boundary(2) => (&after[..2], 2),
                None => return bad(""),
            };
            let all_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let value = if all_hex { u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) } else { None };
            value.map_or_else(|| bad(&after[end..]), |c| Ok((c, &after[end..])))
        }
        'a' => Ok(('\x07', after)),
        'f' => Ok(('\x0C', after)),
        'n' => Ok(('\n', after)),
        'r' => Ok(('\r', after)),
        't' => Ok(('\t', after)),
        'v' => Ok(('\x0B', after)),
        c if c.is_ascii_punctuation() || c.is_ascii_control() || c == ' ' => Ok((c, after)),
        _ => bad(after),
    }
}

/// A class in brackets.
struct Class;

impl Class {
    /// The class here in the other syntax, and what follows it.
    fn parse(pattern: &str) -> Result<(String, &str), String> {
        let mut out = String::from("[");
        let mut rest = &pattern[1..];
        if let Some(negated) = rest.strip_prefix('^') {
            out.push('^');
            rest = negated;
        }
        let mut first = true;
        loop {
            let Some(next) = rest.chars().next() else { return error("missing closing ]", pattern) };
            if next == ']' && !first {
                out.push(']');
                return Ok((out, &rest[1..]));
            }
            // As in POSIX, a `-` means itself only at the ends; Perl's syntax allows it everywhere.
            first = false;
            if let Some(after) = Class::named(rest, &mut out)? {
                rest = after;
                continue;
            }
            let (low, after) = Class::single(pattern, rest)?;
            let mut high = low;
            let mut end = after;
            if let Some(dashed) = after.strip_prefix('-')
                && !dashed.starts_with(']')
            {
                (high, end) = Class::single(pattern, dashed)?;
                if high < low {
                    return error("invalid character class range", &rest[..rest.len() - end.len()]);
                }
            }
            push_literal(&mut out, low);
            if high != low {
                out.push('-');
                push_literal(&mut out, high);
            }
            rest = end;
        }
    }

    /// `[:alpha:]`, `\d`, `\pL` and the like.
    fn named<'a>(rest: &'a str, out: &mut String) -> Result<Option<&'a str>, String> {
        if rest.starts_with("[:")
            && let Some(end) = rest[2..].find(":]")
        {
            let name = &rest[..end + 4];
            let known = [
                "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
                "upper", "word", "xdigit",
            ];
            if !known.contains(&name[2..end + 2].trim_start_matches('^')) {
                return error("invalid character class range", name);
            }
            out.push_str(name);
            return Ok(Some(&rest[name.len()..]));
        }
        let class = match rest.as_bytes() {
            [b'\\', b'd', ..] => "0-9",
            [b'\\', b'D', ..] => "[^0-9]",
            [b'\\', b's', ..] => "\\t\\n\\x0C\\r\\x20",
            [b'\\', b'S', ..] => "[^\\t\\n\\x0C\\r\\x20]",
            [b'\\', b'w', ..] => "0-9A-Za-z_",
            [b'\\', b'W', ..] => "[^0-9A-Za-z_]",
            [b'\\', b'p' | b'P', ..] => {
                let length = unicode_class_length(rest)?;
                out.push_str(&rest[..length]);
                return Ok(Some(&rest[length..]));
            }
            _ => return Ok(None),
        };
        out.push_str(class);
        Ok(Some(&rest[2..]))
    }

    fn single<'a>(pattern: &str, rest: &'a str) -> Result<(char, &'a str), String> {
        match rest.chars().next() {
            None => error("missing closing ]", pattern),
            Some('\\') => escaped(rest),
            Some(c) => Ok((c, &rest[c.len_utf8()..])),
        }
    }
}
