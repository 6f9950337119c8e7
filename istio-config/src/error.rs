//! What is wrong with a resource, in the words of whoever wrote it.

use std::{fmt, path::PathBuf};

/// One fault: which file, which resource, which field, and what about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct ConfigError {
    /// Relative to the folder; `None` for what no single file says.
    pub file: Option<PathBuf>,
    pub object: Option<ObjectId>,
    /// Path of the field, such as `spec.http[0].mirror`; empty for the whole resource.
    pub field: String,
    /// Lower-case, without a final period.
    pub message: String,
}

/// Kind and name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl ConfigError {
    /// A fault of a whole file, such as a syntax error.
    pub fn in_file(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            file: Some(file.into()),
            object: None,
            field: String::new(),
            message: message.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            separator = ": ";
        }
        if let Some(object) = &self.object {
            write!(f, "{separator}{object}")?;
            separator = ": ";
        }
        if !self.field.is_empty() {
            write!(f, "{separator}{}", self.field)?;
            separator = ": ";
        }
        write!(f, "{separator}{}", self.message)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
