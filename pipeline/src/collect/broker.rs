//! Talking to a broker: connecting with bounded retries, and its errors in words.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    CollectOptions,
    offsets::Fingerprint,
    resume::{Evidence, Watermarks},
};
use crate::PipelineError;

/// Tries that follow one another wait this long.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A topic that a broker does not know may just be on its way to it.
const UNKNOWN_TRIES: u32 = 4;
/// A single question.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One client, with what it heard from librdkafka.
pub struct Broker {
    pub consumer: BaseConsumer<Ears>,
    pub topic: String,
    brokers: String,
    patience: Duration,
}

/// Listens to what librdkafka says beside messages.
#[derive(Default)]
pub struct Ears {
    /// The last error, with its reason.
    heard: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// Commits of group offsets that were not answered yet.
    pub unanswered: AtomicI64,
}

impl Ears {
    fn heard(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.heard.lock().ok()?.clone()
    }
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka error");
        if let (Some(code), Ok(mut heard)) = (error.rdkafka_error_code(), self.heard.lock()) {
            // That all brokers are down is what follows from the reason.
            if code != RDKafkaErrorCode::AllBrokersDown || heard.is_none() {
                *heard = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ConsumerContext for Ears {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = result {
            tracing::debug!(%error, "the group's offsets were not committed");
        }
    }
}

/// What an error means for who reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It may pass.
    Passing,
    /// The offset that was to be read is gone.
    OffsetGone,
    /// It will not pass.
    Final,
}

pub fn meaning(error: &KafkaError) -> Meaning {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Meaning::OffsetGone,
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::UnsupportedSASLMechanism
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::Fatal,
        ) => Meaning::Final,
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Meaning::Final,
        _ => Meaning::Passing,
    }
}

impl Broker {
    /// A client, not yet connected.
    pub fn client(options: &CollectOptions) -> Result<Self, PipelineError> {
        let mut config = ClientConfig::new();
        // What a person may set otherwise.
        config.set("group.id", format!("lockstep-collect-{}", options.topic));
        config.set("client.id", "lockstep-collect");
        config.set("fetch.wait.max.ms", "100");
        config.set("fetch.queue.backoff.ms", "20");
        let queue = (options.memory / 4 / options.threads.max(1) / 1024).clamp(8 << 10, 256 << 10);
        config.set("queued.max.messages.kbytes", queue.to_string());
        config.set("queued.min.messages", "50000");
        for (key, value) in options.settings.iter() {
            config.set(key, value);
        }
        // What exactly once hangs on.
        config.set("bootstrap.servers", &options.brokers);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true");
        let consumer = config.create_with_context(Ears::default()).map_err(refused)?;
        Ok(Self {
            consumer,
            topic: options.topic.clone(),
            brokers: options.brokers.clone(),
            patience: options.patience,
        })
    }

    /// A client of a broker that answers and knows the topic.
    pub fn connect(options: &CollectOptions, stop: &AtomicBool) -> Result<Self, PipelineError> {
        let broker = Self::client(options)?;
        let begun = Instant::now();
        let mut unknown = 0;
        loop {
            match broker.partitions_now() {
                Ok(partitions) if !partitions.is_empty() => return Ok(broker),
                Ok(_) => {}
                Err(error) => {
                    let code = error.rdkafka_error_code();
                    let is_unknown = code == Some(RDKafkaErrorCode::UnknownTopicOrPartition);
                    unknown += u32::from(is_unknown);
                    // The reason arrives as an event of its own.
                    let heard = broker.listen();
                    let refused = heard.is_some_and(|(code, _)| meaning(&KafkaError::Global(code)) == Meaning::Final);
                    let last = unknown >= UNKNOWN_TRIES || (meaning(&error) == Meaning::Final && !is_unknown);
                    if last || refused || begun.elapsed() >= options.patience {
                        return Err(broker.failed(&error));
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Err(PipelineError::network(format!("stopped before `{}` answered", options.brokers)));
            }
            std::thread::sleep(AGAIN_AFTER);
        }
    }

    fn listen(&self) -> Option<(RDKafkaErrorCode, String)> {
        // No partition is assigned: only events come.
        while let Some(event) = self.consumer.poll(Duration::ZERO) {
            drop(event);
        }
        self.consumer.context().heard()
    }

    /// The topic's partitions, asked once.
    pub fn partitions_now(&self) -> KafkaResult<Vec<i32>> {
        let within = self.patience.min(Duration::from_secs(3));
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), within)?;
        let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic).ok_or(unknown)?;
        if let Some(error) = topic.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let mut partitions: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    pub fn partitions(&self) -> Result<Vec<i32>, PipelineError> {
        self.patiently(|| self.partitions_now())
    }

    pub fn watermarks(&self, partition: i32) -> KafkaResult<Watermarks> {
        let (low, high) = self.consumer.fetch_watermarks(&self.topic, partition, ANSWER_WITHIN.min(self.patience))?;
        Ok(Watermarks { low, high })
    }

    /// Asks until there is an answer, or patience ends.
    pub fn patiently<T>(&self, ask: impl Fn() -> KafkaResult<T>) -> Result<T, PipelineError> {
        let begun = Instant::now();
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if meaning(&error) != Meaning::Passing || begun.elapsed() >= self.patience => {
                    return Err(self.failed(&error));
                }
                Err(_) => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }

    /// Whether the partition still holds this very message. Reads it; nothing may be assigned.
    pub fn look_for(&self, partition: i32, wanted: Fingerprint) -> Result<Evidence, PipelineError> {
        self.assign(&[(partition, wanted.offset)])?;
        let begun = Instant::now();
        let evidence = loop {
            match self.consumer.poll(AGAIN_AFTER) {
                Some(Ok(message)) if message.offset() == wanted.offset => {
                    let same = Fingerprint::of(wanted.offset, message.payload()) == wanted;
                    break if same { Evidence::Same } else { Evidence::Other };
                }
                // Another one: that one is gone.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => break Evidence::None,
                Some(Err(error)) => match meaning(&error) {
                    Meaning::OffsetGone => break Evidence::None,
                    Meaning::Passing if begun.elapsed() < self.patience => {}
                    Meaning::Passing | Meaning::Final => return Err(self.failed(&error)),
                },
                None if begun.elapsed() < self.patience => {}
                None => return Err(self.silent()),
            }
        };
        self.consumer.unassign().map_err(|error| self.failed(&error))?;
        Ok(evidence)
    }

    /// Reads these partitions from these offsets on, and no others.
    pub fn assign(&self, from: &[(i32, i64)]) -> Result<(), PipelineError> {
        let mut list = TopicPartitionList::with_capacity(from.len());
        for &(partition, offset) in from {
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            added.map_err(|error| self.failed(&error))?;
        }
        self.consumer.assign(&list).map_err(|error| self.failed(&error))
    }

    /// An error in words, with the reason that librdkafka gave.
    pub fn failed(&self, error: &KafkaError) -> PipelineError {
        use RDKafkaErrorCode as Code;
        let heard = self.consumer.context().heard();
        // A refusal is the cause of the silence that is met here.
        let refusal = heard.clone().filter(|(code, _)| meaning(&KafkaError::Global(*code)) == Meaning::Final);
        let (code, reason) = match refusal {
            Some((code, reason)) => (Some(code), Some(reason)),
            None => (error.rdkafka_error_code(), heard.map(|(_, reason)| reason)),
        };
        let (brokers, topic) = (&self.brokers, &self.topic);
        let (message, hint) = match code {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => (
                format!("`{brokers}` has no topic `{topic}`"),
                "see whether the name is right, and whether the topic was made",
            ),
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism) => (
                format!("`{brokers}` refused the credentials"),
                "see security.protocol, sasl.mechanism, sasl.username and sasl.password in --kafka or --kafka-config",
            ),
            Some(
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::GroupAuthorizationFailed,
            ) => (
                format!("`{brokers}` does not let these credentials read `{topic}`"),
                "the topic needs the right to read and to describe; see its access control lists",
            ),
            Some(Code::SSL) => (
                format!("`{brokers}` and TLS do not get on"),
                "see security.protocol, ssl.ca.location and the certificates in --kafka or --kafka-config",
            ),
            _ => (
                format!("`{brokers}` cannot be reached, or does not answer"),
                "see whether the broker is up, and whether the address it advertises is right; TLS and SASL go in --kafka",
            ),
        };
        let cause = match reason {
            Some(reason) if code != Some(Code::UnknownTopicOrPartition) => reason,
            _ => error.to_string(),
        };
        PipelineError::network(message).with_hint(hint).because(std::io::Error::other(cause))
    }

    /// Nothing was said, not even an error.
    pub fn silent(&self) -> PipelineError {
        self.failed(&KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))
    }
}

/// A setting that librdkafka does not take; its value may be a secret.
fn refused(error: KafkaError) -> PipelineError {
    let words = match &error {
        KafkaError::ClientConfig(_, why, key, value) => {
            let why = if value.is_empty() { why.clone() } else { why.replace(value.as_str(), "…") };
            format!("`{key}`: {why}")
        }
        _ => error.to_string(),
    };
    PipelineError::options("the Kafka client cannot be made")
        .with_hint("settings are librdkafka's: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md")
        .because(std::io::Error::other(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_wrong_is_named_and_its_value_is_not() {
        let mut options = CollectOptions::new("localhost:1", "t", "lake");
        options.settings.add("sasl.pasword=hunter2").unwrap();
        let error = Broker::client(&options).err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("sasl.pasword") && !source.contains("hunter2"), "{source}");
        let mut options = CollectOptions::new("localhost:1", "t", "lake");
        options.settings.add("security.protocol=hunter2").unwrap();
        let error = Broker::client(&options).err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("security.protocol") && !source.contains("hunter2"), "{source}");
    }
}
