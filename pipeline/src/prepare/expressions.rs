//! Labels and weights as expressions of the query engine. The rules are those of `ranking`; the tests hold both to each other.

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, case, cast, lit, when};
use ranking::{
    labels::{LabelKind, LabelOptions},
    propensity::{PropensityTable, WeightKind, Weighting},
};

/// The columns of a result that labels and weights are made of.
#[derive(Clone, Debug)]
pub struct Impression {
    pub position: Expr,
    pub clicked: Expr,
    pub dwell: Expr,
    pub cart: Expr,
    pub purchased: Expr,
    /// The logged probability.
    pub propensity: Option<Expr>,
}

/// `ranking::labels` for every row, as float32.
pub fn label(options: &LabelOptions, of: &Impression) -> Result<Expr> {
    let Impression { clicked, dwell, cart, purchased, .. } = of.clone();
    let long = dwell.gt(lit(options.dwell_threshold));
    let one_if = |condition: Expr, worth: f64| when(condition, lit(worth)).otherwise(lit(0.0));
    let label = match options.kind {
        LabelKind::Binary => one_if(clicked, 1.0)?,
        LabelKind::Graded => when(purchased, lit(4.0))
            .when(cart, lit(3.0))
            .when(clicked.clone().and(long), lit(2.0))
            .when(clicked, lit(1.0))
            .otherwise(lit(0.0))?,
        LabelKind::Weighted => {
            one_if(clicked.clone(), options.click_weight)?
                + one_if(clicked.and(long), options.dwell_weight)?
                + one_if(cart, options.cart_weight)?
                + one_if(purchased, options.purchase_weight)?
        }
    };
    Ok(cast(label, DataType::Float32))
}

/// `ranking::propensity`'s weight of every row, and whether it is weighed at all.
#[derive(Clone, Debug)]
pub struct Weight {
    /// float32; rows that are not weighed have 1.
    pub weight: Expr,
    /// The same in f64, before it is divided; to be averaged over the rows that are weighed.
    pub clipped: Expr,
    /// Int8: [`NOT_WEIGHED`], [`WEIGHED`] or [`CLIPPED`].
    pub weighed: Expr,
}

pub const NOT_WEIGHED: i8 = 0;
pub const WEIGHED: i8 = 1;
pub const CLIPPED: i8 = 2;

/// `divisor`: what the weights of weighed rows are divided by.
pub fn weight(weighting: &Weighting, table: &PropensityTable, divisor: f64, of: &Impression) -> Result<Weight> {
    let [no, yes, cut] = [NOT_WEIGHED, WEIGHED, CLIPPED].map(lit);
    if weighting.kind == WeightKind::None {
        return Ok(Weight { weight: lit(1f32), clipped: lit(1.0), weighed: no });
    }
    let last = table.positions().len() as u32;
    let past_the_end = lit(table.weight(last + 1));
    let mut at = case(of.position.clone());
    let mut by_position = past_the_end.clone();
    for position in 1..=last {
        by_position = at.when(lit(position as i32), lit(table.weight(position))).otherwise(past_the_end.clone())?;
    }
    let unclipped = match &of.propensity {
        Some(logged) if weighting.logged => {
            when(logged.clone().is_not_null(), lit(1.0) / logged.clone()).otherwise(by_position)?
        }
        _ => by_position,
    };
    let (clipped, mut weighed) = match weighting.clip {
        Some(clip) => {
            let over = unclipped.clone().gt(lit(clip));
            (when(over.clone(), lit(clip)).otherwise(unclipped)?, when(over, cut).otherwise(yes)?)
        }
        None => (unclipped, yes),
    };
    let mut weight = if divisor == 1.0 { clipped.clone() } else { clipped.clone() / lit(divisor) };
    if weighting.kind == WeightKind::IpwClicks {
        weight = when(of.clicked.clone(), weight).otherwise(lit(1.0))?;
        weighed = when(of.clicked.clone(), weighed).otherwise(no)?;
    }
    Ok(Weight { weight: cast(weight, DataType::Float32), clipped, weighed })
}
