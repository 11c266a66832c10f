// Moves, conversions, comparisons, memory, atomics and branches.
#include "function.hpp"

using std::string;
using std::vector;

static string bits_type(unsigned bytes) { return "b" + std::to_string(bytes * 8); }

static bool starts(const string& s, const char* with) { return s.rfind(with, 0) == 0; }

void FunctionEmitter::code(const ptx::Instruction& in) {
    if (control(in) || move(in) || compare(in) || memory(in) || atomic(in) || together(in) || matrices(in)) return;
    if (in.op[0] == "cvt") return convert(in);
    const string& op = in.op[0];
    vector<string> v;
    for (size_t i = 1; i < in.operands.size(); i++) v.push_back(raw(in.operands[i]));
    if (op == "dp4a") {
        string flags = string(in.op[1] == "s32" ? "1" : "0") + ", " + (in.op[2] == "s32" ? "1" : "0");
        return set(in.operands[0], "b32", "dot4(" + v[0] + ", " + v[1] + ", " + v[2] + ", " + flags + ")");
    }
    string type = in.op.back();
    if (has(in, "wide")) type = type.substr(0, 1) + std::to_string(ptx::size_of(type) * 16);
    if (op == "popc" || op == "clz" || op == "bfind") {
        return set(in.operands[0], "b32", arithmetic(in, v));
    }
    // Sums of two words with a carry between them.
    bool carried = op == "addc" || op == "subc" || op == "madc";
    if (carried || has(in, "cc")) {
        string u = "u" + std::to_string(ptx::size_of(type) * 8), wide = ptx::size_of(type) == 8 ? "u128" : "u64";
        string sum;
        if (starts(op, "mad")) {
            ptx::Instruction product = in;
            product.op = {"mul", has(in, "hi") ? "hi" : "lo", type};
            sum = "(" + wide + ")(" + u + ")" + arithmetic(product, {v[0], v[1]}) + " + (" + u + ")" + v[2];
        } else {
            sum = "(" + wide + ")(" + u + ")" + v[0] + (starts(op, "sub") ? " - " : " + ") + "(" + u + ")" + v[1];
        }
        if (carried) sum += starts(op, "sub") ? " - carry" : " + carry";
        line("{ " + wide + " sum = " + sum + ";");
        if (has(in, "cc")) line("carry = sum >> " + std::to_string(ptx::size_of(type) * 8) + " & 1;");
        set(in.operands[0], type, "sum");
        return line("}");
    }
    set(in.operands[0], type, arithmetic(in, v));
}

bool FunctionEmitter::control(const ptx::Instruction& in) {
    const string& op = in.op[0];
    if (op == "bra") line("goto " + label(in.operands[0]) + ";");
    else if (op == "ret" || op == "exit") line("return;");
    else if (op == "trap") line("__builtin_trap();");
    else if (op == "call") call(in);
    else if (op == "brx") {
        line("switch (" + raw(in.operands[0]) + ") {");
        const auto& to = targets.at(in.operands[1]);
        for (size_t i = 0; i < to.size(); i++) line("case " + std::to_string(i) + ": goto " + label(to[i]) + ";");
        line("}");
    } else if (op == "membar" || op == "fence") line("__atomic_thread_fence(__ATOMIC_SEQ_CST);");
    else if (op == "prefetch" || op == "prefetchu" || op == "discard" || op == "nanosleep" || op == "applypriority") line(";");
    else return false;
    return true;
}

bool FunctionEmitter::move(const ptx::Instruction& in) {
    const string& op = in.op[0];
    const auto& o = in.operands;
    if (op == "cvta") {
        // One address serves all spaces.
        set(o[0], in.op.back(), raw(o[1]));
    } else if (op == "mov" && o[0][0] == '{') {
        auto parts = list(o[0]);
        unsigned bits = ptx::size_of(in.op.back()) * 8 / parts.size();
        string whole = "u" + std::to_string(bits * parts.size());
        line("{ " + whole + " whole = " + raw(o[1]) + ";");
        for (size_t i = 0; i < parts.size(); i++)
            if (parts[i] != "_") set(parts[i], bits_type(bits / 8), "whole >> " + std::to_string(bits * i));
        line("}");
    } else if (op == "mov" && o[1][0] == '{') {
        auto parts = list(o[1]);
        unsigned bits = ptx::size_of(in.op.back()) * 8 / parts.size();
        string whole = "u" + std::to_string(bits * parts.size()), all;
        for (size_t i = 0; i < parts.size(); i++)
            all += (i ? " | " : "") + ("(" + whole + ")(u" + std::to_string(bits) + ")") + raw(parts[i]) + " << " + std::to_string(bits * i);
        set(o[0], in.op.back(), all);
    } else if (op == "mov") {
        set(o[0], in.op.back(), raw(o[1]));
    } else if (op == "selp") {
        set(o[0], in.op.back(), raw(o[3]) + " ? " + raw(o[1]) + " : " + raw(o[2]));
    } else if (op == "slct") {
        set(o[0], in.op[1], value(o[3], in.op.back()) + " >= 0 ? " + raw(o[1]) + " : " + raw(o[2]));
    } else {
        return false;
    }
    return true;
}

static string comparison(const string& how, const string& type, const string& a, const string& b) {
    static const std::map<string, string> ordered = {{"eq", "=="}, {"lt", "<"}, {"le", "<="}, {"gt", ">"}, {"ge", ">="},
                                                     {"lo", "<"}, {"ls", "<="}, {"hi", ">"}, {"hs", ">="}};
    if (how == "num") return "(" + a + " == " + a + " && " + b + " == " + b + ")";
    if (how == "nan") return "(" + a + " != " + a + " || " + b + " != " + b + ")";
    auto found = ordered.find(how);
    if (found != ordered.end()) return "(" + a + " " + found->second + " " + b + ")";
    if (how == "ne" && !is_float(type)) return "(" + a + " != " + b + ")";
    if (how == "ne") return "(" + a + " < " + b + " || " + a + " > " + b + ")";
    // The forms that hold of what is no number.
    static const std::map<string, string> opposite = {{"equ", "ne"}, {"neu", "eq"}, {"ltu", "ge"}, {"leu", "gt"}, {"gtu", "le"}, {"geu", "lt"}};
    return "!" + comparison(opposite.at(how), type, a, b);
}

bool FunctionEmitter::compare(const ptx::Instruction& in) {
    const auto& o = in.operands;
    if (in.op[0] == "testp") {
        string a = value(o[1], in.op[2]), how = in.op[1];
        string f = in.op[2] == "f32" ? "f" : "";
        string result = how == "notanumber" ? a + " != " + a : how == "number" ? a + " == " + a
                      : how == "infinite" ? "__builtin_isinf(" + a + ")" : how == "finite" ? "__builtin_isfinite(" + a + ")"
                      : how == "normal" ? "__builtin_isnormal(" + a + ")" : "";
        if (result.empty()) unknown(in);
        set(o[0], "pred", result);
        return true;
    }
    if (in.op[0] != "setp" && in.op[0] != "set") return false;
    bool words = in.op[0] == "set";
    string type = in.op.back(), how = in.op[1];
    if (type.find("x2") != string::npos) {
        string lane = type.substr(0, type.find("x2")), result[2];
        for (int i = 0; i < 2; i++) {
            string shift = i ? " >> 16)" : ")";
            result[i] = comparison(how, lane, as_value(lane, "(u16)(" + raw(o[1]) + shift), as_value(lane, "(u16)(" + raw(o[2]) + shift));
        }
        if (words) unknown(in);
        auto both = o[0].find('|');
        set(o[0].substr(0, both), "pred", result[0]);
        set(o[0].substr(both + 1), "pred", result[1]);
        return true;
    }
    string result = comparison(how, type, value(o[1], type), value(o[2], type));
    if (has(in, "and")) result = "(" + result + " && " + raw(o[3]) + ")";
    else if (has(in, "or")) result = "(" + result + " || " + raw(o[3]) + ")";
    else if (has(in, "xor")) result = "(" + result + " != " + raw(o[3]) + ")";
    if (words) {
        string to = in.op[in.op.size() - 2];
        set(o[0], to, result + (to == "f32" ? " ? 0x3f800000u : 0" : " ? ~0u : 0"));
        return true;
    }
    size_t both = o[0].find('|');
    set(o[0].substr(0, both), "pred", result);
    if (both != string::npos) set(o[0].substr(both + 1), "pred", "!" + result);
    return true;
}

static const std::map<string, std::pair<string, string>> whole_bounds = {
    {"s32", {"-2147483648.0", "2147483647.0"}}, {"u32", {"0.0", "4294967295.0"}}, {"s16", {"-32768.0", "32767.0"}},
    {"u16", {"0.0", "65535.0"}}, {"s8", {"-128.0", "127.0"}}, {"u8", {"0.0", "255.0"}},
};

static string rounded(const ptx::Instruction& in, const string& x) {
    for (auto [mode, function] : {std::pair{"rni", "rint"}, {"rzi", "trunc"}, {"rmi", "floor"}, {"rpi", "ceil"}})
        if (has(in, mode)) return string("__builtin_") + function + "(" + x + ")";
    return x;
}

void FunctionEmitter::convert(const ptx::Instruction& in) {
    const auto& o = in.operands;
    string to = in.op[in.op.size() - 2], from = in.op.back();
    if (has(in, "pack")) unknown(in);
    if (to == "f16x2" || to == "bf16x2") {
        if (from != "f32") unknown(in);
        string lane = to.substr(0, to.size() - 2);
        auto half = [&](const string& operand) {
            string x = value(operand, from);
            return "(u32)(u16)" + as_bits(lane, has(in, "relu") ? "nan_maxf(" + x + ", 0)" : x);
        };
        // The first operand goes to the upper half.
        return set(o[0], "b32", half(o[1]) + " << 16 | " + half(o[2]));
    }
    string x = value(o[1], from);
    if (to == "tf32") return set(o[0], "b32", "to_tf32(" + x + ")");
    if (is_float(from) && is_float(to)) {
        string y = rounded(in, x);
        if (has(in, "sat")) y = "saturate(" + y + ")";
        if (has(in, "relu")) y = "nan_maxf(" + y + ", 0)";
        if (to == "f32" && from == "f64" && (has(in, "rm") || has(in, "rp") || has(in, "rz")))
            y = string(has(in, "rm") ? "down(" : has(in, "rp") ? "up(" : "toward_zero(") + y + ")";
        return set(o[0], to, as_bits(to, y));
    }
    if (is_float(from)) {
        string y = rounded(in, "(f64)" + x);
        if (to == "s64") return set(o[0], to, "to_s64(" + y + ")");
        if (to == "u64") return set(o[0], to, "to_u64(" + y + ")");
        auto [least, most] = whole_bounds.at(to);
        string low = "(s64)" + least, high = "(s64)" + most;
        return set(o[0], to, "whole(" + y + ", " + least + ", " + most + ", " + low + ", " + high + ")");
    }
    if (is_float(to)) {
        string number = to == "f64" ? "(f64)" + x : to == "f32" ? "(f32)" + x : "(f64)" + x;
        return set(o[0], to, as_bits(to, number));
    }
    if (has(in, "sat")) {
        auto [least, most] = whole_bounds.at(to);
        string wide = from[0] == 's' ? "(s128)(s64)" : "(s128)(u64)";
        string y = wide + x, low = "(s128)" + least, high = "(s128)" + most;
        return set(o[0], to, y + " < " + low + " ? " + low + " : " + y + " > " + high + " ? " + high + " : " + y);
    }
    // A register that is wider takes the sign of what was read.
    set(o[0], from[0] == 's' && ptx::size_of(from) < ptx::size_of(to) ? "s" + to.substr(1) : to, x);
}

bool FunctionEmitter::memory(const ptx::Instruction& in) {
    const string& op = in.op[0];
    if (op != "ld" && op != "st" && op != "ldu") return false;
    string type = in.op.back();
    unsigned bytes = ptx::size_of(type);
    bool load = op != "st";
    auto values = list(in.operands[load ? 0 : 1]);
    string where = address(in.operands[load ? 1 : 0]), word = "u" + std::to_string(bytes * 8);
    // Places that other threads change meanwhile are read anew.
    bool ordered = has(in, "volatile") || has(in, "relaxed") || has(in, "acquire") || has(in, "release");
    string pointer = string(ordered ? "(volatile " : "(") + word + "*)";
    line("{ u64 where = " + where + ";");
    if (load && values.size() > 1) {
        // The address may be in one of the registers that are loaded.
        for (size_t i = 0; i < values.size(); i++) {
            string n = std::to_string(i);
            line(word + " part" + n + " = (" + pointer + "where)[" + n + "];");
        }
    }
    for (size_t i = 0; i < values.size(); i++) {
        string n = std::to_string(i), there = "(" + pointer + "where)[" + n + "]";
        if (load) set(values[i], type, values.size() > 1 ? "part" + n : there);
        else line(there + " = " + raw(values[i]) + ";");
    }
    line("}");
    return true;
}

bool FunctionEmitter::atomic(const ptx::Instruction& in) {
    if (in.op[0] != "atom" && in.op[0] != "red") return false;
    bool result = in.op[0] == "atom";
    const auto& o = in.operands;
    string type = in.op.back(), where = address(o[result ? 1 : 0]);
    const string x = raw(o[result ? 2 : 1]);
    string word = "u" + std::to_string(ptx::size_of(type) * 8);
    auto computed = [&](const char* name) {
        ptx::Instruction step;
        step.op = {name, type};
        return arithmetic(step, {"old", "with"});
    };
    string put;
    if (has(in, "cas")) put = "old == with ? (" + word + ")" + raw(o[result ? 3 : 2]) + " : old";
    else if (has(in, "exch")) put = "with";
    else if (has(in, "inc")) put = "old >= with ? 0 : old + 1";
    else if (has(in, "dec")) put = "old == 0 || old > with ? with : old - 1";
    else
        for (const char* name : {"add", "min", "max", "and", "or", "xor"})
            if (has(in, name)) put = computed(name);
    if (put.empty()) unknown(in);
    line("{ " + word + " with = " + x + ";");
    string step = "ATOMIC(" + word + ", " + where + ", " + put + ")";
    if (result) set(o[0], type, step);
    else line(step + ";");
    line("}");
    return true;
}
