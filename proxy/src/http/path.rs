//! Path normalisation (RFC 3986, section 6), as Envoy's `normalize_path` and `merge_slashes`.

use std::borrow::Cow;

use bytes::Bytes;

/// The path in its normal form; `None` if it has none and must be refused. The query is left alone.
pub(super) fn normalise(path: &Bytes, dots: bool, merge: bool) -> Option<Bytes> {
    let end = memchr::memchr(b'?', path).unwrap_or(path.len());
    let (plain, query) = path.split_at(end);
    if plain.first() != Some(&b'/') {
        return Some(path.clone());
    }
    let mut normal = Cow::Borrowed(plain);
    if dots && needs_work(plain) {
        normal = Cow::Owned(resolve(plain)?);
    }
    if merge && memchr::memmem::find(&normal, b"//").is_some() {
        normal = Cow::Owned(merge_slashes(&normal));
    }
    Some(match normal {
        Cow::Borrowed(_) => path.clone(),
        Cow::Owned(normal) => Bytes::from([&normal[..], query].concat()),
    })
}

/// The path with its encoded slashes and backslashes decoded; `None` if it has none. The query is
/// left alone.
pub(super) fn unescape_slashes(path: &Bytes) -> Option<Bytes> {
    let end = memchr::memchr(b'?', path).unwrap_or(path.len());
    let (plain, query) = path.split_at(end);
    let mut out = Vec::new();
    let mut from = 0;
    for at in memchr::memchr_iter(b'%', plain) {
        let slash = match plain.get(at + 1..at + 3) {
            Some(b"2f" | b"2F") => b'/',
            Some(b"5c" | b"5C") => b'\\',
            _ => continue,
        };
        out.extend_from_slice(&plain[from..at]);
        out.push(slash);
        from = at + 3;
    }
    if from == 0 {
        return None;
    }
    out.extend_from_slice(&plain[from..]);
    out.extend_from_slice(query);
    Some(out.into())
}

fn needs_work(path: &[u8]) -> bool {
    memchr::memmem::find(path, b"/.").is_some()
        || path
            .iter()
            .any(|b| *b == b'%' || *b == b'\\' || is_unsafe(*b))
}

/// Takes dot segments out, takes `\` for `/`, and writes each octet in one way.
fn resolve(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut segments = path[1..].split(|b| matches!(b, b'/' | b'\\')).peekable();
    while let Some(segment) = segments.next() {
        match Segment::of(segment) {
            Segment::Name => {
                out.push(b'/');
                write_name(segment, &mut out)?;
                continue;
            }
            Segment::Current => {}
            // Above the root there is the root.
            Segment::Parent => out.truncate(memchr::memrchr(b'/', &out).unwrap_or(0)),
        }
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Some(out)
}

#[derive(PartialEq, Eq)]
enum Segment {
    Current,
    Parent,
    Name,
}

impl Segment {
    /// Dots count in either spelling. Plain ones count with parameters behind them, too, which many
    /// servers drop (`/..;x/`).
    fn of(segment: &[u8]) -> Self {
        let (mut dots, mut rest, mut plain) = (0, segment, true);
        while dots < 3 {
            if let Some(tail) = rest.strip_prefix(b".") {
                rest = tail;
            } else if rest
                .get(..3)
                .is_some_and(|b| b.eq_ignore_ascii_case(b"%2e"))
            {
                rest = &rest[3..];
                plain = false;
            } else {
                break;
            }
            dots += 1;
        }
        if !(rest.is_empty() || plain && rest[0] == b';') {
            return Self::Name;
        }
        match dots {
            1 => Self::Current,
            2 => Self::Parent,
            _ => Self::Name,
        }
    }
}

/// Decodes what need not be encoded, encodes what must be, and leaves the rest as it is; `None` for
/// an encoded NUL.
fn write_name(segment: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = segment;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => match tail.get(..2).and_then(hex) {
                Some(0) => return None,
                Some(value) if is_unreserved(value) => {
                    out.push(value);
                    rest = &tail[2..];
                }
                _ => out.push(b'%'),
            },
            byte if is_unsafe(byte) => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend([b'%', DIGITS[high], DIGITS[low]]);
            }
            byte => out.push(byte),
        }
    }
    Some(())
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Not allowed in a path as they are.
fn is_unsafe(byte: u8) -> bool {
    b"\"<>`{}|^".contains(&byte)
}

fn hex(digits: &[u8]) -> Option<u8> {
    // The standard library takes a sign, too.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Envoy's: the segments that are not empty, with the first slash and the last. So `//` stays.
fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for segment in path.split(|b| *b == b'/').filter(|s| !s.is_empty()) {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    if path.ends_with(b"/") {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &'static str) -> Option<String> {
        let normal = normalise(&Bytes::from_static(path.as_bytes()), true, true)?;
        Some(String::from_utf8(normal.to_vec()).unwrap())
    }

    /// Measured with Envoy 1.40.
    #[test]
    fn paths_have_one_form() {
        for (path, expected) in [
            ("/a/b?c=../d", "/a/b?c=../d"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("//a///b", "/a/b"),
            ("//a//", "/a/"),
            ("///", "//"),
            ("/%61/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a%2fb%2F%5c", "/a%2fb%2F%5c"),
            ("/%7e%41%2D", "/~A-"),
            ("/%c3%a9%1f%7F%25", "/%c3%a9%1f%7F%25"),
            ("/%zz/%a/%", "/%zz/%a/%"),
            ("/%+1", "/%+1"),
            ("/a\\b", "/a/b"),
            ("/a/..\\x", "/x"),
            ("/..a/.../b", "/..a/.../b"),
            ("/a/..;/x", "/x"),
            ("/a/..;y/x", "/x"),
            ("/a/.;", "/a/"),
            ("/a/%2e%2e;/x", "/a/..;/x"),
            ("/a/b;c", "/a/b;c"),
            ("/a\"<>`{}|^b?|", "/a%22%3C%3E%60%7B%7D%7C%5Eb?|"),
            ("/a[b]'!$&()*+,=:@", "/a[b]'!$&()*+,=:@"),
            ("/", "/"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
        }
        for path in ["/%00", "/a%00b", "/..%00"] {
            assert_eq!(normal(path), None, "{path}");
        }
        assert_eq!(normal("/a?%00").as_deref(), Some("/a?%00"));
    }

    #[test]
    fn encoded_slashes_are_decoded_once_and_in_the_path_alone() {
        for (path, expected) in [
            ("/a%2Fb%2f", Some("/a/b/")),
            ("/a%5Cb%5c?q=%2F", Some("/a\\b\\?q=%2F")),
            ("/a%252Fb%2F", Some("/a%252Fb/")),
            ("/a%2", None),
            ("/a%", None),
            ("/a?%2F", None),
        ] {
            let found = unescape_slashes(&Bytes::from_static(path.as_bytes()));
            let expected = expected.map(|path| Bytes::from_static(path.as_bytes()));
            assert_eq!(found, expected, "{path}");
        }
    }

    /// `pathNormalization` of a mesh: what of it reaches us, and what Istio's own tests expect.
    #[test]
    fn the_modes_of_istio() {
        const MODES: [(&str, bool, bool, bool); 3] = [
            ("BASE", false, true, false),
            ("MERGE_SLASHES", false, true, true),
            ("DECODE_AND_MERGE_SLASHES", true, true, true),
        ];
        for (path, expected) in [
            ("/", ["/"; 3]),
            ("/app/", ["/app/"; 3]),
            ("/app/../admin", ["/admin"; 3]),
            ("/app", ["/app"; 3]),
            ("/app//", ["/app//", "/app/", "/app/"]),
            ("/app/%2f", ["/app/%2f", "/app/%2f", "/app/"]),
            ("/app%2f/", ["/app%2f/", "/app%2f/", "/app/"]),
            (
                "/xyz%30..//abc",
                ["/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"],
            ),
            ("/app/%2E./admin", ["/admin"; 3]),
            ("/app\\admin", ["/app/admin"; 3]),
            (
                "/app/\\/\\/\\admin",
                ["/app//////admin", "/app/admin", "/app/admin"],
            ),
            (
                "/%2Fapp%5cadmin%5Cabc",
                [
                    "/%2Fapp%5cadmin%5Cabc",
                    "/%2Fapp%5cadmin%5Cabc",
                    "/app/admin/abc",
                ],
            ),
            (
                "/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc",
                [
                    "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                    "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
                    "/app/admin/abc",
                ],
            ),
            ("/app//../admin", ["/app/admin"; 3]),
            ("/app//../../admin", ["/admin"; 3]),
            ("/%c0%2e%c0%2e/admin", ["/%c0.%c0./admin"; 3]),
            (
                "/%c0%2fadmin",
                ["/%c0%2fadmin", "/%c0%2fadmin", "/%c0/admin"],
            ),
            ("/%252e%252e%252fadmin", ["/%252e%252e%252fadmin"; 3]),
            ("/.../admin", ["/.../admin"; 3]),
            ("/;/admin", ["/;/admin"; 3]),
            ("/admin;a=b/xyz", ["/admin;a=b/xyz"; 3]),
        ] {
            for ((mode, decode, dots, merge), expected) in MODES.iter().zip(expected) {
                let given = Bytes::from_static(path.as_bytes());
                let decoded = decode.then(|| unescape_slashes(&given)).flatten();
                let normal = normalise(&decoded.unwrap_or(given), *dots, *merge);
                assert_eq!(
                    normal.as_deref(),
                    Some(expected.as_bytes()),
                    "{path} {mode}"
                );
            }
        }
    }

    #[test]
    fn each_option_does_its_part_only() {
        let path = Bytes::from_static(b"//a/%41/../b");
        assert_eq!(normalise(&path, false, true).unwrap(), "/a/%41/../b");
        assert_eq!(normalise(&path, true, false).unwrap(), "//a/b");
    }
}
