//! What is wrong with a message.

/// Why a message is refused. The connection that it came on cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("malformed start line or header")]
    Malformed,
    #[error("a line ends with LF alone")]
    BareLf,
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    #[error("there are more headers than allowed")]
    TooManyHeaders,
    #[error("the HTTP version is not supported")]
    Version,
    #[error("HTTP/1.1 without Host, or with more than one")]
    Host,
    #[error("Host is malformed")]
    InvalidHost,
    #[error("the request target is malformed")]
    Target,
    #[error("Content-Length and Transfer-Encoding are both there")]
    LengthAndEncoding,
    #[error("Content-Length is not one plain number")]
    ContentLength,
    #[error("Transfer-Encoding is not exactly chunked")]
    TransferEncoding,
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
    /// The status that a server answers with.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Version => 505,
            Self::TransferEncoding => 501,
            _ => 400,
        }
    }

    /// Envoy's response code detail.
    pub fn details(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::Host | Self::InvalidHost => "http1.invalid_authority",
            Self::Target => "http1.invalid_url",
            Self::LengthAndEncoding => "http1.content_length_and_chunked_not_allowed",
            Self::ContentLength => "http1.invalid_content_length",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::Version => "http1.unsupported_version",
            _ => "http1.codec_error",
        }
    }
}
