mod broken;
mod recordings;
mod support;
mod waits;
mod warming;
