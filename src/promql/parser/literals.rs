//! Numbers and strings as Go's `strconv` reads them.

/// Reads a number: decimal, hexadecimal, octal, binary, with underscores, or a word for infinity or NaN.
///
/// # Errors
/// The message that Go gives.
///
/// Source: Go `strconv.ParseInt(text, 0, 64)`, then `strconv.ParseFloat`.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    if let Some(value) = integer(text) {
        return Ok(value as f64);
    }
    let failed = |why: &str| {
        let quoted = promesh_model::labels::quoted(text);
        format!("error parsing number: strconv.ParseFloat: parsing {quoted}: {why}")
    };
    let plain = text.replace('_', "");
    match plain.to_ascii_lowercase().as_str() {
        "inf" | "+inf" => return Ok(f64::INFINITY),
        "-inf" => return Ok(f64::NEG_INFINITY),
        "nan" => return Ok(promesh_model::value::normal_nan()),
        _ => {}
    }
    if plain.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')) {
        return Err(failed("invalid syntax"));
    }
    match plain.parse::<f64>() {
        Ok(value) if value.is_infinite() => Err(failed("value out of range")),
        Ok(value) => Ok(value),
        Err(_) => Err(failed("invalid syntax")),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let digits = digits.replace('_', "");
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&digits, base).ok().map(|value| sign * value)
}

/// The text of a quoted literal: double or single quotes with escapes, or backquotes without.
///
/// `None` when it is malformed. Bytes given by escapes that are no UTF-8 become U+FFFD.
///
/// Source: prometheus `util/strutil.Unquote`.
pub(crate) fn unquote(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let quote = chars.next()?;
    if chars.next_back()? != quote {
        return None;
    }
    let inner = chars.as_str();
    if quote == '`' {
        return (!inner.contains('`')).then(|| inner.to_owned());
    }
    if !matches!(quote, '"' | '\'') || inner.contains('\n') {
        return None;
    }
    if !inner.contains(['\\', quote]) {
        return Some(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == quote {
            return None;
        }
        if c == '\\' {
            rest = escape(rest, quote, &mut bytes)?;
        } else {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn escape<'a>(rest: &'a str, quote: char, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let tail = &rest[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '\'' | '"' if c == quote => c as u8,
        'x' => return byte(tail, 2, 16, bytes),
        'u' => return rune(tail, 4, bytes),
        'U' => return rune(tail, 8, bytes),
        '0'..='7' => return byte(rest, 3, 8, bytes),
        _ => return None,
    };
    bytes.push(simple);
    Some(tail)
}

fn digits(rest: &str, count: usize, base: u32) -> Option<(u32, &str)> {
    let digits = rest.get(..count)?;
    if !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    Some((u32::from_str_radix(digits, base).ok()?, &rest[count..]))
}

fn byte<'a>(rest: &'a str, count: usize, base: u32, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let (value, tail) = digits(rest, count, base)?;
    bytes.push(u8::try_from(value).ok()?);
    Some(tail)
}

fn rune<'a>(rest: &'a str, count: usize, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let (value, tail) = digits(rest, count, 16)?;
    bytes.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_reads_them() {
        for (text, value) in [("0755", 493.0), ("0xc", 12.0), ("08", 8.0), ("1_000", 1000.0), ("5e-3", 0.005)] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert!(number("0x1p").is_err());
        assert!(number("1e999").unwrap_err().ends_with("value out of range"));
    }

    #[test]
    fn strings_unquote() {
        assert_eq!(unquote(r#""a\n\"\u70ac\x41\101""#).as_deref(), Some("a\n\"炬AA"));
        assert_eq!(unquote("`a\\n`").as_deref(), Some("a\\n"));
        assert_eq!(unquote(r#""\'""#), None);
        assert_eq!(unquote("\""), None);
    }
}
