//! Redirects, as the kubelet follows them.

use http::{Response, StatusCode, header::LOCATION};
use url::Url;

/// The first request and the redirects after it.
pub(crate) const MAX_REQUESTS: usize = 10;

/// A redirect that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("stopped after 10 redirects")]
    TooMany,
    #[error("redirect to {location:?}, which is not a URL of HTTP")]
    Location { location: String },
}

/// What is to be done with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is the answer.
    Done,
    Follow(Url),
    /// A redirect to another host: it is not ours to follow.
    Elsewhere,
}

/// What follows the answer `response` to a request for `url`.
pub(crate) fn next<B>(url: &Url, response: &Response<B>) -> Result<Next, Error> {
    const FOLLOWED: [StatusCode; 5] = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(Next::Done);
    };
    if !FOLLOWED.contains(&response.status()) || location.is_empty() {
        return Ok(Next::Done);
    }
    let text = String::from_utf8_lossy(location.as_bytes());
    let failed = || Error::Location {
        location: text.clone().into_owned(),
    };
    let next = url.join(&text).map_err(|_| failed())?;
    if next.host_str() != url.host_str() {
        return Ok(Next::Elsewhere);
    }
    match next.scheme() {
        "http" | "https" => Ok(Next::Follow(next)),
        _ => Err(failed()),
    }
}

/// Whether a redirect tells the host anew; else `Host` stays what it was.
pub(crate) fn names_host<B>(response: &Response<B>) -> bool {
    let location = response.headers().get(LOCATION);
    location
        .is_some_and(|location| Url::parse(&String::from_utf8_lossy(location.as_bytes())).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_redirects_lead() {
        let base = Url::parse("http://10.0.0.1:8080/a/b?c").unwrap();
        let follow = |url: &str| Next::Follow(Url::parse(url).unwrap());
        for (status, location, expected) in [
            (302, "/x?y", follow("http://10.0.0.1:8080/x?y")),
            (301, "x", follow("http://10.0.0.1:8080/a/x")),
            (307, "//10.0.0.1:1/x", follow("http://10.0.0.1:1/x")),
            (308, "https://10.0.0.1/x", follow("https://10.0.0.1/x")),
            (303, "http://example.com/", Next::Elsewhere),
            (302, "http://10.0.0.10:8080/", Next::Elsewhere),
            (302, "mailto:a@b", Next::Elsewhere),
            (302, "", Next::Done),
            (304, "/x", Next::Done),
            (200, "/x", Next::Done),
        ] {
            let response = Response::builder()
                .status(status)
                .header(LOCATION, location);
            let next = next(&base, &response.body(()).unwrap()).unwrap();
            assert_eq!(next, expected, "{status} {location}");
        }
        let bare = Response::builder().status(302).body(()).unwrap();
        assert_eq!(next(&base, &bare).unwrap(), Next::Done);
        for location in ["http://[", "ftp://10.0.0.1/"] {
            let response = Response::builder().status(302).header(LOCATION, location);
            assert!(
                next(&base, &response.body(()).unwrap()).is_err(),
                "{location}"
            );
        }
    }
}
