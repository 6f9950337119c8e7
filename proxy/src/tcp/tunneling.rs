//! What a proxy is asked for on behalf of one TCP session.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::{
    access_log::{Entry, Template, Unset},
    config::{
        listener::Tunneling,
        route::{AppendAction, HeaderMutations, HeaderText},
    },
    upstream::TunnelRequest,
    worker::Connection,
};

impl Tunneling {
    pub(super) fn request(&self, connection: &Connection) -> TunnelRequest {
        let mut entry = Entry::new(SystemTime::now() - connection.accepted.elapsed());
        entry.downstream = connection.log_info();
        entry.filter_chain = Some(&connection.chain.name);
        TunnelRequest {
            authority: render(&self.hostname, &entry),
            post: self.post_path.clone(),
            headers: headers(&self.headers, &entry),
        }
    }
}

fn headers(mutations: &HeaderMutations, entry: &Entry<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for addition in &mutations.add {
        let text = match &addition.value {
            HeaderText::Literal(text) => text.clone(),
            HeaderText::Template(template) => render(template, entry),
        };
        // What a client or a certificate says may be no header value.
        let Ok(value) = HeaderValue::from_maybe_shared(text) else {
            continue;
        };
        if value.is_empty() && !addition.keep_empty {
            continue;
        }
        let name = addition.name.clone();
        let present = headers.contains_key(&name);
        match addition.action {
            AppendAction::AppendOrAdd => {
                headers.append(name, value);
            }
            AppendAction::AddIfAbsent if present => {}
            AppendAction::OverwriteIfExists if !present => {}
            AppendAction::AddIfAbsent
            | AppendAction::OverwriteOrAdd
            | AppendAction::OverwriteIfExists => {
                headers.insert(name, value);
            }
        }
    }
    headers
}

fn render(template: &Template, entry: &Entry<'_>) -> Bytes {
    let mut text = Vec::new();
    template.render(entry, Unset::Empty, &mut text);
    text.into()
}
