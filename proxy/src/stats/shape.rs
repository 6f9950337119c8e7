//! Which statistics there are, and which parts of their names are tags
//! (`envoy.config.metrics.v3.StatsConfig`).

use std::ops::Range;

use regex::bytes::Regex;

use super::Tag;
use crate::config::matchers::StringMatch;

/// What a bootstrap says of statistics. The default is Envoy's: all of them, with its own tags.
#[derive(Debug, Default)]
pub struct StatsShape {
    pub included: Included,
    /// The names are taken apart by the rules alone, and not also as Envoy does by default.
    pub only_rules: bool,
    pub rules: Vec<TagRule>,
}

/// Which statistics there are, by their full names.
#[derive(Debug, Default)]
pub enum Included {
    #[default]
    All,
    None,
    Only(Vec<StringMatch>),
    AllBut(Vec<StringMatch>),
}

/// Where a tag comes from.
#[derive(Debug)]
pub enum TagRule {
    /// It is that of every statistic.
    Fixed(Tag),
    /// It is found in the full name. The first group of the expression goes out of the name; the
    /// second one is the value if there is one, else the first.
    Found { key: String, regex: Regex },
}

impl StatsShape {
    pub(super) fn includes(&self, name: &str) -> bool {
        let is_one = |of: &[StringMatch]| of.iter().any(|it| it.admits(name.as_bytes()));
        match &self.included {
            Included::All => true,
            Included::None => false,
            Included::Only(patterns) => is_one(patterns),
            Included::AllBut(patterns) => !is_one(patterns),
        }
    }

    /// The family and the tags of a statistic, which are `own` as Envoy has them by default.
    pub(super) fn apply(&self, name: &str, own: (String, Vec<Tag>)) -> (String, Vec<Tag>) {
        if self.rules.is_empty() && !self.only_rules {
            return own;
        }
        let mut tags: Vec<Tag> = Vec::new();
        let mut taken = Vec::new();
        for rule in &self.rules {
            let known = |key: &str| tags.iter().any(|tag| tag.key == key);
            match rule {
                TagRule::Fixed(tag) => tags.push(tag.clone()),
                // The first rule for a tag that finds it is the one.
                TagRule::Found { key, .. } if known(key) => {}
                TagRule::Found { key, regex } => {
                    let Some((range, value)) = find(regex, name) else {
                        continue;
                    };
                    taken.push(range);
                    tags.push(Tag {
                        key: key.clone().into(),
                        value: value.into(),
                    });
                }
            }
        }
        if self.only_rules {
            return (without(name, &taken), tags);
        }
        let (mut family, own_tags) = own;
        for range in taken {
            // What Envoy's own tags took already is not in it.
            family = family.replacen(&name[range], "", 1);
        }
        let others: Vec<_> = own_tags
            .into_iter()
            .filter(|own| tags.iter().all(|tag| tag.key != own.key))
            .collect();
        tags.extend(others);
        (family, tags)
    }
}

/// What of `name` goes, and the value in it.
fn find<'n>(regex: &Regex, name: &'n str) -> Option<(Range<usize>, &'n str)> {
    let groups = regex.captures(name.as_bytes())?;
    let taken = groups.get(1)?.range();
    let value = groups.get(2).map_or(taken.clone(), |it| it.range());
    name.get(taken.clone())?;
    Some((taken, name.get(value)?))
}

/// `name` without these parts of it, which may overlap.
fn without(name: &str, taken: &[Range<usize>]) -> String {
    let kept = |at: &usize| !taken.iter().any(|range| range.contains(at));
    let characters = name.char_indices().filter(|(at, _)| kept(at));
    characters.map(|(_, character)| character).collect()
}
