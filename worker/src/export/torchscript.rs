//! A model as a scripted module: its parameters under their checkpoint's names, its normalisation as buffers, its features' names in
//! `features`, and where it comes from in the archive's `lockstep.json`.

use proto::spec::{Model, Normalize};
use serde_json::json;
use tch::Tensor;

use super::{forward, provenance, trained};
use crate::{
    fault::Fault,
    model::{NORMALIZE, Network, load::Loaded},
    torchscript::{ABOUT, Part, Script, ScriptError},
};

/// As a file's bytes.
pub fn bytes(loaded: &Loaded) -> Result<Vec<u8>, Fault> {
    let trained = trained(loaded)?;
    let mut about = provenance(trained);
    about[NORMALIZE] = json!(normalize_inside(loaded, &trained.spec.model));
    let saved = script(loaded, &trained.spec.model).and_then(|script| script.save(&[(ABOUT, &about.to_string())]));
    saved.map_err(|error| {
        Fault::failed(
            format!("`{}` could not be made a TorchScript module: {error}", loaded.path.display()),
            "if the model is one of lockstep's own, please report this",
        )
    })
}

/// The model's own, else what the module that it was made of has inside.
fn normalize_inside(loaded: &Loaded, model: &Model) -> Normalize {
    let of_module = || loaded.network.module_file().and_then(|file| Network::about(file).ok());
    match model.normalize {
        Normalize::None => of_module().unwrap_or_default().normalize,
        normalize => normalize,
    }
}

fn script(loaded: &Loaded, model: &Model) -> Result<Script, ScriptError> {
    let network = &loaded.network;
    // Tensors of their own: views would be saved with all the memory that they are views of.
    let trained: Vec<(&str, Tensor)> = network
        .parameters
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.name.as_str(), network.parameters.view(index).0.copy()))
        .collect();
    let inner = match network.module_file() {
        Some(file) => {
            let (mut inner, _) = Script::load(file)?;
            inner.train(false)?;
            for ((_, mut parameter), (_, value)) in inner.parameters()?.into_iter().zip(&trained) {
                tch::no_grad(|| parameter.copy_(value));
            }
            Some(inner)
        }
        None => None,
    };
    let normalization = &network.normalization;
    let statistics = [("normalize.mean", normalization.mean.copy()), ("normalize.scale", normalization.scale.copy())];
    let mut parts = Vec::new();
    if inner.is_none() {
        parts.extend(trained.into_iter().map(|(path, value)| (path, value.set_requires_grad(true), true)));
    }
    if model.normalize != Normalize::None {
        parts.extend(statistics.into_iter().map(|(path, value)| (path, value, false)));
    }
    let parts: Vec<_> =
        parts.iter().map(|(path, tensor, is_parameter)| Part { path, tensor, is_parameter: *is_parameter }).collect();
    Script::build(&parts, &loaded.features, inner.as_ref(), &forward::of(model))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proto::{
        checkpoint::CheckpointManifest,
        spec::{Activation, ModelKind, RunSpec},
    };
    use tch::{Device, Kind};

    use super::*;
    use crate::model::{Normalization, Statistics, load::Trained};

    const FEATURES: usize = 5;

    fn manifest() -> CheckpointManifest {
        let features: Vec<_> = (0..FEATURES).map(|index| format!("f{index}")).collect();
        serde_json::from_value(serde_json::json!({
            "format": 1, "lockstep": "0", "run_id": "r", "run_name": "n", "generation": 1, "step": 7, "epoch": 1,
            "step_in_epoch": 0, "steps_per_epoch": 7, "seed": 1, "lanes": 64, "world": 1, "dataset_hash": "h",
            "features": features, "spec_toml": "", "metrics": [], "files": [], "unix_micros": 0,
            "trainer": {"updates": 7, "skipped_nonfinite": 0, "skipped_empty": 0, "best": null, "best_epoch": null,
                "epochs_without_improvement": 0, "epoch_loss": 0.0, "epoch_denominator": 0.0, "epoch_rows": 0,
                "epoch_lists": 0, "epoch_atoms": 0, "epoch_hash": ""},
        }))
        .unwrap()
    }

    fn loaded(model: Model, mut network: Network) -> Loaded {
        let rows: Vec<f32> =
            (0..40 * FEATURES).map(|at| (at as f32 * 0.7).sin() * 9.0 + (at % FEATURES) as f32).collect();
        let statistics = Statistics::of(model.normalize, &rows, FEATURES);
        if model.normalize != Normalize::None {
            network.normalization = Normalization::from_statistics(model.normalize, statistics, Device::Cpu);
        }
        let spec = RunSpec { model, ..RunSpec::default() };
        let manifest = manifest();
        let features = manifest.features.clone();
        Loaded { path: PathBuf::from("here"), features, network, trained: Some(Trained { manifest, spec }) }
    }

    fn models() -> Vec<Model> {
        let mut models = vec![
            Model { kind: ModelKind::Linear, ..Model::default() },
            Model { kind: ModelKind::DcnV2, ..Model::default() },
            Model { kind: ModelKind::DcnV2, cross_layers: Some(3), cross_rank: Some(2), ..Model::default() },
            Model { kind: ModelKind::DcnV2, hidden: vec![6, 4], layer_norm: Some(true), ..Model::default() },
            Model { hidden: vec![7, 5], layer_norm: Some(true), dropout: Some(0.5), ..Model::default() },
        ];
        for activation in [Activation::Relu, Activation::Gelu, Activation::Silu, Activation::Tanh] {
            models.push(Model { hidden: vec![8, 4], activation: Some(activation), ..Model::default() });
        }
        let each = |model: Model| {
            [Normalize::None, Normalize::Standard, Normalize::Log1p]
                .map(|normalize| Model { normalize, ..model.clone() })
        };
        models.into_iter().flat_map(each).collect()
    }

    /// The largest, relative to the larger of the largest score and 1.
    fn difference(one: &Tensor, other: &Tensor) -> f64 {
        assert_eq!(one.size(), other.size());
        let (one, other) = (one.detach(), other.detach());
        (&one - &other).abs().max().double_value(&[]) / other.abs().max().double_value(&[]).max(1.0)
    }

    #[test]
    fn each_kind_of_model_scores_as_a_module_what_it_scores_here_under_the_same_names() {
        let x = Tensor::randn([33, FEATURES as i64], (Kind::Float, Device::Cpu)) * 20.0;
        for model in models() {
            let loaded = loaded(model.clone(), Network::new(&model, FEATURES, 3, Device::Cpu));
            let file = bytes(&loaded).unwrap();
            let (module, _) = Script::load(&file).unwrap();
            let about = Network::about(&file).unwrap();
            assert_eq!((about.features.as_ref(), about.normalize), (Some(&loaded.features), model.normalize));
            let apart = difference(&module.forward(&x, false).unwrap(), &loaded.network.score(&x));
            assert!(apart < 1e-6, "{model:?}: {apart}");
            let names = |tensors: Vec<(String, Tensor)>| {
                let mut names: Vec<_> = tensors.into_iter().map(|(name, _)| name).collect();
                names.sort();
                names
            };
            let mut expected: Vec<_> =
                loaded.network.parameters.entries.iter().map(|entry| entry.name.clone()).collect();
            expected.sort();
            assert_eq!(names(module.parameters().unwrap()), expected);
            let statistics: &[&str] =
                if model.normalize == Normalize::None { &[] } else { &["normalize.mean", "normalize.scale"] };
            assert_eq!(names(module.buffers().unwrap()), statistics);
            assert_eq!(module.strings("features").unwrap(), loaded.features);
        }
    }

    #[test]
    fn an_exported_module_can_be_trained_on_as_a_scripted_one_and_exported_again() {
        let built_in = Model { hidden: vec![6], normalize: Normalize::Standard, ..Model::default() };
        let first = loaded(built_in.clone(), Network::new(&built_in, FEATURES, 3, Device::Cpu));
        let file: std::sync::Arc<[u8]> = bytes(&first).unwrap().into();
        let model = Model { kind: ModelKind::Torchscript, normalize: Normalize::Log1p, ..Model::default() };
        let mut network = Network::scripted(file, &model, FEATURES, Device::Cpu).unwrap();
        // Trained: the flat buffer is no longer what the file holds.
        network.parameters.slices().0.iter_mut().for_each(|value| *value *= 1.5);
        let second = loaded(model, network);
        let x = Tensor::randn([9, FEATURES as i64], (Kind::Float, Device::Cpu));
        let (module, _) = Script::load(&bytes(&second).unwrap()).unwrap();
        let scores = second.network.score(&x);
        assert!(difference(&module.forward(&x, false).unwrap(), &scores) < 1e-6);
        assert!(difference(&first.network.score(&x), &scores) > 1e-3);
        // What normalises inside says so also where it was trained on without more of it, and left again.
        let plain = Model { kind: ModelKind::Torchscript, ..Model::default() };
        let third = loaded(
            plain.clone(),
            Network::scripted(bytes(&first).unwrap().into(), &plain, FEATURES, Device::Cpu).unwrap(),
        );
        assert_eq!(Network::about(&bytes(&third).unwrap()).unwrap().normalize, Normalize::Standard);
    }

    #[test]
    fn a_file_is_as_large_as_its_own_tensors() {
        let model = Model { hidden: vec![200, 100], ..Model::default() };
        let loaded = loaded(model.clone(), Network::new(&model, FEATURES, 3, Device::Cpu));
        let tensors = 4 * loaded.network.parameters.len();
        let file = bytes(&loaded).unwrap().len();
        assert!(file < tensors + 20_000, "{file} bytes for {tensors} of tensors");
    }
}
