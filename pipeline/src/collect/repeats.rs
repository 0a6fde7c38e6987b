//! Events that a producer sent twice: noticed within a bounded stretch of the past.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use ranking::events::Timestamp;
use xxhash_rust::xxh3::Xxh3;

/// Events of a partition that are remembered at least; twice as many at most.
const REMEMBERED: usize = 64 << 10;

/// Hashes of the sessions, queries and times of late.
#[derive(Default)]
pub struct Repeats {
    young: HashSet<u64, BuildHasherDefault<AsIs>>,
    old: HashSet<u64, BuildHasherDefault<AsIs>>,
}

impl Repeats {
    /// Whether this session, query and time came a short while ago.
    pub fn again(&mut self, session: &str, query: &str, at: Timestamp) -> bool {
        let mut hash = Xxh3::new();
        hash.update(session.as_bytes());
        // Neither holds it, so that no two pairs read alike.
        hash.update(&[0xFF]);
        hash.update(query.as_bytes());
        hash.update(&at.0.to_le_bytes());
        let key = hash.digest();
        if self.young.len() >= REMEMBERED {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        !self.young.insert(key) || self.old.contains(&key)
    }
}

/// The keys are hashes already.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_noticed_until_it_is_long_ago() {
        let mut repeats = Repeats::default();
        assert!(!repeats.again("s", "q", Timestamp(1)));
        assert!(!repeats.again("s", "q", Timestamp(2)));
        assert!(!repeats.again("sq", "", Timestamp(1)));
        assert!(repeats.again("s", "q", Timestamp(1)));
        for at in 0..REMEMBERED as i64 {
            repeats.again("other", "q", Timestamp(at));
        }
        assert!(repeats.again("s", "q", Timestamp(2)), "still remembered");
        for at in 0..2 * REMEMBERED as i64 {
            repeats.again("another", "q", Timestamp(at));
        }
        assert!(!repeats.again("sq", "", Timestamp(1)), "forgotten");
        assert!(repeats.young.len() + repeats.old.len() <= 2 * REMEMBERED);
    }
}
