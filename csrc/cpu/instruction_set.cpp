// Chooses the instruction set, once: the best that this processor has, or the one that
// TORCH_FULLCONV_ISA names.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace fullconv {
namespace {

const InstructionSet& choose() {
  const InstructionSet* all[] = {
#if defined(__x86_64__) && defined(__linux__)
      &amx_instruction_set,
#endif
#if defined(__x86_64__)
      &avx512_bf16_instruction_set, &avx512_instruction_set, &avx2_instruction_set,
#endif
      &baseline_instruction_set};
  const char* wanted = std::getenv("TORCH_FULLCONV_ISA");
  std::string names;
  for (const InstructionSet* set : all) {
    if (!set->supported()) continue;
    if (!wanted || !*wanted || wanted == std::string(set->name)) return *set;
    names += std::string(" ") + set->name;
  }
  throw std::runtime_error("TORCH_FULLCONV_ISA=" + std::string(wanted) + ": this processor has" +
                           names);
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

}  // namespace fullconv
