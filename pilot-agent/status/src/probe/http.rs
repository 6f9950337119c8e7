//! HTTP and HTTPS probes, by the kubelet's rules.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use url::Url;

use super::Error;
use crate::{
    client::{self, Connection, Connector},
    redirect::{self, Next},
};

/// As much of the answer as is passed on.
const MAX_BODY: usize = 10 << 10;

/// One target, and the connection to it if those are kept.
#[derive(Debug)]
pub(crate) struct HttpProbe {
    url: Url,
    connector: Connector,
    keepalive: bool,
    kept: Mutex<Option<Connection>>,
}

impl HttpProbe {
    pub(crate) fn new(url: Url, connector: Connector, keepalive: bool) -> Self {
        Self {
            url,
            connector,
            keepalive,
            kept: Mutex::new(None),
        }
    }

    /// Asks, and follows redirects on the same host. One to another host is a success without a body, as is
    /// any other redirect that is not followed.
    pub(crate) async fn ask(
        &self,
        host: Option<HeaderValue>,
        headers: &HeaderMap,
    ) -> Result<(StatusCode, Bytes), Error> {
        let mut url = self.url.clone();
        let mut host = match host {
            Some(host) => host,
            None => client::host_header(&url)?,
        };
        for _ in 0..redirect::MAX_REQUESTS {
            let mut connection = self.connection(&url).await?;
            let request = client::request(Method::GET, &url, host.clone(), headers, Bytes::new())?;
            let response = connection.send(request).await?;
            match redirect::next(&url, &response)? {
                Next::Done if !response.status().is_redirection() => {
                    return self.answer(response, connection).await;
                }
                Next::Done | Next::Elsewhere => return Ok((StatusCode::OK, Bytes::new())),
                Next::Follow(next) => {
                    if redirect::names_host(&response) {
                        host = client::host_header(&next)?;
                    }
                    url = next;
                }
            }
        }
        Err(redirect::Error::TooMany.into())
    }

    async fn connection(&self, url: &Url) -> Result<Connection, Error> {
        if url.origin() == self.url.origin() {
            let kept = self.kept.lock().take();
            if let Some(mut connection) = kept
                && connection.is_reusable().await
            {
                return Ok(connection);
            }
        }
        Ok(self.connector.connect(url).await?)
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        connection: Connection,
    ) -> Result<(StatusCode, Bytes), Error> {
        let status = response.status();
        let mut body = response.into_body();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(client::ClientError::from)?.into_data() {
                let rest = MAX_BODY - read.len();
                read.extend_from_slice(&data[..data.len().min(rest)]);
                if data.len() > rest {
                    return Ok((status, read.freeze()));
                }
            }
        }
        if self.keepalive {
            *self.kept.lock() = Some(connection);
        }
        Ok((status, read.freeze()))
    }
}

/// What of the kubelet's request goes to the workload: all that its owner has set.
pub(super) fn forwarded(headers: &HeaderMap, keepalive: bool) -> HeaderMap {
    let mut forwarded = headers.clone();
    for name in [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::HeaderName::from_static("keep-alive"),
        header::HeaderName::from_static("proxy-connection"),
    ] {
        forwarded.remove(name);
    }
    if !keepalive {
        forwarded.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    forwarded
}

/// The workload's `Host` for a request that named `host`: our port in it is the workload's.
pub(super) fn host(
    host: Option<&HeaderValue>,
    ours: Option<u16>,
    port: u16,
) -> Option<HeaderValue> {
    let host = host?;
    let text = host.to_str().ok()?;
    match text.rsplit_once(':') {
        Some((name, number)) if number.parse().ok() == ours && ours.is_some() => {
            HeaderValue::try_from(format!("{name}:{port}")).ok()
        }
        _ => (!text.is_empty()).then(|| host.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_port_in_the_host_is_the_workloads() {
        for (given, expected) in [
            ("10.0.0.1:15020", Some("10.0.0.1:80")),
            ("[::1]:15020", Some("[::1]:80")),
            ("10.0.0.1:8080", Some("10.0.0.1:8080")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("app.example.com", Some("app.example.com")),
            ("[::1]", Some("[::1]")),
            ("", None),
        ] {
            let given = HeaderValue::from_static(given);
            let expected = expected.map(HeaderValue::from_static);
            assert_eq!(host(Some(&given), Some(15020), 80), expected);
        }
        assert_eq!(host(None, Some(15020), 80), None);
    }
}
