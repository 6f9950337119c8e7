//! Which entries are logged (`AccessLogFilter`).

use super::{Entry, Expression, Needs, ResponseFlags};

/// Decides whether an entry is logged.
#[derive(Clone, Debug)]
pub enum Filter {
    All(Vec<Self>),
    Any(Vec<Self>),
    /// Any of these; `None`: any flag at all.
    Flags(Option<ResponseFlags>),
    StatusCode(Comparison),
    /// Milliseconds.
    Duration(Comparison),
    NotHealthCheck,
    /// `envoy.access_loggers.extension_filters.cel`.
    Expression(Expression),
}

/// `ComparisonFilter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal(u32),
    AtLeast(u32),
    AtMost(u32),
    NotEqual(u32),
}

impl Filter {
    pub fn admits(&self, entry: &Entry<'_>) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.admits(entry)),
            Self::Any(filters) => filters.iter().any(|filter| filter.admits(entry)),
            Self::Flags(None) => !entry.flags.is_empty(),
            Self::Flags(Some(flags)) => entry.flags.intersects(*flags),
            Self::StatusCode(comparison) => {
                comparison.holds(entry.response_code.unwrap_or(0).into())
            }
            Self::Duration(comparison) => entry
                .durations
                .total
                .is_some_and(|total| comparison.holds(total.as_millis())),
            Self::NotHealthCheck => entry
                .request_headers
                .is_none_or(|headers| headers.get("x-envoy-hc").is_none()),
            Self::Expression(expression) => expression.holds(entry),
        }
    }

    /// Adds the response's headers that it asks for.
    pub(super) fn needs(&self, needs: &mut Needs) {
        match self {
            Self::All(filters) | Self::Any(filters) => {
                filters.iter().for_each(|filter| filter.needs(needs));
            }
            Self::Expression(expression) => {
                let names = expression.response_headers().into_iter();
                names.for_each(|name| needs.response_header(name));
            }
            _ => {}
        }
    }
}

impl Comparison {
    fn holds(self, value: u128) -> bool {
        match self {
            Self::Equal(limit) => value == limit.into(),
            Self::AtLeast(limit) => value >= limit.into(),
            Self::AtMost(limit) => value <= limit.into(),
            Self::NotEqual(limit) => value != limit.into(),
        }
    }
}
