//! Where reading resumes, decided from what the lake and the topic say. No clock, no IO.

use super::offsets::{Fingerprint, Name, Span};

/// A partition's offsets, as its broker tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The first that is still there.
    pub low: i64,
    /// The one after the last.
    pub high: i64,
}

/// What a topic holds where the lake says that a certain message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// That message.
    Same,
    /// Another one.
    Other,
    /// It was not looked for, or is gone: compacted, or past its retention.
    None,
}

/// Where a partition is read from, and how its next commit is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub name: Name,
    pub from: i64,
    pub odd: Option<Odd>,
}

/// What a person should know about a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// Offsets that were gone before they were read.
    Gap { from: i64, to: i64 },
    /// It is another topic of that name.
    Anew { read: i64 },
    /// It is the same topic, but its end was lost: offsets from `to` on are used again.
    Cut { to: i64, read: i64 },
}

impl Odd {
    pub fn words(self, topic: &str, partition: i32) -> String {
        let place = format!("{topic} p{partition}");
        match self {
            Self::Gap { from, to } => format!(
                "{place}: {} messages are missing, offsets {from} to {}: the topic's retention took them before they were read",
                to - from,
                to - 1
            ),
            Self::Anew { read } => format!(
                "{place}: the topic was made anew after its offset {read} had been read; it is read from its beginning"
            ),
            Self::Cut { to, read } => format!(
                "{place}: the topic lost its end, offsets {to} to {}, which the lake has; what came in their place is read",
                read - 1
            ),
        }
    }
}

/// The message to look for before deciding: the last one that was read.
pub fn wanted(newest: Option<&Span>, marks: Watermarks) -> Option<Fingerprint> {
    newest?.last.filter(|last| (marks.low..marks.high).contains(&last.offset))
}

/// `newest` is the partition's last commit. `evidence` is of the message of [`wanted`]. `remains` is of the last message of the newest commit
/// that ends within the topic, where the last commit does not.
pub fn decide(newest: Option<&Span>, marks: Watermarks, evidence: Evidence, remains: Evidence) -> Start {
    let Some(newest) = newest else {
        // What was gone before the first collector came was never ours.
        return Start { name: Name { life: 0, first: 0 }, from: marks.low, odd: None };
    };
    let anew = Name { life: newest.life + 1, first: 0 };
    let read = newest.next;
    if marks.high < read {
        return match remains {
            Evidence::Same => Start { name: anew, from: marks.high, odd: Some(Odd::Cut { to: marks.high, read }) },
            Evidence::Other | Evidence::None => Start { name: anew, from: marks.low, odd: Some(Odd::Anew { read }) },
        };
    }
    if evidence == Evidence::Other {
        return Start { name: anew, from: marks.low, odd: Some(Odd::Anew { read }) };
    }
    let name = Name { life: newest.life, first: read };
    let gap = marks.low > read;
    Start { name, from: read.max(marks.low), odd: gap.then_some(Odd::Gap { from: read, to: marks.low }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::offsets::Tally;

    fn read_to(next: i64) -> Span {
        let last = Some(Fingerprint { offset: next - 1, hash: 7 });
        let (topic, tally) = ("searches".to_owned(), Tally::default());
        Span { topic, partition: 0, life: 2, first: 10, from: 10, next, last, tally, notice: None }
    }

    fn start(life: u32, first: i64, from: i64, odd: Option<Odd>) -> Start {
        Start { name: Name { life, first }, from, odd }
    }

    const fn marks(low: i64, high: i64) -> Watermarks {
        Watermarks { low, high }
    }

    #[test]
    fn a_new_topic_is_read_from_what_it_has_and_its_first_commit_always_has_the_same_name() {
        assert_eq!(decide(None, marks(0, 50), Evidence::None, Evidence::None), start(0, 0, 0, None));
        assert_eq!(decide(None, marks(30, 50), Evidence::None, Evidence::None), start(0, 0, 30, None));
    }

    #[test]
    fn reading_goes_on_where_the_last_commit_ends() {
        let span = read_to(100);
        for high in [100, 500] {
            assert_eq!(wanted(Some(&span), marks(0, high)).map(|last| last.offset), Some(99));
            for evidence in [Evidence::Same, Evidence::None] {
                let found = decide(Some(&span), marks(0, high), evidence, Evidence::None);
                assert_eq!(found, start(2, 100, 100, None));
            }
        }
        // All that was read is gone, nothing that was not.
        assert_eq!(wanted(Some(&span), marks(100, 120)), None);
        assert_eq!(decide(Some(&span), marks(100, 120), Evidence::None, Evidence::None), start(2, 100, 100, None));
    }

    #[test]
    fn a_gap_is_told_and_the_commit_after_it_is_named_for_where_it_begins() {
        let found = decide(Some(&read_to(100)), marks(130, 200), Evidence::None, Evidence::None);
        assert_eq!(found, start(2, 100, 130, Some(Odd::Gap { from: 100, to: 130 })));
        let words = found.odd.map(|odd| odd.words("searches", 3)).unwrap();
        assert!(words.contains("searches p3: 30 messages are missing, offsets 100 to 129"), "{words}");
    }

    #[test]
    fn a_topic_made_anew_begins_a_new_life() {
        let span = read_to(100);
        let anew = Some(Odd::Anew { read: 100 });
        assert_eq!(decide(Some(&span), marks(0, 40), Evidence::None, Evidence::None), start(3, 0, 0, anew));
        assert_eq!(decide(Some(&span), marks(0, 40), Evidence::None, Evidence::Other), start(3, 0, 0, anew));
        // It has grown past the old one meanwhile: only the content tells.
        assert_eq!(decide(Some(&span), marks(5, 400), Evidence::Other, Evidence::None), start(3, 0, 5, anew));
    }

    #[test]
    fn a_topic_that_lost_its_end_is_not_read_twice() {
        let found = decide(Some(&read_to(100)), marks(0, 80), Evidence::None, Evidence::Same);
        assert_eq!(found, start(3, 0, 80, Some(Odd::Cut { to: 80, read: 100 })));
    }
}
