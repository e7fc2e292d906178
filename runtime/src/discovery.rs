//! Which processes of the mesh there are: each registers itself as a service and keeps saying that it lives; everybody can
//! watch. Consul is the registry of a mesh on several machines ([`consul`]), [`builtin`] that of one process; one suite of
//! tests runs against both.
//!
//! When the registry is gone, watchers keep what it said last, and say so ([`View::current`]).

mod announce;
pub mod builtin;
pub mod consul;
pub mod srv;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

pub use announce::{Described, announce};
pub use watch::{View, watch};

/// Name under which control replicas register.
pub const CONTROL: &str = "antipode-control";
/// Name under which edges register.
pub const EDGE: &str = "antipode-edge";
/// Name under which relays register.
pub const RELAY: &str = "antipode-relay";

/// A future that owns or borrows what it needs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a registry did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL or token cannot be used. What they say is not shown.
    #[error("the registry's {0} cannot be used")]
    Setting(&'static str),
    /// It does not answer.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// It refused.
    #[error("refused with {status}: {text}")]
    Refused {
        /// Status of its answer.
        status: u16,
        /// What it said, shortened.
        text: String,
    },
    /// It does not know the service any more: it has to be registered again.
    #[error("service {0:?} is not registered")]
    Unknown(String),
    /// Its answer is not of the shape that is documented.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// A process as it registers itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// What it is: [`CONTROL`], [`EDGE`] or [`RELAY`].
    pub name: String,
    /// Unique among all: a node's id (letters, digits, `.`, `_`, `-`).
    pub id: String,
    /// Host name or address where others reach it.
    pub address: String,
    /// Port where others reach it.
    pub port: u16,
    /// Labels to look for, for example `region=fra`.
    pub tags: Vec<String>,
    /// What else is to be known: role, region, version, load, addresses.
    pub meta: BTreeMap<String, String>,
    /// It is critical when it did not say for so long that it lives.
    pub ttl: Duration,
    /// `host:port` of a gRPC health service, for the registry to ask as well.
    pub grpc: Option<String>,
}

/// How a registered process fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// All checks pass.
    Passing,
    /// Some check warns, none is critical.
    Warning,
    /// Some check is critical.
    Critical,
}

/// A registered process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Host name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Labels.
    pub tags: Vec<String>,
    /// What else is known.
    pub meta: BTreeMap<String, String>,
    /// How it fares.
    pub health: Health,
    /// What it said of itself last, for example its load.
    pub note: String,
}

/// The state of a registry that an answer is of. Grows with every change; goes back when the registry lost its state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Index(pub u64);

/// All processes of a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// By id.
    pub instances: BTreeMap<String, Instance>,
    /// The state they are of.
    pub index: Index,
}

/// A registry of processes.
pub trait Registry: fmt::Debug + Send + Sync {
    /// Registers a process, or replaces what it said before. It passes from then on.
    fn register<'a>(&'a self, service: &'a Service) -> BoxFuture<'a, Result<(), Error>>;

    /// The process lives. Consul shows the note up to five minutes late unless its state changes (`check_update_interval`):
    /// what others act on belongs into [`Service::meta`].
    ///
    /// # Errors
    /// [`Error::Unknown`] when it is not registered any more.
    fn pass<'a>(&'a self, id: &'a str, note: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The process ends.
    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// All processes of a name, once the registry's state is another one than `after`, or `wait` has passed. An index of 0
    /// does not wait.
    fn list<'a>(
        &'a self,
        name: &'a str,
        after: Index,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Listing, Error>>;
}
