//! Names of things. Cheap to clone, ordered, compared by value.

use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(Arc<str>);
        id!(@impl $name);

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer).map(Self::from)
            }
        }
    };
    ($(#[$doc:meta])* redacted $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);
        id!(@impl $name);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // First character and length: enough to tell two apart in a log, not to name a person.
                write!(f, "{}…{}", self.0.chars().next().unwrap_or('-'), self.0.chars().count())
            }
        }
    };
    (@impl $name:ident) => {
        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(text: T) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// A node of the mesh: unique, stable over restarts, for example `edge-fra-0`.
    NodeId
}
id! {
    /// A region of the catalogue, for example `fra`.
    RegionId
}
id! {
    /// A room's session id, `RM_…`; a room that ended and starts anew gets another.
    RoomSid
}
id! {
    /// A participant's session id, `PA_…`.
    ParticipantSid
}
id! {
    /// A track's id, `TR_…`.
    TrackSid
}
id! {
    /// A participant's identity as the application chose it. Its `Debug` does not show it.
    redacted Identity
}
