mod broken;
mod inventory;
mod leaving;
mod recordings;
mod support;
mod waits;
mod warming;
