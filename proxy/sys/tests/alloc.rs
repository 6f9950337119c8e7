//! A program that takes the allocator gets its options too, although they lie in another crate.

use std::{ffi::CStr, ptr};

ithildin_sys::global_allocator!();

#[test]
fn the_options_reach_another_crate() {
    // By itself jemalloc keeps what was freed for ten seconds.
    assert_eq!(decay(c"opt.dirty_decay_ms"), 1000);
    assert_eq!(decay(c"arena.0.dirty_decay_ms"), 1000);
    ithildin_sys::alloc::keep_nothing().expect("there is such an arena");
    assert_eq!(decay(c"arena.0.dirty_decay_ms"), 0);
}

/// A number of milliseconds.
#[expect(unsafe_code, reason = "jemalloc is a C library")]
fn decay(name: &CStr) -> isize {
    let (mut decay, mut size) = (-1_isize, size_of::<isize>());
    // SAFETY: `decay` is `size` bytes long, and jemalloc refuses a size that is not the option's.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            name.as_ptr(),
            (&raw mut decay).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    assert_eq!(code, 0, "{name:?}");
    decay
}
