//! Clients of the proxy.

use std::net::UdpSocket;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use ithildin_dns::{DnsProxy, Options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

use crate::support::{Client, Lab, PATIENCE, Server, addresses, framed, options, question, reply};

#[tokio::test]
async fn names_are_answered_over_both_transports() {
    let lab = Lab::new(
        &[("a.example", &["192.0.2.1", "2001:db8::1", "192.0.2.2"])],
        &[],
    )
    .await;
    let v4 = question(1, "A.example.", RecordType::A);
    let v6 = question(2, "a.example.", RecordType::AAAA);
    for answer in [lab.udp(&v4).await, lab.tcp(&v4).await] {
        assert_eq!(
            (answer.id, answer.response_code),
            (1, ResponseCode::NoError)
        );
        assert_eq!(addresses(&answer), ["192.0.2.1", "192.0.2.2"]);
    }
    for answer in [lab.udp(&v6).await, lab.tcp(&v6).await] {
        assert_eq!(addresses(&answer), ["2001:db8::1"]);
    }
    assert_eq!(lab.proxy.status().counts().requests, 4);
}

#[tokio::test]
async fn names_fail_until_there_is_a_table_and_then_follow_it() {
    let lab = Lab::with(options(&[])).await;
    let a = question(1, "a.example.", RecordType::A);
    assert!(!lab.proxy.status().is_ready() && lab.proxy.status().dump().is_none());
    assert_eq!(lab.udp(&a).await.response_code, ResponseCode::ServFail);
    lab.push(&[("a.example", &["192.0.2.1"])]).await;
    assert!(lab.proxy.status().is_ready());
    assert_eq!(addresses(&lab.udp(&a).await), ["192.0.2.1"]);
    lab.push(&[("a.example", &["192.0.2.2"]), ("b.example", &["192.0.2.3"])])
        .await;
    assert_eq!(addresses(&lab.udp(&a).await), ["192.0.2.2"]);
    // With istiod gone the last one stays.
    lab.tables.send_replace(None);
    let Lab {
        proxy,
        address,
        tables,
    } = lab;
    drop(tables);
    let client = std::thread::spawn(move || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let query = question(1, "a.example.", RecordType::A).to_vec().unwrap();
        client.send_to(&query, address).unwrap();
        client.recv(&mut [0; 512]).unwrap()
    });
    while !client.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(client.join().unwrap() > 12 && proxy.status().is_ready());
}

#[tokio::test]
async fn a_vm_forwards_before_the_first_table() {
    let server = Server::new(|request| {
        vec![
            reply(request, ResponseCode::NoError, &[[192, 0, 2, 9].into()])
                .to_vec()
                .unwrap(),
        ]
    });
    let server = server.await;
    let lab = Lab::with(Options {
        forward_before_table: true,
        ..options(&[server.address])
    })
    .await;
    let answer = lab
        .udp(&question(1, "istiod.istio-system.svc.", RecordType::A))
        .await;
    assert_eq!(addresses(&answer), ["192.0.2.9"]);
}

#[tokio::test]
async fn queries_are_pipelined_and_pieces_are_put_together() {
    let server = Server::new(|request| match request.queries[0].query_type() {
        // Never answered.
        RecordType::TXT => Vec::new(),
        _ => vec![
            reply(request, ResponseCode::NXDomain, &[])
                .to_vec()
                .unwrap(),
        ],
    });
    let server = server.await;
    let lab = Lab::new(&[("a.example", &["192.0.2.1"])], &[server.address]).await;
    let mut client = Client::connect(lab.address).await;
    // The first waits for its server; the others do not wait for it.
    let queries = [
        question(1, "slow.example.org.", RecordType::TXT),
        question(2, "a.example.", RecordType::A),
        question(3, "example.org.", RecordType::A),
    ];
    let bytes: Vec<u8> = queries.iter().flat_map(framed).collect();
    for byte in bytes {
        client.0.write_all(&[byte]).await.unwrap();
    }
    let second = client.receive().await.unwrap();
    let third = client.receive().await.unwrap();
    assert_eq!(
        (second.id, second.response_code),
        (2, ResponseCode::NoError)
    );
    assert_eq!((third.id, third.response_code), (3, ResponseCode::NXDomain));
}

#[tokio::test]
async fn a_client_that_has_asked_all_still_gets_its_answer() {
    let server = Server::new(|request| {
        vec![
            reply(request, ResponseCode::NXDomain, &[])
                .to_vec()
                .unwrap(),
        ]
    });
    let server = server.await;
    let lab = Lab::new(&[("a.example", &["192.0.2.1"])], &[server.address]).await;
    let mut client = Client::connect(lab.address).await;
    client
        .send(&question(5, "example.org.", RecordType::A))
        .await;
    client.0.shutdown().await.unwrap();
    assert_eq!(
        client.receive().await.unwrap().response_code,
        ResponseCode::NXDomain
    );
    assert!(client.receive().await.is_none());
}

#[tokio::test]
async fn what_is_no_query_ends_the_connection() {
    let lab = Lab::new(&[("a.example", &["192.0.2.1"])], &[]).await;
    for bytes in [&[0, 0][..], &[0, 3, 1, 2, 3]] {
        let mut client = Client::connect(lab.address).await;
        client.0.write_all(bytes).await.unwrap();
        let end = timeout(PATIENCE, client.0.read(&mut [0; 16]))
            .await
            .unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{bytes:?}");
    }
}

#[tokio::test]
async fn datagrams_that_are_no_queries_harm_nobody() {
    let lab = Lab::new(&[("a.example", &["192.0.2.1"])], &[]).await;
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 11, 5000, 60_000] {
        let bytes: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
        client.send_to(&bytes, lab.address).await.unwrap();
    }
    let answer = lab.udp(&question(1, "a.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn localhost_is_both_addresses_and_two_proxies_do_not_share_them() {
    let lab = Lab::new(&[], &[]).await;
    let start = |host: &str, port| {
        let (_tables, table) = watch::channel(None);
        DnsProxy::start(
            Options {
                host: host.to_owned(),
                port,
                ..options(&[])
            },
            table,
        )
    };
    let error = start("localhost", lab.address.port()).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot listen on 127.0.0.1:"),
        "{error}"
    );
    let error = start("dns.example", 15053).unwrap_err();
    assert!(
        error.to_string().starts_with("\"dns.example\" is neither"),
        "{error}"
    );
    let both = (0..50)
        .find_map(|_| start("localhost", fastrand::u16(10_000..32_000)).ok())
        .unwrap();
    assert_eq!(both.addresses()[0].ip().to_string(), "127.0.0.1");
    let has_v6 = UdpSocket::bind("[::1]:0").is_ok();
    assert_eq!(both.addresses().len(), if has_v6 { 2 } else { 1 });
}
