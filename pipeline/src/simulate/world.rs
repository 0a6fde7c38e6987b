//! What the world holds: queries, documents and users, which document is how relevant to which query, which features tell of it, and
//! what the rankers make of them. Every value is a hash of the seed and of what it is for; nothing is stored.

use dataset::seeded::Stream;

use super::SimulateOptions;
use crate::generate::random::{bell, draw, one, two};

/// Streams below the seed.
const QUERIES: u64 = 1;
const DOCUMENTS: u64 = 2;
const USERS: u64 = 3;
const SAMPLE: u64 = 4;
const ASKERS: u64 = 5;
/// The stream of a query's key at which its candidates begin.
const CANDIDATES: u64 = 64;
/// Candidates from which the thresholds of the grades are taken.
const SAMPLE_CANDIDATES: u64 = 1 << 14;
/// Shares of the candidates below grade 1, 2, 3 and 4.
const BELOW: [f64; 4] = [0.50, 0.72, 0.87, 0.95];
/// Queries are words of a shop.
const WORDS: &str = "black white red blue small large wireless leather steel cotton kids mens womens running travel \
    outdoor kitchen office gaming vintage folding portable waterproof organic shoes jacket backpack \
    headphones charger keyboard monitor lamp desk chair bottle knife pan kettle blanket pillow tent \
    bicycle helmet watch camera speaker printer mattress";

/// Where a feature is found: which table holds it, unless the log does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Query,
    Document,
    Pair,
    User,
}

/// The ten features in the order of a row, and whose they are.
pub const FEATURES: [(&str, Owner); 10] = [
    ("bm25_score", Owner::Pair),
    ("embedding_sim", Owner::Pair),
    ("title_match", Owner::Pair),
    ("doc_popularity", Owner::Document),
    ("doc_freshness", Owner::Document),
    ("doc_quality", Owner::Document),
    ("query_length", Owner::Query),
    ("query_popularity", Owner::Query),
    ("user_preference_match", Owner::User),
    ("price_match", Owner::Pair),
];

/// The position of `user_preference_match` in [`FEATURES`].
pub(super) const PREFERENCE: usize = 8;

/// A query's own values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Query {
    pub number: u64,
    /// Words, 1 to 8.
    pub length: f32,
    /// 1 for the most asked one, towards 0 for the least, by the logarithm of its rank.
    pub popularity: f32,
    key: u64,
}

/// A document's own values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Document {
    /// Log-normal, raw.
    pub popularity: f32,
    pub freshness: f32,
    pub quality: f32,
    /// The logarithm of the popularity, mean 0 and variance 1.
    fame: f32,
}

/// One document that could be shown for a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub document: u64,
    /// In the order of [`FEATURES`]; that of the user is 0.
    pub features: [f32; 10],
    /// 0 to 4: how relevant it truly is, whoever asks.
    pub grade: u8,
    /// What the rankers see.
    matched: f32,
    fame: f32,
    noise: u64,
}

impl Candidate {
    /// The score that a logging ranker gives. Both trust popularity far more than it deserves, and see little of the text.
    pub fn score(&self, ranker: u8) -> f32 {
        let (text, fame) = if ranker.is_multiple_of(2) { (0.7, 1.0) } else { (1.0, 0.8) };
        text * self.matched + fame * self.fame + 0.35 * bell(draw(self.noise, u64::from(ranker)))
    }
}

/// The world of a seed.
#[derive(Clone, Debug)]
pub struct World {
    queries: u64,
    documents: u64,
    users: u64,
    candidates: u32,
    zipf: f64,
    query_key: u64,
    document_key: u64,
    user_key: u64,
    asker_key: u64,
    thresholds: [f32; 4],
}

impl World {
    /// Of options that were [checked](SimulateOptions::check).
    pub fn new(options: &SimulateOptions) -> Self {
        let SimulateOptions { seed, queries, documents, users, candidates, .. } = *options;
        let mut world = Self {
            queries,
            documents,
            users,
            candidates,
            zipf: options.zipf,
            query_key: draw(seed, QUERIES),
            document_key: draw(seed, DOCUMENTS),
            user_key: draw(seed, USERS),
            asker_key: draw(seed, ASKERS),
            thresholds: [f32::INFINITY; 4],
        };
        world.thresholds = world.calibrate(draw(seed, SAMPLE));
        world
    }

    /// From a sample of the same distribution, so that the shares of the grades hold in every world.
    fn calibrate(&self, key: u64) -> [f32; 4] {
        let relevance = |number| {
            let query = self.query_of(0, draw(key, 2 * number));
            let document = document_of(draw(key, 2 * number + 1), 0);
            self.judge(&query, &document, draw(query.key, CANDIDATES), 0).1
        };
        let mut sample: Vec<f32> = (0..SAMPLE_CANDIDATES).map(relevance).collect();
        sample.sort_unstable_by(f32::total_cmp);
        BELOW.map(|share| sample[(share * sample.len() as f64) as usize])
    }

    pub fn query(&self, number: u64) -> Query {
        self.query_of(number, draw(self.query_key, number))
    }

    fn query_of(&self, number: u64, key: u64) -> Query {
        let length = one(draw(key, 0));
        let popularity = 1.0 - ((1 + number) as f64).ln() / ((1 + self.queries) as f64).ln();
        Query { number, length: 1.0 + (8.0 * length * length).floor(), popularity: popularity as f32, key }
    }

    /// What somebody typed.
    pub fn text(&self, query: &Query) -> String {
        let words: Vec<&str> = WORDS.split(' ').collect();
        let word = |at: u64| words[(draw(query.key, 8 + at) % words.len() as u64) as usize];
        (0..query.length as u64).map(word).collect::<Vec<_>>().join(" ")
    }

    /// Which query is asked, by Zipf's law (the continuous distribution's inverse, cut into ranks).
    pub(super) fn asked(&self, unit: f64) -> u64 {
        zipf(unit, self.queries, self.zipf)
    }

    /// Who asks: some come far more often than others.
    pub(super) fn asker(&self, unit: f64) -> u64 {
        zipf(unit, self.users, 0.6)
    }

    /// A document's values in a version of its features; freshness and quality are the same in all.
    pub fn document(&self, number: u64, version: u8) -> Document {
        document_of(draw(self.document_key, number), version)
    }

    /// How much a user goes by taste, in [0, 1); about everything that user is shown.
    pub fn preference(&self, user: u64) -> f32 {
        let (a, b) = two(draw(draw(self.user_key, user), 0));
        0.5 * (a + b)
    }

    /// The user in whose eyes the truth shows a query: drawn as the log's users are.
    pub fn typical_asker(&self, query: u64) -> u64 {
        self.asker(Stream::new(&[self.asker_key, query]).unit())
    }

    /// Where a user sits, as a number to be reduced.
    pub(super) fn place(&self, user: u64) -> u64 {
        draw(draw(self.user_key, user), 1)
    }

    /// All documents that could be shown for a query, in no order that means anything; features of documents as in `version`.
    pub fn candidates(&self, query: &Query, version: u8) -> impl Iterator<Item = Candidate> {
        let first = draw(query.key, 1) % self.documents;
        (0..self.candidates).map(move |index| {
            let number = (first + u64::from(index)) % self.documents;
            let document = self.document(number, 0);
            let key = draw(query.key, CANDIDATES + u64::from(index));
            let (mut candidate, relevance) = self.judge(query, &document, key, number);
            candidate.grade = self.thresholds.iter().map(|&threshold| u8::from(relevance >= threshold)).sum();
            if version > 0 {
                let document = self.document(number, version);
                candidate.features[3] = document.popularity;
                candidate.fame = document.fame;
            }
            candidate
        })
    }

    /// A candidate without its grade, and its relevance. What the features do not tell is a third of it:
    ///
    /// - the text's match counts through `bm25_score` for short queries and through `embedding_sim` for long ones, and saturates;
    /// - `title_match` counts only where `embedding_sim` is above 0.45, `doc_freshness` only for queries of one or two words;
    /// - `doc_quality` below 0.3 is a cliff; `price_match` counts as it is;
    /// - `doc_popularity` is worth next to nothing.
    #[inline]
    fn judge(&self, query: &Query, document: &Document, key: u64, number: u64) -> (Candidate, f32) {
        let (a, b) = two(draw(key, 0));
        let (c, d) = two(draw(key, 1));
        let (price, e) = two(draw(key, 2));
        let matched = (0.8 * (a + b) + 0.4 * e).min(2.0);
        let root = query.length.sqrt();
        let similarity = 0.25 * (a + b) + 0.6 * c - 0.1;
        // Half of the titles match no word; the others match some of the words.
        let title = if d < 0.5 { 0.0 } else { (((2.0 * d - 1.0) * query.length).floor() + 1.0) / query.length };

        let long = (query.length - 1.0) / 7.0;
        let evidence = 4.0 * ((1.0 - long) * 1.5 * matched / (matched + 1.0) + long * 1.2 * similarity.max(0.0));
        let in_title = if similarity > 0.45 { 1.2 * title } else { 0.0 };
        let fresh = if query.length < 2.5 { 1.3 * document.freshness } else { 0.0 };
        let spam = if document.quality < 0.3 { -1.6 } else { 0.0 };
        let relevance =
            evidence + in_title + fresh + spam + 1.2 * price + 0.05 * document.fame + 0.5 * bell(draw(key, 3));
        let features = [
            6.0 * root * matched,
            similarity,
            title,
            document.popularity,
            document.freshness,
            document.quality,
            query.length,
            query.popularity,
            0.0,
            price,
        ];
        let noise = draw(key, 4);
        (Candidate { document: number, features, grade: 0, matched, fame: document.fame, noise }, relevance)
    }
}

fn document_of(key: u64, version: u8) -> Document {
    let (freshness, quality) = two(draw(key, 1));
    let other_quality = one(draw(key, 2));
    let first = bell(draw(key, 0));
    // What was popular mostly stays so; the spread is the same in every version.
    let fame = if version == 0 { first } else { 0.8 * first + 0.6 * bell(draw(key, 2 + u64::from(version))) };
    Document {
        popularity: 50.0 * fame.exp(),
        freshness: (-3.0 * freshness).exp(),
        quality: 0.5 * (quality + other_quality),
        fame,
    }
}

/// A rank in `0..count` with a probability about proportional to (1 + rank)^-exponent.
fn zipf(unit: f64, count: u64, exponent: f64) -> u64 {
    let end = (count + 1) as f64;
    let power = 1.0 - exponent;
    let rank = if power.abs() < 1e-9 {
        (unit * end.ln()).exp()
    } else {
        (1.0 + unit * (end.powf(power) - 1.0)).powf(1.0 / power)
    };
    (rank as u64).clamp(1, count) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_zipfs_law_and_stay_in_range() {
        for exponent in [0.0, 0.6, 1.0, 1.3] {
            let mut counts = [0u32; 10];
            for at in 0..100_000 {
                counts[zipf(f64::from(at) / 100_000.0, 10, exponent) as usize] += 1;
            }
            assert_eq!(zipf(0.999_999_999_999, 10, exponent), 9);
            // The mass of [r, r + 1) below x^-exponent.
            let mass = |rank: f64| {
                let of = |x: f64| if exponent == 1.0 { x.ln() } else { x.powf(1.0 - exponent) / (1.0 - exponent) };
                (of(rank + 1.0) - of(rank)) / (of(11.0) - of(1.0))
            };
            for (rank, count) in counts.iter().enumerate() {
                let expected = 100_000.0 * mass(rank as f64 + 1.0);
                assert!((f64::from(*count) - expected).abs() < 2.0, "{exponent}: {counts:?}");
            }
        }
    }

    #[test]
    fn grades_come_in_their_shares_and_the_truth_is_the_same_in_every_version() {
        let world = World::new(&SimulateOptions::default());
        let mut counts = [0u32; 5];
        for number in 0..2000 {
            let query = world.query(number);
            let (old, new) = (world.candidates(&query, 0), world.candidates(&query, 1));
            for (old, new) in old.zip(new) {
                counts[usize::from(old.grade)] += 1;
                assert_eq!((old.document, old.grade), (new.document, new.grade));
                assert_ne!(old.features[3], new.features[3]);
                assert_eq!(old.features[..3], new.features[..3]);
            }
        }
        let all: u32 = counts.iter().sum();
        for (count, expected) in counts.iter().zip([0.50, 0.22, 0.15, 0.08, 0.05]) {
            assert!((f64::from(*count) / f64::from(all) - expected).abs() < 0.02, "{counts:?} of {all}");
        }
    }
}
