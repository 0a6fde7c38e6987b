//! What makes a generated document relevant: a function of ten features that no linear model can follow.

/// The ten features that [`true_score`] reads, in this order.
pub use crate::prepare::DEFAULT_FEATURES as NAMES;

use super::random::{bell, draw, one, two};

/// How relevant a document is, before noise; the features are in the order that a generated dataset has them.
///
/// - `bm25_score` grows with the query's length and saturates; it counts for short queries, `embedding_sim` for long ones.
/// - `title_match` counts only above a threshold of `embedding_sim`; `doc_freshness` only for queries of one or two words.
/// - `doc_popularity` (log-normal, raw) helps for popular queries and hurts for rare ones.
/// - `doc_quality` below 0.3 is spam: a cliff.
/// - `user_preference_match` and `price_match` matter when they agree, in either direction.
/// - `query_length` and `query_popularity` are the same for all documents of a query, so only these interactions use them.
pub fn true_score(features: &[f32; 10]) -> f32 {
    let [bm25, similarity, title, popularity, freshness, quality, length, query_popularity, preference, price] =
        *features;
    let matched = bm25 / length.sqrt();
    let lexical = 1.5 * matched / (matched + 6.0);
    let long = (length - 1.0) / 7.0;
    let evidence = 3.0 * ((1.0 - long) * lexical + long * 1.2 * similarity.max(0.0));
    let title = if similarity > 0.45 { 1.2 * title } else { 0.0 };
    let popularity = (query_popularity - 0.5) * (popularity.ln_1p() - 4.0);
    let fresh = if length < 2.5 { 1.3 * freshness } else { 0.0 };
    let spam = if quality < 0.3 { -1.6 } else { 0.0 };
    let agreement = 6.0 * (preference - 0.5) * (price - 0.5);
    evidence + title + popularity + fresh + spam + agreement
}

/// Streams below the seed.
const QUERIES: u64 = 1;
const DOCUMENTS: u64 = 2;

/// What all documents of a query share.
pub struct Query {
    key: u64,
    document_key: u64,
    corpus: u64,
    first_document: u64,
    length: f32,
    length_root: f32,
    popularity: f32,
    /// How many documents it has.
    pub documents: u32,
}

/// One document of a query.
pub struct Row {
    pub document: u64,
    pub features: [f32; 10],
    pub score: f32,
    /// About normal, mean 0, variance 1.
    pub noise: f32,
    pub weight: f32,
    /// The key of the further features.
    pub key: u64,
}

/// How many documents query number `query` has.
pub fn documents_of(seed: u64, query: u64, (least, most): (u32, u32)) -> u32 {
    let key = draw(draw(seed, QUERIES), query);
    least + (draw(key, 0) % u64::from(most - least + 1)) as u32
}

impl Query {
    pub fn new(seed: u64, query: u64, documents: (u32, u32), corpus: u64) -> Self {
        let key = draw(draw(seed, QUERIES), query);
        let (length, popularity) = two(draw(key, 1));
        let length = 1.0 + (8.0 * length * length).floor();
        Self {
            key,
            document_key: draw(seed, DOCUMENTS),
            corpus,
            first_document: draw(key, 2) % corpus,
            length,
            length_root: length.sqrt(),
            popularity,
            documents: documents_of(seed, query, documents),
        }
    }

    /// Its document number `index`; documents of a query differ from each other.
    #[inline]
    pub fn row(&self, index: u32) -> Row {
        let document = match self.first_document + u64::from(index) {
            past if past >= self.corpus => past - self.corpus,
            document => document,
        };
        let of_document = draw(self.document_key, document);
        let (freshness, quality) = two(draw(of_document, 1));
        let (other_quality, _) = two(draw(of_document, 2));
        let popularity = 50.0 * (1.6 * bell(draw(of_document, 0))).exp();

        let key = draw(self.key, 16 + u64::from(index));
        let (a, b) = two(draw(key, 0));
        let (c, d) = two(draw(key, 1));
        let (preference, price) = two(draw(key, 2));
        let matched = a + b;
        // Half of the titles match no word; the others match some of the words.
        let title = if d < 0.5 { 0.0 } else { (((2.0 * d - 1.0) * self.length).floor() + 1.0) / self.length };
        let features = [
            6.0 * self.length_root * matched,
            0.25 * matched + 0.6 * c - 0.1,
            title,
            popularity,
            (-3.0 * freshness).exp(),
            0.5 * (quality + other_quality),
            self.length,
            self.popularity,
            preference,
            price,
        ];
        let weight = (4.0 * one(draw(key, 4)) - 2.0).exp2();
        Row { document, features, score: true_score(&features), noise: bell(draw(key, 3)), weight, key }
    }
}
