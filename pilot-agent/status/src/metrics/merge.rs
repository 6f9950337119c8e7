//! One text of all sources, in one format.

use std::sync::Arc;

use super::{
    format::Format,
    lines::{Keep, Lines},
    output::{Gone, Output},
    own::{Kind, Own},
    scrape::{Error, Reader, Whole},
};

/// What becomes the answer, in its order.
pub(super) struct Merge {
    /// Text.
    pub(super) agent: Vec<u8>,
    /// Text.
    pub(super) data_plane: Option<Reader>,
    /// Families of the data plane that are left out.
    pub(super) without: Option<&'static str>,
    pub(super) workload: Workload,
    /// The answer's: the workload's, which comes last, because the others are both.
    pub(super) format: Format,
    pub(super) own: Arc<Own>,
}

/// What the workload has given.
pub(super) enum Workload {
    None,
    Stream(Reader),
    Whole(Vec<Whole>),
}

impl Merge {
    /// Writes all of it, or as much as the scraper reads.
    pub(super) async fn write(self, mut output: Output) {
        // Nobody is left who could be told.
        if self.write_all(&mut output).await.is_ok() {
            let _ = output.finish().await;
        }
    }

    async fn write_all(self, output: &mut Output) -> Result<(), Gone> {
        let Self {
            agent,
            data_plane,
            without,
            workload,
            format,
            own,
        } = self;
        output
            .write(lines_of(&agent, keep(Format::Text, format)))
            .await?;
        if let Some(reader) = data_plane {
            let mut lines = Lines::new(keep(reader.format, format));
            if let Some(prefix) = without {
                lines = lines.without(prefix);
            }
            copy(reader, lines, Kind::DataPlane, &own, output).await?;
        }
        match workload {
            Workload::None => {}
            Workload::Stream(reader) => {
                let lines = Lines::new(keep(reader.format, format));
                copy(reader, lines, Kind::Application, &own, output).await?;
            }
            Workload::Whole(targets) => {
                for target in targets {
                    let text = lines_of(&target.text, keep(target.format, format));
                    output.write(text).await?;
                }
            }
        }
        if format.is_open_metrics() {
            output.write(b"# EOF\n".to_vec()).await?;
        }
        Ok(())
    }
}

/// What is kept of a source's lines in an answer.
fn keep(source: Format, answer: Format) -> Keep {
    match (source.is_open_metrics(), answer.is_open_metrics()) {
        (true, _) => Keep::WithoutEnd,
        (false, true) => Keep::OpenMetrics,
        (false, false) => Keep::All,
    }
}

fn lines_of(text: &[u8], keep: Keep) -> Vec<u8> {
    let (mut lines, mut out) = (Lines::new(keep), Vec::with_capacity(text.len() + 1));
    // What is whole is not a stream that could grow; a long line of it is left out as in one.
    if lines.push(text, &mut out).is_ok() {
        lines.finish(&mut out);
    }
    out
}

/// Passes on what `reader` sends, and counts it if that breaks off.
async fn copy(
    mut reader: Reader,
    mut lines: Lines,
    kind: Kind,
    own: &Own,
    output: &mut Output,
) -> Result<(), Gone> {
    loop {
        let mut out = Vec::new();
        let failure = match reader.next().await {
            Ok(Some(piece)) => lines.push(&piece, &mut out).err().map(Error::from),
            Ok(None) => {
                lines.finish(&mut out);
                return output.write(out).await;
            }
            Err(error) => Some(error),
        };
        output.write(out).await?;
        if let Some(error) = failure {
            own.failed(kind, &reader.url, &error);
            return Ok(());
        }
    }
}
