//! Messages as trees of fields, to compare them and to say where they differ.
//!
//! The tree is read from the text that Rust's `Debug` gives a message: it names every field, the
//! fields without a value too. An `Any` is decoded first, so that its fields are compared as well.

use std::{collections::BTreeMap, fmt::Debug};

use ithildin_proto::pb::envoy::extensions as ext;
use prost::{Message, Name};

/// A message, a list, or the text of a value.
#[derive(Debug, PartialEq)]
pub(crate) enum Tree {
    Text(String),
    List(Vec<Self>),
    Fields(BTreeMap<String, Self>),
}

/// One field that differs.
#[derive(Debug)]
pub(crate) struct Difference {
    /// Indices are left out: the same difference in each chain and route is one.
    pub(crate) path: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl Tree {
    pub(crate) fn of(message: &impl Debug) -> Self {
        let text = decode_any(&format!("{message:?}"));
        let mut parser = Parser { rest: &text };
        let tree = parser.value();
        assert!(parser.rest.trim().is_empty(), "not read: {}", parser.rest);
        tree
    }

    /// Every field of `self` that is different in `theirs`.
    pub(crate) fn differences(&self, theirs: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        compare(Some(self), Some(theirs), "", &mut found);
        found
    }
}

fn compare(ours: Option<&Tree>, theirs: Option<&Tree>, path: &str, found: &mut Vec<Difference>) {
    match (ours, theirs) {
        (Some(Tree::Fields(ours)), Some(Tree::Fields(theirs))) => {
            let names = ours
                .keys()
                .chain(theirs.keys().filter(|name| !ours.contains_key(*name)));
            for name in names {
                let path = format!("{path}.{name}");
                compare(
                    ours.get(name),
                    theirs.get(name),
                    path.trim_start_matches('.'),
                    found,
                );
            }
        }
        (Some(Tree::List(ours)), Some(Tree::List(theirs))) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter().zip(theirs) {
                compare(Some(ours), Some(theirs), path, found);
            }
        }
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => found.push(Difference {
            path: path.to_owned(),
            ours: format!("{ours:?}"),
            theirs: format!("{theirs:?}"),
        }),
    }
}

/// Replaces the text of each `Any` by the text of the message in it.
fn decode_any(text: &str) -> String {
    const START: &str = "Any { type_url: \"";
    let mut decoded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(START) {
        decoded.push_str(&rest[..start]);
        let any = &rest[start + START.len()..];
        let (url, any) = any.split_once("\", value: [").expect("the text of an Any");
        let (bytes, any) = any.split_once("] }").expect("the text of an Any");
        let bytes: Vec<u8> = bytes
            .split(", ")
            .filter(|byte| !byte.is_empty())
            .map(|byte| byte.parse().expect("a byte"))
            .collect();
        decoded.push_str(&decode_any(&message_text(url, &bytes)));
        rest = any;
    }
    decoded.push_str(rest);
    decoded
}

fn message_text(url: &str, bytes: &[u8]) -> String {
    fn text<M: Message + Name + Default + Debug>(url: &str, bytes: &[u8]) -> Option<String> {
        (url == M::type_url()).then(|| format!("{:?}", M::decode(bytes).expect("the message")))
    }
    macro_rules! first {
        ($($message:ty),* $(,)?) => {
            None$(.or_else(|| text::<$message>(url, bytes)))*
        };
    }
    first!(
        ext::access_loggers::file::v3::FileAccessLog,
        ext::filters::http::cors::v3::Cors,
        ext::filters::http::fault::v3::HttpFault,
        ext::filters::http::grpc_stats::v3::FilterConfig,
        ext::filters::http::router::v3::Router,
        ext::filters::listener::http_inspector::v3::HttpInspector,
        ext::filters::listener::original_dst::v3::OriginalDst,
        ext::filters::listener::tls_inspector::v3::TlsInspector,
        ext::filters::network::http_connection_manager::v3::HttpConnectionManager,
        ext::filters::network::tcp_proxy::v3::TcpProxy,
        ext::network::dns_resolver::cares::v3::CaresDnsResolverConfig,
        ext::request_id::uuid::v3::UuidRequestIdConfig,
        ext::retry::host::previous_hosts::v3::PreviousHostsPredicate,
        ext::transport_sockets::raw_buffer::v3::RawBuffer,
        ext::transport_sockets::tls::v3::DownstreamTlsContext,
        ext::transport_sockets::tls::v3::UpstreamTlsContext,
        ext::upstreams::http::v3::HttpProtocolOptions,
    )
    .unwrap_or_else(|| panic!("no decoder for {url}"))
}

/// Reads the text of `Debug`.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn value(&mut self) -> Tree {
        match self.peek() {
            '[' => Tree::List(self.items('[', ']', Self::value)),
            '{' => Tree::Fields(self.fields()),
            _ => {
                let name = self.token();
                match self.peek() {
                    '{' => Tree::Fields(self.fields()),
                    '(' => self.variant(name),
                    _ => Tree::Text(name.to_owned()),
                }
            }
        }
    }

    /// `Some(x)` is `x`; another variant is a field of its name.
    fn variant(&mut self, name: &str) -> Tree {
        let mut items = self.items('(', ')', Self::value);
        let inner = if items.len() == 1 {
            items.remove(0)
        } else {
            Tree::List(items)
        };
        if name == "Some" {
            inner
        } else {
            Tree::Fields([(name.to_owned(), inner)].into())
        }
    }

    fn fields(&mut self) -> BTreeMap<String, Tree> {
        let fields = self.items('{', '}', |parser| {
            let name = parser.token().trim_matches('"').to_owned();
            parser.take(':');
            (name, parser.value())
        });
        fields.into_iter().collect()
    }

    fn items<T>(&mut self, open: char, close: char, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        self.take(open);
        let mut items = Vec::new();
        while self.peek() != close {
            items.push(item(self));
            if self.peek() == ',' {
                self.take(',');
            }
        }
        self.take(close);
        items
    }

    /// A quoted text with its quotes, or a word.
    fn token(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = match self.rest.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    end
                });
                end.expect("a closing quote") + 2
            }
            None => self
                .rest
                .find(|c: char| "{}[](),: ".contains(c))
                .unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn peek(&mut self) -> char {
        self.rest = self.rest.trim_start();
        self.rest.chars().next().unwrap_or('\0')
    }

    fn take(&mut self, expected: char) {
        assert_eq!(self.peek(), expected, "{}", self.rest);
        self.rest = &self.rest[expected.len_utf8()..];
    }
}
