//! Contextual escaping, as html/template does it: a value is escaped for the place in the document where it lands.
//!
//! Go works out each action's context from the source before running it. Here the context is followed through the
//! output itself: the literal text moves a small state machine, a value is escaped for the state it meets. For every
//! template that Go accepts the two agree, since Go demands that all branches end in one context.

use crate::value::{Safe, Value};

/// Output being written, with the context at its end.
#[derive(Default)]
pub struct Escaper {
    out: String,
    state: State,
    /// The element whose tag is open, lower case.
    element: String,
    /// The attribute being read or written, lower case.
    attribute: String,
    /// The quote that ends the attribute's value; a space stands for none.
    quote: char,
    /// Where inside a URL.
    url: UrlPart,
    /// The quote of the JavaScript or CSS string that is open.
    string: Option<char>,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After `<` or `</`: the element's name.
    TagName,
    /// Inside a tag, between attributes.
    Tag,
    AttributeName,
    AfterName,
    BeforeValue,
    Value,
    Comment,
    /// Inside `script`, `style`, `textarea`, `title`: to the end tag.
    Raw,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UrlPart {
    #[default]
    Start,
    Path,
    Query,
}

/// What kind of text a value lands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Plain,
    Url,
    Script,
    Style,
}

/// What Go prints in place of what it will not let through.
const FILTERED: &str = "ZgotmplZ";

impl Escaper {
    /// Text of the template itself.
    pub fn literal(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let taken = match self.state {
                State::Text => self.in_text(rest),
                State::Comment => self.in_comment(rest),
                State::Raw => self.in_raw(rest),
                _ => {
                    self.in_tag(c);
                    self.out.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[taken..];
        }
    }

    fn in_text(&mut self, rest: &str) -> usize {
        if rest.starts_with("<!--") {
            self.state = State::Comment;
            return 4;
        }
        if rest.starts_with('<') && rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') {
            self.state = State::TagName;
            self.element.clear();
            self.out.push('<');
            return 1;
        }
        // The first character is text, whatever it is.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let taken = rest[first..].find('<').map_or(rest.len(), |at| at + first);
        self.out.push_str(&rest[..taken]);
        taken
    }

    /// Comments are left out, as Go does.
    fn in_comment(&mut self, rest: &str) -> usize {
        match rest.find("-->") {
            Some(end) => {
                self.state = State::Text;
                end + 3
            }
            None => rest.len(),
        }
    }

    fn in_raw(&mut self, rest: &str) -> usize {
        let close = format!("</{}", self.element);
        if rest.get(..close.len()).is_some_and(|head| head.eq_ignore_ascii_case(&close)) {
            self.state = State::Tag;
            self.element.clear();
            self.string = None;
            self.out.push_str(&rest[..close.len()]);
            return close.len();
        }
        let c = rest.chars().next().expect("called with text");
        self.follow_string(c);
        self.out.push(c);
        c.len_utf8()
    }

    fn follow_string(&mut self, c: char) {
        match (self.string, c) {
            _ if self.escaped => self.escaped = false,
            (Some(_), '\\') => self.escaped = true,
            (Some(open), c) if c == open => self.string = None,
            (None, '"' | '\'' | '`') => self.string = Some(c),
            _ => {}
        }
    }

    fn in_tag(&mut self, c: char) {
        match self.state {
            State::TagName if c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | ':') => {
                self.element.push(c.to_ascii_lowercase());
            }
            State::Value => self.in_value(c),
            State::BeforeValue if c.is_ascii_whitespace() => {}
            State::BeforeValue if matches!(c, '"' | '\'') => self.begin_value(c),
            State::BeforeValue if c != '>' => {
                self.begin_value(' ');
                self.in_value(c);
            }
            State::AttributeName | State::AfterName if c == '=' => self.state = State::BeforeValue,
            State::AttributeName if c.is_ascii_whitespace() => self.state = State::AfterName,
            State::AttributeName if c != '>' => self.attribute.push(c.to_ascii_lowercase()),
            _ if c == '>' => self.end_tag(),
            _ if c.is_ascii_whitespace() || c == '/' => {
                self.state = if self.state == State::AfterName { State::AfterName } else { State::Tag };
            }
            _ => {
                self.attribute.clear();
                self.attribute.push(c.to_ascii_lowercase());
                self.state = State::AttributeName;
            }
        }
    }

    fn begin_value(&mut self, quote: char) {
        self.state = State::Value;
        self.quote = quote;
        self.url = UrlPart::Start;
        self.string = None;
    }

    fn in_value(&mut self, c: char) {
        if self.quote == ' ' && (c.is_ascii_whitespace() || c == '>') {
            self.state = State::Tag;
            if c == '>' {
                self.end_tag();
            }
        } else if c == self.quote {
            self.state = State::Tag;
        } else {
            match c {
                '?' | '#' => self.url = UrlPart::Query,
                _ if self.url == UrlPart::Start && !c.is_ascii_whitespace() => self.url = UrlPart::Path,
                _ => {}
            }
            if matches!(self.content(), Content::Script | Content::Style) {
                self.follow_string(c);
            }
        }
    }

    fn end_tag(&mut self) {
        let raw = matches!(self.element.as_str(), "script" | "style" | "textarea" | "title");
        self.state = if raw { State::Raw } else { State::Text };
        self.string = None;
    }

    fn content(&self) -> Content {
        match self.state {
            State::Raw if self.element == "script" => Content::Script,
            State::Raw if self.element == "style" => Content::Style,
            State::Value => match self.attribute.as_str() {
                "style" => Content::Style,
                name if name.starts_with("on") => Content::Script,
                "action" | "archive" | "background" | "cite" | "classid" | "codebase" | "data" | "formaction"
                | "href" | "icon" | "longdesc" | "manifest" | "poster" | "profile" | "src" | "usemap" | "xmlns" => {
                    Content::Url
                }
                name if name.contains("src") || name.contains("uri") || name.contains("url") => Content::Url,
                _ => Content::Plain,
            },
            _ => Content::Plain,
        }
    }

    /// A value of the data; says how many bytes it became. `done` names the escaper (`html`, `urlquery`) that the
    /// template has already put at the end of the pipeline.
    pub fn value(&mut self, value: &Value, done: Option<&str>) -> usize {
        let before = self.out.len();
        let text = match value {
            Value::Nil => String::new(),
            other => crate::print::top(other),
        };
        let safe = match value {
            Value::Safe(safe, _) => Some(*safe),
            _ => None,
        };
        if matches!(self.state, State::BeforeValue) {
            self.begin_value(' ');
        }
        let content = self.content();
        let body = match content {
            Content::Script => self.script(value, &text),
            Content::Style => self.style(&text),
            Content::Url => self.url_text(&text, safe, done),
            Content::Plain => text,
        };
        let out = match self.state {
            State::Text if safe == Some(Safe::Html) || done == Some("html") => body,
            State::Raw if matches!(content, Content::Script | Content::Style) => body,
            State::Comment => String::new(),
            State::Value if self.quote == ' ' => escape_unquoted(&body),
            State::TagName | State::Tag | State::AttributeName | State::AfterName => attribute_name(&body),
            State::Value if safe == Some(Safe::Html) => escape_html(&strip_tags(&body)),
            _ => escape_html(&body),
        };
        self.out.push_str(&out);
        self.out.len() - before
    }

    fn url_text(&mut self, text: &str, safe: Option<Safe>, done: Option<&str>) -> String {
        let escaped = match self.url {
            UrlPart::Query if safe == Some(Safe::Url) || done == Some("urlquery") => normalize_url(text),
            UrlPart::Query => return escape_url(text),
            UrlPart::Start if safe != Some(Safe::Url) && !is_safe_url(text) => format!("#{FILTERED}"),
            UrlPart::Start | UrlPart::Path => normalize_url(text),
        };
        if text.contains(['?', '#']) {
            self.url = UrlPart::Query;
        } else if !text.is_empty() && self.url == UrlPart::Start {
            self.url = UrlPart::Path;
        }
        escaped
    }

    fn script(&self, value: &Value, text: &str) -> String {
        if self.string.is_some() {
            return escape_js(text);
        }
        match crate::json::encode(value) {
            Ok(json) if matches!(value, Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Struct(_)) => json,
            Ok(json) => format!(" {json} "),
            Err(_) => " null ".to_owned(),
        }
    }

    fn style(&self, text: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || " _.%#-+!,".contains(c);
        let lower = text.to_ascii_lowercase();
        let filtered = text.contains("--") || lower.contains("expression") || lower.contains("mozbinding");
        if self.string.is_none() && (filtered || !text.chars().all(plain)) {
            return FILTERED.to_owned();
        }
        if self.string.is_none() {
            return text.to_owned();
        }
        let escape = |c: char| if plain(c) { c.to_string() } else { format!("\\{:x} ", c as u32) };
        text.chars().map(escape).collect()
    }

    /// The document.
    pub fn finish(self) -> String {
        self.out
    }
}

/// A name that a value may give to an attribute: letters and digits, none that begins a script.
fn attribute_name(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && !lower.starts_with("on") && lower != "style" && lower != "href" && lower != "src" {
        text.to_owned()
    } else {
        FILTERED.to_owned()
    }
}

/// Whether a URL has no scheme, or one that runs nothing.
fn is_safe_url(text: &str) -> bool {
    match text.split_once(':') {
        Some((scheme, _)) if !scheme.contains('/') => {
            matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "mailto")
        }
        _ => true,
    }
}

/// Escapes everything that has a meaning in a URL.
fn escape_url(text: &str) -> String {
    percent(text, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte), false)
}

/// Escapes what may not stand in a URL; what is escaped already stays.
fn normalize_url(text: &str) -> String {
    percent(text, |byte| byte.is_ascii_alphanumeric() || b"-._~!#$&*+,/:;=?@[]".contains(&byte), true)
}

fn percent(text: &str, plain: impl Fn(u8) -> bool, keeps_escapes: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, byte) in bytes.iter().enumerate() {
        let is_escape = || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if plain(*byte) || (keeps_escapes && *byte == b'%' && is_escape()) {
            out.push(*byte as char);
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// Go's `html` escaping with html/template's table: `+` too, so that no charset sniffer sees UTF-7.
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '+' => out.push_str("&#43;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escape_unquoted(text: &str) -> String {
    if text.is_empty() {
        return FILTERED.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '=' | '`' => out.push_str(&format!("&#{};", c as u32)),
            c => out.push_str(&escape_html(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

fn strip_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// Go's `js`: for the inside of a JavaScript string.
pub fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '=' | '`' | '+' | '/' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04X}", c as u32));
            }
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out
}
