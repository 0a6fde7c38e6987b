//! Position bias: how likely a result is looked at where it stands, what a click there is therefore worth, and how to find out.
//!
//! Under the position-based model (Richardson, Dominowska & Ragno 2007; Craswell et al. 2008) a result is clicked when it is looked at
//! and relevant: P(click | query, document, position k) = θ_k γ(query, document). The *propensity* of a position is θ_k / θ_1: clicks
//! alone know θ up to a factor, which weights do not need. A [`PropensityTable`] holds them, [`Weighting`] turns them into weights of
//! rows, [`estimate`] finds them in logs, [`Exploration`] makes logs in which they can be found.

mod explore;
mod table;
mod weights;

pub mod estimate;

pub use self::{
    explore::{BadRate, Exploration, Explored},
    table::{BadTable, Method, PAST_END, PositionPropensity, PropensityTable, Window},
    weights::{BadWeighting, WeightHealth, WeightKind, Weighting},
};
