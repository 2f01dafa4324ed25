//! Tokens to trees, refusing what Go refuses, in Go's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::labels::quoted;

use crate::lex::{Item, Keyword, Token, lex};
use crate::node::{Branch, Kind, Node, Number, Pipe};
use crate::{TemplateError, Tree};

/// How deep control structures and parentheses may nest. Go has no bound but its stack.
const NESTING_MAX: usize = 100;

/// Parses a text and the templates that it defines. An empty definition does not replace one that has a body.
pub fn parse(
    name: &str,
    text: &str,
    has_function: &dyn Fn(&str) -> bool,
    trees: &mut BTreeMap<String, Arc<Tree>>,
) -> Result<(), TemplateError> {
    let text: Arc<str> = Arc::from(text);
    let mut parser = Parser {
        name,
        source: Arc::clone(&text),
        items: lex(&text),
        next: 0,
        furthest: 0,
        action_line: 0,
        variables: vec!["$".to_owned()],
        range_depth: 0,
        nesting: 0,
        has_function,
        defined: Vec::new(),
    };
    let root = parser.top().map_err(|reason| parser.error(&reason))?;
    let mut defined = std::mem::take(&mut parser.defined);
    defined.push((name.to_owned(), root));
    for (defined_name, root) in defined {
        let kept = trees.get(&defined_name).is_some_and(|old| !is_empty(&old.root));
        if kept && is_empty(&root) {
            continue;
        }
        let tree = Tree { name: defined_name.clone(), parse_name: name.to_owned(), text: Arc::clone(&text), root };
        trees.insert(defined_name, Arc::new(tree));
    }
    Ok(())
}

/// Whether a tree is nothing but white space and definitions.
pub fn is_empty(node: &Node) -> bool {
    match &node.kind {
        Kind::List(nodes) => nodes.iter().all(is_empty),
        Kind::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

type Parsed<T> = Result<T, String>;

struct Parser<'a> {
    name: &'a str,
    source: Arc<str>,
    items: Vec<Item>,
    next: usize,
    furthest: usize,
    action_line: usize,
    variables: Vec<String>,
    range_depth: usize,
    nesting: usize,
    has_function: &'a dyn Fn(&str) -> bool,
    defined: Vec<(String, Node)>,
}

/// How a list ended.
enum End {
    End,
    Else(usize),
}

impl Parser<'_> {
    fn error(&self, reason: &str) -> TemplateError {
        let line = self.items[self.furthest].line;
        TemplateError::Parse(format!("template: {}:{line}: {reason}", self.name))
    }

    fn unexpected<T>(&self, item: &Item, context: &str) -> Parsed<T> {
        if item.token != Token::Error {
            return Err(format!("unexpected {} in {context}", item.describe()));
        }
        let mut extra = String::new();
        if self.action_line != 0 && self.action_line != item.line {
            extra = format!(" in action started at {}:{}", self.name, self.action_line);
            if item.text.ends_with(" action") {
                extra.drain(.." in action".len());
            }
        }
        Err(format!("{}{extra}", item.text))
    }

    fn peek(&mut self) -> &Item {
        self.furthest = self.furthest.max(self.next);
        &self.items[self.next]
    }

    fn take(&mut self) -> Item {
        let item = self.peek().clone();
        // The last item (end or error) is never consumed.
        self.next = (self.next + 1).min(self.items.len() - 1);
        item
    }

    fn skip_space(&mut self) {
        while self.peek().token == Token::Space {
            self.take();
        }
    }

    fn peek_solid(&mut self) -> &Item {
        self.skip_space();
        self.peek()
    }

    fn take_solid(&mut self) -> Item {
        self.skip_space();
        self.take()
    }

    fn expect(&mut self, token: Token, context: &str) -> Parsed<Item> {
        let item = self.take_solid();
        if item.token == token { Ok(item) } else { self.unexpected(&item, context) }
    }

    fn top(&mut self) -> Parsed<Node> {
        let mut nodes = Vec::new();
        while self.peek().token != Token::Eof {
            if self.peek().token == Token::LeftDelim {
                let mark = self.next;
                self.take();
                if self.peek_solid().token == Token::Keyword(Keyword::Define) {
                    self.take();
                    self.definition()?;
                    continue;
                }
                self.next = mark;
            }
            match self.text_or_action()? {
                Ok(node) => nodes.push(node),
                Err(End::End) => return Err("unexpected {{end}}".to_owned()),
                Err(End::Else(_)) => return Err("unexpected {{else}}".to_owned()),
            }
        }
        Ok(Node { position: 0, kind: Kind::List(nodes) })
    }

    fn definition(&mut self) -> Parsed<()> {
        let context = "define clause";
        let item = self.take_solid();
        let name = self.template_name(&item, context)?;
        self.expect(Token::RightDelim, context)?;
        let root = self.body(context)?;
        self.define(name, root)
    }

    /// The list of a definition or block: its own variables, to its `{{end}}`.
    fn body(&mut self, context: &str) -> Parsed<Node> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let depth = std::mem::take(&mut self.range_depth);
        let (root, end) = self.list()?;
        self.variables = outer;
        self.range_depth = depth;
        match end {
            End::End => Ok(root),
            End::Else(_) => Err(format!("unexpected {{{{else}}}} in {context}")),
        }
    }

    fn define(&mut self, name: String, root: Node) -> Parsed<()> {
        match self.defined.iter_mut().find(|(known, _)| *known == name) {
            None => self.defined.push((name, root)),
            Some((_, known)) if is_empty(known) => *known = root,
            Some(_) if is_empty(&root) => {}
            Some(_) => {
                return Err(format!("template: multiple definition of template {}", quoted(&name)));
            }
        }
        Ok(())
    }

    fn list(&mut self) -> Parsed<(Node, End)> {
        let position = self.peek_solid().position;
        let mut nodes = Vec::new();
        while self.peek_solid().token != Token::Eof {
            match self.text_or_action()? {
                Ok(node) => nodes.push(node),
                Err(end) => return Ok((Node { position, kind: Kind::List(nodes) }, end)),
            }
        }
        Err("unexpected EOF".to_owned())
    }

    fn text_or_action(&mut self) -> Parsed<Result<Node, End>> {
        let item = self.take_solid();
        match item.token {
            Token::Text => Ok(Ok(Node { position: item.position, kind: Kind::Text(item.text) })),
            Token::LeftDelim => {
                self.action_line = item.line;
                let node = self.action();
                if node.is_ok() {
                    self.action_line = 0;
                }
                node
            }
            _ => self.unexpected(&item, "input"),
        }
    }

    fn action(&mut self) -> Parsed<Result<Node, End>> {
        let item = self.peek_solid().clone();
        let Token::Keyword(keyword) = item.token else {
            let pipe = self.pipeline("command", Token::RightDelim)?;
            return Ok(Ok(Node { position: item.position, kind: Kind::Action(Box::new(pipe)) }));
        };
        self.take();
        let node = match keyword {
            Keyword::Block => self.block()?,
            Keyword::Break => self.leave("break", Kind::Break, item.position)?,
            Keyword::Continue => self.leave("continue", Kind::Continue, item.position)?,
            Keyword::Define => return self.unexpected(&item, "command"),
            Keyword::Else => return self.otherwise().map(Err),
            Keyword::End => return self.expect(Token::RightDelim, "end").map(|_| Err(End::End)),
            Keyword::If => self.control("if")?,
            Keyword::Range => self.control("range")?,
            Keyword::Template => self.template()?,
            Keyword::With => self.control("with")?,
        };
        Ok(Ok(node))
    }

    fn leave(&mut self, word: &str, kind: Kind, position: usize) -> Parsed<Node> {
        let item = self.take_solid();
        if item.token != Token::RightDelim {
            return self.unexpected(&item, &format!("{{{{{word}}}}}"));
        }
        if self.range_depth == 0 {
            return Err(format!("{{{{{word}}}}} outside {{{{range}}}}"));
        }
        Ok(Node { position, kind })
    }

    /// `{{else}}`; before `if` and `with` the word that follows is left for the caller.
    fn otherwise(&mut self) -> Parsed<End> {
        let item = self.peek_solid().clone();
        if matches!(item.token, Token::Keyword(Keyword::If | Keyword::With)) {
            return Ok(End::Else(item.position));
        }
        self.expect(Token::RightDelim, "else").map(|item| End::Else(item.position))
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting == NESTING_MAX {
            return Err(format!("nested deeper than {NESTING_MAX} levels"));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn control(&mut self, word: &'static str) -> Parsed<Node> {
        self.nested(|parser| parser.control_inside(word))
    }

    fn control_inside(&mut self, word: &'static str) -> Parsed<Node> {
        let scope = self.variables.len();
        let pipe = self.pipeline(word, Token::RightDelim)?;
        self.range_depth += usize::from(word == "range");
        let (list, end) = self.list()?;
        self.range_depth -= usize::from(word == "range");
        let otherwise = match end {
            End::End => None,
            End::Else(position) => Some(self.else_list(word, position)?),
        };
        self.variables.truncate(scope);
        let position = pipe.position;
        let branch = Box::new(Branch { pipe, list, otherwise });
        let kind = match word {
            "if" => Kind::If(branch),
            "with" => Kind::With(branch),
            _ => Kind::Range(branch),
        };
        Ok(Node { position, kind })
    }

    /// After `{{else`: a list, or an `if`/`with` that shares this one's `{{end}}`.
    fn else_list(&mut self, word: &'static str, position: usize) -> Parsed<Node> {
        let chained = match (word, self.peek().token) {
            ("if", Token::Keyword(Keyword::If)) => Some("if"),
            ("with", Token::Keyword(Keyword::With)) => Some("with"),
            _ => None,
        };
        if let Some(word) = chained {
            self.take();
            let node = self.control(word)?;
            return Ok(Node { position, kind: Kind::List(vec![node]) });
        }
        match self.list()? {
            (list, End::End) => Ok(list),
            (_, End::Else(_)) => Err("expected end; found {{else}}".to_owned()),
        }
    }

    fn block(&mut self) -> Parsed<Node> {
        let context = "block clause";
        let item = self.take_solid();
        let name = self.template_name(&item, context)?;
        let pipe = self.pipeline(context, Token::RightDelim)?;
        let root = self.nested(|parser| parser.body(context))?;
        self.define(name.clone(), root)?;
        Ok(Node { position: item.position, kind: Kind::Template(name, Some(Box::new(pipe))) })
    }

    fn template(&mut self) -> Parsed<Node> {
        let context = "template clause";
        let item = self.take_solid();
        let name = self.template_name(&item, context)?;
        let pipe = if self.peek_solid().token == Token::RightDelim {
            self.take();
            None
        } else {
            Some(Box::new(self.pipeline(context, Token::RightDelim)?))
        };
        Ok(Node { position: item.position, kind: Kind::Template(name, pipe) })
    }

    fn template_name(&self, item: &Item, context: &str) -> Parsed<String> {
        match item.token {
            Token::Quoted | Token::Raw => unquote(&item.text),
            _ => self.unexpected(item, context),
        }
    }

    fn pipeline(&mut self, context: &str, end: Token) -> Parsed<Node> {
        self.nested(|parser| parser.pipeline_inside(context, end))
    }

    fn pipeline_inside(&mut self, context: &str, end: Token) -> Parsed<Node> {
        let position = self.peek_solid().position;
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        while self.declaration(&mut pipe, context)? {}
        loop {
            let item = self.peek_solid().clone();
            match item.token {
                token if token == end => {
                    self.take();
                    break;
                }
                Token::Bool
                | Token::Char
                | Token::Dot
                | Token::Field
                | Token::Identifier
                | Token::Number
                | Token::Nil
                | Token::Raw
                | Token::Quoted
                | Token::Variable
                | Token::LeftParen => {
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => {
                    self.take();
                    return self.unexpected(&item, context);
                }
            }
        }
        check_pipeline(&pipe, context)?;
        Ok(Node { position, kind: Kind::Pipe(pipe) })
    }

    /// One `$x :=`, `$x =` or `$x,` at the front of a pipeline; says whether another may follow.
    fn declaration(&mut self, pipe: &mut Pipe, context: &str) -> Parsed<bool> {
        if self.peek_solid().token != Token::Variable {
            return Ok(false);
        }
        let mark = self.next;
        let variable = self.take();
        let next = self.peek_solid().clone();
        let comma = next.token == Token::Other && next.text == ",";
        if !comma && !matches!(next.token, Token::Assign | Token::Declare) {
            self.next = mark;
            return Ok(false);
        }
        self.take();
        let node = Node { position: variable.position, kind: Kind::Variable(vec![variable.text.clone()]) };
        pipe.variables.push(node);
        self.variables.push(variable.text);
        if !comma {
            pipe.assigns = next.token == Token::Assign;
            return Ok(false);
        }
        if context != "range" || pipe.variables.len() >= 2 {
            return Err(format!("too many declarations in {context}"));
        }
        match self.peek_solid().token {
            Token::Variable | Token::RightDelim | Token::RightParen => Ok(true),
            _ => Err("range can only initialize variables".to_owned()),
        }
    }

    fn command(&mut self) -> Parsed<Node> {
        let position = self.peek_solid().position;
        let mut operands = Vec::new();
        loop {
            self.skip_space();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            let item = self.peek().clone();
            match item.token {
                Token::Space => {
                    self.take();
                }
                Token::RightDelim | Token::RightParen => break,
                Token::Pipe => {
                    self.take();
                    break;
                }
                Token::Error => return self.unexpected(&item, "operand"),
                _ => return Err(format!("unexpected {} in operand", item.describe())),
            }
        }
        if operands.is_empty() {
            return Err("empty command".to_owned());
        }
        Ok(Node { position, kind: Kind::Command(operands) })
    }

    fn operand(&mut self) -> Parsed<Option<Node>> {
        let Some(mut node) = self.term()? else { return Ok(None) };
        if self.peek().token != Token::Field {
            return Ok(Some(node));
        }
        let position = self.peek().position;
        let mut names = Vec::new();
        while self.peek().token == Token::Field {
            names.push(self.take().text[1..].to_owned());
        }
        node = match node.kind {
            Kind::Field(mut known) => {
                known.append(&mut names);
                Node { position, kind: Kind::Field(known) }
            }
            Kind::Variable(mut known) => {
                known.append(&mut names);
                Node { position, kind: Kind::Variable(known) }
            }
            Kind::Bool(_) | Kind::Str(..) | Kind::Number(_) | Kind::Nil | Kind::Dot => {
                return Err(format!("unexpected . after term {}", quoted(&node.to_string())));
            }
            _ => Node { position, kind: Kind::Chain(Box::new(node), names) },
        };
        Ok(Some(node))
    }

    fn term(&mut self) -> Parsed<Option<Node>> {
        let item = self.peek_solid().clone();
        let kind = match item.token {
            Token::Error => return self.unexpected(&item, "operand"),
            Token::Identifier => {
                if !(self.has_function)(&item.text) {
                    return Err(format!("function {} not defined", quoted(&item.text)));
                }
                Kind::Identifier(item.text.clone())
            }
            Token::Dot => Kind::Dot,
            Token::Nil => Kind::Nil,
            Token::Variable => {
                if !self.variables.contains(&item.text) {
                    return Err(format!("undefined variable {}", quoted(&item.text)));
                }
                Kind::Variable(vec![item.text.clone()])
            }
            Token::Field => Kind::Field(vec![item.text[1..].to_owned()]),
            Token::Bool => Kind::Bool(item.text == "true"),
            Token::Char | Token::Number => {
                Kind::Number(number(&item.text).ok_or_else(|| format!("malformed number: {}", item.text))?)
            }
            Token::LeftParen => {
                self.take();
                return self.pipeline("parenthesized pipeline", Token::RightParen).map(Some);
            }
            Token::Quoted | Token::Raw => Kind::Str(item.text.clone(), unquote(&item.text)?),
            _ => return Ok(None),
        };
        self.take();
        debug_assert!(item.position <= self.source.len());
        Ok(Some(Node { position: item.position, kind }))
    }
}

fn check_pipeline(pipe: &Pipe, context: &str) -> Parsed<()> {
    if pipe.commands.is_empty() {
        return Err(format!("missing value for {context}"));
    }
    for (index, command) in pipe.commands.iter().enumerate().skip(1) {
        let Kind::Command(operands) = &command.kind else { continue };
        if matches!(operands[0].kind, Kind::Bool(_) | Kind::Dot | Kind::Nil | Kind::Number(_) | Kind::Str(..)) {
            return Err(format!("non executable command in pipeline stage {}", index + 1));
        }
    }
    Ok(())
}

/// A Go numeric literal: decimal, hexadecimal, octal, binary, with underscores, float, or a character.
pub fn number(text: &str) -> Option<Number> {
    if text.starts_with('\'') {
        let mut chars = unquote_inner(&text[1..text.len() - 1])?.chars().collect::<Vec<_>>();
        let value = chars.pop().filter(|_| chars.is_empty())? as i64;
        let float = Some(value as f64);
        return Some(Number { text: text.to_owned(), int: Some(value), uint: Some(value as u64), float });
    }
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let plain = digits.replace('_', "");
    let magnitude = integer(&plain);
    let int = magnitude.and_then(|m| {
        if negative {
            0i128.checked_sub(i128::from(m)).and_then(|v| i64::try_from(v).ok())
        } else {
            i64::try_from(m).ok()
        }
    });
    let uint = magnitude.filter(|_| !text.starts_with(['-', '+']));
    let float = match magnitude {
        Some(m) => Some(if negative { -(m as f64) } else { m as f64 }),
        None => decimal(&plain).map(|v| if negative { -v } else { v }),
    };
    // Go lets an integral float stand for an integer: 1e3 is 1000.
    let whole = float.filter(|v| magnitude.is_none() && v.fract() == 0.0 && v.abs() < 9.2e18);
    let int = int.or(whole.map(|v| v as i64));
    let uint = uint.or(whole.filter(|v| *v >= 0.0).map(|v| v as u64));
    if int.is_none() && uint.is_none() && float.is_none() {
        return None;
    }
    Some(Number { text: text.to_owned(), int, uint, float })
}

fn integer(digits: &str) -> Option<u64> {
    let lower = digits.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = lower.strip_prefix(prefix) {
            return u64::from_str_radix(rest, radix).ok();
        }
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return u64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}

fn decimal(digits: &str) -> Option<f64> {
    let first = digits.bytes().next()?;
    if !(first.is_ascii_digit() || first == b'.') || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The meaning of a Go string literal.
fn unquote(text: &str) -> Parsed<String> {
    let inner = &text[1..text.len() - 1];
    if text.starts_with('`') {
        return Ok(inner.replace('\r', ""));
    }
    unquote_inner(inner).ok_or_else(|| "invalid syntax".to_owned())
}

fn unquote_inner(inner: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let (length, radix) = match escape {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => (3, 8),
            _ => {
                bytes.push(simple_escape(escape)?);
                continue;
            }
        };
        if radix == 8 {
            rest = &inner[inner.len() - rest.len() - 1..];
        }
        let code = u32::from_str_radix(rest.get(..length)?, radix).ok()?;
        rest = &rest[length..];
        if matches!(escape, 'u' | 'U') {
            bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(code).ok()?);
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn simple_escape(c: char) -> Option<u8> {
    Some(match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        _ => return None,
    })
}
