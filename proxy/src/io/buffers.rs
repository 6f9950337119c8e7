//! A worker's free list of read buffers.
//!
//! A connection takes a buffer when it is readable and gives it back when it is drained, so that an
//! idle connection holds none.

use std::cell::{Cell, RefCell};

use bytes::BytesMut;

/// Size of one buffer, in bytes: two TLS records of plaintext and what is left of a third.
pub const BUFFER_SIZE: usize = 40 * 1024;

/// Buffers kept per worker (2.5 MB); more are freed. Busy connections of one worker share them,
/// since a buffer is held only between readiness and drained.
const MAX_FREE: usize = 64;

/// Tunnel buffers kept per worker: a buffer is held only across a read and the writes of what it
/// brought, so that few serve many flows.
const MAX_FREE_BULK: usize = 4;

/// The free lists. Buffers that they hand out are empty; ordinary ones hold at least
/// [`BUFFER_SIZE`] bytes.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: RefCell<Vec<BytesMut>>,
    bulk: RefCell<Vec<BytesMut>>,
    /// Whether a tunnel buffer was taken since the last [`trim`](BufferPool::trim).
    bulk_used: Cell<bool>,
}

impl BufferPool {
    /// An empty buffer.
    pub fn take(&self) -> BytesMut {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_SIZE))
    }

    /// Takes a buffer back. It is kept only if no `Bytes` split off it is still alive; else its
    /// memory goes when the last of those does.
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut free = self.free.borrow_mut();
        if free.len() < MAX_FREE && buffer.try_reclaim(BUFFER_SIZE) {
            free.push(buffer);
        }
    }

    /// An empty buffer of at least `size` bytes, for a tunnel.
    pub fn take_bulk(&self, size: usize) -> BytesMut {
        self.bulk_used.set(true);
        let mut bulk = self.bulk.borrow_mut();
        match bulk.iter().position(|buffer| buffer.capacity() >= size) {
            Some(index) => bulk.swap_remove(index),
            None => BytesMut::with_capacity(size),
        }
    }

    /// Takes a tunnel's buffer back.
    pub fn give_bulk(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut bulk = self.bulk.borrow_mut();
        if bulk.len() < MAX_FREE_BULK {
            bulk.push(buffer);
        }
    }

    /// Frees the tunnel buffers if none was used since the last call.
    pub fn trim(&self) {
        if !self.bulk_used.replace(false) {
            self.bulk.borrow_mut().clear();
        }
    }

    /// Buffers on the list.
    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_whole() {
        let pool = BufferPool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[1; 1000]);
        drop(buffer.split().freeze());
        pool.give(buffer);
        assert_eq!(pool.free(), 1);
        let buffer = pool.take();
        assert!(buffer.is_empty());
        assert!(buffer.capacity() >= BUFFER_SIZE);
    }

    #[test]
    fn a_buffer_that_is_still_read_is_not_kept() {
        let pool = BufferPool::default();
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"body");
        let body = buffer.split().freeze();
        pool.give(buffer);
        assert_eq!(pool.free(), 0);
        assert_eq!(&body[..], b"body");
    }

    #[test]
    fn the_list_is_bounded() {
        let pool = BufferPool::default();
        let buffers: Vec<_> = (0..MAX_FREE + 5).map(|_| pool.take()).collect();
        for buffer in buffers {
            pool.give(buffer);
        }
        assert_eq!(pool.free(), MAX_FREE);
    }
}
