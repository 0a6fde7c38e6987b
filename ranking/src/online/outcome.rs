//! What came of a search, and the metrics of it.

use serde::Serialize;

/// What came of one search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Results that were shown.
    pub impressions: u32,
    /// Results that were clicked.
    pub clicks: u32,
    /// The position of the topmost clicked one, from 1.
    pub first_click: Option<u32>,
    pub carted: bool,
    pub purchased: bool,
}

impl Outcome {
    /// Takes in one result.
    pub fn add(&mut self, position: u32, clicked: bool, carted: bool, purchased: bool) {
        self.impressions += 1;
        self.carted |= carted;
        self.purchased |= purchased;
        if clicked {
            self.clicks += 1;
            self.first_click = Some(self.first_click.map_or(position, |first| first.min(position)));
        }
    }
}

/// What is compared between arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Searches with a click / searches.
    ClickThrough,
    /// Clicked results / results shown.
    ClicksPerImpression,
    /// Mean over searches of 1 / position of the topmost click, 0 without one (MaxRR in Chapelle et al., TOIS 2012).
    ClickedReciprocalRank,
    /// Searches with a result put in the cart / searches.
    CartRate,
    /// Searches with a purchase / searches.
    PurchaseRate,
    /// Users with a purchase / users.
    BuyerRate,
}

impl Metric {
    pub const ALL: [Self; 6] = [
        Self::ClickThrough,
        Self::ClicksPerImpression,
        Self::ClickedReciprocalRank,
        Self::CartRate,
        Self::PurchaseRate,
        Self::BuyerRate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ClickThrough => "click_through",
            Self::ClicksPerImpression => "clicks_per_impression",
            Self::ClickedReciprocalRank => "clicked_reciprocal_rank",
            Self::CartRate => "cart_rate",
            Self::PurchaseRate => "purchase_rate",
            Self::BuyerRate => "buyer_rate",
        }
    }

    /// What is divided by what.
    pub fn definition(self) -> &'static str {
        match self {
            Self::ClickThrough => "searches with a click / searches",
            Self::ClicksPerImpression => "clicked results / results shown",
            Self::ClickedReciprocalRank => "1 / position of the topmost click, 0 without one, over searches",
            Self::CartRate => "searches with a result put in the cart / searches",
            Self::PurchaseRate => "searches with a purchase / searches",
            Self::BuyerRate => "users with a purchase / users",
        }
    }
}
