//! `run.toml`: what to train. One struct is both the document's shape and what the program uses; [`check`] turns a text into a
//! checked [`RunSpec`] or into every problem it has, each with its line.

pub mod check;

use std::{fmt, num::NonZeroU64, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use check::{Problem, Problems, parse};

/// What to train, on what, how. Travels to every worker as the TOML it was written in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// Names the run's checkpoints and curves. Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Everything random is derived from it: order of data, first weights, dropout.
    pub seed: u64,
    pub data: Data,
    pub model: Model,
    pub loss: Loss,
    pub training: Training,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub cluster: Cluster,
    pub checkpoint: Checkpoint,
    /// Without it a run is kept by its coordinator alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
}

/// What stands before the name of a metric of `data.judgments`; those of `data.validation` have no prefix.
pub const JUDGMENTS: &str = "judgments/";

impl RunSpec {
    /// The metric that decides which epoch is the best, as checkpoints name it; none where the training loss does.
    pub fn best_by(&self) -> Option<String> {
        let default = EarlyStopping::default().metric;
        match (&self.training.early_stopping, &self.data.validation, &self.data.judgments) {
            (_, None, None) => None,
            (Some(early), _, _) => Some(early.metric.clone()),
            (None, Some(_), _) => Some(default),
            (None, None, Some(_)) => Some(format!("{JUDGMENTS}{default}")),
        }
    }
}

/// `[data]`: Parquet files and the columns that matter in them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// A Parquet file, or a folder of them. Relative paths are relative to where `lockstep` was started.
    pub train: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// The same, labelled by people who judged the results: scored beside `validation` after each epoch, as metrics named
    /// `judgments/ndcg@10`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgments: Option<PathBuf>,
    pub label: String,
    pub query: String,
    /// What a list is; default: `list_id` where the data has it, else the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A dataset without this column weighs every row 1, unless the key was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Default: the dataset's own list, in its order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Decoded bytes of one block: what a lane reads at a time.
    pub block_bytes: ByteSize,
    /// Datasets whose decoded size is within this stay in a worker's memory after the first read.
    pub cache: ByteSize,
    /// Decoded bytes that a worker reads ahead of the step it is at, beside the one block a lane holds.
    pub read_ahead: ByteSize,
    /// Threads of a worker that read and decode.
    pub readers: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            validation: None,
            judgments: None,
            label: "label".into(),
            query: "query_id".into(),
            group: None,
            weight: None,
            features: None,
            block_bytes: ByteSize::mib(4),
            cache: ByteSize::mib(256),
            read_ahead: ByteSize::mib(64),
            readers: 1,
        }
    }
}

/// `[model]`. Keys that a kind has no use for are refused by [`check`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    pub kind: ModelKind,
    /// The file of a scripted module (`torchscript`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Widths of the hidden layers (`mlp`; `dcn_v2`: of its deep tower, which may be empty).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Probability of dropping a hidden unit, after its activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Layer normalisation of each hidden layer, before its activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_norm: Option<bool>,
    /// Cross layers (`dcn_v2`); default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_layers: Option<usize>,
    /// Rank of the cross layers' matrices (`dcn_v2`); default: full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_rank: Option<usize>,
    /// What is done to raw features first, inside the model.
    pub normalize: Normalize,
    /// Start from this checkpoint's weights (and its normalisation): a warm start, not a resume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    Linear,
    #[default]
    Mlp,
    /// Deep & Cross Network v2 (Wang et al., WWW 2021), the cross network and the deep tower in parallel.
    DcnV2,
    /// A module that its user scripted in PyTorch, at `path`.
    Torchscript,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    #[default]
    Relu,
    /// The exact one, by the error function.
    Gelu,
    Silu,
    Tanh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// To mean 0 and standard deviation 1 over the training rows; a constant feature becomes 0.
    Standard,
    /// `sign(x) ln(1 + |x|)`, then as `standard`.
    Log1p,
    #[default]
    None,
}

/// `[loss]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    pub kind: LossKind,
    /// Steepness of the pair's logistic (`ranknet`, `lambdarank`); default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
    /// Ranks past this do not count in the gain of a swap (`lambdarank`); default: all count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<usize>,
    /// Temperature of the smooth rank (`approx_ndcg`); default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    Mse,
    Bce,
    Ranknet,
    #[default]
    Lambdarank,
    Listnet,
    ApproxNdcg,
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl LossKind {
    /// Pointwise losses count rows; the others count lists.
    pub fn is_pointwise(self) -> bool {
        matches!(self, Self::Mse | Self::Bce)
    }

    pub fn is_pairwise(self) -> bool {
        matches!(self, Self::Ranknet | Self::Lambdarank)
    }
}

/// `[training]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    pub epochs: u64,
    /// Of the whole run, not per worker: rows for pointwise losses, lists for the others.
    pub batch: u64,
    /// A step's share is worked off in this many pieces; the step is the same, its memory smaller.
    pub accumulate: u64,
    /// Gradients are scaled down to this global norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Steps in a row without a finite loss and gradient after which the run fails.
    pub max_nonfinite: u64,
    /// Order of additions inside a worker's kernels is fixed by its thread count; default: the machine's cores shared among its workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 128,
            accumulate: 1,
            clip_norm: None,
            early_stopping: None,
            max_nonfinite: 10,
            threads: None,
        }
    }
}

/// Stop when `metric` has not improved for `patience` epochs: of `data.validation`, or of `data.judgments` with [`JUDGMENTS`] before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    pub metric: String,
    pub patience: u64,
    /// An improvement is more than this.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { metric: "ndcg@10".into(), patience: 3, min_delta: 0.0 }
    }
}

/// `[optimizer]`. Defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub learning_rate: f64,
    /// `adamw`: decoupled (Loshchilov & Hutter 2019); `sgd`: added to the gradient. Default 0.01 for `adamw`, 0 for `sgd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// `adamw`; default [0.9, 0.999].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// `adamw`; default 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// `sgd`; default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-3,
            weight_decay: None,
            betas: None,
            eps: None,
            momentum: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    #[default]
    Adamw,
    Sgd,
}

/// `[schedule]`: the learning rate over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// The rate that `cosine` ends at; default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// Linear growth from 0 over this long at the start: "100 steps" or "1 epoch".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Every>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    #[default]
    Constant,
    /// Half a cosine over all epochs, stepped once an epoch: PyTorch's `CosineAnnealingLR(T_max = epochs)`.
    Cosine,
}

/// `[cluster]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Processes that train together: so many the run begins with.
    pub workers: u32,
    /// With fewer the run waits. Default: `workers`, which keeps the world the same, and the weights the same to the bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_workers: Option<u32>,
    /// As many may join. Default: `workers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// Fixed for the run: the order of data follows from it and the seed, whatever the number of workers.
    pub lanes: u32,
    pub device: Device,
    /// How long a run waits for its workers before it gives up.
    #[serde(with = "human_duration")]
    pub join_timeout: Duration,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            workers: 1,
            min_workers: None,
            max_workers: None,
            lanes: 64,
            device: Device::Auto,
            join_timeout: Duration::from_secs(60),
        }
    }
}

impl Cluster {
    /// The smallest world that trains.
    pub fn least(&self) -> u32 {
        self.min_workers.unwrap_or(self.workers)
    }

    /// The largest one.
    pub fn most(&self) -> u32 {
        self.max_workers.unwrap_or(self.workers)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// `[checkpoint]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Holds one folder a run, named for it.
    pub dir: PathBuf,
    pub every: Every,
    /// The newest so many stay, and the best one always.
    pub keep: usize,
    /// Keep the state before the first step too.
    pub initial: bool,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { dir: "checkpoints".into(), every: Every::Epochs(NonZeroU64::MIN), keep: 3, initial: false }
    }
}

/// `[tracking]`: the MLflow server that a run is told to. Who we are to it is said by the environment of the coordinator
/// (`MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`), never here: the document is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracking {
    /// `http://host:5000`, with a path behind it where the server has one.
    pub mlflow: String,
    pub experiment: String,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { mlflow: String::new(), experiment: "lockstep".into() }
    }
}

/// "1 epoch", "500 steps", "10 min".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    Epochs(NonZeroU64),
    Steps(NonZeroU64),
    Time(Duration),
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        match self {
            Self::Epochs(n) => write!(f, "{n} epoch{}", plural(n.get())),
            Self::Steps(n) => write!(f, "{n} step{}", plural(n.get())),
            Self::Time(time) => write!(f, "{}", humantime::format_duration(*time)),
        }
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is neither epochs, steps nor a time: write \"1 epoch\", \"500 steps\" or \"10 min\"");
        let count = |digits: &str| digits.trim().parse::<NonZeroU64>().map_err(|_| wrong());
        let text = text.trim();
        if let Some(digits) = text.strip_suffix("epochs").or_else(|| text.strip_suffix("epoch")) {
            Ok(Self::Epochs(count(digits)?))
        } else if let Some(digits) = text.strip_suffix("steps").or_else(|| text.strip_suffix("step")) {
            Ok(Self::Steps(count(digits)?))
        } else {
            match humantime::parse_duration(text) {
                Ok(time) if !time.is_zero() => Ok(Self::Time(time)),
                _ => Err(wrong()),
            }
        }
    }
}

impl Serialize for Every {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

mod human_duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| D::Error::custom(format!("`{text}` is not a time: write \"60 s\" or \"5 min\"")))
    }
}
