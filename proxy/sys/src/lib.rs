//! What the data plane and the agent ask of the operating system and the allocator.
//!
//! Invariant: all `unsafe` of the project is here, each block with its reason; what is exported is
//! safe to call.

pub mod alloc;
pub mod code;
pub mod file;
pub mod interfaces;
pub mod original_dst;
pub mod port;
pub mod process;
pub mod socket;
