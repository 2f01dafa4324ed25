//! Text to tokens, with Go's rules for trim markers, comments and what may follow what.

use promesh_model::labels::quoted;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The scan failed; the text is the reason.
    Error,
    /// The end of the template.
    Eof,
    /// Text outside actions.
    Text,
    /// `{{`
    LeftDelim,
    /// `}}`
    RightDelim,
    /// A run of white space inside an action.
    Space,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `|`
    Pipe,
    /// `"…"`
    Quoted,
    /// A string in backquotes.
    Raw,
    /// `'c'`
    Char,
    /// A number.
    Number,
    /// `$name`
    Variable,
    /// `.Name`
    Field,
    /// `.`
    Dot,
    /// `true`, `false`
    Bool,
    /// A function's name.
    Identifier,
    /// `(`
    LeftParen,
    /// `)`
    RightParen,
    /// Any other printable character.
    Other,
    /// `nil`
    Nil,
    /// `block`, `break`, `continue`, `define`, `else`, `end`, `if`, `range`, `template`, `with`.
    Keyword(Keyword),
}

/// The words that begin control structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Keyword {
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
}

/// A token with its text and place.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub token: Token,
    /// Byte offset of its first character.
    pub position: usize,
    /// Line of its first character, from 1.
    pub line: usize,
    /// As written; for an error, the reason.
    pub text: String,
}

impl Item {
    /// How Go's parser names a token in its errors.
    pub fn describe(&self) -> String {
        match self.token {
            Token::Eof => "EOF".to_owned(),
            Token::Error => self.text.clone(),
            Token::Keyword(_) | Token::Nil => format!("<{}>", self.text),
            Token::Dot => "<.>".to_owned(),
            _ if self.text.len() > 10 => {
                let head: String = self.text.chars().take(10).collect();
                format!("{}...", quoted(&head))
            }
            _ => quoted(&self.text),
        }
    }
}

/// Scans a whole template. The last item is `Eof` or `Error`.
pub fn lex(text: &str) -> Vec<Item> {
    let mut lexer = Lexer { text, start: 0, at: 0, line: 1, counted: 0, depth: 0, items: Vec::new() };
    if let Err(reason) = lexer.run() {
        lexer.count_lines();
        let (position, line) = (lexer.start, lexer.line);
        lexer.items.push(Item { token: Token::Error, position, line, text: reason });
    }
    lexer.items
}

struct Lexer<'a> {
    text: &'a str,
    start: usize,
    at: usize,
    line: usize,
    counted: usize,
    depth: usize,
    items: Vec<Item>,
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// Moves the line count to the start of the token about to be emitted.
    fn count_lines(&mut self) {
        self.line += self.text.as_bytes()[self.counted..self.start].iter().filter(|byte| **byte == b'\n').count();
        self.counted = self.start;
    }

    fn emit(&mut self, token: Token) {
        self.count_lines();
        let text = self.text[self.start..self.at].to_owned();
        self.items.push(Item { token, position: self.start, line: self.line, text });
        self.start = self.at;
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(offset) = self.rest().find("{{") {
            let delim = self.at + offset;
            let trims = trims_left(&self.text[delim + 2..]);
            let kept =
                if trims { self.text[self.start..delim].trim_end_matches(SPACE).len() } else { delim - self.start };
            self.at = self.start + kept;
            if kept > 0 {
                self.emit(Token::Text);
            }
            self.start = delim;
            self.at = delim + 2 + if trims { 2 } else { 0 };
            if self.rest().starts_with("/*") {
                self.comment()?;
            } else {
                self.at = delim + 2;
                self.emit(Token::LeftDelim);
                self.at += if trims { 2 } else { 0 };
                self.start = self.at;
                self.depth = 0;
                self.action()?;
            }
        }
        self.at = self.text.len();
        if self.at > self.start {
            self.emit(Token::Text);
        }
        self.emit(Token::Eof);
        Ok(())
    }

    fn comment(&mut self) -> Result<(), String> {
        let end = self.rest().find("*/").ok_or("unclosed comment")?;
        self.at += end + 2;
        if self.rest().starts_with("}}") {
            self.at += 2;
        } else if trims_right(self.rest()) {
            self.at += 4;
            self.skip_space();
        } else {
            return Err("comment ends before closing delimiter".to_owned());
        }
        self.start = self.at;
        Ok(())
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches(SPACE).len();
    }

    /// The inside of one action, to its right delimiter.
    fn action(&mut self) -> Result<(), String> {
        loop {
            let trims = trims_right(self.rest());
            if trims || self.rest().starts_with("}}") {
                if self.depth > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                self.at += if trims { 2 } else { 0 };
                self.start = self.at;
                self.at += 2;
                self.emit(Token::RightDelim);
                if trims {
                    self.skip_space();
                    self.start = self.at;
                }
                return Ok(());
            }
            self.element()?;
        }
    }

    fn element(&mut self) -> Result<(), String> {
        let Some(first) = self.next() else { return Err("unclosed action".to_owned()) };
        match first {
            ' ' | '\t' | '\r' | '\n' => self.space(),
            '=' => self.emit(Token::Assign),
            ':' => {
                if self.next() != Some('=') {
                    return Err("expected :=".to_owned());
                }
                self.emit(Token::Declare);
            }
            '|' => self.emit(Token::Pipe),
            '"' => return self.quoted('"', Token::Quoted, "unterminated quoted string"),
            '\'' => return self.quoted('\'', Token::Char, "unterminated character constant"),
            '`' => {
                let end = self.rest().find('`').ok_or("unterminated raw quoted string")?;
                self.at += end + 1;
                self.emit(Token::Raw);
            }
            '$' => return self.name(Token::Variable, Token::Variable),
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => return self.name(Token::Field, Token::Dot),
            '+' | '-' | '.' | '0'..='9' => return self.number(),
            '(' => {
                self.depth += 1;
                self.emit(Token::LeftParen);
            }
            ')' => {
                if self.depth == 0 {
                    return Err("unexpected right paren".to_owned());
                }
                self.depth -= 1;
                self.emit(Token::RightParen);
            }
            c if is_word(c) => return self.identifier(),
            c if c.is_ascii_graphic() => self.emit(Token::Other),
            c => return Err(format!("unrecognized character in action: {}", unicode_name(c))),
        }
        Ok(())
    }

    fn space(&mut self) {
        // A space that belongs to " -}}" trims; it is left to `action`.
        while self.peek().is_some_and(|c| SPACE.contains(&c)) && !trims_right(self.rest()) {
            self.next();
        }
        if trims_right(&self.text[self.start..]) {
            self.at = self.start;
            return;
        }
        self.emit(Token::Space);
    }

    fn quoted(&mut self, quote: char, token: Token, unterminated: &str) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\\') if self.peek().is_some_and(|c| c != '\n') => {
                    self.next();
                }
                None | Some('\n' | '\\') => return Err(unterminated.to_owned()),
                Some(c) if c == quote => break,
                Some(_) => {}
            }
        }
        self.emit(token);
        Ok(())
    }

    fn name(&mut self, long: Token, bare: Token) -> Result<(), String> {
        if self.at_terminator() {
            self.emit(bare);
            return Ok(());
        }
        self.words()?;
        self.emit(long);
        Ok(())
    }

    fn words(&mut self) -> Result<(), String> {
        while self.peek().is_some_and(is_word) {
            self.next();
        }
        if self.at_terminator() {
            return Ok(());
        }
        Err(format!("bad character {}", self.peek().map_or_else(String::new, unicode_name)))
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | '(' | ')') => true,
            Some(_) => self.rest().starts_with("}}"),
        }
    }

    fn identifier(&mut self) -> Result<(), String> {
        self.words()?;
        let token = match &self.text[self.start..self.at] {
            "block" => Token::Keyword(Keyword::Block),
            "break" => Token::Keyword(Keyword::Break),
            "continue" => Token::Keyword(Keyword::Continue),
            "define" => Token::Keyword(Keyword::Define),
            "else" => Token::Keyword(Keyword::Else),
            "end" => Token::Keyword(Keyword::End),
            "if" => Token::Keyword(Keyword::If),
            "range" => Token::Keyword(Keyword::Range),
            "template" => Token::Keyword(Keyword::Template),
            "with" => Token::Keyword(Keyword::With),
            "nil" => Token::Nil,
            "true" | "false" => Token::Bool,
            _ => Token::Identifier,
        };
        self.emit(token);
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        while let Some(c) = self.peek() {
            let so_far = &self.text[self.start..self.at];
            let hex = so_far.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
            let after_exponent = so_far.ends_with(['e', 'E', 'p', 'P']) && !(hex && so_far.ends_with(['e', 'E']));
            if c.is_ascii_alphanumeric() || c == '.' || c == '_' || (after_exponent && matches!(c, '+' | '-')) {
                self.next();
            } else {
                break;
            }
        }
        if self.peek().is_some_and(is_word) {
            self.next();
        }
        let text = &self.text[self.start..self.at];
        if crate::parse::number(text).is_none() {
            return Err(format!("bad number syntax: {}", quoted(text)));
        }
        self.emit(Token::Number);
        Ok(())
    }
}

fn trims_left(after_delim: &str) -> bool {
    let mut chars = after_delim.chars();
    chars.next() == Some('-') && chars.next().is_some_and(|c| SPACE.contains(&c))
}

fn trims_right(rest: &str) -> bool {
    let mut chars = rest.chars();
    chars.next().is_some_and(|c| SPACE.contains(&c)) && chars.as_str().starts_with("-}}")
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Go's `%#U`: the code point, and the character when it can be printed.
fn unicode_name(c: char) -> String {
    if c.is_control() || (c.is_whitespace() && c != ' ') {
        format!("U+{:04X}", c as u32)
    } else {
        format!("U+{:04X} '{c}'", c as u32)
    }
}
