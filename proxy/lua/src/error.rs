//! What goes wrong with scripts.

/// Why a script cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// In Lua's words, with the line.
    #[error("{0}")]
    Script(String),
    #[error("cannot start Lua: {0}")]
    Lua(String),
}

/// Why a run of a script ended before its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// In Lua's words, with the line.
    #[error("{0}")]
    Script(String),
    #[error("the script ran for too long")]
    TooLong,
    #[error("the script needs too much memory")]
    Memory,
    #[error("script performed an unexpected yield")]
    Yield,
}

/// Why a method does not do what it is called for. The script sees the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Of what methods do with Lua: there is no memory for a value.
impl From<mlua::Error> for Failure {
    fn from(error: mlua::Error) -> Self {
        Self(text_of(&error))
    }
}

/// What a script that fails says in place of a text.
const NO_TEXT: &str = "unspecified lua error";

/// Lua's message, without the places that led there.
pub(crate) fn text_of(error: &mlua::Error) -> String {
    let text = match error {
        mlua::Error::RuntimeError(text)
        | mlua::Error::MemoryError(text)
        | mlua::Error::SyntaxError { message: text, .. } => text.clone(),
        mlua::Error::CallbackError { cause, .. } => return text_of(cause),
        other => other.to_string(),
    };
    let end = text.find("\nstack traceback:").unwrap_or(text.len());
    match &text[..end] {
        "" | "nil" | "<unprintable error>" => NO_TEXT.to_owned(),
        message => message.to_owned(),
    }
}

pub(crate) fn is_of_memory(error: &mlua::Error) -> bool {
    match error {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::RuntimeError(_) => text_of(error) == "not enough memory",
        mlua::Error::CallbackError { cause, .. } => is_of_memory(cause),
        _ => false,
    }
}
