//! `envoy.filters.http.lua`.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{scripts::Script, stats::LuaStats};

/// The filter.
#[derive(Debug)]
pub struct Lua {
    /// What runs where no route says otherwise.
    pub default: Option<Arc<Script>>,
    /// Those that routes choose by name (`source_codes`).
    pub named: Vec<(Box<str>, Arc<Script>)>,
    /// Whether a request whose headers a script changed is routed again.
    pub clear_route_cache: bool,
    pub context: Option<Arc<Map<String, Value>>>,
    pub stats: Arc<LuaStats>,
}

/// What a route says of it.
#[derive(Debug)]
pub struct LuaOverride {
    pub choice: LuaChoice,
    /// In place of the filter's.
    pub context: Option<Arc<Map<String, Value>>>,
}

#[derive(Debug)]
pub enum LuaChoice {
    Default,
    /// None if there is no script of this name.
    Named(Box<str>),
    Own(Arc<Script>),
}

impl Lua {
    /// What runs for a request whose route has this to say.
    pub fn script<'l>(&'l self, own: Option<&'l LuaOverride>) -> Option<&'l Arc<Script>> {
        match own.map(|own| &own.choice) {
            None | Some(LuaChoice::Default) => self.default.as_ref(),
            Some(LuaChoice::Own(script)) => Some(script),
            Some(LuaChoice::Named(wanted)) => {
                let mut named = self.named.iter();
                let (_, script) = named.find(|(name, _)| name == wanted)?;
                Some(script)
            }
        }
    }

    /// What the script has of the configuration.
    pub fn context<'l>(
        &'l self,
        own: Option<&'l LuaOverride>,
    ) -> Option<&'l Arc<Map<String, Value>>> {
        let own = own.and_then(|own| own.context.as_ref());
        own.or(self.context.as_ref())
    }
}
