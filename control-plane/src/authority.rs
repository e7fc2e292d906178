//! Who carries out what applications' servers ask for.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::actor::Handle;
use crate::core::{Answer, Call, CallError};

/// Carries out calls. With one control process its task does; with several, [`crate::dispatch::Dispatch`] hands a call to the one
/// that owns the room or has the node's session.
pub trait Authority: fmt::Debug + Send + Sync {
    /// Does what is asked for.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>>;
}

impl Authority for Handle {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(Self::call(self, call))
    }
}
