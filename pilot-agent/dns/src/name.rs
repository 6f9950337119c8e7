//! Names as keys: lower case, as on the wire, without the empty label at the end.
//!
//! Parents and names below a domain are slices of the same bytes, so that a lookup allocates nothing.

use hickory_proto::rr::Name;
use smallvec::SmallVec;

/// Longer names than most; those that are longer go to the heap.
const INLINE_BYTES: usize = 96;
const INLINE_LABELS: usize = 16;

#[derive(Debug)]
pub(crate) struct Key {
    bytes: SmallVec<[u8; INLINE_BYTES]>,
    /// Where each label starts, at its length. A name has at most 255 bytes.
    starts: SmallVec<[u8; INLINE_LABELS]>,
}

impl Key {
    pub(crate) fn new(name: &Name) -> Self {
        let mut key = Self {
            bytes: SmallVec::new(),
            starts: SmallVec::new(),
        };
        for label in name {
            key.starts.push(as_byte(key.bytes.len()));
            key.bytes.push(as_byte(label.len()));
            key.bytes
                .extend(label.iter().map(|byte| byte.to_ascii_lowercase()));
        }
        key
    }

    /// The name of a host in text; `None` if it cannot be one.
    pub(crate) fn of_host(host: &str) -> Option<Self> {
        let key = Self::new(&Name::from_ascii(host).ok()?);
        (!key.bytes.is_empty()).then_some(key)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name above, the one above that, and so on; the root is not among them.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &[u8]> {
        let starts = self.starts.iter().skip(1);
        starts.map(|start| &self.bytes[usize::from(*start)..])
    }

    /// What stands before `domain`, if this name is below it.
    pub(crate) fn below(&self, domain: &Self) -> Option<&[u8]> {
        let at = self.bytes.len().checked_sub(domain.bytes.len())?;
        let starts_a_label = at > 0 && self.starts.contains(&as_byte(at));
        (starts_a_label && self.bytes.ends_with(&domain.bytes)).then(|| &self.bytes[..at])
    }

    /// As [`Self::below`], but nothing if that ends with `domain` as well.
    pub(crate) fn directly_below(&self, domain: &Self) -> Option<&[u8]> {
        let above = self.below(domain)?;
        let at = above.len().checked_sub(domain.bytes.len());
        let again = at
            .is_some_and(|at| self.starts.contains(&as_byte(at)) && above.ends_with(&domain.bytes));
        (!again).then_some(above)
    }
}

/// The name that `key` stands for.
pub(crate) fn name(key: &[u8]) -> Option<Name> {
    Name::from_labels(labels(key)).ok()
}

/// The labels of a key.
pub(crate) fn labels(mut key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = key.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        key = rest;
        Some(label)
    })
}

fn as_byte(length: usize) -> u8 {
    u8::try_from(length).expect("a name has at most 255 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_labels() {
        let key = |text| Key::of_host(text).unwrap();
        let page = key("Page.NS1.svc.cluster.local.");
        let parents: Vec<_> = page.parents().map(|key| name(key).unwrap()).collect();
        let expected = [
            "ns1.svc.cluster.local.",
            "svc.cluster.local.",
            "cluster.local.",
            "local.",
        ];
        assert_eq!(
            parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
            expected
        );
        let below = page.below(&key("svc.cluster.local")).unwrap();
        assert_eq!(name(below).unwrap().to_string(), "page.ns1.");
        for other in [
            "uster.local",
            "page.ns1.svc.cluster.local",
            "a.page.ns1.svc.cluster.local",
        ] {
            assert!(page.below(&key(other)).is_none(), "{other}");
        }
        // What looks like a length inside a label is none.
        let label = Name::from_labels([&b"x\x03com"[..]]).unwrap();
        assert!(Key::new(&label).below(&key("com")).is_none());
    }

    #[test]
    fn what_is_no_name_has_no_key() {
        let long = format!("{}.com", "a".repeat(64));
        for host in ["", ".", "a..b", long.as_str(), "häuser.example"] {
            let key = Key::of_host(host);
            assert!(key.is_none(), "{host}: {key:?}");
        }
        assert!(Key::of_host("*.example.com").is_some());
    }
}
