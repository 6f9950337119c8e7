//! The program's own code in memory.
//!
//! The kernel maps pages of code, 16 at a time, when one of them runs, and takes them away only when
//! memory is short: what parses the command line and lays out the start stays resident for ever. Pages
//! that are let go and still needed come back from the page cache, with one minor fault for 16 of them.

use std::ffi::{c_int, c_void};

/// Lets go of all pages of code and constants, of the program and of its libraries; worth one call when
/// the start is done. What the kernel keeps, such as its own vDSO, stays.
pub fn let_go() {
    // SAFETY: the callback has the type that is asked for, and ignores the pointer.
    #[expect(unsafe_code, reason = "the list of loaded objects is the C library's")]
    unsafe {
        libc::dl_iterate_phdr(Some(let_go_of), std::ptr::null_mut());
    }
}

/// Lets go of the read-only segments of one loaded object. What the loader relocates lies in segments
/// that are written (`PT_GNU_RELRO` is a part of one); a page of these would come back without it.
#[expect(unsafe_code, reason = "the list of loaded objects is the C library's")]
unsafe extern "C" fn let_go_of(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the C library passes a description that is valid during the call.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: there are as many headers as it says, and they live as long as the object.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    let read_only = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in read_only {
        let_go_of_segment(object.dlpi_addr, header);
    }
    0
}

fn let_go_of_segment(base: u64, header: &libc::Elf64_Phdr) {
    let start = base + header.p_vaddr;
    // At least a page, or the object could not have been loaded.
    let whole = header.p_align.max(1);
    let first = start.next_multiple_of(whole);
    let last = (start + header.p_memsz) / whole * whole;
    if first < last {
        // SAFETY: the range is mapped from a file and never written, so that its pages come back as they
        // were.
        #[expect(unsafe_code, reason = "the range is an address")]
        unsafe {
            libc::madvise(
                first as *mut c_void,
                (last - first) as usize,
                libc::MADV_DONTNEED,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of the program's files that are mapped and clean, in KiB.
    fn mapped() -> u64 {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let number = line.unwrap().split_whitespace().nth(1);
            number.unwrap().parse().unwrap()
        };
        field("Rss:") - field("Anonymous:")
    }

    #[test]
    fn code_goes_and_comes_back() {
        let constants = include_bytes!("code.rs");
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let (before, known) = (mapped(), sum(constants));
        let_go();
        let after = mapped();
        assert!(after < before, "{before} {after}");
        assert_eq!(sum(constants), known);
        assert!(std::thread::spawn(|| 1).join().is_ok());
    }
}
