//! Which replica owns what: every room, and what is shown of every node, belongs to one of the replicas that take part, by
//! rendezvous hashing. When one goes, only what was its own moves.

use std::collections::BTreeSet;

/// The replicas that take part, as one of them sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring {
    own: String,
    members: BTreeSet<String>,
}

impl Ring {
    /// One replica that owns everything.
    pub fn alone(own: impl Into<String>) -> Self {
        let own = own.into();
        Self {
            members: BTreeSet::from([own.clone()]),
            own,
        }
    }

    /// These members, as the replica `own` sees it, which need not be one of them.
    pub fn new(own: impl Into<String>, members: impl IntoIterator<Item = String>) -> Self {
        Self {
            own: own.into(),
            members: members.into_iter().collect(),
        }
    }

    /// Those who take part.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// Whose a name is; `None` while nobody takes part.
    pub fn owner(&self, name: &str) -> Option<&str> {
        let weighed = self.members().map(|member| (weight(member, name), member));
        weighed.max().map(|(_, member)| member)
    }

    /// Whether a name is this replica's.
    pub fn owns(&self, name: &str) -> bool {
        match self.members.len() {
            0 => false,
            1 => self.members.contains(&self.own),
            _ => self.owner(name) == Some(&self.own),
        }
    }
}

/// Rendezvous weight: FNV-1a, whose last bytes hardly reach the high bits, mixed as splitmix64 does. Stable over versions.
fn weight(member: &str, name: &str) -> u64 {
    let bytes = member.bytes().chain([0]).chain(name.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(own: &str, members: &[&str]) -> Ring {
        Ring::new(own, members.iter().map(|&member| member.to_owned()))
    }

    #[test]
    fn only_what_was_the_dead_ones_moves_and_it_spreads() {
        let (all, left) = (ring("a", &["a", "b", "c"]), ring("a", &["a", "c"]));
        let mut moved = [0, 0];
        for number in 0..3_000 {
            let room = format!("room-{number}");
            let (before, after) = (all.owner(&room).unwrap(), left.owner(&room).unwrap());
            if before == "b" {
                moved[usize::from(after == "c")] += 1;
            } else {
                assert_eq!(before, after);
            }
            assert_eq!(all.owns(&room), before == "a");
        }
        // A third each, half of which goes to either.
        assert!(
            moved.iter().all(|count| (430..570).contains(count)),
            "{moved:?}"
        );
    }

    #[test]
    fn nobody_owns_anything_in_an_empty_ring() {
        assert!(Ring::alone("a").owns("R"));
        assert_eq!(ring("a", &[]).owner("R"), None);
        assert!(!ring("a", &[]).owns("R"));
        assert!(!ring("a", &["b"]).owns("R"));
    }
}
