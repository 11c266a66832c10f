// One PTX function on its way into C.
#pragma once

#include "emit.hpp"

class FunctionEmitter {
public:
    FunctionEmitter(const std::map<std::string, std::string>& module_symbols, unsigned* static_shared, unsigned places)
        : places(places), module_symbols(module_symbols), static_shared(static_shared) {}

    std::string emit(const ptx::Function& f);
    std::string head(const ptx::Function& f);
    std::string shared(const ptx::Declaration& d);

    bool waits = false;     // whether threads meet or wait at barriers
    unsigned places;        // numbers the instructions at which threads meet

private:
    const std::map<std::string, std::string>& module_symbols;
    std::map<std::string, std::string> symbols;
    std::vector<std::map<std::string, std::string>> scopes;
    std::map<std::string, std::vector<std::string>> targets;
    unsigned* static_shared;
    std::string out;

    void statement(const ptx::Statement& s);
    void declare(const ptx::Declaration& d);
    void code(const ptx::Instruction& in);
    bool move(const ptx::Instruction& in);
    bool compare(const ptx::Instruction& in);
    bool memory(const ptx::Instruction& in);
    bool atomic(const ptx::Instruction& in);
    bool control(const ptx::Instruction& in);
    bool together(const ptx::Instruction& in);
    bool matrices(const ptx::Instruction& in);
    void convert(const ptx::Instruction& in);
    void call(const ptx::Instruction& in);

    void line(const std::string& text);
    void set(const std::string& destination, const std::string& type, const std::string& bits);
    std::string raw(const std::string& operand);
    std::string value(const std::string& operand, const std::string& type);
    std::string symbol(const std::string& name);
    std::string address(const std::string& operand);
    std::string type_of(const std::string& name);
    static std::string variable(const std::string& name);
    static std::string label(const std::string& name);
    std::string place();
};

/// The parts of `{%r1, %r2}`; a single operand is a list of itself.
std::vector<std::string> list(const std::string& operand);
