//! A map from address prefixes: the longest one that holds an address wins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Map, listener::AddressRange};

/// One level of the match: what follows, by prefix.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    v4: Vec<Length<T>>,
    v6: Vec<Length<T>>,
}

/// All prefixes of one length, in bits. Those of a family are sorted, longest first.
#[derive(Debug)]
struct Length<T> {
    bits: u8,
    prefixes: Map<IpAddr, T>,
}

impl<T: Default> Prefixes<T> {
    /// Inserts below each range. No range at all means every address.
    pub(super) fn insert<E>(
        &mut self,
        ranges: &[AddressRange],
        mut insert: impl FnMut(&mut T) -> Result<(), E>,
    ) -> Result<(), E> {
        const EVERY: [AddressRange; 2] = [
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        ];
        let ranges = if ranges.is_empty() { &EVERY } else { ranges };
        for &(address, bits) in ranges {
            insert(self.entry(address, bits))?;
        }
        Ok(())
    }

    /// What stands at the longest prefix that holds `address`.
    pub(super) fn find(&self, address: IpAddr) -> Option<&T> {
        let address = address.to_canonical();
        let lengths = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        lengths
            .iter()
            .find_map(|length| length.prefixes.get(&masked(address, length.bits)))
    }

    fn entry(&mut self, address: IpAddr, bits: u8) -> &mut T {
        let (lengths, bits) = match address {
            IpAddr::V4(_) => (&mut self.v4, bits.min(32)),
            IpAddr::V6(_) => (&mut self.v6, bits.min(128)),
        };
        let index = lengths.partition_point(|length| length.bits > bits);
        if lengths.get(index).is_none_or(|length| length.bits != bits) {
            let prefixes = Map::default();
            lengths.insert(index, Length { bits, prefixes });
        }
        let prefixes = &mut lengths[index].prefixes;
        prefixes.entry(masked(address, bits)).or_default()
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

/// Clears the bits that the length leaves open, so that equal prefixes are equal values.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let open = 32_u32.saturating_sub(bits.into());
            let mask = u32::MAX.checked_shl(open).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let open = 128_u32.saturating_sub(bits.into());
            let mask = u128::MAX.checked_shl(open).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}
