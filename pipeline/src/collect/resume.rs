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
    /// Likewise, but where it was cut is not known: somewhere after `from`, up to which it is what was read.
    Replaced { from: i64, read: i64 },
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
            Self::Replaced { from, read } => format!(
                "{place}: the topic lost its end and holds other messages in its place: it is read again from offset {from}; what is still there \
                 of offsets {from} to {} comes into the lake twice",
                read - 1
            ),
        }
    }
}

/// The message to look for before deciding: the last one that was read.
pub fn wanted(newest: Option<&Span>, marks: Watermarks) -> Option<Fingerprint> {
    newest?.last.filter(|last| (marks.low..marks.high).contains(&last.offset))
}

/// Whether the topic is no longer what the last commit has read. `evidence` is of the message of [`wanted`].
pub fn is_lost(newest: &Span, marks: Watermarks, evidence: Evidence) -> bool {
    marks.high < newest.next || evidence == Evidence::Other
}

/// Up to which offset a topic that [is lost](is_lost) is what was read of it: the end of the newest commit of this life whose last message
/// is still there, which `same` tells. What was cut off is an end, so the commits before that one are there too, and few are asked for.
/// `names` are the partition's commits, ascending.
pub fn remains<E>(
    names: &[Name],
    newest: &Span,
    marks: Watermarks,
    mut same: impl FnMut(Name) -> Result<bool, E>,
) -> Result<Option<i64>, E> {
    // A commit ends where the one after it begins.
    let of_this_life = names.windows(2).filter(|pair| pair.iter().all(|name| name.life == newest.life));
    let ends = of_this_life.map(|pair| (pair[0], pair[1].first));
    let ends: Vec<(Name, i64)> = ends.filter(|&(_, end)| marks.low < end && end <= marks.high).collect();
    let (mut known, mut lost) = (0, ends.len());
    while known < lost {
        let middle = known.midpoint(lost);
        if same(ends[middle].0)? {
            known = middle + 1;
        } else {
            lost = middle;
        }
    }
    // All that fits is there: a topic that is shorter than what was read was cut where it ends.
    let cut_at_its_end = known == ends.len() && marks.high < newest.next;
    Ok(ends[..known].last().map(|&(_, end)| if cut_at_its_end { marks.high } else { end }))
}

/// `newest` is the partition's last commit. `evidence` is of the message of [`wanted`]; `remains` is [that](remains) of a topic that is lost.
pub fn decide(newest: Option<&Span>, marks: Watermarks, evidence: Evidence, remains: Option<i64>) -> Start {
    let Some(newest) = newest else {
        // What was gone before the first collector came was never ours.
        return Start { name: Name { life: 0, first: 0 }, from: marks.low, odd: None };
    };
    let anew = Name { life: newest.life + 1, first: 0 };
    let read = newest.next;
    if is_lost(newest, marks, evidence) {
        let (from, odd) = match remains {
            Some(to) if to == marks.high => (to, Odd::Cut { to, read }),
            Some(from) => (from, Odd::Replaced { from, read }),
            None => (marks.low, Odd::Anew { read }),
        };
        return Start { name: anew, from, odd: Some(odd) };
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
        assert_eq!(decide(None, marks(0, 50), Evidence::None, None), start(0, 0, 0, None));
        assert_eq!(decide(None, marks(30, 50), Evidence::None, None), start(0, 0, 30, None));
    }

    #[test]
    fn reading_goes_on_where_the_last_commit_ends() {
        let span = read_to(100);
        for high in [100, 500] {
            assert_eq!(wanted(Some(&span), marks(0, high)).map(|last| last.offset), Some(99));
            for evidence in [Evidence::Same, Evidence::None] {
                let found = decide(Some(&span), marks(0, high), evidence, None);
                assert_eq!(found, start(2, 100, 100, None));
            }
        }
        // All that was read is gone, nothing that was not.
        assert_eq!(wanted(Some(&span), marks(100, 120)), None);
        assert_eq!(decide(Some(&span), marks(100, 120), Evidence::None, None), start(2, 100, 100, None));
    }

    #[test]
    fn a_gap_is_told_and_the_commit_after_it_is_named_for_where_it_begins() {
        let found = decide(Some(&read_to(100)), marks(130, 200), Evidence::None, None);
        assert_eq!(found, start(2, 100, 130, Some(Odd::Gap { from: 100, to: 130 })));
        let words = found.odd.map(|odd| odd.words("searches", 3)).unwrap();
        assert!(words.contains("searches p3: 30 messages are missing, offsets 100 to 129"), "{words}");
    }

    #[test]
    fn a_topic_made_anew_begins_a_new_life() {
        let span = read_to(100);
        let anew = Some(Odd::Anew { read: 100 });
        assert_eq!(decide(Some(&span), marks(0, 40), Evidence::None, None), start(3, 0, 0, anew));
        // It has grown past the old one meanwhile: only the content tells.
        assert_eq!(decide(Some(&span), marks(5, 400), Evidence::Other, None), start(3, 0, 5, anew));
    }

    #[test]
    fn a_topic_that_lost_its_end_is_not_read_twice() {
        let found = decide(Some(&read_to(100)), marks(0, 80), Evidence::None, Some(80));
        assert_eq!(found, start(3, 0, 80, Some(Odd::Cut { to: 80, read: 100 })));
    }
    #[test]
    fn a_topic_that_lost_its_end_and_grew_past_it_again_is_read_from_where_it_is_still_known() {
        // Cut somewhere between 60 and 80, and other messages came in the place of what was lost.
        let found = decide(Some(&read_to(100)), marks(0, 250), Evidence::Other, Some(60));
        assert_eq!(found, start(3, 0, 60, Some(Odd::Replaced { from: 60, read: 100 })));
        let words = found.odd.map(|odd| odd.words("searches", 3)).unwrap();
        assert!(words.contains("searches p3: the topic lost its end") && words.contains("offsets 60 to 99"), "{words}");
        // It has not grown as far yet.
        let found = decide(Some(&read_to(100)), marks(0, 90), Evidence::None, Some(60));
        assert_eq!(found, start(3, 0, 60, Some(Odd::Replaced { from: 60, read: 100 })));
    }

    /// What remains of a life with commits that end at 40, 60, 80 and 100 when its topic is cut there; and how many commits were looked at.
    fn remains_of(marks: Watermarks, cut: i64) -> (Option<i64>, usize) {
        let names = [(1, 0), (1, 20), (2, 0), (2, 40), (2, 60), (2, 80)].map(|(life, first)| Name { life, first });
        let mut looked = 0;
        let same = |name: Name| -> Result<bool, ()> {
            assert_eq!(name.life, 2);
            looked += 1;
            let end = if name.first == 0 { 40 } else { name.first + 20 };
            Ok(end <= cut)
        };
        let found = remains(&names, &read_to(100), marks, same).unwrap();
        (found, looked)
    }

    #[test]
    fn what_remains_is_up_to_the_newest_commit_whose_last_message_is_there() {
        for (cut, expected) in
            [(39, None), (40, Some(40)), (59, Some(40)), (60, Some(60)), (79, Some(60)), (99, Some(80))]
        {
            let (found, looked) = remains_of(marks(0, 250), cut);
            assert_eq!(found, expected, "cut at {cut}");
            assert!(looked <= 2, "{looked} commits were looked at");
        }
        // Retention took what could tell.
        assert_eq!(remains_of(marks(80, 250), 90), (None, 0));
        // A shorter topic of which all that fits is there was cut where it ends.
        assert_eq!(remains_of(marks(0, 70), 70).0, Some(70));
        assert_eq!(remains_of(marks(0, 70), 50).0, Some(40));
        assert_eq!(remains_of(marks(0, 30), 30), (None, 0));
    }
}
