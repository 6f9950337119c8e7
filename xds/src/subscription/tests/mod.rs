mod convergence;
mod delta;
mod sotw;

use std::{collections::BTreeSet, sync::Arc};

use ithildin_proto::pb::google::{protobuf::Any, rpc::Status};

use super::{Catalog, Resource, Server};

/// `a=1 b=2`: resources and their versions; the body says both.
fn catalog(text: &str) -> Catalog {
    text.split_whitespace()
        .map(|pair| {
            let (name, version) = pair.split_once('=').unwrap();
            let body = Any {
                type_url: String::new(),
                value: pair.into(),
            };
            let version = version.into();
            (name.into(), Arc::new(Resource { version, body }))
        })
        .collect()
}

fn bodies<'a>(resources: impl IntoIterator<Item = &'a Any>) -> String {
    let texts: Vec<_> = resources
        .into_iter()
        .map(|any| String::from_utf8(any.value.clone()).unwrap())
        .collect();
    texts.join(" ")
}

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn error(message: &str) -> Option<Status> {
    Some(Status {
        code: 3,
        message: message.into(),
        details: Vec::new(),
    })
}

fn respond<S: Server>(server: &mut S, world: &Catalog) -> Option<S::Response> {
    server.respond(world, &BTreeSet::new())
}
