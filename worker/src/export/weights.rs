//! A model as one file of safetensors: the tensors of its checkpoint, and in the metadata what a stranger needs to use them.

use std::collections::HashMap;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use super::{provenance, trained};
use crate::{
    fault::Fault,
    model::load::{Loaded, Trained},
};

/// As a file's bytes. Metadata of safetensors is text by name; what is no text is JSON.
pub fn bytes(loaded: &Loaded) -> Result<Vec<u8>, Fault> {
    let trained = trained(loaded)?;
    let network = &loaded.network;
    let normalization = &network.normalization;
    let mut tensors = vec![
        ("normalize.mean".to_owned(), normalization.mean.shallow_clone()),
        ("normalize.scale".to_owned(), normalization.scale.shallow_clone()),
    ];
    for (index, entry) in network.parameters.entries.iter().enumerate() {
        tensors.push((entry.name.clone(), network.parameters.view(index).0));
    }
    let numbers: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let mut numbers = vec![0f32; tensor.numel()];
            tensor.copy_data(&mut numbers, tensor.numel());
            (name, tensor.size().iter().map(|length| *length as usize).collect(), numbers)
        })
        .collect();
    let views = numbers.iter().map(|(name, shape, numbers)| {
        TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(numbers)).map(|view| (name.as_str(), view))
    });
    let written =
        views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, Some(metadata(trained))));
    written.map_err(|error| {
        let message = format!("`{}` could not be written as safetensors: {error}", loaded.path.display());
        Fault::failed(message, "please report this")
    })
}

fn metadata(trained: &Trained) -> HashMap<String, String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let mut metadata: HashMap<String, String> = match provenance(trained) {
        Value::Object(about) => about.into_iter().map(|(key, value)| (key, text(value))).collect(),
        _ => HashMap::new(),
    };
    // What readers of PyTorch's look for.
    metadata.insert("format".into(), "pt".into());
    metadata
}
