//! The descriptors of all Envoy messages, for YAML and JSON.
//!
//! They take 17 MB once decoded, so whoever needs them takes a [`Pool`] and drops it: nothing here
//! stays resident.

use std::{
    io::Read,
    sync::{Arc, Weak},
};

use flate2::read::ZlibDecoder;
use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MessageDescriptor};

/// `FileDescriptorSet` of exactly the files that `envoy-types` was generated from, without source
/// information.
static DESCRIPTORS: &[u8] = include_bytes!("../envoy.fds.zlib");

/// Decoded descriptors; all pools that are alive at one time share them.
#[derive(Clone, Debug)]
pub struct Pool(Arc<DescriptorPool>);

impl Pool {
    pub fn load() -> Self {
        static SHARED: Mutex<Weak<DescriptorPool>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock();
        if let Some(pool) = shared.upgrade() {
            return Self(pool);
        }
        let pool = Arc::new(decode());
        *shared = Arc::downgrade(&pool);
        Self(pool)
    }

    /// A message by its full name.
    pub fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.0.get_message_by_name(name)
    }

    /// An extension by its full name.
    pub(crate) fn extension(&self, name: &str) -> Option<ExtensionDescriptor> {
        self.0.get_extension_by_name(name)
    }
}

fn decode() -> DescriptorPool {
    let mut bytes = Vec::new();
    ZlibDecoder::new(DESCRIPTORS)
        .read_to_end(&mut bytes)
        .expect("the embedded descriptors are compressed with zlib");
    DescriptorPool::decode(bytes.as_slice()).expect("the embedded descriptors are complete")
}
