//! A program that takes the allocator gets its options too, although they lie in another crate.

use std::ptr;

ithildin_sys::global_allocator!();

#[test]
#[expect(unsafe_code, reason = "jemalloc is a C library")]
fn the_options_reach_another_crate() {
    let (mut decay, mut size) = (-1_isize, size_of::<isize>());
    // SAFETY: `decay` is `size` bytes long, and jemalloc refuses a size that is not the option's.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"opt.dirty_decay_ms".as_ptr(),
            (&raw mut decay).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    // By itself jemalloc keeps what was freed for ten seconds.
    assert_eq!((code, decay), (0, 0));
}
