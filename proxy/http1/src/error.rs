//! What is wrong with a message.

/// Why a message is refused. The connection that it came on cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("malformed start line or header")]
    Malformed,
    #[error("a header value has a character that it may not have")]
    HeaderValue,
    #[error("a line ends with LF alone")]
    BareLf,
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    #[error("there are more headers than allowed")]
    TooManyHeaders,
    #[error("the HTTP version is not supported")]
    Version,
    #[error("HTTP/1.1 without Host")]
    NoHost,
    #[error("there is more than one Host")]
    SeveralHosts,
    #[error("Host is malformed")]
    InvalidHost,
    #[error("the request target is malformed")]
    Target,
    #[error("the request target has a fragment")]
    Fragment,
    #[error("Connection names a header that a proxy sets, or too many")]
    ConnectionNames,
    #[error("the scheme of the request target is neither http nor https")]
    Scheme,
    #[error("Content-Length and Transfer-Encoding are both there")]
    LengthAndEncoding,
    #[error("Content-Length is not one plain number")]
    ContentLength,
    #[error("Transfer-Encoding is not exactly chunked")]
    TransferEncoding,
    #[error("a response that cannot have a body has the header of one")]
    BodyNotAllowed,
    #[error("a chunk is malformed")]
    Chunk,
    #[error("a chunk extension is longer than allowed")]
    ChunkExtension,
    #[error("the trailers are malformed or larger than allowed")]
    Trailers,
    #[error("the peer closed in the middle of a message")]
    Truncated,
}

impl ParseError {
    /// The status that a server answers with, as Envoy does.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Version => 426,
            Self::TransferEncoding => 501,
            _ => 400,
        }
    }

    /// The body of that answer, as text.
    pub fn body(self) -> &'static str {
        match (self, self.status()) {
            // Envoy's codec takes these two; its connection manager refuses them, without a word.
            (Self::NoHost | Self::Fragment, _) => "",
            (_, 431) => "Request Header Fields Too Large",
            (_, 426) => "Upgrade Required",
            (_, 501) => "Not Implemented",
            _ => "Bad Request",
        }
    }

    /// Envoy's response code detail.
    pub fn details(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::NoHost => "missing_host_header",
            Self::SeveralHosts | Self::InvalidHost => "http.invalid_authority",
            Self::HeaderValue => "http1.invalid_characters",
            Self::Target => "http1.invalid_url",
            Self::Fragment => "path_normalization_failed",
            Self::ConnectionNames => "http1.connection_header_rejected",
            Self::Scheme => "http1.invalid_scheme",
            Self::LengthAndEncoding => "http1.content_length_and_chunked_not_allowed",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::BodyNotAllowed => "http1.content_length_not_allowed",
            Self::Version => "low_version",
            _ => "http1.codec_error",
        }
    }
}
