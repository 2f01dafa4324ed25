//! Alertmanager's matchers in text: the UTF-8 grammar, the classic one, and the fallback from the first to the second.
//!
//! Source: alertmanager matcher/parse, matcher/compat, pkg/labels.

use promesh_model::labels::{is_classic_label_name, quoted};
use promesh_model::{MatchOp, Matcher};

use crate::yaml::{Kind, Node, Reader, Show, Yaml};

/// Which grammar is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatcherMode {
    /// UTF-8; where that fails or disagrees, classic. The default.
    #[default]
    Fallback,
    /// `--enable-feature=classic-mode`
    Classic,
    /// `--enable-feature=utf8-strict-mode`
    Utf8Strict,
}

/// A list of matchers that must all hold, sorted by name, value and operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matchers(pub Vec<Matcher>);

/// As in route and group keys, which receivers hash: `{a="b",c=~"d"}`.
impl std::fmt::Display for Matchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (index, matcher) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { "," } else { "" }, matcher_text(matcher))?;
        }
        f.write_str("}")
    }
}

impl Matchers {
    /// Sorted as upstream sorts them.
    pub fn sorted(mut matchers: Vec<Matcher>) -> Matchers {
        let rank = |op| match op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        };
        matchers.sort_by(|a, b| (&a.name, &a.value, rank(a.op)).cmp(&(&b.name, &b.value, rank(b.op))));
        Matchers(matchers)
    }

    /// Whether all hold.
    pub fn matches(&self, labels: &promesh_model::Labels) -> bool {
        promesh_model::matcher::matches_all(&self.0, labels)
    }
}

/// One matcher as upstream prints it; the name is quoted only where the classic grammar could not read it.
pub fn matcher_text(matcher: &Matcher) -> String {
    if matcher.name.contains(is_reserved) {
        return format!("{}{}{}", quoted(&matcher.name), matcher.op, quoted(&matcher.value));
    }
    let value = matcher.value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
    format!("{}{}\"{value}\"", matcher.name, matcher.op)
}

/// Characters that end an unquoted name or value.
fn is_reserved(c: char) -> bool {
    c.is_whitespace() || "{}!=~,\\\"'`".contains(c)
}

/// Reads one or more matchers, in braces or not.
///
/// # Errors
/// What is wrong, with the column; in fallback mode what the classic grammar says.
pub fn parse(text: &str, mode: MatcherMode) -> Result<Vec<Matcher>, String> {
    match mode {
        MatcherMode::Utf8Strict => parse_utf8(text),
        MatcherMode::Classic => parse_classic(text),
        MatcherMode::Fallback => match (parse_utf8(text), parse_classic(text)) {
            (Ok(_), Ok(classic)) => Ok(classic),
            (Ok(utf8), Err(_)) => Ok(utf8),
            (Err(_), classic) => classic,
        },
    }
}

/// Reads exactly one matcher, as the API's filters and command lines hold: braces are for lists.
///
/// # Errors
/// As [`parse`], and for none or more than one.
pub fn parse_one(text: &str, mode: MatcherMode) -> Result<Matcher, String> {
    let utf8 = || {
        if text.starts_with('{') || text.ends_with('}') {
            return Err(format!("unexpected open or close brace: {text}"));
        }
        let mut matchers = parse_utf8(text)?;
        match (matchers.pop(), matchers.len()) {
            (None, _) => Err("no matchers".to_owned()),
            (Some(matcher), 0) => Ok(matcher),
            (Some(_), others) => Err(format!("expected 1 matcher, found {}", others + 1)),
        }
    };
    match mode {
        MatcherMode::Utf8Strict => utf8(),
        MatcherMode::Classic => classic_matcher(text),
        MatcherMode::Fallback if text.starts_with('{') || text.ends_with('}') => utf8(),
        MatcherMode::Fallback => match (utf8(), classic_matcher(text)) {
            (Ok(utf8), Err(_)) => Ok(utf8),
            (_, classic) => classic,
        },
    }
}

/// Whether a label may have this name.
pub fn is_label_name(name: &str, mode: MatcherMode) -> bool {
    match mode {
        MatcherMode::Classic => is_classic_label_name(name),
        _ => !name.is_empty(),
    }
}

fn build(op: MatchOp, name: String, value: String) -> Result<Matcher, String> {
    Matcher::within_lines(op, name, value).map_err(|error| format!("failed to create matcher: {error}"))
}

/// The UTF-8 grammar: `name op value`, names and values unquoted or in double quotes.
fn parse_utf8(text: &str) -> Result<Vec<Matcher>, String> {
    let mut lexer = Lexer { chars: text.char_indices().collect(), text, at: 0 };
    let mut matchers = Vec::new();
    lexer.skip_space();
    let braced = lexer.take_if('{');
    loop {
        lexer.skip_space();
        if lexer.peek() == Some('}') {
            break;
        }
        if lexer.peek().is_none() {
            break;
        }
        let name = lexer.word("expected label name")?;
        let op = lexer.operator()?;
        let value = lexer.word("expected label value")?;
        matchers.push(build(op, name, value)?);
        lexer.skip_space();
        if !lexer.take_if(',') {
            break;
        }
    }
    lexer.skip_space();
    if !braced && !matches!(lexer.peek(), None | Some('}')) {
        return Err(lexer.unexpected("expected a comma or close brace"));
    }
    match (braced, lexer.take_if('}')) {
        (true, false) if lexer.peek().is_none() => {
            return Err(format!("0:{}: end of input: expected close brace", lexer.at));
        }
        (true, false) => return Err(lexer.unexpected("expected a comma or close brace")),
        (false, true) => return Err(format!("0:{}: }}: expected opening brace", lexer.at)),
        _ => {}
    }
    lexer.skip_space();
    if lexer.peek().is_some() {
        return Err(lexer.unexpected("expected end of input"));
    }
    Ok(matchers)
}

struct Lexer<'a> {
    chars: Vec<(usize, char)>,
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).map(|(_, c)| *c)
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let taken = self.peek() == Some(wanted);
        self.at += usize::from(taken);
        taken
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn slice(&self, from: usize) -> &str {
        let end = self.chars.get(self.at).map_or(self.text.len(), |(offset, _)| *offset);
        &self.text[self.chars.get(from).map_or(end, |(offset, _)| *offset)..end]
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.peek() {
            // Signs that begin nothing.
            Some(c @ ('\\' | '\'' | '`')) => format!("{}:{}: {c}: invalid input: {wanted}", self.at, self.at + 1),
            Some(c) => format!("{}:{}: unexpected {c}: {wanted}", self.at, self.at + 1),
            None => format!("end of input: {wanted}"),
        }
    }

    fn word(&mut self, wanted: &str) -> Result<String, String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let from = self.at;
        while self.peek().is_some_and(|c| !is_reserved(c)) {
            self.at += 1;
        }
        if self.at == from { Err(self.unexpected(wanted)) } else { Ok(self.slice(from).to_owned()) }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let from = self.at;
        let mut out = String::new();
        self.at += 1;
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escape(from)?),
                c => out.push(c),
            }
        }
        Err(format!("{from}:{}: {}: missing end \"", self.at, self.slice(from)))
    }

    fn escape(&mut self, from: usize) -> Result<char, String> {
        let c = self.peek();
        self.at += 1;
        let plain = match c {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(c @ ('"' | '\\')) => Some(c),
            Some('x') => self.hex(2),
            Some('u') => self.hex(4),
            Some('U') => self.hex(8),
            _ => None,
        };
        plain.ok_or_else(|| format!("{from}:{}: {}: invalid input", self.at.min(self.chars.len()), self.slice(from)))
    }

    fn hex(&mut self, digits: usize) -> Option<char> {
        let text: String = self.chars.get(self.at..self.at + digits)?.iter().map(|(_, c)| *c).collect();
        self.at += digits;
        u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
    }

    fn operator(&mut self) -> Result<MatchOp, String> {
        self.skip_space();
        let wanted = "expected an operator such as '=', '!=', '=~' or '!~'";
        if self.take_if('=') {
            return Ok(if self.take_if('~') { MatchOp::Regex } else { MatchOp::Equal });
        }
        if !self.take_if('!') {
            return Err(self.unexpected(wanted));
        }
        if self.take_if('=') {
            Ok(MatchOp::NotEqual)
        } else if self.take_if('~') {
            Ok(MatchOp::NotRegex)
        } else {
            Err(self.unexpected(wanted))
        }
    }
}

/// The classic grammar: tolerant of unquoted values and stray backslashes.
fn parse_classic(text: &str) -> Result<Vec<Matcher>, String> {
    let inner = text.strip_prefix('{').unwrap_or(text);
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut quoted, mut escaped) = (false, false);
    for c in inner.chars() {
        match c {
            ',' if !quoted => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            '"' => escaped = false,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
        part.push(c);
    }
    if !part.trim().is_empty() {
        parts.push(part.trim().to_owned());
    }
    parts.iter().map(|part| classic_matcher(part)).collect()
}

fn classic_matcher(text: &str) -> Result<Matcher, String> {
    let bad = || format!("bad matcher format: {text}");
    let trimmed = text.trim();
    let name_end = trimmed.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).ok_or_else(bad)?;
    let (name, rest) = trimmed.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad());
    }
    let rest = rest.trim_start();
    let operators =
        [("=~", MatchOp::Regex), ("=", MatchOp::Equal), ("!=", MatchOp::NotEqual), ("!~", MatchOp::NotRegex)];
    let (sign, op) = operators.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(bad)?;
    let raw = rest[sign.len()..].trim();
    let value = classic_value(raw)?;
    Matcher::within_lines(op, name, value).map_err(|error| error.to_string())
}

fn classic_value(raw: &str) -> Result<String, String> {
    let unescaped_quote = || format!("matcher value contains unescaped double quote: {raw}");
    let (body, quoted) = raw.strip_prefix('"').map_or((raw, false), |body| (body, true));
    let body = if quoted {
        let inner = body.strip_suffix('"').ok_or_else(unescaped_quote)?;
        let slashes = inner.chars().rev().take_while(|c| *c == '\\').count();
        if slashes % 2 == 1 {
            return Err(unescaped_quote());
        }
        inner
    } else {
        body
    };
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('"', _) => return Err(unescaped_quote()),
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some(next @ ('"' | '\\'))) => {
                out.push(*next);
                chars.next();
            }
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

impl Yaml for Matchers {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let mut matchers = Vec::new();
        match &node.kind {
            Kind::List(_) | Kind::Null => {}
            _ => reader.mismatch(node, "[]string"),
        }
        for element in node.elements() {
            let Some(text) = reader.scalar(element, "string") else { continue };
            match parse(text, reader.matcher_mode) {
                Ok(parsed) => matchers.extend(parsed),
                Err(reason) => reader.problem(element.at, reason),
            }
        }
        Matchers::sorted(matchers)
    }
    fn show(&self, _: Show) -> Node {
        Node::new(Kind::List(self.0.iter().map(|matcher| Node::text(matcher_text(matcher))).collect()))
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, mode: MatcherMode) -> String {
        match parse(text, mode) {
            Ok(matchers) => Matchers(matchers).to_string(),
            Err(reason) => format!("error: {reason}"),
        }
    }

    #[test]
    fn both_grammars_read_what_upstream_reads() {
        for (text, utf8, classic) in [
            ("{}", "{}", "{}"),
            ("foo=bar", "{foo=\"bar\"}", "{foo=\"bar\"}"),
            ("{ foo = \"bar\", a!~\"b|c\" ,}", "{foo=\"bar\",a!~\"b|c\"}", "{foo=\"bar\",a!~\"b|c\"}"),
            ("{foo=\"b\\\"r\\n\"}", "{foo=\"b\\\"r\\n\"}", "{foo=\"b\\\"r\\n\"}"),
            ("\"a b\"=\"ü\"", "{\"a b\"=\"ü\"}", "error: bad matcher format: \"a b\"=\"ü\""),
            ("füß=x", "{füß=\"x\"}", "error: bad matcher format: füß=x"),
            ("foo=~[a", "error: failed to create matcher: error parsing regexp: ", "error: error parsing regexp: "),
            ("foo=a b", "error: 6:7: unexpected b: expected a comma or close brace", "{foo=\"a b\"}"),
            ("foo=", "error: end of input: expected label value", "{foo=\"\"}"),
            ("{foo=bar", "error: 0:8: end of input: expected close brace", "{foo=\"bar\"}"),
            (
                "foo",
                "error: end of input: expected an operator such as '=', '!=', '=~' or '!~'",
                "error: bad matcher format: foo",
            ),
            (
                "foo=\"bar",
                "error: 4:8: \"bar: missing end \"",
                "error: matcher value contains unescaped double quote: \"bar",
            ),
        ] {
            let check = |mode, expected: &str| {
                let seen = shown(text, mode);
                assert!(seen == expected || expected.ends_with(": ") && seen.starts_with(expected), "{text}: {seen}");
            };
            check(MatcherMode::Utf8Strict, utf8);
            check(MatcherMode::Classic, classic);
        }
        let one = |text: &str, mode| match parse_one(text, mode) {
            Ok(matcher) => matcher_text(&matcher),
            Err(reason) => format!("error: {reason}"),
        };
        for (text, utf8, classic, fallback) in [
            ("a=b", "a=\"b\"", "a=\"b\"", "a=\"b\""),
            ("a=b,c=d", "error: expected 1 matcher, found 2", "a=\"b,c=d\"", "a=\"b,c=d\""),
            (
                "{a=b}",
                "error: unexpected open or close brace: {a=b}",
                "error: bad matcher format: {a=b}",
                "error: unexpected open or close brace: {a=b}",
            ),
            ("ü=x", "ü=\"x\"", "error: bad matcher format: ü=x", "ü=\"x\""),
            ("", "error: no matchers", "error: bad matcher format: ", "error: bad matcher format: "),
        ] {
            assert_eq!(one(text, MatcherMode::Utf8Strict), utf8);
            assert_eq!(one(text, MatcherMode::Classic), classic);
            assert_eq!(one(text, MatcherMode::Fallback), fallback);
        }
        assert_eq!(shown("foo=a b", MatcherMode::Fallback), "{foo=\"a b\"}");
        assert_eq!(shown("füß=x", MatcherMode::Fallback), "{füß=\"x\"}");
    }
}
