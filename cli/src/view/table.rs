//! The table that grows by a line an epoch; its columns are fixed by the first.

use std::fmt::Write as _;

use proto::v1;

use crate::words;

/// Its columns: what was measured in the first epoch that was shown. Where people's judgments stand beside the validation data, an
/// epoch has a line for each.
#[derive(Debug, Default)]
pub struct EpochTable {
    metrics: Option<Vec<String>>,
    /// Whether a line says of which dataset its values are.
    names_sets: bool,
}

const VALIDATION: &str = "validation";
const JUDGMENTS: &str = "judgments";
const SET: usize = VALIDATION.len();

const LOSS: usize = 11;
const RATE: usize = 9;
const TIME: usize = 8;

impl EpochTable {
    /// The lines for one epoch, under the table's head if it is the first.
    pub fn row(&mut self, epoch: &v1::EpochEnded) -> String {
        let of = epoch.epochs.to_string().len();
        let first = 2 * of + 1;
        let mut lines = String::new();
        if self.metrics.is_none() {
            self.names_sets = !epoch.judgments.is_empty();
        }
        let names_sets = self.names_sets;
        let metrics = self.metrics.get_or_insert_with(|| {
            let measured = if epoch.validation.is_empty() { &epoch.judgments } else { &epoch.validation };
            let names: Vec<String> = measured.iter().map(|metric| metric.name.clone()).collect();
            let _ = write!(lines, "{:>first$}  {:>LOSS$}", "epoch", "train loss", first = first.max(5));
            if names_sets {
                let _ = write!(lines, "  {:SET$}", "");
            }
            for name in &names {
                let _ = write!(lines, "  {name:>width$}", width = width(name));
            }
            let _ = writeln!(lines, "  {:>RATE$}  {:>TIME$}", "rows/s", "time");
            names
        });
        let number = format!("{:>of$}/{}", epoch.epoch + 1, epoch.epochs);
        let _ = write!(lines, "{number:>first$}  {:>LOSS$}", words::loss(epoch.train_loss), first = first.max(5));
        let only_judged = epoch.validation.is_empty() && !epoch.judgments.is_empty();
        let (set, measured) = if only_judged { (JUDGMENTS, &epoch.judgments) } else { (VALIDATION, &epoch.validation) };
        if names_sets {
            let _ = write!(lines, "  {set:SET$}");
        }
        values(metrics, measured, &mut lines);
        let rate = words::rate(epoch.rows, epoch.train_seconds);
        let time = words::span(epoch.train_seconds + epoch.validation_seconds);
        let best = if epoch.improved { " *" } else { "" };
        let _ = writeln!(lines, "  {rate:>RATE$}  {time:>TIME$}{best}");
        if names_sets && !only_judged {
            let _ = write!(lines, "{:>first$}  {:>LOSS$}  {JUDGMENTS:SET$}", "", "", first = first.max(5));
            values(metrics, &epoch.judgments, &mut lines);
            lines.push('\n');
        }
        lines
    }
}

fn values(names: &[String], measured: &[v1::Metric], lines: &mut String) {
    for name in names {
        let value = measured.iter().find(|metric| metric.name == *name);
        let value = value.map_or_else(|| "-".into(), |metric| format!("{:.4}", metric.value));
        let _ = write!(lines, "  {value:>width$}", width = width(name));
    }
}

fn width(name: &str) -> usize {
    name.len().max(6)
}

#[cfg(test)]
pub mod tests {
    use expect_test::expect;

    use super::*;

    pub fn epoch(number: u64, loss: f64, ndcg: Option<f64>) -> v1::EpochEnded {
        let metric = |name: &str, value| v1::Metric {
            name: name.into(),
            value,
            convention: "gain 2^label - 1, ties in row order, queries without relevant documents count 0".into(),
        };
        v1::EpochEnded {
            epoch: number,
            epochs: 20,
            step: 400 * (number + 1),
            train_loss: loss,
            rows: 3005,
            train_seconds: 0.25 * (number + 1) as f64,
            validation_seconds: 0.1,
            validation: ndcg.map_or_else(Vec::new, |value| {
                ["ndcg@1", "ndcg@5", "ndcg@10", "map", "mrr"].iter().map(|name| metric(name, value)).collect()
            }),
            improved: number != 1,
            audit: Some(v1::Audit {
                rows: 3005,
                atoms: 201,
                expected_rows: 3005,
                expected_atoms: 201,
                ..v1::Audit::default()
            }),
            ..v1::EpochEnded::default()
        }
    }

    #[test]
    fn the_table_lines_up_whatever_its_figures() {
        let mut table = EpochTable::default();
        let mut lines = table.row(&epoch(0, 0.612_347, Some(0.42)));
        lines += &table.row(&epoch(1, 12_345.0, Some(1.0)));
        lines += &table.row(&epoch(11, f64::NAN, None));
        lines += &table.row(&v1::EpochEnded { rows: 90_000_000, train_seconds: 3723.4, ..epoch(19, 1e-9, Some(0.5)) });
        expect![[r#"
            epoch   train loss  ndcg@1  ndcg@5  ndcg@10     map     mrr     rows/s      time
             1/20      0.61235  0.4200  0.4200   0.4200  0.4200  0.4200     12.0 k     0.3 s *
             2/20     1.2345e4  1.0000  1.0000   1.0000  1.0000  1.0000       6010     0.6 s
            12/20          NaN       -       -        -       -       -       1002     3.1 s *
            20/20    1.0000e-9  0.5000  0.5000   0.5000  0.5000  0.5000     24.2 k   1:02:04 *
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn judgments_have_a_line_of_their_own_under_the_clicks() {
        let mut table = EpochTable::default();
        let judged = |number, clicks: Option<f64>, judged| v1::EpochEnded {
            judgments: epoch(number, 0.5, Some(judged)).validation,
            ..epoch(number, 0.5, clicks)
        };
        let lines = table.row(&judged(0, Some(0.6), 0.4)) + &table.row(&judged(1, Some(0.7), 0.3));
        expect![[r#"
            epoch   train loss              ndcg@1  ndcg@5  ndcg@10     map     mrr     rows/s      time
             1/20      0.50000  validation  0.6000  0.6000   0.6000  0.6000  0.6000     12.0 k     0.3 s *
                                judgments   0.4000  0.4000   0.4000  0.4000  0.4000
             2/20      0.50000  validation  0.7000  0.7000   0.7000  0.7000  0.7000       6010     0.6 s
                                judgments   0.3000  0.3000   0.3000  0.3000  0.3000
        "#]]
        .assert_eq(&lines);
        let lines = EpochTable::default().row(&judged(0, None, 0.4));
        expect![[r#"
            epoch   train loss              ndcg@1  ndcg@5  ndcg@10     map     mrr     rows/s      time
             1/20      0.50000  judgments   0.4000  0.4000   0.4000  0.4000  0.4000     12.0 k     0.3 s *
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn without_validation_there_are_no_metric_columns() {
        let lines = EpochTable::default().row(&epoch(0, 0.5, None));
        expect![[r#"
            epoch   train loss     rows/s      time
             1/20      0.50000     12.0 k     0.3 s *
        "#]]
        .assert_eq(&lines);
    }
}
