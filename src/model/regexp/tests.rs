use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// What the engine alone says.
fn by_engine(pattern: &str, text: &str) -> bool {
    compile(&go_syntax::translate(pattern).expect(pattern), true).expect(pattern).is_match(text)
}

fn tables() -> Option<Vec<Value>> {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/conformance/go_tables/model_labels_regexp_test.json"
    ));
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("conformance cases are absent: {}", path.display());
        return None;
    };
    let tables: Value = serde_json::from_str(&text).expect("JSON");
    tables["tables"].as_array().cloned()
}

fn table<'a>(tables: &'a [Value], func: &str, var: &str) -> &'a [Value] {
    let found = tables.iter().find(|table| table["func"] == func && table["var"] == var);
    found.and_then(|table| table["value"].as_array()).expect("the table is there")
}

#[test]
fn shortcuts_agree_with_the_engine_on_upstreams_table() {
    let Some(tables) = tables() else { return };
    let mut shortcuts = 0;
    for pattern in table(&tables, "", "regexes").iter().filter_map(Value::as_str) {
        let regexp = Regexp::new(pattern).expect(pattern);
        shortcuts += usize::from(!matches!(*regexp.plan, Plan::Engine { .. }));
        for text in table(&tables, "", "values").iter().filter_map(Value::as_str) {
            assert_eq!(regexp.matches(text), by_engine(pattern, text), "{pattern:?} on {text:?}");
        }
    }
    assert!(shortcuts >= 20, "only {shortcuts} patterns need no engine");
}

#[test]
fn lists_of_literals_are_found_as_upstream_finds_them() {
    let Some(tables) = tables() else { return };
    let mut checked = 0;
    for case in table(&tables, "TestFindSetMatches", "range") {
        let (Some(pattern), Some(expected), Some(true)) = (case[0].as_str(), case[1].as_array(), case[2].as_bool())
        else {
            continue;
        };
        let mut expected: Vec<&str> = expected.iter().filter_map(Value::as_str).collect();
        if expected.is_empty() {
            continue;
        }
        expected.sort_unstable();
        let regexp = Regexp::new(pattern).expect(pattern);
        assert_eq!(regexp.literals().unwrap_or_default(), expected, "{pattern:?}");
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
fn patterns_mean_what_go_says() {
    let check = |pattern: &str, text: &str, expected: bool| {
        assert_eq!(Regexp::new(pattern).expect(pattern).matches(text), expected, "{pattern:?} on {text:?}");
    };
    for (pattern, yes, no) in [
        (r"\d+", "123", "١٢٣"),
        (r"\w+", "a_1", "ä"),
        (r"\W", "ä", "a"),
        (r"[\W]", "ä", "a"),
        (r"[^\d]", "ä", "1"),
        (r"a\Q.*\Eb", "a.*b", "axxb"),
        (r"\Qa.b", "a.b", "axb"),
        (r"a{,2}", "a{,2}", "aa"),
        (r"{foo}", "{foo}", "foo"),
        (r"x{2}", "xx", "x"),
        (r"[a&&b]", "&", "c"),
        (r"[[]", "[", "]"),
        (r"[]a]", "]", "b"),
        (r"[a-]", "-", "b"),
        (r"[[:alpha:]-]", "-", "1"),
        (r"\101", "A", "B"),
        (r"\x{41}\x42", "AB", "ab"),
        (r"a\_b\-c", "a_b-c", "abc"),
        (r"\<a", "<a", "a"),
        (r"(?i)foo", "FoO", "bar"),
        (r"(?i:k)", "\u{212a}", "x"),
        (r".", "\n", ""),
        (r"(?-s:.)", "a", "\n"),
        (r"foo.*bar.*baz", "foo--bar--baz", "foobaz"),
        (r"foo.*o", "fooo", "foo"),
        (r".*a.*|b.*c", "bxc", "bx"),
        (r"^a$|^b$", "b", "ab"),
        (r"\pL\p{Greek}", "aα", "aa"),
        (r"(?P<name>a)(?<other>b)", "ab", "a"),
        (r"a b#c", "a b#c", "abc"),
        (r"~~--", "~~--", "~"),
    ] {
        check(pattern, yes, true);
        check(pattern, no, false);
    }
}

#[test]
fn malformed_patterns_are_refused_in_gos_words() {
    for (pattern, expected) in [
        ("(", "missing closing ): `(`"),
        ("a)", "unexpected ): `a)`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("a|*", "missing argument to repetition operator: `*`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("[b-a]", "invalid character class range: `b-a`"),
        ("[a", "missing closing ]: `[a`"),
        (r"\", "trailing backslash at end of expression: ``"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        ("(?x:a)", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
        ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
    ] {
        let error = Regexp::new(pattern).map(drop).expect_err(pattern);
        assert_eq!(error.to_string(), format!("error parsing regexp: {expected}"), "{pattern}");
    }
    assert!(Regexp::new(&"(a{1000}){1000}".repeat(3)).is_err(), "too large a program");
}

proptest! {
    #[test]
    fn any_pattern_compiles_or_fails_and_shortcuts_agree(
        pattern in "[ab.*+?|()^$\\[\\]{}\\\\,1idQE-]{0,12}",
        texts in proptest::collection::vec("[abQ1\\n-]{0,6}", 1..8),
    ) {
        if let Ok(regexp) = Regexp::new(&pattern) {
            for text in texts {
                prop_assert_eq!(regexp.matches(&text), by_engine(&pattern, &text), "{:?} on {:?}", pattern, text);
            }
        }
    }
}

#[test]
fn alternatives_between_literals_need_no_engine() {
    let check = |pattern: &str, prefix: &str, yes: &[&str], no: &[&str]| {
        let regexp = Regexp::new(pattern).expect(pattern);
        assert!(matches!(*regexp.plan, Plan::Shapes(_)), "{pattern}");
        assert_eq!(regexp.prefix(), prefix, "{pattern}");
        for (texts, expected) in [(yes, true), (no, false)] {
            for text in texts {
                assert_eq!(regexp.matches(text), expected, "{pattern} on {text}");
                assert_eq!(by_engine(pattern, text), expected, "{pattern} on {text}");
            }
        }
    };
    let paths = "/api/v1/(orders|items)/.*";
    check(paths, "/api/v1/", &["/api/v1/orders/", "/api/v1/items/7"], &["/api/v1/users/7", "/api/v1/orders", ""]);
    check("(a|b).*(c|d)?x", "", &["ax", "bcx", "a-dx"], &["cx", "ac"]);
    check("ä[12].*|äö.*", "ä", &["ä1", "ä2ö", "äö"], &["ä3", "ö"]);
    check(".*-(eu|us)-.*", "", &["a-eu-1", "-us-"], &["a-ap-1", "eu"]);
}
