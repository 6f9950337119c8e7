//! HTTP/2 over our stream, both ends: many streams at once, bodies larger than any window.

use bytes::Bytes;
use http::{Request, Response};

use super::*;

const STREAMS: usize = 20;
const BODY: usize = 300_000;

#[tokio::test]
async fn many_streams_with_large_bodies() {
    let (server, client) = pair();
    let (server, client) = established(&server, &client).await;
    let serving = tokio::spawn(serve(server));
    let (mut requests, connection) = h2::client::handshake(client).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut answers = Vec::new();
    for index in 0..STREAMS {
        requests = requests.ready().await.unwrap();
        let request = Request::post("https://web.example.org/").body(()).unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(vec![index as u8; BODY].into(), true)
            .unwrap();
        answers.push(answer);
    }
    // All at once: what is not read holds the connection's window.
    let reading = answers
        .into_iter()
        .enumerate()
        .map(|(index, answer)| tokio::spawn(read(index as u8, answer)));
    for body in reading.collect::<Vec<_>>() {
        assert_eq!(bounded(body).await.unwrap(), BODY);
    }
    drop(requests);
    bounded(driving).await.unwrap().unwrap();
    bounded(serving).await.unwrap();
}

async fn read(index: u8, answer: h2::client::ResponseFuture) -> usize {
    let mut body = answer.await.unwrap().into_body();
    let mut received = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        assert!(data.iter().all(|byte| *byte == index));
        body.flow_control().release_capacity(data.len()).unwrap();
        received += data.len();
    }
    received
}

/// Sends each body back.
async fn serve(stream: Established) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.unwrap();
        tokio::spawn(async move {
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data: Bytes = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.send_data(data, false).unwrap();
            }
            answer.send_data(Bytes::new(), true).unwrap();
        });
    }
}
