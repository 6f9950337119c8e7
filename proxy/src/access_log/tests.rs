use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderMap;
use ithildin_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::*;
use crate::stats::FilesystemBlock;

/// 2026-11-21T04:45:46.443Z.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_236_346_443)
}

fn request_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", "curl/7.88.1".parse().unwrap());
    headers.insert("x-request-id", "403905c7".parse().unwrap());
    headers.insert("x-quoted", "a\"b\\c".parse().unwrap());
    headers
}

fn entry(headers: &HeaderMap) -> Entry<'_> {
    let mut entry = Entry::new(start());
    entry.protocol = Some(Protocol::Http11);
    entry.method = Some(b"GET");
    entry.path = Some(b"/dead?x=1");
    entry.authority = Some(b"127.0.0.1:13001");
    entry.request_headers = Some(headers);
    entry.response_code = Some(503);
    entry.flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
    entry.bytes.sent = 98;
    entry.durations.total = Some(Duration::from_micros(1_900));
    entry.upstream.host = Some(UpstreamHost::Socket(([127, 0, 0, 1], 1).into()));
    entry
}

fn render(format: &str, entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    Template::parse(format)
        .unwrap()
        .render(entry, Unset::Dash, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_default_http_line_is_envoys() {
    let headers = request_headers();
    assert_eq!(
        render(DEFAULT_FORMAT, &entry(&headers)),
        "[2026-11-21T04:45:46.443Z] \"GET /dead?x=1 HTTP/1.1\" 503 UF 0 98 1 - \"-\" \
         \"curl/7.88.1\" \"403905c7\" \"127.0.0.1:13001\" \"127.0.0.1:1\"\n"
    );
}

#[test]
fn the_default_tcp_line_is_envoys() {
    let mut entry = Entry::new(start());
    entry.bytes.received = 80;
    entry.bytes.sent = 118;
    entry.durations.total = Some(Duration::ZERO);
    entry.upstream.host = Some(UpstreamHost::Socket(([127, 0, 0, 1], 13001).into()));
    assert_eq!(
        render(DEFAULT_FORMAT, &entry),
        "[2026-11-21T04:45:46.443Z] \"- - -\" 0 - 80 118 0 - \"-\" \"-\" \"-\" \"-\" \
         \"127.0.0.1:13001\"\n"
    );
}

#[test]
fn operators_print_what_they_name() {
    let headers = request_headers();
    let mut entry = entry(&headers);
    entry.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    entry.downstream.remote = Some("[2001:db8::1]:443".parse::<SocketAddr>().unwrap());
    entry.upstream.transport_failure = Some("delayed connect error: Connection refused");
    for (format, expected) in [
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/dead?x=1"),
        ("%REQ(:path)%", "/dead?x=1"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/dead"),
        ("%REQ(USER-AGENT):4%", "curl"),
        ("%REQ(NOPE?USER-AGENT):4%|", "curl|"),
        ("%REQ(NOPE)%", "-"),
        (
            "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
            "delayed_connect_error:_Connection_refused",
        ),
        ("%RESP(:STATUS)%", "503"),
        ("%RESPONSE_FLAGS%", "UF,URX"),
        (
            "%RESPONSE_FLAGS_LONG%",
            "UpstreamConnectionFailure,UpstreamRetryLimitExceeded",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "[2001:db8::1]:443"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "2001:db8::1"),
        ("%DOWNSTREAM_REMOTE_PORT%", "443"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "-"),
        ("%UPSTREAM_LOCAL_ADDRESS%", "-"),
        ("%DYNAMIC_METADATA(istio.mixer:status)%", "-"),
        (
            "%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%",
            "2026/11/21 04:45:46.443",
        ),
        ("%START_TIME(%s)%", "1795236346"),
        ("%START_TIME(%3s)%", "1795236346443"),
        ("%CEL(response.code == 503 ? 'ill' : 'well')%", "ill"),
        ("%CEL(request.headers['nope'])%", "-"),
        ("100%%", "100%"),
        ("", ""),
    ] {
        assert_eq!(render(format, &entry), expected, "{format}");
    }
}

/// Better a dash than no log.
#[test]
fn what_is_lacking_is_named_and_has_no_value() {
    let format = "%STREAM_ID% %PROTOCOL% %CEL(duration('1s'))% %COMMON_DURATION(a:b:ms)%";
    let template = Template::parse(format).unwrap();
    let lacking: Vec<_> = template.lacking().collect();
    assert_eq!(lacking.len(), 3, "{lacking:?}");
    assert_eq!((lacking[0], lacking[2]), ("STREAM_ID", "COMMON_DURATION"));
    let cel = lacking[1];
    assert!(cel.starts_with("CEL(duration('1s')) ("), "{cel}");
    assert_eq!(render(format, &Entry::new(start())), "- - - -");
}

#[test]
fn a_malformed_format_is_refused_with_its_operator() {
    for (format, expected) in [
        ("%NOPE%", "unknown command operator %NOPE%"),
        (
            "%REQ%",
            "%REQ% needs a header name, or two as in %REQ(X?Y)%",
        ),
        (
            "%REQ(a?b?c)%",
            "%REQ% needs a header name, or two as in %REQ(X?Y)%",
        ),
        ("%PROTOCOL(x)%", "%PROTOCOL% takes no argument"),
        ("%REQ(a", "the command operator \"%REQ(a\" does not end"),
        (
            "%REQ(a):x%",
            "the command operator \"%REQ(a):x%\" does not end",
        ),
        ("50% off", "no command operator after \"%\" in \"% off\""),
        ("%START_TIME(%!)%", "malformed time format"),
    ] {
        let error = Template::parse(format).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{format}: {error}");
    }
}

#[test]
fn header_values_leave_out_what_is_unset() {
    let mut out = Vec::new();
    let template = Template::parse("a%REQ(nope)%b").unwrap();
    template.render(&Entry::new(start()), Unset::Empty, &mut out);
    assert_eq!(out, b"ab");
    assert_eq!(template.as_literal(), None);
    assert_eq!(
        Template::parse("x%%").unwrap().as_literal(),
        Some(&b"x%"[..])
    );
}

#[test]
fn json_keeps_types_and_escapes() {
    let string = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let object = Struct {
        fields: [
            ("code".into(), string("%RESPONSE_CODE%")),
            ("route".into(), string("%ROUTE_NAME%")),
            ("quoted".into(), string("%REQ(x-quoted)%")),
            ("text".into(), string("%PROTOCOL% %RESPONSE_CODE%")),
        ]
        .into(),
    };
    let headers = request_headers();
    let mut out = Vec::new();
    Format::json(&object, Unset::Dash)
        .unwrap()
        .render(&entry(&headers), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"code\":503,\"quoted\":\"a\\\"b\\\\c\",\"route\":null,\"text\":\"HTTP/1.1 503\"}\n"
    );
}

#[test]
fn filters_admit_by_flag_and_status() {
    let headers = request_headers();
    let entry = entry(&headers);
    let flag = |code| Filter::Flags(ResponseFlags::from_code(code));
    assert!(flag("UF").admits(&entry));
    assert!(!flag("NR").admits(&entry));
    assert!(Filter::Any(vec![flag("NR"), flag("UF")]).admits(&entry));
    assert!(!Filter::All(vec![flag("NR"), flag("UF")]).admits(&entry));
    assert!(Filter::StatusCode(Comparison::AtLeast(500)).admits(&entry));
    assert!(!Filter::StatusCode(Comparison::AtMost(499)).admits(&entry));
}

#[test]
fn lines_reach_the_file_and_a_moved_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let stats = Arc::new(FilesystemBlock::default());
    let writer = LogWriter::new(Arc::clone(&stats));
    let file = writer.open(Destination::File(path.clone())).unwrap();
    file.append(b"one\n");
    file.append(b"two\n");
    writer.flush();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");

    let moved = folder.path().join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    writer.reopen();
    file.append(b"three\n");
    drop(file);
    drop(writer);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
    assert_eq!(stats.write_buffered.get(), 3);
}

#[test]
fn an_error_of_the_disk_is_counted() {
    let stats = Arc::new(FilesystemBlock::default());
    let writer = LogWriter::new(Arc::clone(&stats));
    // A full disk answers every write with an error.
    let file = writer.open(Destination::File("/dev/full".into())).unwrap();
    file.append(b"a line");
    writer.flush();
    assert_eq!(stats.write_failed.get(), 1);
}

#[test]
fn a_pipe_that_nobody_reads_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let stats = Arc::new(FilesystemBlock::default());
    let writer = LogWriter::new(Arc::clone(&stats));
    let began = Instant::now();
    let file = writer.open(Destination::File(pipe)).unwrap();
    let line = vec![b'x'; 4096];
    for _ in 0..10_000 {
        file.append(&line);
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(stats.write_dropped.get() > 0);
    // Nor does it keep another log from being written.
    let path = folder.path().join("access.log");
    let other = writer.open(Destination::File(path.clone())).unwrap();
    other.append(b"one\n");
    drop((file, other, writer));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_full_buffer_drops_and_counts() {
    let stats = Arc::new(FilesystemBlock::default());
    let writer = LogWriter::new(Arc::clone(&stats));
    let file = writer.open(Destination::File("/dev/null".into())).unwrap();
    file.append(&vec![b'x'; (1 << 20) + 1]);
    assert_eq!(stats.write_dropped.get(), 1);
    assert_eq!(stats.write_buffered.get(), 0);
}
