#include "function.hpp"

#include <stdexcept>

using std::string;
using std::vector;

namespace {

unsigned rounded_up(unsigned x, unsigned to) { return (x + to - 1) / to * to; }

unsigned bytes_of(const ptx::Declaration& d) {
    return ptx::size_of(d.type) * (d.count < 0 ? 1 : (unsigned)d.count);
}

string c_name(const string& name) {
    string out = "S_";
    for (char c : name) out += isalnum((unsigned char)c) || c == '_' ? string(1, c) : "_" + std::to_string((int)c);
    return out;
}

string unsigned_of(unsigned bytes) { return "u" + std::to_string(bytes * 8); }

}  // namespace

string FunctionEmitter::label(const string& name) { return "L" + c_name(name); }

string FunctionEmitter::type_of(const string& name) {
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
        auto exact = scope->find(name);
        if (exact != scope->end()) return exact->second;
        auto family = scope->find(name.substr(0, name.find_last_not_of("0123456789") + 1) + "<");
        if (family != scope->end()) return family->second;
    }
    throw std::runtime_error("a register that was not declared: " + name);
}

string FunctionEmitter::variable(const string& name) {
    string out = "R";
    for (char c : name.substr(1)) out += isalnum((unsigned char)c) ? c : '_';
    return out;
}

/// The bits of an operand.
string FunctionEmitter::raw(const string& operand) {
    static const std::map<string, string> special = {
        {"%laneid", "T->lane"}, {"%warpid", "T->warp"}, {"WARP_SZ", "32"}, {"%clock", "0"}, {"%clock64", "0"},
        {"%globaltimer", "0"}, {"%lanemask_lt", "((1u << T->lane) - 1)"}, {"%lanemask_le", "((2u << T->lane) - 1)"},
        {"%lanemask_eq", "(1u << T->lane)"}, {"%lanemask_ge", "(~0u << T->lane)"}, {"%lanemask_gt", "(~1u << T->lane)"},
        {"%dynamic_smem_size", "0"}, {"%nwarpid", "32"}, {"%smid", "0"}, {"%nsmid", "1"},
    };
    auto found = special.find(operand);
    if (found != special.end()) return found->second;
    size_t dot = operand.rfind('.');
    if (operand[0] == '%' && dot != string::npos && dot + 2 == operand.size()) {
        string axis = std::to_string(operand.back() - 'x'), name = operand.substr(1, dot - 1);
        if (name == "tid" || name == "ntid" || name == "ctaid" || name == "nctaid") return "T->" + name + "[" + axis + "]";
    }
    if (operand[0] == '%') return variable(operand);
    if (operand.compare(0, 2, "0f") == 0 || operand.compare(0, 2, "0F") == 0) return "0x" + operand.substr(2) + "u";
    if (operand.compare(0, 2, "0d") == 0 || operand.compare(0, 2, "0D") == 0) return "0x" + operand.substr(2) + "ull";
    if (isdigit((unsigned char)operand[0]) || operand[0] == '-') {
        string digits = operand;
        while (!digits.empty() && (digits.back() == 'U' || digits.back() == 'u')) digits.pop_back();
        return digits[0] == '-' ? "((u64)(" + digits + "ll))" : digits + "ull";
    }
    if (operand == "true") return "1";
    if (operand == "false") return "0";
    return symbol(operand);
}

string FunctionEmitter::symbol(const string& name) {
    auto own = symbols.find(name);
    if (own != symbols.end()) return own->second;
    auto global = module_symbols.find(name);
    if (global != module_symbols.end()) return global->second;
    throw std::runtime_error("a name that was not declared: " + name);
}

string FunctionEmitter::value(const string& operand, const string& type) { return as_value(type, raw(operand)); }

/// Puts bits of a type into a register, which may be wider: what has a sign keeps it.
void FunctionEmitter::set(const string& destination, const string& type, const string& bits) {
    if (destination == "_") return line("(void)(" + bits + ");");
    string to = type_of(destination);
    string wide = to == "pred" ? "u8" : unsigned_of(ptx::size_of(to));
    bool narrow = to != "pred" && ptx::size_of(to) > ptx::size_of(type);
    string from = narrow ? string(type[0] == 's' ? "(s" : "(u") + std::to_string(ptx::size_of(type) * 8) + ")" : "";
    line(variable(destination) + " = (" + wide + ")" + from + "(" + bits + ");");
}

void FunctionEmitter::line(const string& text) { out += "  " + text + "\n"; }

string FunctionEmitter::place() { return std::to_string(++places); }

vector<string> list(const string& operand) {
    vector<string> parts;
    string part;
    if (operand[0] != '{') return {operand};
    for (char c : operand.substr(1, operand.size() - 2)) {
        if (c == ',') parts.push_back(part), part.clear();
        else if (!isspace((unsigned char)c)) part += c;
    }
    parts.push_back(part);
    return parts;
}

/// `[%rd1+4]`, `[name]`, `[name+8]`: a host address, which every space uses.
string FunctionEmitter::address(const string& operand) {
    string inside = operand.substr(1, operand.size() - 2);
    size_t plus = inside.find_first_of("+-", 1);
    if (plus == string::npos) return raw(inside);
    string base = inside.substr(0, plus), offset = inside.substr(plus);
    while (!base.empty() && isspace((unsigned char)base.back())) base.pop_back();
    if (offset[0] == '+') offset.erase(0, 1);
    return "(" + raw(base) + " + (" + offset + "))";
}

void FunctionEmitter::declare(const ptx::Declaration& d) {
    string type = d.type == "pred" ? "u8" : unsigned_of(ptx::size_of(d.type));
    if (d.count < 0) {
        scopes.back()[d.name] = d.type;
        return line(type + " " + variable(d.name) + ";");
    }
    scopes.back()[d.name + "<"] = d.type;
    string names;
    for (long i = 0; i < d.count; i++) names += (i ? ", " : "") + variable(d.name) + std::to_string(i);
    if (d.count) line(type + " " + names + ";");
}

void FunctionEmitter::statement(const ptx::Statement& s) {
    switch (s.kind) {
    case ptx::Statement::Open:
        scopes.emplace_back();
        return line("{");
    case ptx::Statement::Close:
        scopes.pop_back();
        return line("}");
    case ptx::Statement::Label: return line(label(s.label) + ":;");
    case ptx::Statement::Register: return declare(s.declared);
    case ptx::Statement::Targets:
        targets[s.label] = s.targets;
        return;
    case ptx::Statement::Param:
    case ptx::Statement::Local: {
        string name = c_name(s.declared.name);
        symbols[s.declared.name] = "((u64)" + name + ")";
        return line("u8 " + name + "[" + std::to_string(bytes_of(s.declared)) + "] __attribute__((aligned(16)));");
    }
    case ptx::Statement::Shared: throw std::runtime_error("shared memory within a function");
    case ptx::Statement::Code: break;
    }
    const auto& in = s.code;
    if (!in.guard.empty()) line(string("if (") + (in.negated ? "!" : "") + variable(in.guard) + ") {");
    code(in);
    if (!in.guard.empty()) line("}");
}

string FunctionEmitter::shared(const ptx::Declaration& d) {
    unsigned at = rounded_up(*static_shared, d.align ? d.align : ptx::size_of(d.type));
    *static_shared = at + bytes_of(d);
    return "((u64)T->shared + " + std::to_string(at) + ")";
}

/// A function as C; an entry takes the pointers of its parameters from the thread.
string FunctionEmitter::emit(const ptx::Function& f) {
    scopes.assign(1, {});
    size_t i = 0;
    for (const auto& p : f.params)
        symbols[p.name] = f.entry ? "((u64)T->params[" + std::to_string(i++) + "])" : "((u64)" + c_name(p.name) + ")";
    for (const auto& p : f.returns) symbols[p.name] = "((u64)" + c_name(p.name) + ")";
    // Jump tables are named ahead of their declaration.
    for (const auto& s : f.statements)
        if (s.kind == ptx::Statement::Targets) targets[s.label] = s.targets;
    for (const auto& s : f.statements) statement(s);
    return head(f) + " {\n  u32 carry = 0;\n" + out + "}\n";
}

string FunctionEmitter::head(const ptx::Function& f) {
    string text = f.entry ? "void " + f.name + "(Thread* T" : "static void " + c_name(f.name) + "(Thread* T";
    if (!f.entry) {
        for (const auto& p : f.returns) text += ", u8* " + c_name(p.name);
        for (const auto& p : f.params) text += ", u8* " + c_name(p.name);
    }
    return text + ")";
}

void FunctionEmitter::call(const ptx::Instruction& in) {
    // call.uni (result), name, (arguments);
    vector<string> results, arguments;
    string name;
    for (const auto& operand : in.operands) {
        if (operand[0] != '(') {
            name = operand;
            continue;
        }
        auto& into = name.empty() ? results : arguments;
        for (const auto& part : list("{" + operand.substr(1, operand.size() - 2) + "}"))
            if (!part.empty()) into.push_back(part);
    }
    if (name == "vprintf") return line("*(u32*)" + symbol(results[0]) + " = 0;");
    if (name == "__assertfail") return line("__builtin_trap();");
    string text = c_name(name) + "(T";
    for (const auto& r : results) text += ", (u8*)" + symbol(r);
    for (const auto& a : arguments) text += ", (u8*)" + symbol(a);
    line(text + ");");
}

Translation translate(const string& text) {
    ptx::Module module = ptx::parse(text);
    Translation translation;
    std::map<string, string> symbols;
    unsigned static_shared = 0, places = 0;
    string globals, heads, bodies;
    FunctionEmitter sizes(symbols, &static_shared, 0);
    for (const auto& d : module.shared) symbols[d.name] = sizes.shared(d);
    for (const auto& d : module.globals) {
        string name = c_name(d.name), type = unsigned_of(ptx::size_of(d.type));
        string count = d.count < 0 ? "" : "[" + std::to_string(d.count) + "]";
        globals += "static " + type + " " + name + count + " __attribute__((aligned(" + std::to_string(d.align ? d.align : 16) + ")))";
        globals += d.init.empty() ? ";\n" : d.count < 0 ? " = " + d.init + ";\n" : " = {" + d.init + "};\n";
        symbols[d.name] = string("((u64)") + (d.count < 0 ? "&" : "") + name + ")";
    }
    string dynamic = "((u64)T->shared + " + std::to_string(rounded_up(static_shared, 128)) + ")";
    for (const auto& d : module.external_shared) symbols[d.name] = dynamic;
    bool waits = false;
    for (const auto& f : module.functions) {
        if (!f.body) continue;
        FunctionEmitter emitter(symbols, &static_shared, places);
        bodies += emitter.emit(f);
        places = emitter.places;
        waits |= emitter.waits;
        if (!f.entry) {
            heads += emitter.head(f) + ";\n";
            continue;
        }
        Kernel kernel;
        kernel.name = f.name;
        for (const auto& p : f.params) kernel.params.push_back(bytes_of(p));
        translation.kernels.push_back(kernel);
    }
    for (auto& kernel : translation.kernels) {
        kernel.waits = waits;
        kernel.static_shared = rounded_up(static_shared, 128);
    }
    translation.source = globals + heads + bodies;
    return translation;
}
