//! Whole lines of what a source sends in pieces.
//!
//! A source that breaks off leaves no half a line behind, which could pass for a sample of another
//! value. In OpenMetrics only certain comments are allowed, and one end of all.

use memchr::{memchr, memrchr};

/// The longest line; a source with a longer one is not well.
pub(super) const MAX_LINE: usize = 64 << 10;

/// Which lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    /// Not the end of OpenMetrics, which comes after all sources, if at all.
    WithoutEnd,
    /// Of a text, what is OpenMetrics as well.
    OpenMetrics,
}

/// A line is longer than [`MAX_LINE`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line is longer than {MAX_LINE} bytes")]
pub(super) struct TooLong;

/// Takes pieces and gives whole lines.
#[derive(Debug)]
pub(super) struct Lines {
    keep: Keep,
    /// Families whose names begin so are left out.
    without: Option<&'static str>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            without: None,
            rest: Vec::new(),
        }
    }

    /// Leaves out families whose names begin with `prefix`.
    pub(super) fn without(mut self, prefix: &'static str) -> Self {
        self.without = Some(prefix);
        self
    }

    /// Appends to `out` the lines that end in `piece`.
    ///
    /// # Errors
    /// A line that is too long; `out` has the whole lines before it.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        let Some(first) = memchr(b'\n', piece) else {
            return self.hold(piece);
        };
        self.hold(&piece[..=first])?;
        let line = std::mem::take(&mut self.rest);
        self.keep_lines(&line, out);
        let piece = &piece[first + 1..];
        let whole = memrchr(b'\n', piece).map_or(0, |last| last + 1);
        self.keep_lines(&piece[..whole], out);
        self.hold(&piece[whole..])
    }

    /// Appends a last line without an end, after a source that has not broken off.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.rest.push(b'\n');
            let line = std::mem::take(&mut self.rest);
            self.keep_lines(&line, out);
        }
    }

    fn hold(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        if self.rest.len() + piece.len() > MAX_LINE {
            return Err(TooLong);
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    fn keep_lines(&self, lines: &[u8], out: &mut Vec<u8>) {
        if self.keep == Keep::All && self.without.is_none() {
            return out.extend_from_slice(lines);
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = line.trim_ascii();
            let kept = match self.keep {
                Keep::All => true,
                Keep::WithoutEnd => text != b"# EOF",
                Keep::OpenMetrics => is_open_metrics(text),
            };
            let left_out = self
                .without
                .is_some_and(|prefix| is_of_family(text, prefix));
            if kept && !left_out {
                out.extend_from_slice(line);
            }
        }
    }
}

/// Whether a sample, or a comment on a family, is of one whose name begins so.
fn is_of_family(line: &[u8], prefix: &str) -> bool {
    let comment = [&b"# TYPE "[..], b"# HELP ", b"# UNIT "];
    let name = comment.iter().find_map(|start| line.strip_prefix(*start));
    name.unwrap_or(line).starts_with(prefix.as_bytes())
}

/// Of the lines of a text: no empty ones, no comments of people, and no type that is none.
fn is_open_metrics(line: &[u8]) -> bool {
    match line.first() {
        None => false,
        Some(b'#') => {
            let is_type = line.starts_with(b"# TYPE ") && !line.ends_with(b" untyped");
            is_type || line.starts_with(b"# HELP ") || line.starts_with(b"# UNIT ")
        }
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(keep: Keep, text: &str, size: usize) -> String {
        let (mut lines, mut out) = (Lines::new(keep), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            lines.push(piece, &mut out).unwrap();
        }
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_kept_however_they_are_cut() {
        let text = "# TYPE a counter\na 1\n\n# a remark\n# TYPE b untyped\nb 2\n# EOF\r\n";
        for size in 1..=text.len() {
            assert_eq!(through(Keep::All, text, size), text);
            let expected = text.replace("# EOF\r\n", "");
            assert_eq!(through(Keep::WithoutEnd, text, size), expected);
            let expected = "# TYPE a counter\na 1\nb 2\n";
            assert_eq!(through(Keep::OpenMetrics, text, size), expected);
        }
        assert_eq!(through(Keep::All, "a 1", 2), "a 1\n");
        assert_eq!(through(Keep::WithoutEnd, "a 1\n# EOF", 2), "a 1\n");
        assert_eq!(through(Keep::All, "", 1), "");
    }

    #[test]
    fn families_are_left_out_with_their_comments() {
        let mut lines = Lines::new(Keep::All).without("process_");
        let mut out = Vec::new();
        let text = "# HELP process_a b\n# TYPE process_a gauge\nprocess_a{} 1\nprocessing 1\n# x\n";
        lines.push(text.as_bytes(), &mut out).unwrap();
        assert_eq!(out, b"processing 1\n# x\n");
    }

    #[test]
    fn half_a_line_is_none() {
        let (mut lines, mut out) = (Lines::new(Keep::All), Vec::new());
        lines.push(b"a 1\nb 12", &mut out).unwrap();
        assert_eq!(out, b"a 1\n");
    }

    #[test]
    fn a_line_has_an_end() {
        let (mut lines, mut out) = (Lines::new(Keep::All), Vec::new());
        let long = vec![b'x'; MAX_LINE];
        lines.push(b"a 1\n", &mut out).unwrap();
        lines.push(&long, &mut out).unwrap();
        assert_eq!(lines.push(b"x", &mut out), Err(TooLong));
        let (mut lines, mut out) = (Lines::new(Keep::All), Vec::new());
        let many = b"a 1\n".repeat(MAX_LINE);
        lines.push(&many, &mut out).unwrap();
        assert_eq!(out.len(), many.len(), "many lines are not a long one");
    }
}
