//! Go's quoted strings (`%q`), in which the downward API writes values.

/// The text between the quotes; `None` if it is no quoted string.
pub(crate) fn unquote(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, &mut bytes)?,
            '"' => return None,
            c => push(c, &mut bytes),
        }
    }
    String::from_utf8(bytes).ok()
}

fn escape(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let plain = match rest.next()? {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        // A byte, of which several may make a character.
        'x' => u8::try_from(number(rest, 2)?).ok()?,
        'u' => return character(number(rest, 4)?, bytes),
        'U' => return character(number(rest, 8)?, bytes),
        _ => return None,
    };
    bytes.push(plain);
    Some(())
}

fn number(rest: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let mut number: u32 = 0;
    for _ in 0..digits {
        number = number.checked_mul(16)? + rest.next()?.to_digit(16)?;
    }
    Some(number)
}

fn character(number: u32, bytes: &mut Vec<u8>) -> Option<()> {
    push(char::from_u32(number)?, bytes);
    Some(())
}

fn push(c: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, expected) in [
            (r#""""#, ""),
            (r#""a\n\t\"\\b""#, "a\n\t\"\\b"),
            (r#""\x41\xc3\xa9\u00e9\U0001f600""#, "Aéé😀"),
            (r#""é{\"a\": 1}""#, "é{\"a\": 1}"),
        ] {
            assert_eq!(unquote(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "a",
            "\"",
            r#""a"#,
            r#""a"b""#,
            r#""\"#,
            r#""\q""#,
            r#""\u12""#,
            r#""\xff""#,
        ] {
            assert_eq!(unquote(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\"[ -~\\\\é]*\"") {
            let _ = unquote(&text);
        }
    }
}
