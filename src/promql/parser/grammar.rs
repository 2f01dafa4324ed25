//! The grammar of expressions: precedence climbing over the tokens.
//!
//! Two sorts of mistakes are told apart. A *semantic* one (an unknown function, a range of zero) is noted and parsing
//! goes on; a *syntactic* one ends it. Users see the first that was noted.
//!
//! Source: prometheus `promql/parser/generated_parser.y`, whose messages are kept word for word.

use promesh_model::labels::{METRIC_NAME, quoted};
use promesh_model::{Matcher, duration};

use super::ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Call, Cardinality, Expr, Matching, NumberLiteral, Paren, Span,
    StringLiteral, Unary, VectorSelector,
};
use super::functions::{Function, function};
use super::token::{Keyword, Kind, Preprocessor, Token};
use super::{DEPTH_MAX, ParseError, ParseErrors, ParseOptions, lexer, literals};

/// Parsing ends here; the reason is among the errors.
#[derive(Debug)]
pub(crate) struct Stop;

pub(crate) type Parsed<T> = Result<T, Stop>;

/// An expression and how many nodes deep it is.
pub(crate) type Deep = (Expr, usize);

pub(crate) struct Parser<'a> {
    pub input: &'a str,
    pub options: &'a ParseOptions,
    pub errors: Vec<ParseError>,
    tokens: Vec<Token>,
    at: usize,
    nesting: usize,
    /// How many aggregations' parentheses are open: what is wrong within is wrong "in aggregation".
    aggregations: usize,
}

impl<'a> Parser<'a> {
    pub fn new(input: &'a str, options: &'a ParseOptions, series: bool) -> Parser<'a> {
        Parser {
            input,
            options,
            errors: Vec::new(),
            tokens: lexer::tokens(input, series),
            at: 0,
            nesting: 0,
            aggregations: 0,
        }
    }

    /// A whole expression.
    pub fn expression(&mut self) -> Parsed<Expr> {
        if self.kind() == Kind::End {
            self.error(Span::default(), "no expression found in input");
            return Err(Stop);
        }
        let (expr, _) = self.expr(0)?;
        self.end()?;
        Ok(expr)
    }

    pub fn end(&mut self) -> Parsed<()> {
        if self.kind() == Kind::End { Ok(()) } else { Err(self.unexpected("", "")) }
    }

    pub fn finish<T>(self, parsed: Parsed<T>) -> Result<T, ParseErrors> {
        match parsed {
            Ok(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ParseErrors(self.errors)),
        }
    }

    // Tokens.

    pub fn token(&self) -> &Token {
        &self.tokens[self.at]
    }

    pub fn kind(&self) -> Kind {
        self.token().kind
    }

    pub fn kind_after(&self) -> Kind {
        self.tokens.get(self.at + 1).map_or(Kind::End, |token| token.kind)
    }

    /// The token taken last.
    pub fn previous(&self) -> &Token {
        &self.tokens[self.at.saturating_sub(1)]
    }

    pub fn advance(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub fn take(&mut self, kind: Kind) -> Option<Token> {
        (self.kind() == kind).then(|| self.advance())
    }

    pub fn expect(&mut self, kind: Kind, context: &str, expected: &str) -> Parsed<Token> {
        self.take(kind).ok_or_else(|| self.unexpected(context, expected))
    }

    // Errors.

    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.errors.push(ParseError { span, message: message.into(), query: self.input.to_owned() });
    }

    /// Complains about the present token, or passes on the lexer's complaint.
    pub fn unexpected(&mut self, context: &str, expected: &str) -> Stop {
        let context = if context.is_empty() && self.aggregations > 0 { "aggregation" } else { context };
        let token = self.token();
        let span = token.span;
        let mut message = token.describe();
        if token.kind != Kind::Error {
            message = format!("unexpected {message}");
            if !context.is_empty() {
                message.push_str(&format!(" in {context}"));
            }
            if !expected.is_empty() {
                message.push_str(&format!(", expected {expected}"));
            }
        }
        self.error(span, message);
        Stop
    }

    fn grow(&mut self, depth: usize) -> Parsed<usize> {
        if depth >= DEPTH_MAX {
            let span = self.token().span;
            self.error(span, format!("expression is nested more than {DEPTH_MAX} levels deep"));
            return Err(Stop);
        }
        Ok(depth + 1)
    }

    // Expressions.

    /// An expression whose binary operators bind at least as tightly as `floor`.
    pub fn expr(&mut self, floor: u8) -> Parsed<Deep> {
        self.nesting = self.grow(self.nesting)?;
        let mut left = self.operand()?;
        while let Kind::Operator(op) = self.kind() {
            let precedence = op.precedence();
            if precedence < floor {
                break;
            }
            self.advance();
            let (matching, return_bool) = self.binary_modifiers()?;
            let right_floor = if op == BinaryOp::Pow { precedence } else { precedence + 1 };
            let right = self.expr(right_floor)?;
            let depth = self.grow(left.1.max(right.1))?;
            let binary =
                Binary { op, lhs: Box::new(left.0), rhs: Box::new(right.0), return_bool, matching: Some(matching) };
            let filled = binary.matching.as_ref().is_some_and(|m| m.fill_left.is_some() || m.fill_right.is_some());
            left = (Expr::Binary(binary), depth);
            if filled && !self.options.fill_modifiers {
                self.error(left.0.span(), "binop fill modifiers are experimental and not enabled");
            }
        }
        self.nesting -= 1;
        Ok(left)
    }

    fn operand(&mut self) -> Parsed<Deep> {
        let Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) = self.kind() else {
            let primary = self.primary()?;
            return self.postfix(primary);
        };
        let start = self.advance().span.start;
        let (operand, depth) = self.expr(BinaryOp::Pow.precedence())?;
        let negative = op == BinaryOp::Sub;
        if let Expr::Number(mut number) = operand {
            if negative {
                number.value = -number.value;
            }
            number.span.start = start;
            return Ok((Expr::Number(number), depth));
        }
        let span = Span::new(start, operand.span().end);
        Ok((Expr::Unary(Unary { negative, expr: Box::new(operand), span }), self.grow(depth)?))
    }

    fn postfix(&mut self, (mut expr, mut depth): Deep) -> Parsed<Deep> {
        loop {
            expr = match self.kind() {
                Kind::Keyword(Keyword::Offset) => self.offset(expr)?,
                Kind::Keyword(Keyword::Anchored) => self.extended(expr, false),
                Kind::Keyword(Keyword::Smoothed) => self.extended(expr, true),
                Kind::At => self.at_modifier(expr)?,
                Kind::LeftBracket => {
                    depth = self.grow(depth)?;
                    self.brackets(expr)?
                }
                _ => return Ok((expr, depth)),
            };
        }
    }

    fn primary(&mut self) -> Parsed<Deep> {
        let token = self.token().clone();
        match token.kind {
            Kind::Number | Kind::Duration => Ok((Expr::Number(self.number_literal()?), 1)),
            Kind::String => {
                self.advance();
                let value = self.unquote(&token);
                Ok((Expr::String(StringLiteral { value, span: token.span }), 1))
            }
            Kind::LeftParen => {
                self.advance();
                let (inner, depth) = self.expr(0)?;
                let close = self.expect(Kind::RightParen, "", "")?;
                let span = Span::new(token.span.start, close.span.end);
                Ok((Expr::Paren(Paren { expr: Box::new(inner), span }), self.grow(depth)?))
            }
            Kind::Aggregator(op) => self.aggregator_or_name(op, &token),
            Kind::Identifier | Kind::Preprocessor(_) if self.kind_after() == Kind::LeftParen => self.call(&token),
            _ => Ok((Expr::Vector(self.vector_selector()?), 1)),
        }
    }

    // Selectors.

    /// A vector selector and nothing more: `up`, `up{job="a"}`, `{job="a"}`.
    pub fn vector_selector(&mut self) -> Parsed<VectorSelector> {
        let name = is_metric_name(self.kind()).then(|| self.advance());
        if name.is_none() && self.kind() != Kind::LeftBrace {
            return Err(self.unexpected("", ""));
        }
        let mut span = name.as_ref().map_or(self.token().span, |name| name.span);
        let mut matchers = Vec::new();
        if self.kind() == Kind::LeftBrace {
            span.end = self.matchers(&mut matchers)?;
        }
        let name = name.map_or_else(String::new, |token| token.text);
        if !name.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, &name));
        }
        Ok(VectorSelector {
            name,
            matchers,
            offset_ms: 0,
            offset_expr: None,
            at: None,
            anchored: false,
            smoothed: false,
            may_match_all: false,
            span,
        })
    }

    /// The matchers in braces; gives the end of the closing one.
    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Parsed<usize> {
        self.advance();
        if let Some(close) = self.take(Kind::RightBrace) {
            return Ok(close.span.end);
        }
        loop {
            matchers.extend(self.matcher()?);
            if let Some(close) = self.take(Kind::RightBrace) {
                return Ok(close.span.end);
            }
            self.expect(Kind::Comma, "label matching", "\",\" or \"}\"")?;
            if let Some(close) = self.take(Kind::RightBrace) {
                return Ok(close.span.end);
            }
        }
    }

    fn matcher(&mut self) -> Parsed<Option<Matcher>> {
        const CONTEXT: &str = "label matching";
        let token = self.token().clone();
        let name = match token.kind {
            Kind::Identifier => token.text.clone(),
            Kind::String => self.unquote(&token),
            _ => return Err(self.unexpected(CONTEXT, "identifier or \"}\"")),
        };
        self.advance();
        let Some(op) = match_op(self.kind()) else {
            return match token.kind {
                Kind::String => Ok(Some(Matcher::equal(METRIC_NAME, name))),
                _ => Err(self.unexpected(CONTEXT, "label matching operator")),
            };
        };
        self.advance();
        let value = self.expect(Kind::String, CONTEXT, "string")?;
        let text = self.unquote(&value);
        Ok(Matcher::new(op, name, text)
            .map_err(|error| self.error(Span::new(token.span.start, value.span.end), error.to_string()))
            .ok())
    }

    // Aggregations and calls.

    fn aggregator_or_name(&mut self, op: AggregateOp, token: &Token) -> Parsed<Deep> {
        match self.kind_after() {
            Kind::LeftParen | Kind::Keyword(Keyword::By | Keyword::Without) => self.aggregate(op, token),
            _ => Ok((Expr::Vector(self.vector_selector()?), 1)),
        }
    }

    fn aggregate(&mut self, op: AggregateOp, token: &Token) -> Parsed<Deep> {
        self.advance();
        let mut clause = self.aggregate_clause()?;
        self.aggregations += 1;
        if self.kind() != Kind::LeftParen {
            return Err(self.unexpected("", ""));
        }
        let (mut args, depth, mut end) = self.arguments()?;
        self.aggregations -= 1;
        if clause.is_none() {
            clause = self.aggregate_clause()?;
            if clause.is_some() {
                end = self.previous().span.end;
            }
        }
        let (grouping, without) = clause.unwrap_or_default();
        let span = Span::new(token.span.start, end);
        if args.is_empty() {
            self.error(span, "no arguments for aggregate expression provided");
            return Ok((placeholder(span), depth));
        }
        if op.is_experimental() && !self.options.experimental_functions {
            let message = format!(
                "{op}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
            );
            self.error(span, message);
            return Ok((placeholder(span), depth));
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        if args.len() != wanted {
            let message = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                args.len()
            );
            self.error(span, message);
            return Ok((placeholder(span), depth));
        }
        let expr = Box::new(args.pop().expect("one or two arguments, as counted above"));
        let param = args.pop().map(Box::new);
        Ok((Expr::Aggregate(Aggregate { op, expr, param, grouping, without, span }), self.grow(depth)?))
    }

    fn aggregate_clause(&mut self) -> Parsed<Option<(Vec<String>, bool)>> {
        let Kind::Keyword(keyword @ (Keyword::By | Keyword::Without)) = self.kind() else { return Ok(None) };
        self.advance();
        Ok(Some((self.grouping_labels()?, keyword == Keyword::Without)))
    }

    fn grouping_labels(&mut self) -> Parsed<Vec<String>> {
        const CONTEXT: &str = "grouping opts";
        self.expect(Kind::LeftParen, CONTEXT, "\"(\"")?;
        let mut labels = Vec::new();
        while self.take(Kind::RightParen).is_none() {
            let token = self.token().clone();
            let label = match token.kind {
                Kind::String => self.unquote(&token),
                kind if is_label(kind) => token.text.clone(),
                _ => return Err(self.unexpected(CONTEXT, "label")),
            };
            self.advance();
            if label.is_empty() {
                self.error(token.span, format!("invalid label name for grouping: {}", quoted(&label)));
            }
            labels.push(label);
            if self.kind() != Kind::RightParen {
                self.expect(Kind::Comma, CONTEXT, "\",\" or \")\"")?;
            }
        }
        Ok(labels)
    }

    fn call(&mut self, name: &Token) -> Parsed<Deep> {
        self.advance();
        // Names of functions that are keywords elsewhere may be written in any case.
        let found = function(&name.text);
        if found.is_none() {
            self.error(name.span, format!("unknown function with name {}", quoted(&name.text)));
        }
        if found.is_some_and(|function| function.experimental) && !self.options.experimental_functions {
            self.error(name.span, format!("function {} is not enabled", quoted(&name.text)));
        }
        let (args, depth, end) = self.arguments()?;
        let span = Span::new(name.span.start, end);
        let call = |function: &'static Function| Expr::Call(Call { function, args, span });
        Ok((found.map_or(placeholder(span), call), self.grow(depth)?))
    }

    /// Arguments in parentheses: them, the depth of the deepest, the end of the closing parenthesis.
    fn arguments(&mut self) -> Parsed<(Vec<Expr>, usize, usize)> {
        self.advance();
        let mut args = Vec::new();
        let mut deepest = 0;
        if let Some(close) = self.take(Kind::RightParen) {
            return Ok((args, deepest, close.span.end));
        }
        loop {
            let (arg, depth) = self.expr(0)?;
            args.push(arg);
            deepest = deepest.max(depth);
            let Some(comma) = self.take(Kind::Comma) else { break };
            if !may_start_expr(self.kind()) {
                self.error(comma.span, "trailing commas not allowed in function call args");
                break;
            }
        }
        let close = self.expect(Kind::RightParen, "", "")?;
        Ok((args, deepest, close.span.end))
    }

    // Modifiers of binary operators.

    fn binary_modifiers(&mut self) -> Parsed<(Matching, bool)> {
        let return_bool = self.take(Kind::Keyword(Keyword::Bool)).is_some();
        let mut matching = Matching {
            cardinality: Cardinality::OneToOne,
            labels: Vec::new(),
            on: false,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        if let Kind::Keyword(keyword @ (Keyword::On | Keyword::Ignoring)) = self.kind() {
            self.advance();
            matching.labels = self.grouping_labels()?;
            matching.on = keyword == Keyword::On;
            if let Kind::Keyword(keyword @ (Keyword::GroupLeft | Keyword::GroupRight)) = self.kind() {
                self.advance();
                let left = keyword == Keyword::GroupLeft;
                matching.cardinality = if left { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                if self.kind() == Kind::LeftParen {
                    matching.include = self.grouping_labels()?;
                }
            }
        }
        self.fill_modifiers(&mut matching)?;
        Ok((matching, return_bool))
    }

    fn fill_modifiers(&mut self, matching: &mut Matching) -> Parsed<()> {
        if self.take(Kind::Keyword(Keyword::Fill)).is_some() {
            let value = self.fill_value()?;
            (matching.fill_left, matching.fill_right) = (Some(value), Some(value));
            return Ok(());
        }
        for _ in 0..2 {
            match self.kind() {
                Kind::Keyword(Keyword::FillLeft) if matching.fill_left.is_none() => {
                    self.advance();
                    matching.fill_left = Some(self.fill_value()?);
                }
                Kind::Keyword(Keyword::FillRight) if matching.fill_right.is_none() => {
                    self.advance();
                    matching.fill_right = Some(self.fill_value()?);
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.expect(Kind::LeftParen, "", "")?;
        let sign = self.sign();
        let value = self.number_literal()?.value;
        self.expect(Kind::RightParen, "", "")?;
        Ok(sign * value)
    }

    // Literals.

    /// Takes a sign, if there is one.
    pub fn sign(&mut self) -> f64 {
        match self.kind() {
            Kind::Operator(BinaryOp::Add) => {
                self.advance();
                1.0
            }
            Kind::Operator(BinaryOp::Sub) => {
                self.advance();
                -1.0
            }
            _ => 1.0,
        }
    }

    pub fn number_literal(&mut self) -> Parsed<NumberLiteral> {
        let token = self.token().clone();
        let span = token.span;
        let literal = match token.kind {
            Kind::Number => {
                let value = literals::number(&token.text).unwrap_or_else(|message| {
                    self.error(span, message);
                    0.0
                });
                NumberLiteral { value, duration: false, span }
            }
            Kind::Duration => {
                let value = duration::parse(&token.text).map(|span| span.as_secs_f64()).unwrap_or_else(|error| {
                    self.error(span, error.to_string());
                    0.0
                });
                NumberLiteral { value, duration: true, span }
            }
            _ => return Err(self.unexpected("", "")),
        };
        self.advance();
        Ok(literal)
    }

    pub fn unquote(&mut self, token: &Token) -> String {
        literals::unquote(&token.text).unwrap_or_else(|| {
            self.error(token.span, format!("error unquoting string {}: invalid syntax", quoted(&token.text)));
            String::new()
        })
    }
}

/// Stands where an expression could not be made; an error was noted, so nobody evaluates it.
fn placeholder(span: Span) -> Expr {
    Expr::Number(NumberLiteral { value: 0.0, duration: false, span })
}

fn match_op(kind: Kind) -> Option<promesh_model::MatchOp> {
    use promesh_model::MatchOp::{Equal, NotEqual, NotRegex, Regex};
    match kind {
        Kind::Equal => Some(Equal),
        Kind::Operator(BinaryOp::NotEqual) => Some(NotEqual),
        Kind::RegexEqual => Some(Regex),
        Kind::RegexNotEqual => Some(NotRegex),
        _ => None,
    }
}

fn is_metric_name(kind: Kind) -> bool {
    use Keyword::{Anchored, By, Fill, FillLeft, FillRight, Offset, Smoothed, Without};
    match kind {
        Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregator(_) | Kind::Preprocessor(_) => true,
        Kind::Operator(op) => op.is_set(),
        Kind::Keyword(By | Fill | FillLeft | FillRight | Offset | Without | Anchored | Smoothed) => true,
        _ => false,
    }
}

fn is_label(kind: Kind) -> bool {
    match kind {
        Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregator(_) | Kind::Preprocessor(_) => true,
        Kind::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
        Kind::Keyword(_) => true,
        _ => false,
    }
}

fn may_start_expr(kind: Kind) -> bool {
    match kind {
        Kind::Number | Kind::Duration | Kind::String | Kind::LeftParen | Kind::LeftBrace | Kind::Error => true,
        Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => true,
        kind => is_metric_name(kind),
    }
}

/// Whether a token starts a preprocessor call: `step(`.
pub(crate) fn is_preprocessor(kind: Kind, after: Kind) -> Option<Preprocessor> {
    match (kind, after) {
        (Kind::Preprocessor(preprocessor), Kind::LeftParen) => Some(preprocessor),
        _ => None,
    }
}
