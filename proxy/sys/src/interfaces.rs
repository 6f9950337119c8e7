//! The network interfaces of this host and their addresses.

use std::{
    ffi::CStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub interface: String,
    pub ip: IpAddr,
    /// Whether the interface is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

/// All addresses of all interfaces, in the kernel's order.
///
/// # Errors
/// Those of getifaddrs(3).
#[expect(unsafe_code, reason = "the standard library does not list interfaces")]
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `head` is a valid place for the pointer that getifaddrs writes.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = head;
    // SAFETY: `next` is null or a node of the list, which lives until freeifaddrs below.
    while let Some(node) = unsafe { next.as_ref() } {
        found.extend(address(node));
        next = node.ifa_next;
    }
    // SAFETY: `head` came from getifaddrs, and no reference into the list is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

#[expect(unsafe_code, reason = "a C structure's pointers")]
fn address(node: &libc::ifaddrs) -> Option<InterfaceAddress> {
    // SAFETY: the address is null or points to a structure that is at least as large as its family says.
    let family = unsafe { node.ifa_addr.as_ref() }?.sa_family;
    let ip = match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this structure; it is read wherever it lies.
            let v4 = unsafe { node.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { node.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Ipv6Addr::from(v6.sin6_addr.s6_addr).into()
        }
        _ => return None,
    };
    // SAFETY: the name is a string that ends with a zero byte, and lives as long as the node.
    let name = unsafe { CStr::from_ptr(node.ifa_name) };
    let has = |flag: libc::c_int| node.ifa_flags & flag.cast_unsigned() != 0;
    Some(InterfaceAddress {
        interface: name.to_string_lossy().into_owned(),
        ip,
        up: has(libc::IFF_UP),
        loopback: has(libc::IFF_LOOPBACK),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        let all = addresses().unwrap();
        let lo = all.iter().find(|address| address.ip == Ipv4Addr::LOCALHOST);
        let lo = lo.expect("this host has a loopback interface");
        assert!(lo.loopback && lo.up, "{lo:?}");
        assert_eq!(lo.interface, "lo");
    }
}
