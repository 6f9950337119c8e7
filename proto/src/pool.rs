//! The descriptors of all Envoy messages and of Istio's own, for YAML and JSON.
//!
//! They take 17 MB once decoded, so whoever needs them takes a [`Pool`] and drops it: nothing here
//! stays resident.

use std::{
    io::Read,
    sync::{Arc, OnceLock, Weak},
};

use flate2::read::ZlibDecoder;
use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MessageDescriptor};

/// `FileDescriptorSet` of exactly the files that `envoy-types` was generated from, without source
/// information.
static DESCRIPTORS: &[u8] = include_bytes!("../envoy.fds.zlib");

/// `FileDescriptorSet` of the messages in [`crate::istio`].
static ISTIO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/istio.fds"));

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

    /// Istio's messages alone, which are few: a control plane that sends them often costs little.
    pub(crate) fn istio() -> Self {
        static ISTIO_ALONE: OnceLock<Pool> = OnceLock::new();
        let pool = ISTIO_ALONE.get_or_init(|| {
            let pool = DescriptorPool::decode(ISTIO).expect("the built descriptors are complete");
            Self(Arc::new(pool))
        });
        pool.clone()
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
    let mut pool =
        DescriptorPool::decode(bytes.as_slice()).expect("the embedded descriptors are complete");
    pool.decode_file_descriptor_set(ISTIO)
        .expect("the built descriptors need nothing but well-known types");
    pool
}
