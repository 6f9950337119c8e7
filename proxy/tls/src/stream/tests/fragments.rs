//! Properties of the stream: whatever the pipe does, nothing is lost, and backpressure holds.

use proptest::prelude::*;
use tokio::io::copy_bidirectional;

use super::*;

/// A pipe that takes and gives a few bytes at a time, by a fixed pattern.
struct Choppy {
    io: DuplexStream,
    sizes: Vec<usize>,
    turn: usize,
    vectored: bool,
}

impl Choppy {
    fn size(&mut self) -> usize {
        self.turn += 1;
        self.sizes[self.turn % self.sizes.len()]
    }
}

impl AsyncRead for Choppy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.size();
        if size == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut bytes = vec![0; size.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let size = self.size();
        if size == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = size.min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..size])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Sends everything, in pieces, then closes; reads the other side's to its end meanwhile.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: TlsStream<S>,
    text: Vec<u8>,
    piece: usize,
    reads: usize,
) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        for (index, piece) in text.chunks(piece).enumerate() {
            if index % 2 == 0 {
                write.write_all(piece).await.unwrap();
            } else {
                let (a, b) = piece.split_at(piece.len() / 2);
                let mut bufs = &mut [IoSlice::new(a), IoSlice::new(b)][..];
                while !bufs.is_empty() {
                    let count = write.write_vectored(bufs).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    IoSlice::advance_slices(&mut bufs, count);
                }
            }
            if index % 3 == 0 {
                write.flush().await.unwrap();
            }
        }
        write.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        let mut buf = vec![0; reads];
        loop {
            match read.read(&mut buf).await.unwrap() {
                0 => break received,
                count => received.extend_from_slice(&buf[..count]),
            }
        }
    };
    tokio::join!(sending, receiving).1
}

fn text(length: usize) -> Vec<u8> {
    let mut state = length as u32 | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_however_the_pipe_chops(
        // At least one that moves on.
        sizes in proptest::collection::vec(0_usize..30_000, 0..6),
        progress in 1_usize..30_000,
        lengths in (0_usize..200_000, 0_usize..200_000),
        pieces in (1_usize..60_000, 1_usize..60_000),
        reads in 1_usize..70_000,
        pipe in 1_usize..50_000,
        vectored: bool,
        old: bool,
    ) {
        // Tiny steps through a lot of text take long and show nothing new.
        let scale = |length: usize| length.min(pipe.min(progress).min(reads) * 200);
        let (up, down) = (text(scale(lengths.0)), text(scale(lengths.1)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (received_up, received_down) = runtime.block_on(bounded(async {
            let (server, client) = contexts(old);
            let (a, b) = duplex(pipe);
            let mut sizes = sizes.clone();
            sizes.push(progress);
            let choppy = |io| Choppy { io, sizes: sizes.clone(), turn: 0, vectored };
            let (server, client) = tokio::join!(
                accept(choppy(a), &server),
                client.connect(choppy(b), None, None)
            );
            tokio::join!(
                exchange(server.unwrap(), down.clone(), pieces.0, reads),
                exchange(client.unwrap(), up.clone(), pieces.1, reads),
            )
        }));
        prop_assert!(received_up == up);
        prop_assert!(received_down == down);
    }
}

fn contexts(old: bool) -> (ServerContext, ClientContext) {
    let (server, client) = pair();
    let mut params = server.params().clone();
    if old {
        params.versions = (TlsVersion::Tls12, TlsVersion::Tls12);
    }
    (ServerContext::new(params).unwrap(), client)
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    let (server, client) = pair();
    let (mut server, client) = established(&server, &client).await;
    let chunk = [7; 8192];
    let mut written = 0;
    while let Some(count) = futures_poll(&mut Box::pin(server.write(&chunk))).await {
        written += count.unwrap();
        assert!(written < PIPE + 2 * PIPE, "no backpressure");
    }
    assert!(written >= PIPE);
    // And goes on when it reads again.
    let ((), received) = bounded(async {
        tokio::join!(
            async { server.shutdown().await.unwrap() },
            exchange(client, Vec::new(), 1, 1000)
        )
    })
    .await;
    assert_eq!(received.len(), written);
}

#[tokio::test]
async fn readable_means_that_a_read_does_not_wait() {
    let (server, client) = pair();
    let (mut server, mut client) = established(&server, &client).await;
    let poll = async |stream: &mut Established| {
        std::future::poll_fn(|cx| Poll::Ready(stream.poll_readable(cx).is_ready())).await
    };
    assert!(!poll(&mut server).await);
    client.write_all(&[1; 50_000]).await.unwrap();
    let mut received = 0;
    let mut buf = vec![0; 999];
    while received < 50_000 {
        assert!(poll(&mut server).await);
        let read = futures_poll(&mut Box::pin(server.read(&mut buf))).await;
        received += read.expect("ready").unwrap();
    }
    assert!(!poll(&mut server).await);
    client.shutdown().await.unwrap();
    assert!(poll(&mut server).await);
    assert_eq!(server.read(&mut buf).await.unwrap(), 0);
}

/// A client may send its first request in the same packet as its Finished.
#[tokio::test]
async fn what_comes_with_finished_is_not_left_lying() {
    let (server, client) = pair();
    let (a, b) = duplex(PIPE);
    let client = tokio::spawn(async move {
        let mut client = client.connect(b, None, None).await.unwrap();
        client.write_all(b"GET /").await.unwrap();
        client
    });
    let Inspected::Tls(pending) = inspect(a).await.unwrap() else {
        panic!("not tls");
    };
    let mut accepting = Box::pin(pending.accept(&server));
    assert!(futures_poll(&mut accepting).await.is_none());
    let _client = client.await.unwrap();
    // Finished and the request are in the pipe now.
    let mut server = accepting.await.unwrap();
    assert!(std::future::poll_fn(|cx| Poll::Ready(server.poll_readable(cx).is_ready())).await);
    let mut buf = [0; 16];
    let count = futures_poll(&mut Box::pin(server.read(&mut buf))).await;
    assert_eq!(&buf[..count.expect("ready").unwrap()], b"GET /");
}

#[tokio::test]
async fn a_proxy_copies_in_both_directions() {
    let (server, client) = pair();
    let (mut front, front_peer) = established(&server, &client).await;
    let (back_peer, mut back) = established(&server, &client).await;
    let (up, down) = (text(300_000), text(200_000));
    let (copied, received_down, received_up) = bounded(async {
        tokio::join!(
            copy_bidirectional(&mut front, &mut back),
            exchange(front_peer, up.clone(), 10_000, 4096),
            exchange(back_peer, down.clone(), 777, 9000),
        )
    })
    .await;
    assert_eq!(copied.unwrap(), (300_000, 200_000));
    assert!(received_up == up && received_down == down);
}

/// More plaintext at once than rustls holds: the rest of the ciphertext waits with us.
#[tokio::test]
async fn a_burst_that_rustls_cannot_hold_is_kept() {
    let (server, client) = pair();
    let (a, b) = duplex(PIPE);
    // Handshake reads go through; then a full record but for its end, then all that follows.
    let sizes = vec![60_000];
    let choppy = Choppy {
        io: a,
        sizes,
        turn: 0,
        vectored: true,
    };
    let (server, client) = tokio::join!(accept(choppy, &server), client.connect(b, None, None));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let text = text(16_384 + 100 * 100);
    client.write_all(&text[..16_384]).await.unwrap();
    for part in text[16_384..].chunks(100) {
        client.write_all(part).await.unwrap();
    }
    client.shutdown().await.unwrap();
    server.io.sizes = vec![60_000, 16_000];
    server.io.turn = 0;
    let mut received = Vec::new();
    let mut buf = [0; 1];
    let mut kept = false;
    while bounded(server.read(&mut buf)).await.unwrap() > 0 {
        received.push(buf[0]);
        kept |= server.session.keeps_ciphertext();
    }
    assert!(kept, "the case did not arise");
    assert!(received == text);
}
