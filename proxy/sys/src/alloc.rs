//! jemalloc, tuned for a small resident set.
//!
//! A binary takes it with [`crate::global_allocator!`]. The options below are read by jemalloc
//! before `main`; `_RJEM_MALLOC_CONF` in the environment overrides them.

use std::{
    ffi::{CStr, c_char, c_uint, c_void},
    io, ptr,
};

pub use tikv_jemallocator::Jemalloc;

/// Makes jemalloc the allocator of the binary that calls it; once, in `main.rs`.
#[macro_export]
macro_rules! global_allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::alloc::Jemalloc = $crate::alloc::Jemalloc;
    };
}

/// - `narenas`: all threads share one arena but those that ask for an own one ([`own_arena`]), since each
///   arena keeps pages of its own.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: freed pages go back to the kernel within a second, not ten.
/// - `background_thread`: they do so when the process is idle too; one thread is enough.
/// - `thp`: a huge page backs 2 MB for the sake of its first byte.
const OPTIONS: &CStr = c"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,\
    background_thread:true,max_background_threads:1,thp:never";

/// The symbol that jemalloc reads its options from. It is a `char *` in C, which `&c_char` is too.
// SAFETY: jemalloc declares the symbol weak, and nothing else in the program defines it; it
// points to a constant string that ends in NUL.
#[expect(
    unsafe_code,
    reason = "jemalloc finds its options by the name of a symbol"
)]
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &c_char = {
    // SAFETY: a C string has at least its NUL, so its first byte is there, for ever.
    unsafe { &*OPTIONS.as_ptr() }
};

/// jemalloc's name for all arenas together (`MALLCTL_ARENAS_ALL`).
const PURGE_ALL_ARENAS: &CStr = c"arena.4096.purge";

/// Gives this thread an arena of its own, for as long as the process lives, so that no lock of the allocator is
/// shared with another worker.
///
/// # Errors
/// jemalloc's error code.
pub fn own_arena() -> io::Result<()> {
    let arena: c_uint = get(c"arenas.create")?;
    set(c"thread.arena", arena)
}

/// Takes this thread's memory from the shared arena without a cache of its own. For the control plane's
/// threads: they allocate little, and each would keep what it freed.
///
/// # Errors
/// jemalloc's error code.
pub fn without_cache() -> io::Result<()> {
    set(c"thread.tcache.enabled", false)
}

/// From now on, what is freed in the shared arena goes back to the kernel at once. For a process whose start
/// is done: control allocates a lot for a push, and then nothing for long.
///
/// # Errors
/// jemalloc's error code.
pub fn keep_nothing() -> io::Result<()> {
    set(c"arena.0.dirty_decay_ms", 0_isize)
}

/// Gives free pages back to the kernel at once. Worth a call after start-up or after a large
/// configuration was compiled.
///
/// # Errors
/// jemalloc's error code.
pub fn purge() -> io::Result<()> {
    // It fails for a thread without a cache, which pins no pages by one.
    let _ = control(c"thread.tcache.flush");
    control(PURGE_ALL_ARENAS)
}

/// Triggers a control that neither takes nor yields a value.
fn control(name: &CStr) -> io::Result<()> {
    call(name, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0)
}

/// Reads a value, of the type that jemalloc's manual gives it.
fn get<T: Default>(name: &CStr) -> io::Result<T> {
    let mut value = T::default();
    let mut size = size_of::<T>();
    call(
        name,
        (&raw mut value).cast(),
        &raw mut size,
        ptr::null_mut(),
        0,
    )?;
    Ok(value)
}

/// Sets a value, of the type that jemalloc's manual gives it.
fn set<T>(name: &CStr, mut value: T) -> io::Result<()> {
    let size = size_of::<T>();
    call(
        name,
        ptr::null_mut(),
        ptr::null_mut(),
        (&raw mut value).cast(),
        size,
    )
}

fn call(
    name: &CStr,
    old: *mut c_void,
    old_size: *mut usize,
    new: *mut c_void,
    new_size: usize,
) -> io::Result<()> {
    // SAFETY: the name ends in NUL; `old` is null or `old_size` points to its size, `new` is null or
    // `new_size` bytes long. jemalloc refuses a size that is not that of the control's type.
    #[expect(unsafe_code, reason = "jemalloc is a C library")]
    let code = unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), old, old_size, new, new_size) };
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    crate::global_allocator!();

    fn option<T: Default>(name: &CStr) -> T {
        get(name).unwrap()
    }

    #[test]
    fn the_options_are_in_force() {
        assert_eq!(option::<u32>(c"opt.narenas"), 1);
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 1000);
        assert!(option::<bool>(c"opt.background_thread"));
    }

    /// Bytes, counted page by page: `statm` may lag by megabytes on a machine with many processors.
    fn resident() -> usize {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Rss:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn a_thread_may_have_its_own() {
        let arena = || option::<c_uint>(c"thread.arena");
        let own = std::thread::spawn(move || {
            own_arena().unwrap();
            arena()
        });
        let own = own.join().unwrap();
        assert_ne!(own, arena());
        let decay = CString::new(format!("arena.{own}.dirty_decay_ms")).unwrap();
        assert_eq!(option::<isize>(&decay), 1000);
    }

    #[test]
    fn a_thread_may_go_without_a_cache() {
        let without = std::thread::spawn(|| {
            without_cache().unwrap();
            purge().unwrap();
            let block: Vec<u8> = vec![1; 100];
            assert!(!option::<bool>(c"thread.tcache.enabled"));
            block.len()
        });
        assert_eq!(without.join().unwrap(), 100);
        assert!(option::<bool>(c"thread.tcache.enabled"));
    }

    #[test]
    fn purging_returns_memory() {
        const BLOCKS: usize = 512;
        const BLOCK: usize = 64 * 1024;
        // Without decay, which would give the pages back without being asked, and with it the one purge
        // at a time that jemalloc allows.
        set(c"arena.0.dirty_decay_ms", -1_isize).unwrap();
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; BLOCK]).collect();
        drop(blocks);
        let freed = resident();
        purge().unwrap();
        let purged = resident();
        assert!(purged < freed - BLOCKS * BLOCK / 2, "{freed} {purged}");
    }
}
