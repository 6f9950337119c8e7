//! A program that takes the allocator gets its options too, although they lie in another crate.

use std::ptr;

ithildin_sys::global_allocator!();

#[test]
#[expect(unsafe_code, reason = "jemalloc is a C library")]
fn the_options_reach_another_crate() {
    let (mut arenas, mut size) = (0_u32, size_of::<u32>());
    // SAFETY: `arenas` is `size` bytes long, and jemalloc refuses a size that is not the option's.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"opt.narenas".as_ptr(),
            (&raw mut arenas).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    assert_eq!((code, arenas), (0, 4));
}
