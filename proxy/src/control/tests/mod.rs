mod broken;
mod inventory;
mod leaving;
mod others;
mod recordings;
mod support;
mod waits;
mod warming;
