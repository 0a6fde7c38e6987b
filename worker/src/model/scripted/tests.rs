use proto::spec::{Model, ModelKind};

use super::*;
use crate::{
    model::{Network, Tape},
    torchscript::Part,
};

const FEATURES: usize = 3;

fn tensor(shape: &[i64]) -> Tensor {
    let numbers: Vec<f32> = (0..shape.iter().product::<i64>()).map(|at| (at as f32 * 1.3 + 0.4).sin()).collect();
    Tensor::from_slice(&numbers).view(shape).set_requires_grad(true)
}

/// The file of a module with `w` [1, 3], `b` [1] and what is added to them.
fn file(more: &[(&str, Tensor, bool)], forward: &str) -> Arc<[u8]> {
    let (w, b) = (tensor(&[1, FEATURES as i64]), tensor(&[1]));
    let mut parts = vec![
        Part { path: "w", tensor: &w, is_parameter: true },
        Part { path: "part.b", tensor: &b, is_parameter: true },
    ];
    parts.extend(more.iter().map(|(path, tensor, is_parameter)| Part { path, tensor, is_parameter: *is_parameter }));
    let body = forward.replace("LINEAR", "torch.addmm(self.part.b, x, torch.t(self.w))");
    let source = match body.starts_with("def") {
        true => body,
        false => format!("def forward(self, x: Tensor) -> Tensor:\n    {body}\n"),
    };
    Script::build(&parts, &[], None, &source).unwrap().save(&[]).unwrap().into()
}

#[track_caller]
fn refused(file: Arc<[u8]>, words: &[&str]) {
    let unfit = Scripted::load(file, FEATURES, Device::Cpu).unwrap_err();
    for word in words {
        assert!(unfit.message.contains(word), "no `{word}` in `{}`", unfit.message);
    }
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let one = |forward: &str| file(&[], forward);
    refused(b"PK\x03\x04 no module".as_slice().into(), &["is not a TorchScript module"]);
    refused(one("def forward(self, x: Tensor, y: Tensor) -> Tensor:\n    return x + y\n"), &["(x: Tensor, y: Tensor)"]);
    refused(one("def forward(self) -> Tensor:\n    return self.w\n"), &["takes ()"]);
    refused(one("def forward(self, x: int) -> Tensor:\n    return self.w\n"), &["takes `x: int`"]);
    refused(
        one("def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:\n    return (x, x)\n"),
        &["returns Tuple[Tensor, Tensor]"],
    );
    refused(one("return torch.cat([LINEAR, LINEAR], 1)"), &["shape [6, 2] for 6 rows, not [6] or [6, 1]"]);
    refused(one("return torch.sum(LINEAR)"), &["shape []"]);
    refused(one("return LINEAR.double()"), &["Double"]);
    refused(one("return torch.addmm(self.part.b, x, self.w)"), &["fails on 6 rows of the data's 3 features"]);
    refused(one("return torch.mm(x, torch.t(self.w))"), &["a parameter that no gradient reaches: `part.b`"]);
    refused(one("return torch.sum(x, [1])"), &["do not depend on its parameters"]);
    refused(one("return LINEAR - torch.mean(LINEAR)"), &["another score when other rows come with it"]);
    refused(one("return torch.dropout(LINEAR, 0.5, self.training)"), &["from call to call", "aten::dropout"]);
    refused(one("return LINEAR + torch.rand_like(x[:, :1])"), &["draws random numbers", "aten::rand_like"]);
    refused(one("if self.training:\n        x = x * 2\n    return LINEAR"), &["training and in evaluation mode"]);
    refused(one("self.features = [\"a\"]\n    return LINEAR"), &["assigns to its attribute `features`"]);
    let running = [
        ("norm.running_mean", tensor(&[3]).detach(), false),
        ("norm.running_var", tensor(&[3]).detach().abs() + 1.0, false),
    ];
    let norm = "torch.batch_norm(x, None, None, self.norm.running_mean, self.norm.running_var, self.training, 0.1, 1e-05, False)";
    refused(file(&running, &format!("x = {norm}\n    return LINEAR")), &["changes its buffer `norm.running_mean`"]);
    refused(file(&[("u", tensor(&[2]) / 0.0, true)], "return LINEAR"), &["`u` that holds NaN or an infinity"]);
    refused(
        file(&[("u", tensor(&[2]).detach().to_kind(Kind::Double).set_requires_grad(true), true)], "return LINEAR"),
        &["`u` of Double"],
    );
    refused(file(&[("u", tensor(&[1]).detach(), true)], "return LINEAR * self.u"), &["`u` that requires no gradient"]);
    refused(file(&[("normalize.u", tensor(&[1]), true)], "return LINEAR * self.normalize.u"), &["normalisation's"]);
}

fn network(forward: &str) -> Network {
    let model = Model { kind: ModelKind::Torchscript, ..Model::default() };
    Network::scripted(file(&[], forward), &model, FEATURES, Device::Cpu).unwrap()
}

fn forward(network: &Network, x: &Tensor) -> (Tensor, Tape) {
    let _no_graph = tch::no_grad_guard();
    network.forward(x, None)
}

#[test]
fn its_parameters_are_the_flat_buffer_and_its_gradients_add_up_there() {
    for body in ["return LINEAR", "return torch.squeeze(LINEAR, 1)"] {
        let mut network = network(body);
        let names: Vec<_> = network.parameters.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["w", "part.b"]);
        let x = tensor(&[4, FEATURES as i64]).detach();
        let weights = tensor(&[4]).detach();
        for round in 1..=2 {
            let (_, tape) = forward(&network, &x);
            network.backward(tape, &weights);
            let expected = weights.unsqueeze(0).mm(&x) * f64::from(round);
            let found = network.parameters.view(0).1;
            assert!(found.allclose(&expected, 1e-6, 1e-6, false), "{found:?} {expected:?}");
        }
        network.parameters.slices().0.copy_from_slice(&[2.0, 0.0, 0.0, 1.0]);
        let scores = network.score(&x);
        assert_eq!(scores.size(), [4]);
        assert!(scores.allclose(&(x.select(1, 0) * 2.0 + 1.0), 1e-6, 1e-6, false));
        assert!(!scores.requires_grad());
    }
}

#[test]
fn what_it_is_given_is_its_own_to_write_to() {
    let network = network("x.mul_(2)\n    return LINEAR");
    let x = tensor(&[4, FEATURES as i64]).detach();
    let before = x.copy();
    let (scores, again) = (forward(&network, &x).0, network.score(&x));
    assert!(x.equal(&before) && scores.equal(&again));
}

#[test]
fn a_replica_scores_on_another_thread_and_follows_what_is_learnt() {
    let mut network = network("return LINEAR");
    let x = tensor(&[4, FEATURES as i64]).detach();
    let replica = network.replica();
    network.parameters.slices().0.fill(1.0);
    let expected = network.score(&x);
    let scores = std::thread::spawn({
        let x = x.shallow_clone();
        move || replica.score(&x)
    });
    assert!(scores.join().unwrap().equal(&expected));
}

#[test]
fn scores_are_the_same_to_the_bit_from_the_first_call_on() {
    let network = network("return torch.tanh(LINEAR) * torch.sigmoid(LINEAR) + torch.relu(LINEAR)");
    let x = tensor(&[64, FEATURES as i64]).detach();
    let first = network.score(&x);
    assert!((0..5).all(|_| network.score(&x).equal(&first) && forward(&network, &x).0.equal(&first)));
}

#[test]
fn what_a_module_raises_on_real_rows_says_that_it_is_the_modules() {
    let network = network("assert bool(torch.all(x < 100)), \"too large\"\n    return LINEAR");
    let x = tensor(&[4, FEATURES as i64]).detach() * 1000.0;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| network.score(&x))).unwrap_err();
    let words = panic.downcast_ref::<String>().unwrap();
    assert!(words.starts_with(RAISED) && words.contains("too large"), "{words}");
}

#[test]
fn a_finished_module_may_be_one_that_could_not_be_trained() {
    let frozen = file(&[("u", tensor(&[1]).detach(), true)], "return LINEAR * self.u");
    let network = Network::finished(frozen, FEATURES, Device::Cpu).unwrap();
    assert!(network.parameters.is_empty());
    assert_eq!(network.score(&tensor(&[4, FEATURES as i64]).detach()).size(), [4]);
    assert!(Network::finished(file(&[], "return torch.cat([LINEAR, LINEAR], 1)"), FEATURES, Device::Cpu).is_err());
}
