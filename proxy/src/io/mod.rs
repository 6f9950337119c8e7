//! What a connection is made of inside a worker: sockets, streams, buffers, deadlines, and the
//! cell through which a connection is told to drain or to close.
//!
//! Nothing here is `Send`: a connection lives and dies on one worker.

pub mod buffers;
pub mod live;
pub mod log_limit;
pub mod registry;
pub mod socket;
pub mod stream;
pub mod timers;
pub mod tls_stats;
pub mod trust;
pub mod tunnel;

pub use buffers::BufferPool;
pub use live::{CloseReason, Live};
pub use log_limit::LogLimit;
pub use registry::{Origin, Registration, Registry};
pub use socket::Socket;
pub use stream::Stream;
pub use timers::{Deadline, Timers};
pub use trust::{Authority, Trust};
pub use tunnel::Tunnel;
