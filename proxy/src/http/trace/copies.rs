//! Spans of copies of requests.

use std::{rc::Rc, sync::Arc};

use super::{Ended, Exchange, span::Span, tags::Tags};
use crate::{
    config::{Cluster, trace::Tracer},
    http::{call::Answer, headers::Headers},
    worker::Worker,
};

/// The span of one copy, below that of its request.
#[derive(Debug)]
pub(in crate::http) struct CopySpan {
    span: Span,
    tracer: Arc<Tracer>,
}

impl Exchange<'_> {
    /// Whoever gets the copy is told of its span in `headers`. `sampled`: as the request's, if that is not said.
    pub(in crate::http) fn copy_span(
        &self,
        sampled: Option<bool>,
        headers: &mut Headers,
    ) -> Option<CopySpan> {
        let tracing = self.context.manager.tracing.as_ref()?;
        let tracer = Arc::clone(tracing.tracer.as_ref()?);
        let mut span = self
            .trace
            .as_ref()?
            .span
            .as_ref()?
            .child("mirror".to_owned());
        span.ids.sampled = sampled.unwrap_or(span.ids.sampled);
        span.tell(&tracer.dialect, headers);
        Some(CopySpan { span, tracer })
    }
}

impl CopySpan {
    /// The copy was answered, or not.
    pub(in crate::http) fn end(
        self,
        worker: &Rc<Worker>,
        cluster: &Cluster,
        answer: Option<&Answer>,
    ) {
        if self.span.ids.sampled {
            let ended = Ended {
                name: (&*self.span.name).into(),
                span: &self.span,
                tags: Tags::of_copy(cluster, answer),
            };
            ended.tell(&self.tracer, worker);
        }
    }
}
