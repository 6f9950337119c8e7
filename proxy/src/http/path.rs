//! Path normalisation (RFC 3986, section 6), as Envoy's `normalize_path` and `merge_slashes`.

use bytes::Bytes;

/// The path in its normal form; `None` if it has none and must be refused.
pub(super) fn normalise(path: &Bytes, dots: bool, merge: bool) -> Option<Bytes> {
    let end = memchr::memchr(b'?', path).unwrap_or(path.len());
    let (plain, query) = path.split_at(end);
    if plain.first() != Some(&b'/') {
        return Some(path.clone());
    }
    let suspicious = |b: &u8| matches!(b, b'.' | b'%' | b'\\');
    let doubled = merge && memchr::memmem::find(plain, b"//").is_some();
    if !(doubled || dots && plain.iter().any(suspicious)) {
        return Some(path.clone());
    }
    let decoded = if dots { decode(plain)? } else { plain.to_vec() };
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = decoded[1..].split(|b| *b == b'/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." if dots => segments.extend(last.then_some(&b""[..])),
            b".." if dots => {
                // Above the root there is nothing.
                segments.pop()?;
                segments.extend(last.then_some(&b""[..]));
            }
            b"" if merge && !last => {}
            part => segments.push(part),
        }
    }
    let mut normal = Vec::with_capacity(path.len());
    for segment in &segments {
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    normal.extend_from_slice(query);
    Some(Bytes::from(normal))
}

/// Decodes what need not be encoded, writes the rest in upper case, and takes `\` for `/`.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => {
                let value = tail.get(..2).and_then(hex)?;
                rest = &tail[2..];
                match value {
                    0 => return None,
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(value);
                    }
                    _ => {
                        out.push(b'%');
                        out.extend(tail[..2].iter().map(u8::to_ascii_uppercase));
                    }
                }
            }
            byte => out.push(byte),
        }
    }
    Some(out)
}

fn hex(digits: &[u8]) -> Option<u8> {
    // The standard library takes a sign, too.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &'static str) -> Option<String> {
        let normal = normalise(&Bytes::from_static(path.as_bytes()), true, true)?;
        Some(String::from_utf8(normal.to_vec()).unwrap())
    }

    #[test]
    fn paths_have_one_form() {
        for (path, expected) in [
            ("/a/b?c=../d", "/a/b?c=../d"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("//a///b", "/a/b"),
            ("/%61/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\b", "/a/b"),
            ("/..a", "/..a"),
            ("/", "/"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
        }
        for path in ["/..", "/a/../../b", "/%00", "/%zz", "/%a", "/%+1"] {
            assert_eq!(normal(path), None, "{path}");
        }
    }
}
