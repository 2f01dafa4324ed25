//! The lexer: text to tokens, in one go before parsing.
//!
//! What a character means depends on where it stands: inside braces every word is an identifier, inside brackets
//! only durations and their operators occur, and series descriptions have a language of their own. The first error
//! ends the tokens; the grammar reports it when it gets there.
//!
//! Source: prometheus `promql/parser/lex.go`, whose messages are kept word for word.

use promesh_model::labels::quoted;

use super::ast::{BinaryOp, Span};
use super::token::{Keyword, Kind, Token, preprocessor, word};

#[derive(Clone, Copy, PartialEq)]
enum State {
    Statements,
    Braces,
    Duration,
    Values,
    Histogram,
    Buckets,
    Done,
}

/// A character of the input, or its end.
type Char = Option<char>;

/// The lexer of one input.
pub(crate) struct Lexer<'a> {
    input: &'a str,
    at: usize,
    start: usize,
    width: usize,
    paren_depth: usize,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
    series: bool,
    in_histogram: bool,
    tokens: Vec<Token>,
}

/// The tokens of an expression; with `series`, of a series description. The last is `End` or `Error`.
pub(crate) fn tokens(input: &str, series: bool) -> Vec<Token> {
    let mut lexer = Lexer {
        input,
        at: 0,
        start: 0,
        width: 0,
        paren_depth: 0,
        brace_open: false,
        bracket_open: false,
        got_colon: false,
        got_duration: false,
        series,
        in_histogram: false,
        tokens: Vec::new(),
    };
    let mut state = State::Statements;
    while state != State::Done {
        state = match lexer.step(state) {
            Ok(next) => next,
            Err(message) => {
                let span = Span::new(lexer.start, input.len());
                lexer.tokens.push(Token { kind: Kind::Error, span, text: message });
                State::Done
            }
        };
    }
    lexer.tokens
}

impl Lexer<'_> {
    fn step(&mut self, state: State) -> Result<State, String> {
        match state {
            State::Statements if self.in_histogram => self.histogram(),
            State::Statements if self.brace_open => self.braces(),
            State::Statements => self.statements(),
            State::Braces => self.braces(),
            State::Duration => self.duration(),
            State::Values if self.in_histogram => self.histogram(),
            State::Values => self.values(),
            State::Histogram => self.histogram(),
            State::Buckets => self.buckets(),
            State::Done => Ok(State::Done),
        }
    }

    fn next(&mut self) -> Char {
        let next = self.input[self.at..].chars().next();
        self.width = next.map_or(0, char::len_utf8);
        self.at += self.width;
        next
    }

    fn peek(&self) -> Char {
        self.input[self.at..].chars().next()
    }

    fn backup(&mut self) {
        self.at -= self.width;
        self.width = 0;
    }

    fn text(&self) -> &str {
        &self.input[self.start..self.at]
    }

    fn emit(&mut self, kind: Kind) {
        let text = self.text().to_owned();
        self.tokens.push(Token { kind, span: Span::new(self.start, self.at), text });
        self.start = self.at;
    }

    fn operator(&mut self, op: BinaryOp) {
        self.emit(Kind::Operator(op));
    }

    fn accept(&mut self, valid: &str) -> bool {
        if self.peek().is_some_and(|c| valid.contains(c)) {
            self.next();
            return true;
        }
        self.width = 0;
        false
    }

    fn is(&self, valid: &str) -> bool {
        self.peek().is_some_and(|c| valid.contains(c))
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.next();
        }
        self.start = self.at;
    }

    fn skip_comment(&mut self) {
        while self.peek().is_some_and(|c| c != '\n' && c != '\r') {
            self.next();
        }
        self.start = self.at;
    }

    fn statements(&mut self) -> Result<State, String> {
        let next = self.next();
        match next {
            None => return self.end(),
            Some('#') => self.skip_comment(),
            Some(',') => self.emit(Kind::Comma),
            Some(c) if is_space(c) => self.skip_spaces(),
            Some('*') => self.operator(BinaryOp::Mul),
            Some('/') => self.operator(BinaryOp::Div),
            Some('%') => self.operator(BinaryOp::Mod),
            Some('+') => self.operator(BinaryOp::Add),
            Some('-') => self.operator(BinaryOp::Sub),
            Some('^') => self.operator(BinaryOp::Pow),
            Some('=') => match self.peek() {
                Some('=') => {
                    self.next();
                    self.operator(BinaryOp::Equal);
                }
                Some('~') => return Err("unexpected character after '=': '~'".to_owned()),
                _ => self.emit(Kind::Equal),
            },
            Some('!') => match self.next() {
                Some('=') => self.operator(BinaryOp::NotEqual),
                other => return Err(format!("unexpected character after '!': {}", quoted_char(other))),
            },
            Some('<') => self.comparison(BinaryOp::Less, BinaryOp::LessEqual, BinaryOp::TrimUpper),
            Some('>') => self.comparison(BinaryOp::Greater, BinaryOp::GreaterEqual, BinaryOp::TrimLower),
            Some(c) if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.backup();
                self.number_or_duration()?;
            }
            Some('`') => self.raw_string()?,
            Some(quote @ ('"' | '\'')) => self.string(quote)?,
            Some(c) if is_alpha(c) || c == ':' => return self.word_or_colon(c),
            Some('(') => {
                self.emit(Kind::LeftParen);
                self.paren_depth += 1;
            }
            Some(')') => self.right_paren()?,
            Some('{') => {
                self.emit(Kind::LeftBrace);
                self.brace_open = true;
                return Ok(State::Braces);
            }
            Some('[') => {
                if self.bracket_open {
                    return Err("unexpected left bracket '['".to_owned());
                }
                self.got_colon = false;
                self.emit(Kind::LeftBracket);
                self.skip_spaces();
                self.bracket_open = true;
                return Ok(State::Duration);
            }
            Some(']') => {
                if !self.bracket_open {
                    return Err("unexpected right bracket ']'".to_owned());
                }
                self.emit(Kind::RightBracket);
                self.bracket_open = false;
            }
            Some('@') => self.emit(Kind::At),
            other => return Err(format!("unexpected character: {}", quoted_char(other))),
        }
        Ok(State::Statements)
    }

    fn end(&mut self) -> Result<State, String> {
        if self.paren_depth != 0 {
            return Err("unclosed left parenthesis".to_owned());
        }
        if self.bracket_open {
            return Err("unclosed left bracket".to_owned());
        }
        self.emit(Kind::End);
        Ok(State::Done)
    }

    fn right_paren(&mut self) -> Result<(), String> {
        let Some(depth) = self.paren_depth.checked_sub(1) else {
            // As upstream, the complaint stands behind the parenthesis.
            self.start = self.at;
            return Err("unexpected right parenthesis ')'".to_owned());
        };
        self.paren_depth = depth;
        self.emit(Kind::RightParen);
        Ok(())
    }

    fn comparison(&mut self, plain: BinaryOp, or_equal: BinaryOp, trim: BinaryOp) {
        let op = match self.peek() {
            Some('=') => or_equal,
            Some('/') => trim,
            _ => return self.operator(plain),
        };
        self.next();
        self.operator(op);
    }

    fn word_or_colon(&mut self, first: char) -> Result<State, String> {
        if !self.bracket_open {
            self.backup();
            return Ok(self.keyword_or_identifier());
        }
        if first == ':' {
            if self.got_colon {
                return Err("unexpected colon ':'".to_owned());
            }
            self.emit(Kind::Colon);
            self.got_colon = true;
            return Ok(State::Statements);
        }
        if self.duration_keyword(first) {
            return Ok(State::Statements);
        }
        Err(format!("unexpected character: {}, expected ':'", quoted_char(Some(first))))
    }

    fn keyword_or_identifier(&mut self) -> State {
        while self.peek().is_some_and(|c| is_alphanumeric(c) || c == ':') {
            self.next();
        }
        let kind = match word(self.text()) {
            // Metrics may be called so: the words are only special before a parenthesis.
            Some(Kind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.input[self.at..].trim_start_matches(is_space).starts_with('(') =>
            {
                Kind::Identifier
            }
            Some(kind) => kind,
            None if self.text().contains(':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        };
        self.emit(kind);
        if self.series && self.peek() != Some('{') { State::Values } else { State::Statements }
    }

    fn braces(&mut self) -> Result<State, String> {
        let next = self.next();
        match next {
            None => return Err("unexpected end of input inside braces".to_owned()),
            Some('#') => {
                self.skip_comment();
                return Ok(State::Statements);
            }
            Some(c) if is_space(c) => self.skip_spaces(),
            Some(c) if is_alpha(c) => {
                while self.peek().is_some_and(is_alphanumeric) {
                    self.next();
                }
                self.emit(Kind::Identifier);
            }
            Some(',') => self.emit(Kind::Comma),
            Some('`') => self.raw_string()?,
            Some(quote @ ('"' | '\'')) => self.string(quote)?,
            Some('=') => {
                let kind = if self.accept("~") { Kind::RegexEqual } else { Kind::Equal };
                self.emit(kind);
            }
            Some('!') => match self.next() {
                Some('~') => self.emit(Kind::RegexNotEqual),
                Some('=') => self.operator(BinaryOp::NotEqual),
                other => {
                    return Err(format!("unexpected character after '!' inside braces: {}", quoted_char(other)));
                }
            },
            Some('{') => return Err("unexpected left brace '{'".to_owned()),
            Some('}') => {
                self.emit(Kind::RightBrace);
                self.brace_open = false;
                return Ok(if self.series { State::Values } else { State::Statements });
            }
            other => return Err(format!("unexpected character inside braces: {}", quoted_char(other))),
        }
        Ok(State::Braces)
    }

    fn duration(&mut self) -> Result<State, String> {
        let next = self.next();
        match next {
            None => return Err("unexpected end of input in duration expression".to_owned()),
            Some(']') => {
                self.emit(Kind::RightBracket);
                self.bracket_open = false;
                self.got_colon = false;
                return Ok(State::Statements);
            }
            Some(':') => {
                if !self.got_duration || self.got_colon {
                    self.start = self.at;
                    let what = if self.got_duration { "repeated colon" } else { "colon before duration" };
                    return Err(format!("unexpected {what} in duration expression"));
                }
                self.emit(Kind::Colon);
                self.got_colon = true;
            }
            Some('(') => {
                self.emit(Kind::LeftParen);
                self.paren_depth += 1;
            }
            Some(')') => self.right_paren()?,
            Some(c) if is_space(c) => self.skip_spaces(),
            Some('+') => self.operator(BinaryOp::Add),
            Some('-') => self.operator(BinaryOp::Sub),
            Some('*') => self.operator(BinaryOp::Mul),
            Some('/') => self.operator(BinaryOp::Div),
            Some('%') => self.operator(BinaryOp::Mod),
            Some('^') => self.operator(BinaryOp::Pow),
            Some(',') => self.emit(Kind::Comma),
            Some(c) if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.backup();
                self.got_duration = true;
                self.number_or_duration()?;
                return Ok(State::Statements);
            }
            Some(c) if self.duration_keyword(c) => {}
            other => return Err(format!("unexpected character in duration expression: {}", quoted_char(other))),
        }
        Ok(State::Duration)
    }

    /// Takes `step`, `range`, `max_of` or `min_of`, whose first character was just read.
    fn duration_keyword(&mut self, first: char) -> bool {
        if !matches!(first.to_ascii_lowercase(), 's' | 'r' | 'm') {
            return false;
        }
        while self.peek().is_some_and(is_alpha) {
            self.next();
        }
        match preprocessor(&self.text().to_ascii_lowercase()) {
            Some(word) if !matches!(word, super::token::Preprocessor::Start | super::token::Preprocessor::End) => {
                self.emit(Kind::Preprocessor(word));
                true
            }
            _ => false,
        }
    }

    fn values(&mut self) -> Result<State, String> {
        let next = self.next();
        match next {
            None => return Ok(State::Statements),
            Some('{') if self.peek() == Some('{') => {
                self.in_histogram = true;
                self.next();
                self.emit(Kind::OpenHistogram);
                return Ok(State::Histogram);
            }
            Some(c) if is_space(c) => {
                self.emit(Kind::Space);
                self.skip_spaces();
            }
            Some('+') => self.operator(BinaryOp::Add),
            Some('-') => self.operator(BinaryOp::Sub),
            Some('x') => self.emit(Kind::Times),
            Some('_') => self.emit(Kind::Blank),
            Some('@') => self.emit(Kind::At),
            Some(c) if c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit())) => {
                self.backup();
                self.number()?;
            }
            Some(c) if is_alpha(c) => {
                self.backup();
                return Ok(self.keyword_or_identifier());
            }
            other => return Err(format!("unexpected character in series sequence: {}", quoted_char(other))),
        }
        Ok(State::Values)
    }

    fn histogram(&mut self) -> Result<State, String> {
        if self.bracket_open {
            return self.buckets();
        }
        let next = self.next();
        match next {
            Some(c) if is_space(c) => {
                self.emit(Kind::Space);
                self.skip_spaces();
            }
            Some(c) if is_alpha(c) && c != 'x' => self.histogram_word()?,
            Some(':') => self.emit(Kind::Colon),
            Some('-') => self.operator(BinaryOp::Sub),
            Some('x') => {
                self.emit(Kind::Times);
                self.number()?;
            }
            Some(c) if c.is_ascii_digit() => {
                self.backup();
                self.number()?;
            }
            Some('[') => {
                self.bracket_open = true;
                self.emit(Kind::LeftBracket);
                return Ok(State::Buckets);
            }
            Some('}') if self.peek() == Some('}') => {
                self.next();
                self.emit(Kind::CloseHistogram);
                self.in_histogram = false;
                return Ok(State::Values);
            }
            other => return Err(format!("histogram description incomplete unexpected: {}", quoted_char(other))),
        }
        Ok(State::Histogram)
    }

    fn histogram_word(&mut self) -> Result<(), String> {
        while self.peek().is_some_and(is_alpha) {
            self.next();
        }
        let lower = self.text().to_ascii_lowercase();
        if super::series::DESCRIPTORS.contains(&lower.as_str()) {
            if self.peek() != Some(':') {
                return Err("missing `:` for histogram descriptor".to_owned());
            }
            self.emit(Kind::Descriptor);
        } else if matches!(lower.as_str(), "inf" | "nan") {
            self.emit(Kind::Number);
        } else if super::series::reset_hint(&lower).is_some() {
            self.emit(Kind::ResetHint);
        } else {
            return Err(format!("bad histogram descriptor found: {}", quoted(self.text())));
        }
        Ok(())
    }

    fn buckets(&mut self) -> Result<State, String> {
        let next = self.next();
        match next {
            Some(c) if is_space(c) => {
                self.emit(Kind::Space);
                self.skip_spaces();
            }
            Some('-') => {
                self.operator(BinaryOp::Sub);
                self.number()?;
            }
            Some(c) if c.is_ascii_digit() => {
                self.backup();
                self.number()?;
            }
            Some(']') => {
                self.bracket_open = false;
                self.emit(Kind::RightBracket);
                return Ok(State::Histogram);
            }
            Some(c) if is_alpha(c) => {
                while self.peek().is_some_and(is_alpha) {
                    self.next();
                }
                if !matches!(self.text().to_ascii_lowercase().as_str(), "inf" | "nan") {
                    return Err(format!("invalid character in buckets description: {}", quoted_char(Some(c))));
                }
                self.emit(Kind::Number);
            }
            other => return Err(format!("invalid character in buckets description: {}", quoted_char(other))),
        }
        Ok(State::Buckets)
    }

    fn string(&mut self, quote: char) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\\') => self.escape(quote)?,
                Some('\u{fffd}') => return Err("invalid UTF-8 rune".to_owned()),
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some(c) if c == quote => break,
                Some(_) => {}
            }
        }
        self.emit(Kind::String);
        Ok(())
    }

    fn raw_string(&mut self) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\u{fffd}') => return Err("invalid UTF-8 rune".to_owned()),
                None => return Err("unterminated raw string".to_owned()),
                Some('`') => break,
                Some(_) => {}
            }
        }
        self.emit(Kind::String);
        Ok(())
    }

    fn escape(&mut self, quote: char) -> Result<(), String> {
        let (mut c, digits, base, max) = match self.next() {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => return Ok(()),
            Some(c) if c == quote => return Ok(()),
            Some(c @ '0'..='7') => (Some(c), 3, 8, 255),
            Some('x') => (self.next(), 2, 16, 255),
            Some('u') => (self.next(), 4, 16, 0x10_ffff),
            Some('U') => (self.next(), 8, 16, 0x10_ffff),
            None => return Err("escape sequence not terminated".to_owned()),
            Some(c) => return Err(format!("unknown escape sequence {}", code_point(c))),
        };
        let mut value: u64 = 0;
        for left in (0..digits).rev() {
            let digit = match c.map(|c| (c, c.to_digit(base))) {
                None => return Err("escape sequence not terminated".to_owned()),
                Some((c, None)) => return Err(format!("illegal character {} in escape sequence", code_point(c))),
                Some((_, Some(digit))) => digit,
            };
            value = value * u64::from(base) + u64::from(digit);
            if left > 0 {
                c = self.next();
            }
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return Err("escape sequence is an invalid Unicode code point".to_owned());
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if !self.scan_number() {
            return Err(format!("bad number syntax: {}", quoted(self.text())));
        }
        self.emit(Kind::Number);
        Ok(())
    }

    fn number_or_duration(&mut self) -> Result<(), String> {
        if self.scan_number() {
            self.emit(Kind::Number);
        } else if self.scan_duration_units() {
            self.emit(Kind::Duration);
        } else {
            return Err(format!("bad number or duration syntax: {}", quoted(self.text())));
        }
        Ok(())
    }

    /// Takes units and further digits after a number. On failure the offending character is taken too: it is shown.
    fn scan_duration_units(&mut self) -> bool {
        if !self.accept("smhdwy") {
            return false;
        }
        // For `ms`. Bad units like `hs` are found when the duration is parsed.
        self.accept("s");
        while self.accept(DIGITS) {
            while self.accept(DIGITS) {}
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        if self.next().is_some_and(is_alphanumeric) {
            return false;
        }
        self.backup();
        true
    }

    /// Takes what may be a number; whether it is one, the grammar finds out.
    fn scan_number(&mut self) -> bool {
        let initial = self.at;
        let mut digits = DIGITS;
        // Not in series descriptions, where `0x5` means something repeated.
        if !self.series && self.accept("0") && self.accept("xX") {
            self.accept("_");
            digits = HEX_DIGITS;
        }
        self.accept(".");
        self.accept(digits);
        let (mut dot, mut exponent) = (false, false);
        while self.is(digits) || self.is("._eE") {
            if self.is(".") && dot || self.is("eE") && digits == DIGITS && exponent {
                self.next();
                return false;
            }
            if self.accept(".") {
                dot = true;
                if self.accept("_.") || digits == HEX_DIGITS {
                    return false;
                }
            } else if digits == DIGITS && self.accept("eE") {
                exponent = true;
                self.accept("+-");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else if self.accept("_") {
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else {
                while self.accept(digits) {}
            }
        }
        if self.at == initial {
            return false;
        }
        match self.peek() {
            Some('x') if self.series => true,
            Some(c) => !is_alphanumeric(c),
            None => true,
        }
    }
}

const DIGITS: &str = "0123456789";
const HEX_DIGITS: &str = "0123456789abcdefABCDEF";

pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

/// A character as Go's `%q` prints it.
fn quoted_char(c: Char) -> String {
    match c {
        None => "'\u{fffd}'".to_owned(),
        Some('\'') => "'\\''".to_owned(),
        Some('"') => "'\"'".to_owned(),
        Some(c) => {
            let text = quoted(c.encode_utf8(&mut [0; 4]));
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

/// A character as Go's `%#U` prints it.
fn code_point(c: char) -> String {
    format!("U+{:04X} '{c}'", c as u32)
}
