//! Metadata: of routes, and what filters leave for each other.

use std::rc::Rc;

use ithildin_lua::{Call, Failure, Method, MultiValue, Object, Reply, Value};
use serde_json::{Map, Value as Json};

use super::{
    scene::Scene,
    values::{from_lua, object_to_lua, to_lua},
};

/// What one run may leave, in bytes: it is kept until the request ends.
const MAX_METADATA: usize = 1 << 20;

/// Where routes may say it, too, whatever the filter's name is.
const CANONICAL: &str = "envoy.filters.http.lua";

/// What the configuration says to this filter.
pub(super) enum Configured {
    Route(Rc<Scene>),
    Context(Rc<Scene>),
}

impl Configured {
    /// What `read` finds among it.
    fn read<T>(
        &self,
        read: impl FnOnce(&Map<String, Json>) -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let facts = match self {
            Self::Context(scene) => {
                let facts = scene.facts()?;
                return facts.context.as_deref().map_or(Ok(None), read);
            }
            Self::Route(scene) => scene.facts()?,
        };
        let metadata = facts.route.as_ref().and_then(|it| it.metadata.as_ref());
        let own = metadata.and_then(|it| it.get(&*facts.name).or_else(|| it.get(CANONICAL)));
        own.and_then(Json::as_object).map_or(Ok(None), read)
    }
}

impl Object for Configured {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[("get", |call| {
        let key = call.string(1)?.to_string_lossy();
        let value = call.this().read(|fields| {
            let value = fields.get(&key).map(|value| to_lua(call.lua, value));
            value.transpose()
        });
        Ok(value?.map_or_else(Reply::nothing, Reply::value))
    })];

    const PAIRS: Option<Method<Self>> = Some(|call| {
        let pair = call.this().read(|fields| {
            let pair = index(call).and_then(|index| fields.iter().nth(index));
            let Some((key, value)) = pair else {
                return Ok(None);
            };
            let key = Value::String(call.lua.create_string(key)?);
            Ok(Some([key, to_lua(call.lua, value)?]))
        });
        Ok(pair?.map_or_else(Reply::nothing, |pair| {
            Reply::Values(MultiValue::from_iter(pair))
        }))
    });
}

/// What filters leave, by their names.
pub(super) struct Dynamic(pub(super) Rc<Scene>);

impl Object for Dynamic {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("get", |call| {
            let space = call.string(1)?.to_string_lossy();
            let messages = call.this().0.messages()?;
            let left = messages.request.metadata.as_deref();
            match left.and_then(|it| it.namespace(&space)) {
                None => Ok(Reply::nothing()),
                Some(fields) => Ok(Reply::value(object_to_lua(call.lua, fields)?)),
            }
        }),
        ("set", |call| {
            let (space, key) = (call.string(1)?, call.string(2)?);
            let value = from_lua(call.argument(3))?;
            let kept = &call.this().0.effects.metadata;
            // Its text is about as long as the value is large.
            kept.set(
                kept.get()
                    + space.as_bytes().len()
                    + key.as_bytes().len()
                    + value.to_string().len(),
            );
            if kept.get() > MAX_METADATA {
                return Err("there is too much metadata".into());
            }
            let mut messages = call.this().0.messages()?;
            let left = messages.request.metadata.get_or_insert_default();
            left.set(&space.to_string_lossy(), &key.to_string_lossy(), value);
            Ok(Reply::nothing())
        }),
    ];

    const PAIRS: Option<Method<Self>> = Some(|call| {
        let messages = call.this().0.messages()?;
        let left = messages.request.metadata.as_deref();
        let space = left.and_then(|it| it.iter().nth(index(call)?));
        let Some((name, fields)) = space else {
            return Ok(Reply::nothing());
        };
        let name = Value::String(call.lua.create_string(name)?);
        let fields = object_to_lua(call.lua, fields)?;
        Ok(Reply::Values(MultiValue::from_iter([name, fields])))
    });
}

fn index<T: Object>(call: &Call<'_, T>) -> Option<usize> {
    usize::try_from(call.integer(1).ok()? - 1).ok()
}
