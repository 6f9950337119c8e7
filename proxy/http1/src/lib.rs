//! HTTP/1 without I/O: heads in and out, body framing, chunks (RFC 9112).
//!
//! Invariants: what is ambiguous is refused, never repaired; framing headers are always written
//! from the parsed framing, never copied; bytes of a message are shared, not copied.

pub mod body;
pub mod encode;
pub mod error;
pub mod head;
mod parse;

pub use body::{BodyDecoder, BodyEvent};
pub use error::ParseError;
pub use head::{Field, Framing, Known, RequestHead, ResponseHead, Version};
pub use parse::{
    Limits, MAX_FIELDS, METHODS, Progress, check_target, is_authority, parse_request,
    parse_response,
};
