// The library's exports: RegisterCustomOps for ONNX Runtime, vq4dit_isas for diagnostics.
#include <deque>
#include <mutex>
#include <string>

#include "isa.h"
#include "ops.h"
#include "ort_helpers.h"

#if defined(_WIN32)
#define VQ4DIT_EXPORT extern "C" __declspec(dllexport)
#else
#define VQ4DIT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace vq4dit {
namespace {

Accuracy accuracy_from(const std::string& text) {
  if (text == "fast") return Accuracy::kFast;
  if (text == "exact") return Accuracy::kExact;
  if (text == "int8") return Accuracy::kInt8;
  throw Error("session key vq4dit.accuracy is '" + text + "', needed 'fast', 'exact' or 'int8'");
}

// A domain with its ops. ONNX Runtime keeps both addresses as long as a session lives, so that
// there is one per pair of choices, kept until the library is unloaded.
struct Registration {
  Accuracy accuracy;
  const Kernels* kernels;
  std::deque<Op> ops;
  ort::CustomOpDomain* domain = nullptr;
  void (*release)(ort::CustomOpDomain*) = nullptr;

  ~Registration() {
    if (domain) release(domain);
  }
};

ort::CustomOpDomain* domain_for(const void* api_table, Accuracy accuracy, const Kernels& kernels) {
  const ort::Api api(api_table);
  static std::mutex mutex;
  static std::deque<Registration> registrations;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Registration& known : registrations) {
    if (known.accuracy == accuracy && known.kernels == &kernels) return known.domain;
  }
  Registration& made = registrations.emplace_back();
  try {
    made.accuracy = accuracy;
    made.kernels = &kernels;
    made.release = api.ReleaseCustomOpDomain;
    ort::check(api, api.CreateCustomOpDomain("vq4dit", &made.domain));
    for (int kind = 0; kind < kNumOps; ++kind) {
      made.ops.push_back(make_op(static_cast<OpKind>(kind), accuracy, kernels, api_table));
      ort::check(api, api.CustomOpDomain_Add(made.domain, &made.ops.back().abi));
    }
  } catch (...) {
    registrations.pop_back();
    throw;
  }
  return made.domain;
}

}  // namespace
}  // namespace vq4dit

// Adds the ops of domain vq4dit to the options. Session keys, to be set before this call:
// vq4dit.accuracy = fast (default) | exact | int8, vq4dit.isa = scalar | avx2 | avx512 (default: best).
VQ4DIT_EXPORT vq4dit::ort::Status* RegisterCustomOps(vq4dit::ort::SessionOptions* options,
                                                     const vq4dit::ort::ApiBase* base) {
  using namespace vq4dit;
  const void* table = base->GetApi(ort::kApiVersion);
  if (!table) return nullptr;  // older than 1.17: no way to even make a status; nodes stay unknown
  const ort::Api api(table);
  return ort::guarded(api, "vq4dit", [&] {
    const Accuracy accuracy =
        accuracy_from(ort::session_entry(api, options, "vq4dit.accuracy", "fast"));
    const Kernels& kernels =
        kernels_by_name(ort::session_entry(api, options, "vq4dit.isa", ""));
    ort::check(api, api.AddCustomOpDomain(options, domain_for(table, accuracy, kernels)));
  });
}

// Names of the kernels that this machine can run, comma-separated, best last.
VQ4DIT_EXPORT const char* vq4dit_isas() {
  static const std::string names = [] {
    std::string text;
    for (const vq4dit::Kernels* kernels : vq4dit::available_kernels()) {
      text += (text.empty() ? "" : ",") + std::string(kernels->name);
    }
    return text;
  }();
  return names.c_str();
}
