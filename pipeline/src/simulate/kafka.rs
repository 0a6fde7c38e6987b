//! Events as JSON messages to a topic: bounded in flight, and any message that was not delivered is an error.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ranking::events::{LogSchema, ResultImpression, SearchEvent};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::{PipelineError, collect::KafkaSettings};

/// How long a broker may take to say what topics it has.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long to wait at once for room in the queue, or for the last deliveries.
const WAIT: Duration = Duration::from_millis(100);

/// A topic being filled.
pub struct Topic {
    producer: BaseProducer<Deliveries>,
    topic: String,
    schema: LogSchema,
    json: Vec<u8>,
    bytes: u64,
}

/// What became of the messages.
#[derive(Default)]
struct Deliveries {
    delivered: AtomicU64,
    /// Why the first that was lost was lost.
    lost: Mutex<Option<KafkaError>>,
    /// What the client last complained of.
    trouble: Mutex<Option<(Option<RDKafkaErrorCode>, String)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka error");
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // That all brokers are down is what follows from the reason.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) || trouble.is_none() {
            *trouble = Some((error.rdkafka_error_code(), reason.to_owned()));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => _ = self.delivered.fetch_add(1, Relaxed),
            Err((error, _)) => {
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
            }
        }
    }
}

impl Topic {
    /// An unknown broker or topic, or refused credentials, are told within a quarter of a minute.
    pub fn open(
        brokers: &str,
        topic: &str,
        settings: &KafkaSettings,
        schema: &LogSchema,
    ) -> Result<Self, PipelineError> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "lockstep-simulate")
            // A message that is sent again after a lost answer is in the topic once, and in its place.
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.kbytes", "32768")
            .set("linger.ms", "20");
        for (key, value) in settings.iter() {
            config.set(key, value);
        }
        config.set("bootstrap.servers", brokers);
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default()).map_err(|error| {
            let hint = "settings are librdkafka's: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md";
            // The value may be a secret.
            let message = match &error {
                KafkaError::ClientConfig(_, _, key, _) => format!("the Kafka client does not take the setting `{key}`"),
                _ => "the Kafka client cannot be made".into(),
            };
            PipelineError::options(message).with_hint(hint)
        })?;
        let topic = Self { producer, topic: topic.to_owned(), schema: schema.clone(), json: Vec::new(), bytes: 0 };
        topic.exists(brokers)?;
        Ok(topic)
    }

    fn exists(&self, brokers: &str) -> Result<(), PipelineError> {
        use RDKafkaErrorCode as Code;
        let found = self.producer.client().fetch_metadata(Some(&self.topic), ANSWER_WITHIN);
        let found = found.map_err(|error| {
            self.producer.poll(Duration::ZERO);
            let trouble = self.producer.context().trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (code, reason) = trouble.unwrap_or_else(|| (error.rdkafka_error_code(), error.to_string()));
            let (message, hint) = match code {
                Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism) => (
                    format!("`{brokers}` refused the credentials"),
                    "see security.protocol, sasl.mechanism, sasl.username and sasl.password in --kafka or --kafka-config",
                ),
                _ => (
                    format!("`{brokers}` cannot be reached, or does not answer"),
                    "see whether the broker is up, and whether the address it advertises is right; TLS and SASL go in --kafka",
                ),
            };
            PipelineError::network(message).with_hint(hint).because(std::io::Error::other(reason))
        })?;
        match found.topics().first() {
            Some(topic) if topic.error().is_none() && !topic.partitions().is_empty() => Ok(()),
            _ => Err(PipelineError::network(format!("`{brokers}` has no topic `{}`", self.topic))
                .with_hint("see whether the name is right, and whether the topic was made")),
        }
    }

    pub fn push(&mut self, event: &SearchEvent) -> Result<(), PipelineError> {
        self.json.clear();
        write(event, &self.schema, &mut self.json)?;
        self.bytes += self.json.len() as u64;
        let mut record = BaseRecord::to(&self.topic).key(event.session_id.as_str()).payload(self.json.as_slice());
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    self.producer.poll(WAIT);
                    self.lost()?;
                }
                Err((error, _)) => return Err(self.failed(error)),
            }
        }
        self.producer.poll(Duration::ZERO);
        self.lost()
    }

    /// Waits for all deliveries; messages and their bytes. librdkafka gives up on a message after `message.timeout.ms`.
    pub fn finish(self) -> Result<(u64, u64), PipelineError> {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(WAIT);
            self.lost()?;
        }
        self.lost()?;
        Ok((self.producer.context().delivered.load(Relaxed), self.bytes))
    }

    fn lost(&self) -> Result<(), PipelineError> {
        match self.producer.context().lost.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(self.failed(error)),
            None => Ok(()),
        }
    }

    fn failed(&self, error: KafkaError) -> PipelineError {
        let delivered = self.producer.context().delivered.load(Relaxed);
        let message = format!("an event was not delivered to topic `{}`, after {delivered} that were", self.topic);
        let unsupported = error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnsupportedFeature);
        let hint = match unsupported {
            true => "this broker knows no idempotent producers: try `--kafka enable.idempotence=false`",
            false => "what was delivered stays in the topic: begin again with another one",
        };
        PipelineError::network(message).because(error).with_hint(hint)
    }
}

/// The event as the collector reads it, features that are logged under their own names.
fn write(event: &SearchEvent, schema: &LogSchema, json: &mut Vec<u8>) -> Result<(), PipelineError> {
    let written = match schema.features() {
        [] => serde_json::to_writer(json, event),
        names => serde_json::to_writer(json, &WithFeatures { event, names }),
    };
    written.map_err(|error| PipelineError::data("an event as JSON").because(error))
}

/// An event whose results carry their features.
struct WithFeatures<'a> {
    event: &'a SearchEvent,
    names: &'a [String],
}

impl Serialize for WithFeatures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let results: Vec<Shown<'_>> = self
            .event
            .results
            .iter()
            .map(|result| Shown { result, features: Features { result, names: self.names } })
            .collect();
        let SearchEvent {
            session_id,
            query_id,
            user_id,
            query,
            query_timestamp,
            device,
            location,
            ranker_version,
            explored,
            arm,
            ..
        } = self.event;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("session_id", session_id)?;
        map.serialize_entry("query_id", query_id)?;
        map.serialize_entry("user_id", user_id)?;
        map.serialize_entry("query", query)?;
        map.serialize_entry("query_timestamp", query_timestamp)?;
        map.serialize_entry("results", &results)?;
        map.serialize_entry("device", device)?;
        map.serialize_entry("location", location)?;
        map.serialize_entry("ranker_version", ranker_version)?;
        map.serialize_entry("explored", explored)?;
        map.serialize_entry("arm", arm)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    result: &'a ResultImpression,
    #[serde(flatten)]
    features: Features<'a>,
}

struct Features<'a> {
    result: &'a ResultImpression,
    names: &'a [String],
}

impl Serialize for Features<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.names.iter().zip(&self.result.features);
        serializer.collect_map(named.filter_map(|(name, value)| value.map(|value| (name, value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Log, SimulateOptions, SimulatedArm};

    #[test]
    fn what_goes_over_the_wire_is_read_back_as_the_same_event() {
        let arms = vec![SimulatedArm { name: "control".into(), ranker: 1 }];
        for log_features in [vec![], vec!["bm25_score".to_owned(), "user_preference_match".to_owned()]] {
            let arms = arms.clone();
            let options =
                SimulateOptions { events: 300, anonymous: 0.3, log_features, arms, ..SimulateOptions::default() };
            let mut log = Log::new(&options);
            let mut event = Log::blank();
            while log.fill(&mut event) {
                let mut json = Vec::new();
                write(&event, log.schema(), &mut json).unwrap();
                let parsed = ranking::events::parse(&json, log.schema()).unwrap();
                assert_eq!((&parsed.event, parsed.naive), (&event, 0), "{}", String::from_utf8_lossy(&json));
            }
        }
    }
}
