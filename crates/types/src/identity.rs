//! Who is who: clusters, volumes, groups, segments, nodes and availability zones.

use std::fmt;
use std::str::FromStr;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$name, NameError> {
                let bad = || NameError { text: text.to_owned(), rule: "32 hexadecimal digits" };
                if text.len() != 32 {
                    return Err(bad());
                }
                u128::from_str_radix(text, 16).map($name).map_err(|_| bad())
            }
        }
    };
}

random_id! {
    /// One installation: its nodes and control plane talk to no other's.
    ClusterId
}
random_id! {
    /// One database cluster's page space and log.
    VolumeId
}
random_id! {
    /// One life of a node's disk: a wiped disk comes back with another.
    Incarnation
}

/// A text that does not follow a name's rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid name; expected {rule}")]
pub struct NameError {
    text: String,
    rule: &'static str,
}

/// A protection group's number within its volume. Group 0 also holds the catalog.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the six places of a group's member set, `0..6`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberIndex(u8);

impl MemberIndex {
    /// The place with this number; `None` at six and above.
    #[must_use]
    pub fn new(index: usize) -> Option<MemberIndex> {
        u8::try_from(index).ok().filter(|i| usize::from(*i) < crate::COPIES).map(MemberIndex)
    }

    /// The number, `0..6`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All six places.
    pub fn all() -> impl Iterator<Item = MemberIndex> {
        (0..crate::COPIES).filter_map(MemberIndex::new)
    }
}

/// A segment: one group's copy, wherever it is held. Its holder is named by the member set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId {
    /// The volume.
    pub volume: VolumeId,
    /// The group within it.
    pub group: GroupId,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.volume, self.group)
    }
}

/// An availability zone, a single lower-case letter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Az(u8);

impl fmt::Display for Az {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.0))
    }
}

impl FromStr for Az {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Az, NameError> {
        match text.as_bytes() {
            [letter] if letter.is_ascii_lowercase() => Ok(Az(*letter)),
            _ => Err(NameError { text: text.to_owned(), rule: "one letter, a to z" }),
        }
    }
}

/// A node's name, unique in its cluster: 1 to 15 lower-case letters, digits and hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 15]);

impl NodeId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.0.get(..length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NodeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<NodeId, NameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let mut name = [0; 15];
        let bytes = text.as_bytes();
        match name.get_mut(..bytes.len()) {
            Some(place) if !bytes.is_empty() && bytes.iter().all(|byte| allowed(*byte)) => {
                place.copy_from_slice(bytes);
                Ok(NodeId(name))
            }
            _ => Err(NameError {
                text: text.to_owned(),
                rule: "1 to 15 lower-case letters, digits or hyphens",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rules() {
        let a1: NodeId = "a1".parse().expect("valid");
        assert_eq!(a1.to_string(), "a1");
        for bad in ["", "A1", "a_1", "abcdefghijklmnop", "é"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad} must be refused");
        }
        assert!("b".parse::<Az>().is_ok());
        assert!("bb".parse::<Az>().is_err());
        let volume = VolumeId(7);
        assert_eq!(volume.to_string().parse(), Ok(volume));
    }

    #[test]
    fn there_are_six_members() {
        assert_eq!(MemberIndex::all().count(), 6);
        assert!(MemberIndex::new(6).is_none());
    }
}
