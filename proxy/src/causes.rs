//! How an error is told to whoever started a program.

use std::fmt::Write;

/// The error and its causes, each once: many of ours name their cause in their own words already.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            // Writing to text does not fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || anyhow!("no such file");
        assert_eq!(told(&cause()), "no such file");
        let named = cause().context("cannot read a.yaml: no such file; set --config-path");
        assert_eq!(
            told(&named),
            "cannot read a.yaml: no such file; set --config-path"
        );
        let unnamed = cause().context("cannot read a.yaml").context("start");
        assert_eq!(told(&unnamed), "start: cannot read a.yaml: no such file");
    }
}
