//! Values by name, in a map whose copies share what they have in common.
//!
//! Updates of a large configuration are small: to copy a map costs nothing, to change a copy costs one small
//! part of it, and what differs between the two is found without a look at the other parts.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    ops::Index,
    sync::Arc,
};

/// How many values a part has at most. To change one copies a part, and to compare looks at each part once.
const PART: usize = 64;

/// Sorted by name.
pub struct NameMap<T: ?Sized> {
    /// In order, none empty; two neighbours have more values than one part may.
    parts: Arc<Vec<Arc<Part<T>>>>,
}

type Part<T> = BTreeMap<String, Arc<T>>;

impl<T: ?Sized> NameMap<T> {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.parts.get(self.part_of(name))?.get(name)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<T>)> + Clone {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> + Clone {
        self.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<T>> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Returns what had the name before.
    pub fn insert(&mut self, name: String, value: Arc<T>) -> Option<Arc<T>> {
        let at = self.part_of(&name);
        let parts = Arc::make_mut(&mut self.parts);
        if parts.is_empty() {
            parts.push(Arc::default());
        }
        let part = Arc::make_mut(&mut parts[at]);
        let before = part.insert(name, value);
        if part.len() > PART {
            let middle = part.keys().nth(PART / 2).cloned().unwrap_or_default();
            let upper = part.split_off(&middle);
            parts.insert(at + 1, Arc::new(upper));
            join_around(parts, at + 1);
            join_around(parts, at);
        }
        before
    }

    /// Returns what had the name.
    pub fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        let at = self.part_of(name);
        let parts = Arc::make_mut(&mut self.parts);
        // Who has not the name is not copied.
        let part = parts.get_mut(at).filter(|part| part.contains_key(name))?;
        let removed = Arc::make_mut(part).remove(name);
        if part.is_empty() {
            parts.remove(at);
        }
        join_around(parts, at);
        removed
    }

    pub fn retain(&mut self, keep: impl Fn(&str, &Arc<T>) -> bool) {
        let gone = self.iter().filter(|(name, value)| !keep(name, value));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.remove(&name);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The names under which the two have not the very same value, or one has none. Looks into what they do
    /// not share alone.
    pub fn differing<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        if Arc::ptr_eq(&self.parts, &other.parts) {
            return BTreeSet::new();
        }
        let names = self.unshared(other).chain(other.unshared(self));
        let differ = |name: &&str| match (self.get(name), other.get(name)) {
            (Some(ours), Some(theirs)) => !Arc::ptr_eq(ours, theirs),
            _ => true,
        };
        names.map(String::as_str).filter(differ).collect()
    }

    /// The names in parts that `other` has not.
    fn unshared(&self, other: &Self) -> impl Iterator<Item = &String> {
        let shared: HashSet<_> = other.parts.iter().map(Arc::as_ptr).collect();
        let parts = self.parts.iter();
        let parts = parts.filter(move |part| !shared.contains(&Arc::as_ptr(part)));
        parts.flat_map(|part| part.keys())
    }

    /// The index of the part that has the name, or would have it.
    fn part_of(&self, name: &str) -> usize {
        let begins_before = |part: &Arc<Part<T>>| {
            let first = part.first_key_value();
            first.is_some_and(|(first, _)| first.as_str() <= name)
        };
        self.parts.partition_point(begins_before).saturating_sub(1)
    }
}

/// Joins the part with the next one and the one before, where these fit.
fn join_around<T: ?Sized>(parts: &mut Vec<Arc<Part<T>>>, at: usize) {
    join(parts, at);
    if at > 0 {
        join(parts, at - 1);
    }
}

/// Makes one part of two, if they fit into one.
fn join<T: ?Sized>(parts: &mut Vec<Arc<Part<T>>>, lower: usize) {
    let Some([a, b]) = parts
        .get_mut(lower..)
        .and_then(|rest| rest.first_chunk_mut())
    else {
        return;
    };
    if a.len() + b.len() <= PART {
        let upper = b
            .iter()
            .map(|(name, value)| (name.clone(), Arc::clone(value)));
        Arc::make_mut(a).extend(upper);
        parts.remove(lower + 1);
    }
}

impl<T: ?Sized> Clone for NameMap<T> {
    fn clone(&self) -> Self {
        Self {
            parts: Arc::clone(&self.parts),
        }
    }
}

impl<T: ?Sized> Default for NameMap<T> {
    fn default() -> Self {
        Self {
            parts: Arc::default(),
        }
    }
}

impl<T: ?Sized> FromIterator<(String, Arc<T>)> for NameMap<T> {
    fn from_iter<I: IntoIterator<Item = (String, Arc<T>)>>(values: I) -> Self {
        let mut map = Self::default();
        map.extend(values);
        map
    }
}

impl<T: ?Sized> Extend<(String, Arc<T>)> for NameMap<T> {
    fn extend<I: IntoIterator<Item = (String, Arc<T>)>>(&mut self, values: I) {
        for (name, value) in values {
            self.insert(name, value);
        }
    }
}

impl<T: ?Sized, const N: usize> From<[(String, Arc<T>); N]> for NameMap<T> {
    fn from(values: [(String, Arc<T>); N]) -> Self {
        values.into_iter().collect()
    }
}

impl<T: ?Sized, N: AsRef<str> + ?Sized> Index<&N> for NameMap<T> {
    type Output = Arc<T>;

    /// # Panics
    /// If nothing has the name.
    fn index(&self, name: &N) -> &Arc<T> {
        self.get(name.as_ref()).expect("a name that the map has")
    }
}

impl<T: ?Sized + PartialEq> PartialEq for NameMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for NameMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Names, each put with a new value or removed.
    fn changes(most: usize) -> impl Strategy<Value = Vec<(u16, bool)>> {
        vec((0..400_u16, prop::bool::weighted(0.7)), 0..most)
    }

    fn apply(map: &mut NameMap<u16>, model: &mut BTreeMap<String, Arc<u16>>, all: &[(u16, bool)]) {
        for &(n, put) in all {
            let name = format!("name {n}");
            let (value, in_model) = match put {
                true => {
                    let value = Arc::new(n);
                    let before = model.insert(name.clone(), Arc::clone(&value));
                    (map.insert(name, value), before)
                }
                false => (map.remove(&name), model.remove(&name)),
            };
            assert_eq!(value, in_model);
        }
    }

    proptest! {
        #[test]
        fn a_map_is_as_one_of_the_standard_library_and_knows_what_changed(
            first in changes(1000),
            second in changes(50),
        ) {
            let (mut map, mut model) = (NameMap::default(), BTreeMap::new());
            apply(&mut map, &mut model, &first);
            let (before, model_before) = (map.clone(), model.clone());
            apply(&mut map, &mut model, &second);
            for (map, model) in [(&map, &model), (&before, &model_before)] {
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
                let large = |pair: &[Arc<Part<u16>>]| pair[0].len() + pair[1].len() > PART;
                prop_assert!(map.parts.windows(2).all(large));
                prop_assert!(map.parts.iter().all(|part| (1..=PART).contains(&part.len())));
            }
            let same = |name: &str| match (model.get(name), model_before.get(name)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let names = model.keys().chain(model_before.keys()).map(String::as_str);
            let differing: BTreeSet<_> = names.filter(|name| !same(name)).collect();
            prop_assert_eq!(map.differing(&before), differing);
            map.retain(|_, value| value.is_multiple_of(2));
            model.retain(|_, value| value.is_multiple_of(2));
            prop_assert!(map.iter().eq(model.iter()));
        }
    }

    #[test]
    fn a_change_leaves_the_other_parts_shared() {
        let named = |n: usize| (format!("name {n}"), Arc::new(n));
        let before: NameMap<_> = (0..10_000).map(named).collect();
        let mut after = before.clone();
        let (name, value) = named(5_000);
        after.insert(name, value);
        assert_eq!(
            after.unshared(&before).count(),
            before.unshared(&after).count()
        );
        assert!(after.unshared(&before).count() <= PART);
    }
}
