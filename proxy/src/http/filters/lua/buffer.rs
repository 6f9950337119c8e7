//! A body in a script's hands.

use std::rc::Rc;

use bytes::Bytes;
use ithildin_lua::{Call, Method, Object, Reply, Value};

use super::scene::Scene;

pub(super) struct Buffer(pub(super) Rc<Scene>);

impl Object for Buffer {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("length", |call| {
            let length = call.this().0.bytes()?.len();
            Ok(Reply::value(Value::Integer(length as i64)))
        }),
        ("getBytes", |call| {
            let bytes = call.this().0.bytes()?;
            let part = part(call, &bytes);
            let part = part
                .ok_or("index/length must be >= 0 and (index + length) must be <= buffer size")?;
            call.text(part)
        }),
        ("setBytes", |call| {
            let bytes = Bytes::copy_from_slice(&call.string(1)?.as_bytes());
            let length = bytes.len();
            call.this().0.replace(bytes)?;
            Ok(Reply::value(Value::Integer(length as i64)))
        }),
    ];
}

fn part<'b>(call: &Call<'_, Buffer>, bytes: &'b [u8]) -> Option<&'b [u8]> {
    let index = usize::try_from(call.integer(1).ok()?).ok()?;
    let length = usize::try_from(call.integer(2).ok()?).ok()?;
    bytes.get(index..index.checked_add(length)?)
}
