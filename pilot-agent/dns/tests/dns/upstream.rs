//! What is forwarded, and to whom.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{Name, RecordType},
};
use ithildin_dns::Options;
use tokio::net::UdpSocket;

use crate::support::{Lab, Server, addresses, options, question, reply};

fn many() -> Vec<Ipv4Addr> {
    (0..64).map(|n| Ipv4Addr::new(240, 0, 0, n)).collect()
}

fn one(request: &Message) -> Vec<Vec<u8>> {
    let answer = reply(
        request,
        ResponseCode::NoError,
        &[Ipv4Addr::new(192, 0, 2, 9)],
    );
    vec![answer.to_vec().unwrap()]
}

fn silent(_: &Message) -> Vec<Vec<u8>> {
    Vec::new()
}

/// An address that nobody listens on while the test lives: it is held by a socket that hears only itself.
async fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect(address).await.unwrap();
    std::mem::forget(socket);
    address
}

#[tokio::test]
async fn an_answer_comes_back_as_it_is() {
    let server = Server::new(|request| {
        assert!(
            request.queries[0]
                .name()
                .eq_case(&Name::from_ascii("WWW.example.org.").unwrap())
        );
        let code = match request.queries[0].query_type() {
            RecordType::MX => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        };
        vec![reply(request, code, &[]).to_vec().unwrap()]
    });
    let server = server.await;
    let lab = Lab::new(&[("a.example", &["192.0.2.1"])], &[server.address]).await;
    for (kind, code) in [
        (RecordType::MX, ResponseCode::NXDomain),
        (RecordType::TXT, ResponseCode::NoError),
    ] {
        let query = question(4711, "WWW.example.org.", kind);
        for answer in [lab.udp(&query).await, lab.tcp(&query).await] {
            assert_eq!((answer.id, answer.response_code), (4711, code));
            assert!(!answer.authoritative);
            assert_eq!(answer.queries, query.queries);
        }
    }
    assert_eq!(server.asked(), 4);
    // What is known is not asked.
    lab.udp(&question(1, "a.example.", RecordType::A)).await;
    assert_eq!(server.asked(), 4);
    let counts = lab.proxy.status().counts();
    assert_eq!((counts.upstream_requests, counts.upstream_failures), (4, 0));
}

#[tokio::test]
async fn only_answers_to_the_question_count() {
    let server = Server::new(|request| {
        let real = reply(
            request,
            ResponseCode::NoError,
            &[Ipv4Addr::new(192, 0, 2, 9)],
        );
        let forged = |change: fn(&mut Message)| {
            let mut forged = reply(
                request,
                ResponseCode::NoError,
                &[Ipv4Addr::new(203, 0, 113, 1)],
            );
            change(&mut forged);
            forged.to_vec().unwrap()
        };
        vec![
            forged(|message| message.metadata.id = message.metadata.id.wrapping_add(1)),
            forged(|message| message.metadata.message_type = hickory_proto::op::MessageType::Query),
            forged(|message| {
                message.queries[0].set_name(Name::from_ascii("other.example.org.").unwrap());
            }),
            forged(|message| {
                message.queries[0].set_query_type(RecordType::AAAA);
            }),
            forged(|message| message.queries.clear()),
            vec![1, 2, 3],
            real.to_vec().unwrap(),
        ]
    });
    let server = server.await;
    let lab = Lab::new(&[], &[server.address]).await;
    let query = question(1, "example.org.", RecordType::A);
    for answer in [lab.udp(&query).await, lab.tcp(&query).await] {
        assert_eq!(addresses(&answer), ["192.0.2.9"]);
    }
}

#[tokio::test]
async fn answers_that_are_too_long() {
    let server = Server::new(|request| {
        let name = request.queries[0].name().to_string();
        let addresses = match name.as_str() {
            "part.example.org." => many()[..20].to_vec(),
            _ => many(),
        };
        let mut answer = reply(request, ResponseCode::NoError, &addresses);
        answer.metadata.truncation = !name.starts_with("giant.");
        vec![answer.to_vec().unwrap()]
    });
    let server = server.await;
    let lab = Lab::new(&[], &[server.address]).await;
    let giant = question(1, "giant.example.org.", RecordType::A);
    assert_eq!(lab.udp(&giant).await.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&lab.tcp(&giant).await).len(), 64);
    let mut edns = giant;
    edns.edns = Some(Edns::new());
    edns.edns.as_mut().unwrap().set_max_payload(4096);
    let answer = lab.udp(&edns).await;
    assert_eq!((addresses(&answer).len(), answer.truncation), (64, false));
    // That says of itself that there is more: the client is to come back over TCP.
    let answer = lab
        .udp(&question(1, "cut-off.example.org.", RecordType::A))
        .await;
    assert_eq!(answer.response_code, ResponseCode::NoError);
    assert!(answer.truncation && answer.answers.is_empty() && answer.queries.len() == 1);
    // What fits is passed on with what is in it.
    let part = lab
        .udp(&question(1, "part.example.org.", RecordType::A))
        .await;
    assert!(part.truncation && addresses(&part).len() == 20, "{part}");
}

#[tokio::test]
async fn servers_are_asked_in_turn_until_one_answers() {
    let (server, spare) = (Server::new(one).await, nobody().await);
    let lab = Lab::new(&[], &[spare, server.address]).await;
    // The order is random, so that each comes first sometimes.
    for _ in 0..20 {
        let answer = lab.udp(&question(1, "example.org.", RecordType::A)).await;
        assert_eq!(addresses(&answer), ["192.0.2.9"]);
    }
    assert_eq!(server.asked(), 20);
    assert_eq!(lab.proxy.status().counts().upstream_failures, 0);
}

#[tokio::test]
async fn without_an_answer_the_query_fails() {
    let nobody = nobody().await;
    let silent = Server::new(silent).await;
    let timeout = Duration::from_millis(100);
    for (servers, parallel) in [
        (vec![], false),
        (vec![], true),
        (vec![nobody, silent.address], false),
        (vec![nobody, silent.address], true),
    ] {
        let lab = Lab::with(Options {
            timeout,
            parallel,
            ..options(&servers)
        })
        .await;
        lab.push(&[("a.example", &["192.0.2.1"])]).await;
        let query = question(7, "example.org.", RecordType::A);
        for answer in [lab.udp(&query).await, lab.tcp(&query).await] {
            assert_eq!(
                (answer.id, answer.response_code),
                (7, ResponseCode::ServFail)
            );
            assert_eq!(answer.queries, query.queries);
        }
        assert_eq!(lab.proxy.status().counts().upstream_failures, 2);
    }
}

#[tokio::test]
async fn in_parallel_the_first_answer_counts() {
    let (server, silent) = (Server::new(one).await, Server::new(silent).await);
    let servers = [silent.address, nobody().await, server.address];
    let timeout = Duration::from_secs(60);
    let lab = Lab::with(Options {
        parallel: true,
        timeout,
        ..options(&servers)
    })
    .await;
    lab.push(&[]).await;
    let started = Instant::now();
    for n in 1..=5 {
        let answer = lab.udp(&question(n, "example.org.", RecordType::A)).await;
        assert_eq!(addresses(&answer), ["192.0.2.9"]);
    }
    assert!(started.elapsed() < timeout);
    assert_eq!(server.asked(), 5);
}
