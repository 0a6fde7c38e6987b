//! A model as the folder that MLflow keeps models in, laid out as `mlflow.pytorch.save_model` of a scripted module does
//! (MLflow's documentation, "MLflow Models: storage format"), so that `mlflow.pytorch.load_model` and `mlflow.pyfunc` open it.

use std::{path::Path, time::SystemTime};

use serde_json::{Value, json};

use super::{folder::WholeFolder, provenance, torchscript, trained};
use crate::{
    fault::Fault,
    model::load::{Loaded, Trained},
};

/// The file by which MLflow knows a model.
pub const MLMODEL: &str = "MLmodel";
/// Where [`write`] puts the scripted module, inside the folder.
pub const MODULE: &str = "data/model.pth";

/// The libtorch that wrote the module; the version of PyTorch that surely reads it.
const TORCH: &str = "2.11.0";
/// A Python that this PyTorch has wheels for.
const PYTHON: &str = "3.11.7";
const PICKLE_MODULE: &str = "mlflow.pytorch.pickle_module";

pub fn write(loaded: &Loaded, out: &Path, overwrite: bool) -> Result<(), Fault> {
    let folder = WholeFolder::begin(out, overwrite, MLMODEL)?;
    let features = &loaded.features;
    let trained = trained(loaded)?;
    let module = torchscript::bytes(loaded)?;
    folder.write(MODULE, &module)?;
    folder.write("data/pickle_module_info.txt", PICKLE_MODULE.as_bytes())?;
    let requirements = ["mlflow", "cloudpickle", "numpy", "pandas", &format!("torch=={TORCH}")].join("\n");
    folder.write("requirements.txt", requirements.as_bytes())?;
    folder.write(
        "python_env.yaml",
        format!("python: {PYTHON}\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n")
            .as_bytes(),
    )?;
    let packages = requirements.replace('\n', "\n  - ");
    folder.write(
        "conda.yaml",
        format!("channels:\n- conda-forge\ndependencies:\n- python={PYTHON}\n- pip\n- pip:\n  - {packages}\nname: mlflow-env\n")
            .as_bytes(),
    )?;
    let example = json!({ "columns": features, "data": [vec![0.0; features.len()]] });
    folder.write("input_example.json", example.to_string().as_bytes())?;
    folder.write("serving_input_example.json", json!({ "dataframe_split": example }).to_string().as_bytes())?;
    folder.write(MLMODEL, description(trained, features, module.len()).as_bytes())?;
    folder.commit()
}

/// `MLmodel`: YAML, of which JSON is a part. Inputs are doubles, to which MLflow widens whatever a table of numbers holds (it would
/// not narrow to floats); the module gets floats.
fn description(trained: &Trained, features: &[String], bytes: usize) -> String {
    let inputs: Vec<_> =
        features.iter().map(|name| json!({ "type": "double", "name": name, "required": true })).collect();
    let outputs = json!([{ "type": "tensor", "tensor-spec": { "dtype": "float32", "shape": [-1] } }]);
    // Signatures are JSON inside a text.
    let text = |value: Value| Value::String(value.to_string());
    let written: chrono::DateTime<chrono::Utc> = SystemTime::now().into();
    let lines = [
        (
            "flavors",
            json!({
                "python_function": {
                    "config": { "device": null },
                    "data": "data",
                    "env": { "conda": "conda.yaml", "virtualenv": "python_env.yaml" },
                    "loader_module": "mlflow.pytorch",
                    "pickle_module_name": PICKLE_MODULE,
                    "python_version": PYTHON,
                },
                "pytorch": { "code": null, "model_data": "data", "pytorch_version": TORCH },
            }),
        ),
        ("metadata", json!({ "lockstep": provenance(trained).to_string() })),
        ("model_size_bytes", json!(bytes)),
        ("model_uuid", json!(ulid::Ulid::new().to_string().to_lowercase())),
        (
            "saved_input_example_info",
            json!({
                "artifact_path": "input_example.json",
                "pandas_orient": "split",
                "serving_input_path": "serving_input_example.json",
                "type": "dataframe",
            }),
        ),
        ("signature", json!({ "inputs": text(inputs.into()), "outputs": text(outputs), "params": null })),
        ("utc_time_created", json!(written.format("%Y-%m-%d %H:%M:%S%.6f").to_string())),
    ];
    lines.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}
