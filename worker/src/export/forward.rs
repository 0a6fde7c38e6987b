//! The forward pass of a built-in model as TorchScript's text: the same operators in the same order as the layers' own.

use proto::spec::{Activation, Model, ModelKind, Normalize};

/// `def forward(self, x: Tensor) -> Tensor`, from raw features [rows, features] to scores [rows].
pub fn of(model: &Model) -> String {
    let mut lines = vec!["def forward(self, x: Tensor) -> Tensor:".to_owned()];
    let mut line = |text: String| lines.push(format!("    {text}"));
    if let Some(normalised) = normalised(model.normalize) {
        line(format!("x = {normalised}"));
    }
    if model.kind == ModelKind::Torchscript {
        // Its module may write to what it is given.
        let given = if model.normalize == Normalize::None { "torch.clone(x)" } else { "x" };
        line(format!("scores = self.module.forward({given})"));
        line("return torch.reshape(scores, [-1])".into());
        return lines.join("\n") + "\n";
    }
    let hidden: &[usize] = if model.kind == ModelKind::Linear { &[] } else { &model.hidden };
    let head = match model.kind {
        ModelKind::DcnV2 => {
            line("crossed = x".into());
            for index in 0..model.cross_layers.unwrap_or(2) {
                let part = format!("getattr(self.cross, \"{index}\")");
                let through = match model.cross_rank {
                    Some(_) => dense(&format!("torch.mm(crossed, torch.t({part}.down))"), &part, "up"),
                    None => dense("crossed", &part, "weight"),
                };
                line(format!("crossed = torch.addcmul(crossed, x, {through})"));
            }
            "self.head".to_owned()
        }
        _ => format!("getattr(self.layers, \"{}\")", hidden.len()),
    };
    for (index, units) in hidden.iter().enumerate() {
        let layer = format!("getattr(self.layers, \"{index}\")");
        let from = if index == 0 { "x" } else { "deep" };
        line(format!("deep = {}", dense(from, &layer, "weight")));
        if model.layer_norm.unwrap_or(false) {
            let norm = format!("getattr(self.norms, \"{index}\")");
            line(format!("deep = torch.layer_norm(deep, [{units}], {norm}.weight, {norm}.bias, 1e-05)"));
        }
        line(format!("deep = {}", activated(model.activation.unwrap_or_default())));
    }
    let top = match (model.kind, hidden.is_empty()) {
        (ModelKind::DcnV2, true) => "crossed",
        (ModelKind::DcnV2, false) => "torch.cat([crossed, deep], 1)",
        (_, true) => "x",
        (_, false) => "deep",
    };
    line(format!("return torch.squeeze({}, 1)", dense(top, &head, "weight")));
    lines.join("\n") + "\n"
}

fn normalised(kind: Normalize) -> Option<&'static str> {
    match kind {
        Normalize::None => None,
        Normalize::Standard => Some("(x - self.normalize.mean) * self.normalize.scale"),
        Normalize::Log1p => {
            Some("(torch.sign(x) * torch.log1p(torch.abs(x)) - self.normalize.mean) * self.normalize.scale")
        }
    }
}

/// `from` Wᵀ + b.
fn dense(from: &str, part: &str, weight: &str) -> String {
    format!("torch.addmm({part}.bias, {from}, torch.t({part}.{weight}))")
}

fn activated(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "torch.relu(deep)",
        Activation::Gelu => "torch.gelu(deep)",
        Activation::Silu => "torch.silu(deep)",
        Activation::Tanh => "torch.tanh(deep)",
    }
}
