// PTX as LLVM and NVIDIA's compilers write it, taken apart into functions, declarations and instructions.
#pragma once

#include <string>
#include <vector>

namespace ptx {

struct Instruction {
    std::string guard;                  // register of `@%p1` or `@!%p1`; empty without
    bool negated = false;
    std::vector<std::string> op;        // opcode split at its dots
    std::vector<std::string> operands;  // split at commas outside of brackets
};

struct Declaration {
    std::string type;      // without the dot: b8, b32, f32, pred, ...
    std::string name;
    unsigned align = 0;
    long count = -1;       // elements of an array; 0 for `[]`, -1 for a scalar; registers of `%r<7>` likewise
    std::string init;      // text between the braces of an initial value
};

struct Statement {
    enum Kind { Code, Label, Register, Param, Local, Shared, Open, Close, Targets } kind;
    Instruction code;
    Declaration declared;
    std::string label;                  // of Label and Targets
    std::vector<std::string> targets;   // labels of a jump table
};

struct Function {
    std::string name;
    bool entry = false;
    bool body = false;
    std::vector<Declaration> returns, params;
    std::vector<Statement> statements;
};

struct Module {
    std::string target;
    std::vector<Declaration> shared, external_shared, globals;
    std::vector<Function> functions;
};

/// Throws std::runtime_error with the offending text.
Module parse(const std::string& text);

unsigned size_of(const std::string& type);

}  // namespace ptx
