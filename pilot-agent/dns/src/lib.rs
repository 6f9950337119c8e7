//! The agent's DNS proxy: names of the mesh are answered from the table that istiod sends, all others
//! by the servers that the workload's own `resolv.conf` names.
//!
//! It knows the table and sockets, nothing of where the table comes from. What others can open or send
//! is bounded: connections, queries under way, messages and the time that any of them may take.

mod name;
mod proxy;
mod query;
mod reply;
mod resolv_conf;
mod service;
mod table;
mod tcp;
mod udp;
mod upstream;

pub use proxy::{DnsProxy, Options, StartError};
pub use resolv_conf::{ResolvConf, ResolvConfError};
pub use service::{Counts, Status};
pub use table::{Place, Table};
