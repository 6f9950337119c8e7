use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::{BodyDecoder, BodyEvent, Framing};

fn request(text: &str) -> Result<Option<RequestHead>, ParseError> {
    take_request(&mut BytesMut::from(text))
}

fn take_request(buffer: &mut BytesMut) -> Result<Option<RequestHead>, ParseError> {
    parse_request(buffer, Limits::default(), &mut Progress::default())
}

fn take_response(buffer: &mut BytesMut, method: &str) -> Result<Option<ResponseHead>, ParseError> {
    let mut progress = Progress::default();
    parse_response(buffer, Limits::default(), method.as_bytes(), &mut progress)
}

fn complete(text: &str) -> RequestHead {
    request(text).unwrap().expect("the head is complete")
}

#[test]
fn a_plain_request() {
    let mut buffer = BytesMut::from("GET /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-A: b \r\n\r\nrest");
    let head = take_request(&mut buffer).unwrap().unwrap();
    assert_eq!(head.method(), b"GET");
    assert_eq!(head.path(), b"/a?b=c");
    assert_eq!(head.authority(), b"h:1");
    assert_eq!(head.fields.get("x-a"), Some(&b"b"[..]));
    assert_eq!(head.framing, Framing::None);
    assert!(head.keep_alive);
    assert_eq!(buffer, "rest");
}

#[test]
fn what_is_ambiguous_is_refused() {
    let cases: &[(&str, ParseError)] = &[
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            ParseError::LengthAndEncoding,
        ),
        (
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            ParseError::ContentLength,
        ),
        ("Content-Length: 3, 3\r\n", ParseError::ContentLength),
        ("Content-Length: +3\r\n", ParseError::ContentLength),
        ("Content-Length: -3\r\n", ParseError::ContentLength),
        ("Content-Length: 0x3\r\n", ParseError::ContentLength),
        ("Content-Length:\r\n", ParseError::ContentLength),
        (
            "Content-Length: 99999999999999999999999\r\n",
            ParseError::ContentLength,
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            ParseError::TransferEncoding,
        ),
        (
            "Transfer-Encoding: xchunked\r\n",
            ParseError::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n",
            ParseError::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ParseError::TransferEncoding,
        ),
        ("Transfer-Encoding:\r\n", ParseError::TransferEncoding),
        ("Host: other\r\n", ParseError::SeveralHosts),
        ("X-A: b\r\n c\r\n", ParseError::Malformed),
        ("X-A : b\r\n", ParseError::Malformed),
        ("X A: b\r\n", ParseError::Malformed),
        ("X-A: b\0c\r\n", ParseError::HeaderValue),
        (": b\r\n", ParseError::Malformed),
        ("X-A: b\nX-B: c\r\n", ParseError::BareLf),
    ];
    for (fields, expected) in cases {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        assert_eq!(request(&text).unwrap_err(), *expected, "{fields:?}");
    }
}

#[test]
fn a_fragment_is_left_out_where_it_is_wanted() {
    let limits = Limits {
        strips_fragment: true,
        ..Limits::default()
    };
    let path = |target: &str| {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut buffer = BytesMut::from(&*text);
        let head = parse_request(&mut buffer, limits, &mut Progress::default())?;
        Ok(head.unwrap().path().to_vec())
    };
    assert_eq!(path("/a#b"), Ok(b"/a".to_vec()));
    assert_eq!(path("/a?b#c?d#e"), Ok(b"/a?b".to_vec()));
    assert_eq!(path("http://h/a#b"), Ok(b"/a".to_vec()));
    assert_eq!(path("#a"), Err(ParseError::Malformed));
}

#[test]
fn request_lines() {
    let refused: &[(&str, ParseError)] = &[
        ("GET / HTTP/1.1\r\n\r\n", ParseError::NoHost),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", ParseError::Version),
        ("GET /#f HTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Fragment),
        ("GET / HTTP/1.0\r\n\r\n", ParseError::NoHost),
        ("GET / FOO\r\nHost: h\r\n\r\n", ParseError::Malformed),
        ("GET / HTTP/11\r\nHost: h\r\n\r\n", ParseError::Malformed),
        ("GET / a HTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Malformed),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Malformed),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Target),
        (
            "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n",
            ParseError::Target,
        ),
        (
            "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            ParseError::Scheme,
        ),
        (
            "GET http://h?a HTTP/1.1\r\nHost: h\r\n\r\n",
            ParseError::Target,
        ),
        ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Target),
        (
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            ParseError::InvalidHost,
        ),
        (
            "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n",
            ParseError::InvalidHost,
        ),
        (
            "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n",
            ParseError::InvalidHost,
        ),
        (
            "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n",
            ParseError::Target,
        ),
        ("GET /\tHTTP/1.1\r\nHost: h\r\n\r\n", ParseError::Malformed),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            ParseError::TransferEncoding,
        ),
        ("GET / HTTP/1.1\nHost: h\n\n", ParseError::BareLf),
    ];
    for (text, expected) in refused {
        assert_eq!(request(text).unwrap_err(), *expected, "{text:?}");
    }
}

/// Who writes `delete` means to pass by a policy on DELETE.
#[test]
fn methods_are_the_common_ones_unless_others_may_be() {
    for (method, common) in [
        ("GET", true),
        ("PROPFIND", true),
        ("UNSUBSCRIBE", true),
        ("get", false),
        ("Delete", false),
        ("GETX", false),
        ("M-SEARCH", false),
    ] {
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
        let refused = request(&text).err();
        assert_eq!(
            refused,
            (!common).then_some(ParseError::Malformed),
            "{method}"
        );
        let limits = Limits {
            custom_methods: true,
            ..Limits::default()
        };
        let mut buffer = BytesMut::from(&*text);
        let head = parse_request(&mut buffer, limits, &mut Progress::default());
        let head = head.unwrap().expect("it is complete");
        assert_eq!(head.method(), method.as_bytes());
    }
}

#[test]
fn the_forms_of_a_target() {
    let head = complete("GET http://a.test:8/p?q HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(
        (head.authority(), head.path()),
        (&b"a.test:8"[..], &b"/p?q"[..])
    );
    let head = complete("GET HTTPS://a.test HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!((head.path(), head.scheme), (&b"/"[..], Some("https")));
    let head = complete("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert!(head.is_connect());
    assert_eq!(head.authority(), b"a:443");
    let head = complete("OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(head.path(), b"*");
}

#[test]
fn persistence_and_upgrade() {
    let close = complete("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, close\r\n\r\n");
    assert!(!close.keep_alive);
    assert!(!complete("GET / HTTP/1.0\r\nHost: h\r\n\r\n").keep_alive);
    assert!(complete("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(complete(upgrade).upgrade(), Some(&b"websocket"[..]));
    let without = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(complete(without).upgrade(), None);
    for fields in ["Upgrade: h2c", "Upgrade: websocket\r\nContent-Length: 1"] {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n{fields}\r\n\r\n");
        assert_eq!(complete(&text).upgrade(), None, "{fields}");
    }
}

#[test]
fn connection_may_not_name_where_a_request_came_from() {
    for value in [
        "X-Forwarded-For",
        "close, x-forwarded-proto",
        ":path",
        "a,b,c,d,e,f,g,h,i,j",
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: {value}\r\n\r\n");
        assert_eq!(
            request(&text).unwrap_err(),
            ParseError::ConnectionNames,
            "{value}"
        );
    }
}

#[test]
fn connection_cannot_name_away_what_policies_rely_on() {
    let head = complete(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Client-Cert: a\r\nX-Own: b\r\n\
         Connection: host, x-own, x-forwarded-client-cert\r\n\r\n",
    );
    let dropped: Vec<&[u8]> = head
        .fields
        .iter()
        .filter(|(field, ..)| field.hop_by_hop)
        .map(|(_, name, _)| name)
        .collect();
    assert_eq!(dropped, [b"x-own"]);
}

#[test]
fn sizes_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(61 * 1024));
    assert_eq!(request(&long).unwrap_err(), ParseError::HeadTooLarge);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
        "a: b\r\n".repeat(100)
    );
    assert_eq!(request(&many).unwrap_err(), ParseError::TooManyHeaders);
}

#[test]
fn a_head_that_comes_in_small_pieces_costs_little() {
    let text = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "a".repeat(8 * 1024)
    );
    let mut buffer = BytesMut::new();
    let mut progress = Progress::default();
    let mut heads = 0;
    for (at, byte) in text.bytes().enumerate() {
        buffer.extend_from_slice(&[byte]);
        let head = parse_request(&mut buffer, Limits::default(), &mut progress).unwrap();
        heads += usize::from(head.is_some());
        if head.is_none() {
            assert_eq!(progress.seen, at + 1, "nothing is looked at twice");
        }
    }
    assert_eq!((heads, progress.seen), (1, 0));
}

#[test]
fn a_bare_line_feed_is_seen_in_the_part_that_brings_it() {
    let text = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(8 * 1024));
    for (first, second, refused) in [("", "\n", true), ("\r", "\n", false), ("\r", "\n\n", true)] {
        let mut buffer = BytesMut::from(&*text);
        buffer.extend_from_slice(first.as_bytes());
        let mut progress = Progress::default();
        let parsed = parse_request(&mut buffer, Limits::default(), &mut progress);
        assert!(parsed.unwrap().is_none());
        buffer.extend_from_slice(second.as_bytes());
        let parsed = parse_request(&mut buffer, Limits::default(), &mut progress);
        assert_eq!(
            parsed.err(),
            refused.then_some(ParseError::BareLf),
            "{second:?}"
        );
    }
}

#[test]
fn te_trailers_passes_though_connection_must_name_it() {
    let head = complete("GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let (te, ..) = head
        .fields
        .iter()
        .find(|(field, ..)| field.known == Known::Te)
        .unwrap();
    assert!(!te.hop_by_hop);
}

#[test]
fn the_length_of_a_body_that_does_not_follow_is_known() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let head = response(text, "HEAD").unwrap().unwrap();
    assert_eq!((head.framing, head.length), (Framing::None, Some(5)));
}

fn response(text: &str, method: &str) -> Result<Option<ResponseHead>, ParseError> {
    take_response(&mut BytesMut::from(text), method)
}

#[test]
fn the_framing_of_responses() {
    let cases: &[(&str, &str, Framing)] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "GET",
            Framing::Length(5),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HEAD",
            Framing::None,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "GET",
            Framing::Chunked,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "GET", Framing::Close),
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET", Framing::None),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "GET",
            Framing::None,
        ),
        (
            "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            "GET",
            Framing::None,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "CONNECT", Framing::None),
    ];
    for (text, method, expected) in cases {
        let head = response(text, method).unwrap().unwrap();
        assert_eq!(head.framing, *expected, "{text:?}");
    }
    let refused = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "SIP/2.0 200 OK\r\n\r\n",
    ];
    for text in refused {
        assert!(response(text, "GET").is_err(), "{text:?}");
    }
}

/// All of a connection's bytes as messages: heads and bodies, or the refusal that ends it.
fn messages(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut buffer = BytesMut::new();
    let mut progress = Progress::default();
    let mut events = Vec::new();
    let mut body: Option<BodyDecoder> = None;
    let mut data = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        buffer.extend_from_slice(&bytes[start..end]);
        start = end;
        loop {
            let refused = match &mut body {
                None => match parse_request(&mut buffer, Limits::default(), &mut progress) {
                    Ok(None) => break,
                    Ok(Some(head)) => {
                        let path = String::from_utf8_lossy(head.path()).into_owned();
                        events.push(format!("{path} {:?} {}", head.framing, head.fields.len()));
                        body = Some(BodyDecoder::new(head.framing));
                        None
                    }
                    Err(error) => Some(error),
                },
                Some(decoder) => match decoder.decode(&mut buffer) {
                    Ok(BodyEvent::NeedMore) => break,
                    Ok(BodyEvent::Data(piece)) => {
                        data.extend_from_slice(&piece);
                        None
                    }
                    Ok(BodyEvent::End(trailers)) => {
                        events.push(format!("{data:?} {trailers:?}"));
                        data.clear();
                        body = None;
                        None
                    }
                    Err(error) => Some(error),
                },
            };
            if refused.is_some() {
                // Which rule is broken first may depend on how much is there to look at.
                events.push("refused".to_owned());
                return events;
            }
        }
    }
    events
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-zA-Z-]{1,8}: [ -~]{0,10}\r\n",
        1 => Just("Content-Length: 4\r\n".to_owned()),
        1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Host: i\r\n".to_owned()),
        1 => "[ -~\t\r\n]{0,12}\r\n",
    ]
}

fn request_text() -> impl Strategy<Value = String> {
    let lines = proptest::collection::vec(line(), 0..4);
    let body = prop_oneof![
        Just(String::new()),
        Just("abcd".to_owned()),
        Just("4\r\nabcd\r\n0\r\n\r\n".to_owned()),
        Just("4;x\r\nabcd\r\n0\r\nX-T: 1\r\n\r\n".to_owned()),
        "[ -~\r\n]{0,20}",
    ];
    ("(/[a-z?]{0,4}|[ -~]{1,6})", lines, body).prop_map(|(target, lines, body)| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\n{}\r\n{body}",
            lines.concat()
        )
    })
}

proptest! {
    /// However the bytes of a connection are cut, the same messages come of them.
    #[test]
    fn fragments_make_no_difference(
        texts in proptest::collection::vec(request_text(), 1..4),
        mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let text = texts.concat();
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(text.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(messages(text.as_bytes(), &[]), messages(text.as_bytes(), &cuts));
        let each: Vec<usize> = (1..text.len()).collect();
        prop_assert_eq!(messages(text.as_bytes(), &[]), messages(text.as_bytes(), &each));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = take_request(&mut BytesMut::from(&bytes[..]));
        let _ = take_response(&mut BytesMut::from(&bytes[..]), "GET");
        let text = [b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat();
        let _ = take_response(&mut BytesMut::from(&text[..]), "GET");
    }
}
