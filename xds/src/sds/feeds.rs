//! Secrets that are made elsewhere and served under a name of ours.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::SecretState;

/// Secrets by name. They come before what a name means otherwise, and a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct SecretFeeds(Arc<BTreeMap<String, watch::Receiver<SecretState>>>);

impl SecretFeeds {
    /// The secret of `name`, now and later, if it is among these.
    pub fn get(&self, name: &str) -> Option<watch::Receiver<SecretState>> {
        self.0.get(name).cloned()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &watch::Receiver<SecretState>)> {
        self.0.iter().map(|(name, state)| (name.as_str(), state))
    }
}

impl FromIterator<(String, watch::Receiver<SecretState>)> for SecretFeeds {
    fn from_iter<I: IntoIterator<Item = (String, watch::Receiver<SecretState>)>>(feeds: I) -> Self {
        Self(Arc::new(feeds.into_iter().collect()))
    }
}
