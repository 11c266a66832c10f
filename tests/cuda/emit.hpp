// PTX into C: every register becomes a variable of its width, every block a label.
#pragma once

#include "ptx.hpp"

#include <map>
#include <string>
#include <vector>

struct Kernel {
    std::string name;
    std::vector<unsigned> params;   // bytes of each parameter
    unsigned static_shared = 0;     // ahead of the dynamic part
    unsigned shared_align = 16;
    bool waits = false;             // threads wait for each other, so each needs a stack of its own
};

struct Translation {
    std::string source;
    std::vector<Kernel> kernels;
};

/// Throws std::runtime_error on an instruction that is not known.
Translation translate(const std::string& text);

/// The value of one arithmetic instruction; all operands and the result are bits in unsigned variables.
std::string arithmetic(const ptx::Instruction& in, const std::vector<std::string>& raw);

/// Bits as a C value of a PTX type, and back.
std::string as_value(const std::string& type, const std::string& raw);
std::string as_bits(const std::string& type, const std::string& value);
bool is_float(const std::string& type);
bool has(const ptx::Instruction& in, const char* part);
[[noreturn]] void unknown(const ptx::Instruction& in);
