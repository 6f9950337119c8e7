//! A worker's free list of read buffers.
//!
//! A connection takes a buffer when it is readable and gives it back when it is drained, so that an
//! idle connection holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// Size of one buffer, in bytes: two TLS records of plaintext and what is left of a third.
pub const BUFFER_SIZE: usize = 40 * 1024;

/// Buffers kept per worker (2.5 MB); more are freed. Busy connections of one worker share them,
/// since a buffer is held only between readiness and drained.
const MAX_FREE: usize = 64;

/// The free list. Buffers that it hands out are empty and hold at least [`BUFFER_SIZE`] bytes.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: RefCell<Vec<BytesMut>>,
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
