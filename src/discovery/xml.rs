//! As much of XML as APIs answer with: elements, attributes and text. No entities of their own, so nothing grows.

use crate::DiscoveryError;

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Without its namespace's prefix.
    pub(crate) name: String,
    attributes: Vec<(String, String)>,
    /// Elements in it.
    pub(crate) children: Vec<Element>,
    /// The text in it, white space at both ends left out.
    pub(crate) text: String,
}

/// Elements within elements.
const DEPTH_MAX: usize = 64;

impl Element {
    /// The root of a document.
    pub(crate) fn parse(document: &[u8]) -> Result<Element, DiscoveryError> {
        let text = std::str::from_utf8(document).map_err(|error| malformed(error.valid_up_to(), "it is not UTF-8"))?;
        let mut reader = Reader { text, at: 0 };
        reader.skip_between()?;
        reader.element(0)
    }

    /// The first child of a name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// What stands at a path of names; nothing is the empty text.
    pub(crate) fn at(&self, path: &str) -> &str {
        let found = path.split('.').try_fold(self, |element, name| element.child(name));
        found.map_or("", |element| element.text.as_str())
    }

    /// The children of the element at a path.
    pub(crate) fn list(&self, path: &str) -> &[Element] {
        let found = path.split('.').try_fold(self, |element, name| element.child(name));
        found.map_or(&[], |element| element.children.as_slice())
    }

    /// An attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }
}

fn malformed(at: usize, what: &str) -> DiscoveryError {
    DiscoveryError::Answer(format!("malformed XML at byte {at}: {what}"))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong<T>(&self, what: &str) -> Result<T, DiscoveryError> {
        Err(malformed(self.at, what))
    }

    /// Past the end of what is looked for.
    fn skip_past(&mut self, end: &str) -> Result<&'a str, DiscoveryError> {
        match self.rest().find(end) {
            Some(length) => {
                let skipped = &self.rest()[..length];
                self.at += length + end.len();
                Ok(skipped)
            }
            None => self.wrong(&format!("{end:?} is missing")),
        }
    }

    /// White space, comments, declarations and processing instructions before the root.
    fn skip_between(&mut self) -> Result<(), DiscoveryError> {
        loop {
            self.at += self.rest().len() - self.rest().trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).len();
            if self.rest().starts_with("<?") {
                self.skip_past("?>")?;
            } else if self.rest().starts_with("<!--") {
                self.skip_past("-->")?;
            } else if self.rest().starts_with("<!") {
                self.skip_past(">")?;
            } else {
                return Ok(());
            }
        }
    }

    fn element(&mut self, depth: usize) -> Result<Element, DiscoveryError> {
        if depth > DEPTH_MAX {
            return self.wrong("elements nest too deeply");
        }
        if !self.rest().starts_with('<') {
            return self.wrong("an element is missing");
        }
        self.at += 1;
        let tag = self.tag()?;
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name_end = tag.find(char::is_whitespace).unwrap_or(tag.len());
        let name = local(&tag[..name_end]).to_owned();
        let attributes = attributes(&tag[name_end..]).ok_or_else(|| malformed(self.at, "a malformed attribute"))?;
        let mut element = Element { name, attributes, ..Element::default() };
        if is_empty {
            return Ok(element);
        }
        let mut text = String::new();
        loop {
            let until = self.rest().find('<').ok_or_else(|| malformed(self.at, "an element does not end"))?;
            text.push_str(&unescaped(&self.rest()[..until]));
            self.at += until;
            if self.rest().starts_with("</") {
                self.at += 2;
                let end = self.skip_past(">")?;
                if local(end.trim_end()) != element.name {
                    return self.wrong("an element's end is another's");
                }
                break;
            } else if self.rest().starts_with("<!--") {
                self.skip_past("-->")?;
            } else if self.rest().starts_with("<![CDATA[") {
                self.at += "<![CDATA[".len();
                text.push_str(self.skip_past("]]>")?);
            } else {
                element.children.push(self.element(depth + 1)?);
            }
        }
        element.text = text.trim().to_owned();
        Ok(element)
    }

    /// What stands in a tag, whose attributes may hold `>`.
    fn tag(&mut self) -> Result<&'a str, DiscoveryError> {
        let mut quote = None;
        for (index, sign) in self.rest().char_indices() {
            match (quote, sign) {
                (None, '>') => {
                    let tag = &self.rest()[..index];
                    self.at += index + 1;
                    return Ok(tag);
                }
                (None, '"' | '\'') => quote = Some(sign),
                (Some(open), sign) if open == sign => quote = None,
                _ => {}
            }
        }
        self.wrong("a tag does not end")
    }
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

fn attributes(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Some(found);
        }
        let (name, rest) = text.split_once('=')?;
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|sign| matches!(sign, '"' | '\''))?;
        let (value, rest) = rest[1..].split_once(quote)?;
        found.push((local(name.trim_end()).to_owned(), unescaped(value)));
        text = rest;
    }
}

/// The five named entities and numbered ones; others stay as they are.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest[1..].split_once(';').map(|(entity, _)| entity).filter(|entity| entity.len() < 10);
        let sign = entity.and_then(|entity| match entity {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            number => {
                let number = number.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)
            }
        });
        match (sign, entity) {
            (Some(sign), Some(entity)) => {
                out.push(sign);
                rest = &rest[entity.len() + 2..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_text_are_read() {
        let document =
            b"<?xml version='1.0'?><!DOCTYPE x><!-- c -->\n<n:root a=\"1 &gt; 0\" b='x>y'>\n <item>a &amp; b</item>\n \
            <item/><item><![CDATA[<raw>]]></item><deep><er>&#65;&#x42;</er></deep></n:root>";
        let root = Element::parse(document).expect("it is well formed");
        assert_eq!(
            (root.name.as_str(), root.attribute("a"), root.attribute("b")),
            ("root", Some("1 > 0"), Some("x>y"))
        );
        let items: Vec<&str> = root.children.iter().map(|child| child.text.as_str()).collect();
        assert_eq!(items, ["a & b", "", "<raw>", ""]);
        assert_eq!(root.at("deep.er"), "AB");
        assert_eq!(root.at("deep.other"), "");
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_place() {
        for document in ["", "x", "<a>", "<a></b>", "<a", "<a b=c></a>", "<a><![CDATA[</a>", "\u{e4}"] {
            let error = Element::parse(document.as_bytes()).expect_err(document);
            assert!(error.to_string().contains("at byte"), "{error}");
        }
        let deep = "<a>".repeat(1_000);
        assert!(Element::parse(deep.as_bytes()).expect_err("too deep").to_string().contains("too deeply"));
    }
}
