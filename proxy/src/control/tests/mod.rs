mod broken;
mod inventory;
mod recordings;
mod support;
mod waits;
mod warming;
