//! Tree → text, in the style of Go's YAML library.

use super::{Kind, Node};

/// A document in block style, each line ended. Texts are quoted only where they would be read as something else.
pub fn print(node: &Node) -> String {
    let mut out = String::new();
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => write_map(&mut out, node, 0),
        Kind::List(elements) if !elements.is_empty() => write_list(&mut out, node, 0),
        _ => {
            write_scalar(&mut out, node);
            out.push('\n');
        }
    }
    out
}

fn write_map(out: &mut String, node: &Node, indent: usize) {
    let Kind::Map(entries) = &node.kind else { return };
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 || !out.ends_with("- ") {
            pad(out, indent);
        }
        write_text(out, &key.text, false);
        out.push(':');
        match &value.kind {
            Kind::Map(inner) if !inner.is_empty() => {
                out.push('\n');
                write_map(out, value, indent + 2);
            }
            Kind::List(inner) if !inner.is_empty() => {
                out.push('\n');
                write_list(out, value, indent);
            }
            _ => {
                out.push(' ');
                write_scalar(out, value);
                out.push('\n');
            }
        }
    }
}

fn write_list(out: &mut String, node: &Node, indent: usize) {
    for element in node.elements() {
        pad(out, indent);
        out.push_str("- ");
        match &element.kind {
            Kind::Map(inner) if !inner.is_empty() => write_map(out, element, indent + 2),
            Kind::List(inner) if !inner.is_empty() => {
                out.push('\n');
                write_list(out, element, indent + 2);
            }
            _ => {
                write_scalar(out, element);
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_scalar(out: &mut String, node: &Node) {
    match &node.kind {
        Kind::Null => out.push_str("null"),
        Kind::Scalar { text, plain } => write_text(out, text, *plain),
        Kind::List(_) => out.push_str("[]"),
        Kind::Map(_) => out.push_str("{}"),
    }
}

fn write_text(out: &mut String, text: &str, plain: bool) {
    if plain || is_safe_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether a text without quotes is read back as the same text.
fn is_safe_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let last = text.chars().next_back().expect("there is a first, so there is a last");
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", ".nan", ".inf", "-.inf", "+.inf"];
    let looks_typed = words.iter().any(|word| text.eq_ignore_ascii_case(word))
        || first.is_ascii_digit()
        || (matches!(first, '+' | '-' | '.') && text[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.'));
    // Durations such as 15s read back as text.
    let is_duration = promesh_model::duration::parse(text).is_ok() && text != "0";
    (!looks_typed || is_duration)
        && !first.is_whitespace()
        && !last.is_whitespace()
        && !"-?:,[]{}#&*!|>'\"%@`=".contains(first)
        && last != ':'
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| !c.is_control())
}
