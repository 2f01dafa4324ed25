//! Bytes → tree.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{Key, Kind, Node, Position, Problem, snippet};

/// How many nodes a file may have, copies made by aliases included.
const NODES_MAX: usize = 8_000_000;
/// How deep values may lie in each other.
const DEPTH_MAX: usize = 200;

/// Reads the first document of a file; an empty file is a null.
///
/// # Errors
/// The first problem of syntax, a repeated key, or a limit passed: without a tree nothing more can be said.
pub fn parse(file: &str, source: &[u8]) -> Result<Node, Problem> {
    let text = match std::str::from_utf8(source) {
        Ok(text) => text.trim_start_matches('\u{feff}'),
        Err(error) => {
            let before = String::from_utf8_lossy(&source[..error.valid_up_to()]);
            let line = before.matches('\n').count() as u32 + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() as u32 + 1;
            let message = "yaml: invalid UTF-8".to_owned();
            return Err(Problem {
                file: file.to_owned(),
                at: Position { line, column },
                message,
                snippet: String::new(),
            });
        }
    };
    Builder::default().run(text).map_err(|(at, message)| Problem {
        file: file.to_owned(),
        at,
        message,
        snippet: snippet(text, at),
    })
}

type Failure = (Position, String);

/// Collections that are open, outermost first.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

struct Open {
    at: Position,
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, merges: Vec<Node>, key: Option<(Key, bool)> },
}

impl Builder {
    fn run(mut self, text: &str) -> Result<Node, Failure> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = position_of(error.marker().line(), error.marker().col());
                (at, format!("yaml: {}", error.info()))
            })?;
            if matches!(event, Event::DocumentEnd) {
                break;
            }
            self.handle(event, span)?;
        }
        Ok(self.root.unwrap_or(Node { at: Position { line: 1, column: 1 }, kind: Kind::Null }))
    }

    fn handle(&mut self, event: Event<'_>, span: Span) -> Result<(), Failure> {
        let at = position_of(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(tag) = tag
                    && tag.suffix() == "binary"
                {
                    return self.binary(&text, at, anchor);
                }
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if null { Kind::Null } else { Kind::Scalar { text: text.into_owned(), plain } };
                self.finish(Node { at, kind }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(at, anchor, Content::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.begin(at, anchor, Content::Map { entries: Vec::new(), merges: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser closes only what it opened");
                let nodes = self.nodes - open.nodes_before + 1;
                let kind = match open.content {
                    Content::List(elements) => Kind::List(elements),
                    Content::Map { entries, merges, .. } => Kind::Map(merged(entries, merges)?),
                };
                self.finish(Node { at: open.at, kind }, open.anchor, nodes)
            }
            Event::Alias(anchor) => {
                let (mut node, nodes) =
                    self.anchors.get(&anchor).cloned().ok_or((at, "yaml: unknown anchor".to_owned()))?;
                node.at = at;
                self.nodes += nodes - 1;
                self.finish(node, 0, nodes)
            }
            _ => Ok(()),
        }
    }

    /// `!!binary` is base64 of bytes; only texts are of use here.
    fn binary(&mut self, text: &str, at: Position, anchor: usize) -> Result<(), Failure> {
        let bytes = decode_base64(text).ok_or((at, "yaml: !!binary value contains invalid base64 data".to_owned()))?;
        let kind = match String::from_utf8(bytes) {
            Ok(text) => Kind::Scalar { text, plain: false },
            Err(error) => {
                let text: String = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                let key_open =
                    matches!(self.open.last().map(|open| &open.content), Some(Content::Map { key: None, .. }));
                let what = if key_open { "name" } else { "value" };
                return Err((at, format!("\"{text}\" is not a valid label {what}: it is not UTF-8")));
            }
        };
        self.finish(Node { at, kind }, anchor, 1)
    }

    fn begin(&mut self, at: Position, anchor: usize, content: Content) -> Result<(), Failure> {
        if self.open.len() >= DEPTH_MAX {
            return Err((at, format!("yaml: nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(Open { at, anchor, nodes_before: self.nodes, content });
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize, nodes: usize) -> Result<(), Failure> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err((node.at, format!("yaml: more than {NODES_MAX} values, those copied by aliases included")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(elements)) => elements.push(node),
            Some(Content::Map { entries, merges, key }) => match key.take() {
                None => *key = Some(key_of(node)?),
                Some((key, true)) if key.text == "<<" => merges.push(node),
                Some((key, _)) => {
                    // A long mapping of a hostile file must not cost its square; real ones are short.
                    if entries.len() < 4096
                        && let Some((first, _)) = entries.iter().find(|(present, _)| present.text == key.text)
                    {
                        let message =
                            format!("yaml: mapping key \"{}\" already defined at line {}", key.text, first.at.line);
                        return Err((key.at, message));
                    }
                    entries.push((key, node));
                }
            },
        }
        Ok(())
    }
}

fn position_of(line: usize, column: usize) -> Position {
    Position { line: line as u32, column: column as u32 + 1 }
}

fn key_of(node: Node) -> Result<(Key, bool), Failure> {
    match node.kind {
        Kind::Scalar { text, plain } => Ok((Key { text, at: node.at }, plain)),
        Kind::Null => Ok((Key { text: String::new(), at: node.at }, false)),
        _ => Err((node.at, format!("yaml: a key must be a text, not a {}", node.kind_name()))),
    }
}

/// Merge keys: what a mapping does not say itself comes from the mappings named by `<<`, the first one first.
fn merged(mut entries: Vec<(Key, Node)>, merges: Vec<Node>) -> Result<Vec<(Key, Node)>, Failure> {
    let mut pending: Vec<Node> = merges;
    pending.reverse();
    while let Some(node) = pending.pop() {
        match node.kind {
            Kind::Map(from) => {
                for (key, value) in from {
                    if !entries.iter().any(|(present, _)| present.text == key.text) {
                        entries.push((key, value));
                    }
                }
            }
            Kind::List(elements) => pending.extend(elements.into_iter().rev()),
            _ => return Err((node.at, "yaml: map merge requires map or sequence of maps as the value".to_owned())),
        }
    }
    Ok(entries)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: expect_test::Expect) {
        let shown = match parse("a.yml", text.as_bytes()) {
            Ok(node) => super::super::print(&node),
            Err(problem) => problem.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn scalars_keep_their_text() {
        check(
            "a: 1.10\nb: 'yes'\nc: yes\nd: ~\ne:\n",
            expect_test::expect![[r#"
            a: 1.10
            b: "yes"
            c: yes
            d: null
            e: null
        "#]],
        );
    }

    #[test]
    fn merge_keys_fill_what_is_not_said() {
        check(
            "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 9\n",
            expect_test::expect![[r#"
                x:
                  a: 1
                  b: 2
                "y":
                  b: 3
                  c: 4
                z:
                  a: 9
                  b: 2
                  c: 4
            "#]],
        );
    }

    #[test]
    fn repeated_keys_are_refused_with_their_place() {
        check(
            "a: 1\nb: 2\na: 3\n",
            expect_test::expect![[r#"
            a.yml:3:1: yaml: mapping key "a" already defined at line 1
              3 | a: 3
                | ^"#]],
        );
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let problem = parse("bomb.yml", bomb.as_bytes()).unwrap_err();
        assert!(problem.message.contains("more than"), "{problem}");
    }
}
