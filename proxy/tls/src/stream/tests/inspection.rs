//! Reading ClientHellos, and telling what is none.

use super::*;

/// The first flight of one of our clients.
async fn client_hello(server_name: &str) -> Vec<u8> {
    let (_, client) = pair();
    let (mut a, b) = duplex(PIPE);
    let mut connecting = Box::pin(client.connect(b, Some(server_name), Some(&[b"h2", b"istio"])));
    assert!(futures_poll(&mut connecting).await.is_none());
    let mut hello = vec![0; PIPE];
    let count = a.read(&mut hello).await.unwrap();
    hello.truncate(count);
    hello
}

async fn inspected(bytes: &[u8], chunk: usize) -> io::Result<Inspected<DuplexStream>> {
    let (mut a, b) = duplex(chunk);
    let bytes = bytes.to_vec();
    let writer = tokio::spawn(async move {
        for chunk in bytes.chunks(chunk) {
            if a.write_all(chunk).await.is_err() {
                break;
            }
        }
        a
    });
    let inspected = bounded(inspect(b)).await;
    writer.abort();
    inspected
}

#[tokio::test]
async fn a_hello_is_read_over_any_number_of_packets() {
    let hello = client_hello("web.example.org").await;
    assert!(
        hello.len() > 1400,
        "a post-quantum hello has {} bytes",
        hello.len()
    );
    for chunk in [1, 2, 5, 1000, hello.len()] {
        let Ok(Inspected::Tls(pending)) = inspected(&hello, chunk).await else {
            panic!("{chunk}");
        };
        assert_eq!(pending.server_name(), Some("web.example.org"));
        assert!(pending.alpn().iter().eq([&b"h2"[..], b"istio"]));
        let (_, raw) = pending.into_raw();
        assert_eq!(raw, hello, "what passes through is unchanged");
    }
}

#[tokio::test]
async fn a_hello_split_over_records_is_read() {
    let hello = client_hello("web.example.org").await;
    let mut records = Vec::new();
    for part in hello[5..].chunks(200) {
        records.extend([22, 3, 1]);
        records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        records.extend(part);
    }
    let Ok(Inspected::Tls(pending)) = inspected(&records, 64).await else {
        panic!("not read");
    };
    assert_eq!(pending.server_name(), Some("web.example.org"));
}

#[tokio::test]
async fn plaintext_is_told_by_its_first_bytes() {
    for text in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0",
        b"\x16GET",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x00",
        b"\x80\x2e\x01\x03\x01",
    ] {
        for chunk in [1, text.len()] {
            match inspected(text, chunk).await.unwrap() {
                Inspected::Plain(_, seen) => assert!(text.starts_with(&seen) && !seen.is_empty()),
                Inspected::Tls(_) => panic!("{text:?}"),
            }
        }
    }
}

#[tokio::test]
async fn silence_is_no_error_and_half_a_hello_is() {
    let (a, b) = duplex(64);
    drop(a);
    match inspect(b).await.unwrap() {
        Inspected::Plain(_, seen) => assert!(seen.is_empty()),
        Inspected::Tls(_) => panic!("tls"),
    }
    let hello = client_hello("x").await;
    let (mut a, b) = duplex(PIPE);
    a.write_all(&hello[..100]).await.unwrap();
    drop(a);
    let error = inspect(b).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_endless_hello_is_refused_and_a_broken_one_is_none() {
    // A handshake message that claims 64 KB, record after record.
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(5 + 0x4000, 0);
    endless.extend([22, 3, 1, 0x40, 0]);
    endless.resize(2 * (5 + 0x4000), 0);
    let error = inspected(&endless, 4096).await.unwrap_err();
    assert!(error.to_string().contains("longer than 16 KiB"), "{error}");

    let mut broken = client_hello("web.example.org").await;
    let end = broken.len() - 20;
    broken[60..end].fill(0xff);
    match inspected(&broken, 4096).await.unwrap() {
        Inspected::Plain(_, seen) => assert_eq!(seen, broken),
        Inspected::Tls(_) => panic!("tls"),
    }
}

/// Anybody can send one, and an access log shows it.
#[tokio::test]
async fn a_name_with_control_characters_is_none() {
    let hello = client_hello("web.example.org").await;
    let name = b"web.example.org";
    let at = hello.windows(name.len()).position(|it| it == name);
    let dot = at.unwrap() + 3;
    for (byte, is_name) in [(b'_', true), (b'\n', false), (b'\r', false), (0x7f, false)] {
        let mut odd = hello.clone();
        odd[dot] = byte;
        let inspected = inspected(&odd, 4096).await.unwrap();
        assert_eq!(matches!(inspected, Inspected::Tls(_)), is_name, "{byte:#x}");
    }
}

#[tokio::test]
async fn any_broken_hello_ends_and_does_not_panic() {
    let hello = client_hello("web.example.org").await;
    let (server, _) = pair();
    for index in 0..hello.len() {
        let mut bytes = hello.clone();
        bytes[index] ^= 0xff;
        let (mut a, b) = duplex(PIPE);
        a.write_all(&bytes).await.unwrap();
        a.shutdown().await.unwrap();
        let outcome = bounded(accept(b, &server)).await;
        assert!(outcome.is_err(), "{index}");
    }
}

#[tokio::test]
async fn what_follows_the_hello_in_its_packet_counts() {
    let mut bytes = client_hello("web.example.org").await;
    // A fatal alert, handshake_failure.
    bytes.extend([21, 3, 3, 0, 2, 2, 40]);
    let (mut a, b) = duplex(PIPE);
    a.write_all(&bytes).await.unwrap();
    let (server, _) = pair();
    let error = bounded(accept(b, &server)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer sent the alert handshake_failure"
    );
}
