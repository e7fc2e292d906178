//! Which room: names are chosen by applications, and two projects may choose the same one.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The project of API keys that come from the configuration.
pub const DEFAULT_PROJECT: &str = "default";

/// Between project and name.
const SEPARATOR: char = '/';

/// A room's project and name. Everything that tells rooms apart within the mesh compares this, never the name alone.
///
/// As text, between nodes and in stores, it is `project/name`. A room of the project `default` is its plain name, unless that
/// has a `/` in it. So every text is exactly one room, and no two rooms are the same text: a project's id has no `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId {
    text: Arc<str>,
}

/// A name that no room may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// It has no characters.
    Empty,
    /// A character of it moves the cursor, ends a line or ends a text: a name is shown, logged and stored as one line.
    Control,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Control => "has a control character in it",
        })
    }
}

impl std::error::Error for BadName {}

/// Checks a name that an application chose: of a room, or a participant's identity.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), BadName> {
    // Line and paragraph separators end lines as well, for some.
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if name.is_empty() {
        Err(BadName::Empty)
    } else if name.contains(breaks) {
        Err(BadName::Control)
    } else {
        Ok(())
    }
}

impl RoomId {
    /// The room of a project that has this name.
    ///
    /// # Errors
    /// When no room may be called that.
    pub fn new(project: &str, name: &str) -> Result<Self, BadName> {
        check_name(name).map(|()| Self::join(project, name))
    }

    fn join(project: &str, name: &str) -> Self {
        let text = if project == DEFAULT_PROJECT && !name.contains(SEPARATOR) {
            Arc::from(name)
        } else {
            Arc::from(format!("{project}{SEPARATOR}{name}"))
        };
        Self { text }
    }

    /// The room of that name in the same project.
    ///
    /// # Errors
    /// When no room may be called that.
    pub fn beside(&self, name: &str) -> Result<Self, BadName> {
        Self::new(self.project(), name)
    }

    /// The id of its project.
    pub fn project(&self) -> &str {
        self.text
            .split_once(SEPARATOR)
            .map_or(DEFAULT_PROJECT, |(project, _)| project)
    }

    /// Its name as the application chose it: what clients and applications are told.
    pub fn name(&self) -> &str {
        self.text
            .split_once(SEPARATOR)
            .map_or(&*self.text, |(_, name)| name)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// From text as nodes and stores have it. Any text is a room.
impl<T: Into<Arc<str>>> From<T> for RoomId {
    fn from(text: T) -> Self {
        let text = text.into();
        match text.split_once(SEPARATOR) {
            // Longer than need be: the same room must not have two texts.
            Some((DEFAULT_PROJECT, name)) if !name.contains(SEPARATOR) => Self {
                text: Arc::from(name),
            },
            _ => Self { text },
        }
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Borrow<str> for RoomId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Serialize for RoomId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for RoomId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_has_one_text_and_every_text_is_one_room() {
        let projects = [DEFAULT_PROJECT, "acme", "b"];
        let names = [
            "lounge",
            "/",
            "a/b",
            "acme/lounge",
            "default/lounge",
            "default",
            "/x",
            "x/",
            "//",
        ];
        let mut texts = std::collections::BTreeSet::new();
        for project in projects {
            for name in names {
                let room = RoomId::new(project, name).expect("a good name");
                assert_eq!((room.project(), room.name()), (project, name));
                assert!(texts.insert(room.to_string()), "{room} is two rooms");
                assert_eq!(RoomId::from(room.to_string()), room, "read again");
            }
        }
        assert_eq!(
            RoomId::new("default", "lounge").expect("good").as_str(),
            "lounge"
        );
        assert_eq!(
            RoomId::new("acme", "lounge").expect("good").as_str(),
            "acme/lounge"
        );
        assert_eq!(RoomId::from("default/lounge"), RoomId::from("lounge"));
        let other = RoomId::from("acme/x").beside("y").expect("good");
        assert_eq!(other.as_str(), "acme/y");
    }

    #[test]
    fn names_are_one_line() {
        for bad in [
            "\r\n",
            "a\nb",
            "a\0",
            "\u{1b}[31m",
            "\u{85}",
            "\u{2028}",
            "\u{7f}",
        ] {
            assert_eq!(RoomId::new("acme", bad), Err(BadName::Control), "{bad:?}");
        }
        assert_eq!(RoomId::new("acme", ""), Err(BadName::Empty));
        for good in [
            "'; DROP TABLE rooms; --",
            "Zoë's 会議室 🎉",
            " ",
            "%00",
            "../..",
        ] {
            assert!(RoomId::new("acme", good).is_ok(), "{good:?}");
        }
    }
}
