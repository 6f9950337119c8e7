//! The words of an expression.

use super::ExpressionError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Int(i64),
    /// An operator or a bracket.
    Sign(&'static str),
}

/// The longer ones first.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ".", ",", "?", ":", "+",
    "-",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ExpressionError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if first.is_ascii_alphabetic() || first == '_' {
            name(rest)
        } else if first.is_ascii_digit() {
            number(rest)?
        } else if first == '"' || first == '\'' {
            quoted(rest, first)?
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| error(format!("unexpected {first:?}")))?;
            (Token::Sign(sign), sign.len())
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn name(text: &str) -> (Token, usize) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (Token::Name(name.to_owned()), name.len())
}

/// Whole numbers only; `u` says that one is unsigned.
fn number(text: &str) -> Result<(Token, usize), ExpressionError> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let digits = &text[..end.unwrap_or(text.len())];
    let value = digits
        .parse()
        .map_err(|_| error(format!("{digits} is out of range")))?;
    let after = &text[digits.len()..];
    let suffix = usize::from(after.starts_with(['u', 'U']));
    let is_whole = !after[suffix..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
    match is_whole {
        true => Ok((Token::Int(value), digits.len() + suffix)),
        false => Err(error(format!("{digits}: only whole numbers are supported"))),
    }
}

fn quoted(text: &str, quote: char) -> Result<(Token, usize), ExpressionError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(value), at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('\\' | '\'' | '"' | '`' | '?'))) => value.push(c),
                other => {
                    let other = other.map_or(' ', |(_, c)| c);
                    return Err(error(format!("the escape \\{other} is not supported")));
                }
            },
            c => value.push(c),
        }
    }
    Err(error("a text has no end".into()))
}

fn error(message: String) -> ExpressionError {
    ExpressionError(message)
}
