//! From a run's events to what is sent at a time. Pure: the same events always make the same parcels, so that one that is sent twice says
//! nothing twice.

use proto::v1::{self, run_event::Event};

use std::collections::BTreeMap;

use super::about::Pairs;
use crate::figures::figures;

/// MLflow takes 1000 things at once, of which 100 may be parameters and 100 tags.
pub const METRICS_AT_MOST: usize = 800;

/// One point of a curve, as MLflow keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// In Lockstep's words.
    pub name: String,
    pub value: f64,
    pub unix_millis: u64,
    pub step: u64,
}

/// What is logged of a run at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub points: Vec<Point>,
    pub parameters: Pairs,
    pub tags: Pairs,
}

impl Batch {
    /// What a server can take or reject by itself, and what that is called: a curve, a parameter, a tag.
    pub fn pieces(&self) -> Vec<(String, Self)> {
        let one = |(key, value): (&String, &String)| Pairs::from([(key.clone(), value.clone())]);
        let parameter = |pair: (&String, &String)| {
            (format!("parameter `{}`", pair.0), Self { parameters: one(pair), ..Self::default() })
        };
        let tag = |pair: (&String, &String)| (format!("tag `{}`", pair.0), Self { tags: one(pair), ..Self::default() });
        let mut curves: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
        for point in &self.points {
            curves.entry(&point.name).or_default().push(point.clone());
        }
        let curve =
            |(name, points): (&str, Vec<Point>)| (format!("curve `{name}`"), Self { points, ..Self::default() });
        let parameters = self.parameters.iter().map(parameter);
        parameters.chain(self.tags.iter().map(tag)).chain(curves.into_iter().map(curve)).collect()
    }
}

/// Events that are sent together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parcel {
    pub points: Vec<Point>,
    /// The number of its last event: once the parcel has arrived, all up to that one has.
    pub through: u64,
    /// With it more is known than figures: the dataset, the best checkpoint, the end.
    pub tells_more: bool,
}

/// The first parcel of these events, which follow one another. `None`: there are none.
pub fn pack(events: &[v1::RunEvent]) -> Option<Parcel> {
    let mut parcel = Parcel::default();
    for event in events {
        let figures = figures(event);
        if !parcel.points.is_empty() && parcel.points.len() + figures.len() > METRICS_AT_MOST {
            break;
        }
        parcel.points.extend(figures.into_iter().map(|figure| Point {
            name: figure.name,
            value: figure.value,
            unix_millis: figure.unix_micros / 1000,
            step: figure.step,
        }));
        parcel.through = event.sequence;
        parcel.tells_more |= matches!(&event.event, Some(Event::Seated(_) | Event::Checkpoint(_) | Event::Ended(_)));
    }
    (parcel.through > 0).then_some(parcel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, event: Event) -> v1::RunEvent {
        v1::RunEvent { sequence, unix_micros: 5_000_999 + sequence, run_id: "r-1".into(), event: Some(event) }
    }

    fn progress(sequence: u64) -> v1::RunEvent {
        event(sequence, Event::Progress(v1::Progress { step: sequence * 10, loss: 0.5, ..v1::Progress::default() }))
    }

    fn epoch(sequence: u64, metrics: usize) -> v1::RunEvent {
        let metric = |k| v1::Metric { name: format!("ndcg@{k}"), value: 0.5, ..v1::Metric::default() };
        let validation = (1..=metrics).map(metric).collect();
        event(sequence, Event::Epoch(v1::EpochEnded { step: 7, validation, ..v1::EpochEnded::default() }))
    }

    #[test]
    fn parcels_hold_whole_events_and_no_more_points_than_mlflow_takes() {
        let events: Vec<_> = (1..=1000).map(progress).collect();
        let mut sent = 0;
        let mut after = 0;
        while let Some(parcel) = pack(&events[after as usize..]) {
            assert!(parcel.points.len() <= METRICS_AT_MOST && parcel.through > after);
            (sent, after) = (sent + parcel.points.len(), parcel.through);
        }
        assert_eq!((sent, after), (3000, 1000));
        assert_eq!(pack(&[]), None);
    }

    #[test]
    fn a_batch_comes_apart_into_what_can_be_rejected_by_itself_and_nothing_of_it_gets_lost() {
        let points = pack(&[progress(1), progress(2)]).unwrap().points;
        let pairs = |key: &str| Pairs::from([(key.to_owned(), "1".to_owned()), (format!("{key}2"), "2".to_owned())]);
        let batch = Batch { points, parameters: pairs("p"), tags: pairs("t") };
        let pieces = batch.pieces();
        let names: Vec<&str> = pieces.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "parameter `p`",
                "parameter `p2`",
                "tag `t`",
                "tag `t2`",
                "curve `train/gradient_norm`",
                "curve `train/learning_rate`",
                "curve `train/loss`"
            ]
        );
        let (mut together, mut given) = (Batch::default(), batch);
        for (_, piece) in pieces {
            together.points.extend(piece.points);
            together.parameters.extend(piece.parameters);
            together.tags.extend(piece.tags);
        }
        given.points.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(together, given);
    }

    #[test]
    fn an_event_of_more_points_than_that_is_not_cut_through_and_holds_up_nothing() {
        let parcel = pack(&[progress(1), epoch(2, 1500), progress(3)]).unwrap();
        assert_eq!((parcel.points.len(), parcel.through), (3, 1));
        let parcel = pack(&[epoch(2, 1500), progress(3)]).unwrap();
        assert_eq!((parcel.points.len(), parcel.through), (1501, 2));
    }

    #[test]
    fn what_has_no_points_is_behind_us_too_and_the_best_checkpoint_is_one_point_however_often_it_is_told() {
        let warning = event(4, Event::Warning(v1::Warning { message: "careful".into() }));
        let seated = event(5, Event::Seated(v1::Seated::default()));
        let best = v1::Checkpoint {
            step: 70,
            unix_micros: 3_000_000,
            metrics: vec![v1::Metric { name: "ndcg@10".into(), value: f64::NAN, ..v1::Metric::default() }],
            best: true,
            ..v1::Checkpoint::default()
        };
        let ended = event(6, Event::Ended(v1::Ended { best: Some(best.clone()), ..v1::Ended::default() }));
        assert!(!pack(std::slice::from_ref(&warning)).unwrap().tells_more);
        let parcel = pack(&[warning, seated, ended]).unwrap();
        assert!(parcel.tells_more && parcel.through == 6);
        let [point] = &parcel.points[..] else { panic!("{:?}", parcel.points) };
        assert!(point.value.is_nan());
        assert_eq!((point.name.as_str(), point.step, point.unix_millis), ("ndcg@10", 70, 3000));
        // The event that published it says the same point.
        let again = pack(&[event(3, Event::Checkpoint(best))]).unwrap();
        assert_eq!((again.points[0].step, again.points[0].unix_millis), (70, 3000));
        let older = v1::Checkpoint { step: 60, ..v1::Checkpoint::default() };
        assert!(pack(&[event(2, Event::Checkpoint(older))]).unwrap().points.is_empty());
    }
}
