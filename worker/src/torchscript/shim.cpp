// What `tch` does not bind of TorchScript: building a module with named parts, looking into one, running one so that it repeats
// to the bit, and writing one to memory. Every function that can fail returns false after handing the reason to `fail`; no
// exception crosses to Rust, which declares these functions in mod.rs.

#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include <cstdint>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

using torch::jit::Module;

struct Text {
  const char* start;
  size_t length;

  std::string string() const { return std::string(start, length); }
};

/// Takes bytes that live until it returns.
struct Sink {
  void* into;
  void (*take)(void* into, Text bytes);

  void operator()(const std::string& bytes) const { take(into, Text{bytes.data(), bytes.size()}); }
};

/// Takes a name and a tensor, which becomes Rust's to free.
struct TensorSink {
  void* into;
  void (*take)(void* into, Text name, at::Tensor* tensor);
};

/// What `look_into` finds.
enum Finding : uint8_t { kRequired = 0, kOptional = 1, kReturned = 2, kRandom = 3, kAssigned = 4, kAlwaysRandom = 5, kWritten = 6 };

struct FindingSink {
  void* into;
  void (*take)(void* into, uint8_t finding, Text words);

  void operator()(Finding finding, const std::string& words) const {
    take(into, finding, Text{words.data(), words.size()});
  }
};

template <typename Work>
bool guarded(Sink fail, Work&& work) {
  try {
    work();
    return true;
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("an exception that is none of C++'s own");
  }
  return false;
}

/// What `value` is a view of, or taken from; itself where it came into being here.
const torch::jit::Value* origin(const torch::jit::Value* value) {
  for (;;) {
    const auto* node = value->node();
    const auto* schema = node->maybeSchema();
    const bool is_view = schema && !schema->returns().empty() && schema->returns()[0].alias_info();
    const bool is_part = node->kind() == torch::jit::prim::GetAttr || node->kind() == torch::jit::aten::data ||
        node->kind() == torch::jit::Symbol::fromQualString("prim::data");
    if (node->inputs().empty() || !(is_view || is_part)) {
      return value;
    }
    value = node->inputs()[0];
  }
}

/// Whether a dropout's `train` follows the module's mode, which is evaluation.
bool follows_the_mode(const torch::jit::Node* node) {
  if (!node->matches("aten::dropout(Tensor input, float p, bool train) -> Tensor") &&
      !node->matches("aten::dropout_(Tensor(a!) self, float p, bool train) -> Tensor(a!)")) {
    return false;
  }
  const auto* train = node->inputs()[2]->node();
  return train->kind() == torch::jit::prim::GetAttr && train->s(torch::jit::attr::name) == "training";
}

void walk(torch::jit::Block* block, const torch::jit::Value* self, FindingSink found) {
  for (auto* node : block->nodes()) {
    if (node->kind() == torch::jit::prim::SetAttr) {
      // Others are of objects that come and go within the call.
      if (origin(node->inputs()[0]) == self) {
        found(kAssigned, node->s(torch::jit::attr::name));
      }
    } else if (node->isNondeterministic()) {
      found(kRandom, node->kind().toQualString());
      if (!follows_the_mode(node)) {
        found(kAlwaysRandom, node->kind().toQualString());
      }
    }
    if (const auto* schema = node->maybeSchema()) {
      for (size_t index = 0; index < schema->arguments().size() && index < node->inputs().size(); ++index) {
        const auto* alias = schema->arguments()[index].alias_info();
        if (alias && alias->isWrite() && origin(node->inputs()[index]) == self) {
          found(kWritten, node->kind().toQualString());
        }
      }
    }
    for (auto* inner : node->blocks()) {
      walk(inner, self, found);
    }
  }
}

/// A module whose tensors and submodules come into being as they are named.
class Builder {
 public:
  explicit Builder(std::shared_ptr<torch::jit::CompilationUnit> unit) : unit_(std::move(unit)) {
    modules_.emplace("", fresh("__torch__.lockstep.Ranker"));
  }

  Module& at(const std::string& path) {
    auto found = modules_.find(path);
    if (found != modules_.end()) {
      return found->second;
    }
    const auto [parent, name] = split(path);
    Module child = fresh("__torch__.lockstep.Part");
    at(parent).register_module(name, child);
    return modules_.emplace(path, std::move(child)).first->second;
  }

  void add(const std::string& path, const at::Tensor& tensor, bool is_parameter) {
    const auto [parent, name] = split(path);
    at(parent).register_parameter(name, tensor, /*is_buffer=*/!is_parameter);
  }

 private:
  static std::pair<std::string, std::string> split(const std::string& path) {
    const auto dot = path.rfind('.');
    return dot == std::string::npos ? std::pair(std::string(), path) : std::pair(path.substr(0, dot), path.substr(dot + 1));
  }

  /// In evaluation mode, as Python's `eval()` leaves a module.
  Module fresh(const char* name) const {
    Module module(c10::QualifiedName(name), unit_, /*shouldMangle=*/true);
    module.register_attribute("training", c10::BoolType::get(), false);
    return module;
  }

  std::shared_ptr<torch::jit::CompilationUnit> unit_;
  std::map<std::string, Module> modules_;
};

}  // namespace

extern "C" {

/// One tensor of a module to be built.
struct LockstepPart {
  Text path;
  const at::Tensor* tensor;
  bool is_parameter;
};

/// `beside` takes the archive's own entry of the name `beside_name`, where it has one.
Module* lockstep_script_load(Text bytes, Text beside_name, Sink beside, Sink fail) {
  Module* loaded = nullptr;
  guarded(fail, [&] {
    std::istringstream stream(bytes.string());
    torch::jit::ExtraFilesMap extra{{beside_name.string(), ""}};
    Module module = torch::jit::load(stream, std::nullopt, extra);
    beside(extra.begin()->second);
    loaded = new Module(std::move(module));
  });
  return loaded;
}

/// `inner`, where there is one, becomes the submodule `module`. `forward` is TorchScript's text of the method.
Module* lockstep_script_build(const LockstepPart* parts, size_t part_count, const Text* features, size_t feature_count,
                              const Module* inner, Text forward, Sink fail) {
  Module* built = nullptr;
  guarded(fail, [&] {
    auto unit = inner ? inner->_ivalue()->compilation_unit() : std::make_shared<torch::jit::CompilationUnit>();
    Builder builder(unit);
    for (size_t index = 0; index < part_count; ++index) {
      builder.add(parts[index].path.string(), *parts[index].tensor, parts[index].is_parameter);
    }
    Module& module = builder.at("");
    c10::List<std::string> names;
    for (size_t index = 0; index < feature_count; ++index) {
      names.push_back(features[index].string());
    }
    module.register_attribute("features", c10::ListType::ofStrings(), names);
    if (inner) {
      module.register_module("module", *inner);
    }
    module.define(forward.string());
    built = new Module(module);
  });
  return built;
}

void lockstep_script_free(Module* module) { delete module; }

bool lockstep_script_look_into(const Module* module, FindingSink found, Sink fail) {
  return guarded(fail, [&] {
    TORCH_CHECK(
        module->type()->getForwardHooks().empty() && module->type()->getForwardPreHooks().empty(),
        "it has forward hooks, which nothing runs here: call what they do in forward");
    const auto method = module->get_method("forward");
    const auto& schema = method.function().getSchema();
    for (size_t index = 1; index < schema.arguments().size(); ++index) {
      const auto& argument = schema.arguments()[index];
      found(argument.default_value() ? kOptional : kRequired, argument.name() + ": " + argument.type()->annotation_str());
    }
    for (const auto& result : schema.returns()) {
      found(kReturned, result.type()->annotation_str());
    }
    auto graph = torch::jit::toGraphFunction(method.function()).graph()->copy();
    torch::jit::Inline(*graph);
    walk(graph->block(), graph->inputs()[0], found);
  });
}

/// Named parameters, or named tensors that are none.
bool lockstep_script_tensors(const Module* module, bool parameters, TensorSink each, Sink fail) {
  return guarded(fail, [&] {
    const auto give = [&](const std::string& name, const at::Tensor& tensor) {
      each.take(each.into, Text{name.data(), name.size()}, new at::Tensor(tensor));
    };
    if (parameters) {
      for (const auto& named : module->named_parameters()) give(named.name, named.value);
    } else {
      for (const auto& named : module->named_buffers()) give(named.name, named.value);
    }
  });
}

/// The strings of a `List[str]` attribute of the module; false without a word where there is none.
bool lockstep_script_strings(const Module* module, Text attribute, Sink each, Sink fail) {
  bool found = false;
  const bool looked = guarded(fail, [&] {
    const auto value = module->attr(attribute.string(), c10::IValue());
    if (value.isList() && value.type()->isSubtypeOf(*c10::ListType::ofStrings())) {
      found = true;
      for (const auto& element : value.toListRef()) each(element.toStringRef());
    }
  });
  return looked && found;
}

bool lockstep_script_train(Module* module, bool on, Sink fail) {
  return guarded(fail, [&] { module->train(on); });
}

/// Unoptimised: the graph executor rewrites a graph after it has watched a few calls, so that the first scores of a process would
/// differ from later ones in the last bits, and a resumed run from one that went on.
at::Tensor* lockstep_script_forward(const Module* module, const at::Tensor* x, bool with_gradient, Sink fail) {
  at::Tensor* scores = nullptr;
  guarded(fail, [&] {
    torch::jit::GraphOptimizerEnabledGuard unoptimised(false);
    torch::AutoGradMode mode(with_gradient);
    const auto result = module->get_method("forward")({*x});
    TORCH_CHECK(result.isTensor(), "forward returned a ", result.tagKind(), ", not a Tensor");
    scores = new at::Tensor(result.toTensor());
  });
  return scores;
}

/// Adds to the gradients of the leaves that `scores` was computed from.
bool lockstep_script_backward(const at::Tensor* scores, const at::Tensor* gradient, Sink fail) {
  return guarded(fail, [&] { scores->backward(*gradient); });
}

/// Lets a parameter live in memory that is given, and its gradient too.
bool lockstep_script_rehouse(at::Tensor* parameter, const at::Tensor* value, const at::Tensor* gradient, Sink fail) {
  return guarded(fail, [&] {
    parameter->set_data(*value);
    parameter->mutable_grad() = *gradient;
  });
}

bool lockstep_script_save(const Module* module, const Text* extra_names, const Text* extra_texts, size_t extra_count,
                          Sink bytes, Sink fail) {
  return guarded(fail, [&] {
    torch::jit::ExtraFilesMap extra;
    for (size_t index = 0; index < extra_count; ++index) {
      extra[extra_names[index].string()] = extra_texts[index].string();
    }
    std::ostringstream stream;
    module->save(stream, extra);
    bytes(stream.str());
  });
}

}  // extern "C"
