mod recordings;
mod support;
mod warming;
