#include "emit.hpp"

#include <algorithm>
#include <stdexcept>

using std::string;
using std::vector;

bool has(const ptx::Instruction& in, const char* part) {
    return std::find(in.op.begin(), in.op.end(), part) != in.op.end();
}

void unknown(const ptx::Instruction& in) {
    string text;
    for (const auto& part : in.op) text += (text.empty() ? "" : ".") + part;
    for (const auto& operand : in.operands) text += " " + operand;
    throw std::runtime_error("an instruction that is not emulated: " + text);
}

bool is_float(const string& type) {
    return type[0] == 'f' || type.compare(0, 2, "bf") == 0 || type[0] == 't';
}

static bool is_signed(const string& type) { return type[0] == 's'; }

string as_value(const string& type, const string& raw) {
    if (type == "pred") return "(" + raw + ")";
    if (type == "f32" || type == "tf32") return "F(" + raw + ")";
    if (type == "f64") return "D(" + raw + ")";
    if (type == "f16") return "H(" + raw + ")";
    if (type == "bf16") return "B(" + raw + ")";
    string bits = std::to_string(ptx::size_of(type) * 8);
    return string("((") + (is_signed(type) ? "s" : "u") + bits + ")(" + raw + "))";
}

string as_bits(const string& type, const string& value) {
    if (type == "f32" || type == "tf32") return "UF(" + value + ")";
    if (type == "f64") return "UD(" + value + ")";
    if (type == "f16") return "UH(" + value + ")";
    if (type == "bf16") return "UB(" + value + ")";
    if (type == "pred") return "((" + value + ") != 0)";
    return as_value(type, value);
}

static string call(const string& name, const vector<string>& args) {
    string out = name + "(";
    for (size_t i = 0; i < args.size(); i++) out += (i ? ", " : "") + args[i];
    return out + ")";
}

static string float_operation(const ptx::Instruction& in, const string& type, const vector<string>& v) {
    const string& op = in.op[0];
    string f = type == "f64" ? "" : "f";   // suffix of the C functions; halves are computed in f32
    string result;
    if (op == "add") result = v[0] + " + " + v[1];
    else if (op == "sub") result = v[0] + " - " + v[1];
    else if (op == "mul") result = v[0] + " * " + v[1];
    else if (op == "div") result = v[0] + " / " + v[1];
    else if (op == "fma" || op == "mad") {
        // Directed rounding and halves are done in double, where a product of theirs is exact.
        bool wide = type == "f16" || type == "bf16" || has(in, "rm") || has(in, "rp") || has(in, "rz");
        if (type == "f16" || type == "bf16") result = call("__builtin_fma", v);
        else result = call(wide && type == "f32" ? "__builtin_fma" : "__builtin_fma" + f, v);
    } else if (op == "neg") result = "-" + v[0];
    else if (op == "abs") result = call("__builtin_fabs" + f, v);
    else if (op == "min" || op == "max") result = call((has(in, "NaN") ? "nan_" : "__builtin_f") + op + f, v);
    else if (op == "sqrt") result = call("__builtin_sqrt" + f, v);
    else if (op == "rcp") result = "1 / " + v[0];
    else if (op == "rsqrt") result = "1 / " + call("__builtin_sqrt" + f, v);
    else if (op == "sin" || op == "cos" || op == "tanh") result = call(op + f, v);
    else if (op == "lg2") result = call("log2" + f, v);
    else if (op == "ex2") result = call("exp2" + f, v);
    else if (op == "copysign") result = call("__builtin_copysign" + f, {v[1], v[0]});
    else unknown(in);
    if (type == "f32" && (has(in, "rm") || has(in, "rp") || has(in, "rz"))) {
        if (op == "add" || op == "sub" || op == "mul" || op == "div") result = "(f64)" + result;
        result = string(has(in, "rm") ? "down(" : has(in, "rp") ? "up(" : "toward_zero(") + result + ")";
    }
    if (has(in, "relu")) result = call("nan_max" + f, {result, "0"});
    if (has(in, "sat")) result = call("saturate", {result});
    return result;
}

static string integer_operation(const ptx::Instruction& in, const string& type, const vector<string>& v) {
    const string& op = in.op[0];
    int bits = ptx::size_of(type) * 8;
    string b = std::to_string(bits), s = is_signed(type) ? "s" : "u";
    string wide = bits == 64 ? s + "128" : s + std::to_string(bits * 2);
    auto u = [&](size_t i) { return "((u" + b + ")" + v[i] + ")"; };
    if (op == "add" && has(in, "sat")) return "clamp_s32((s64)" + v[0] + " + " + v[1] + ")";
    if (op == "sub" && has(in, "sat")) return "clamp_s32((s64)" + v[0] + " - " + v[1] + ")";
    if (op == "add") return u(0) + " + " + u(1);
    if (op == "sub") return u(0) + " - " + u(1);
    if (op == "mul" || op == "mad") {
        string product = "((" + wide + ")" + v[0] + " * (" + wide + ")" + v[1] + ")";
        if (has(in, "hi")) product = "((" + s + b + ")(" + product + " >> " + b + "))";
        else if (!has(in, "wide")) product = "(" + u(0) + " * " + u(1) + ")";
        // The third operand of a wide product is wide as well: the caller reads it so.
        return op == "mul" ? product : product + " + " + v[2];
    }
    if (op == "mul24") return "(((s64)" + v[0] + " << 40 >> 40) * ((s64)" + v[1] + " << 40 >> 40))";
    if (op == "div") return "(" + v[1] + " == 0 ? (" + s + b + ")-1 : " + s + "div" + b + "(" + v[0] + ", " + v[1] + "))";
    if (op == "rem") return "(" + v[1] + " == 0 ? " + v[0] + " : " + s + "rem" + b + "(" + v[0] + ", " + v[1] + "))";
    if (op == "neg") return "-" + u(0);
    if (op == "abs") return "(" + v[0] + " < 0 ? -" + u(0) + " : " + u(0) + ")";
    if (op == "min" || op == "max") {
        string one = "(" + v[0] + (op == "min" ? " < " : " > ") + v[1] + " ? " + v[0] + " : " + v[1] + ")";
        return has(in, "relu") ? "(" + one + " > 0 ? " + one + " : 0)" : one;
    }
    if (has(in, "relu")) unknown(in);
    if (op == "and") return v[0] + " & " + v[1];
    if (op == "or") return v[0] + " | " + v[1];
    if (op == "xor") return v[0] + " ^ " + v[1];
    if (op == "not") return type == "pred" ? "!" + v[0] : "~" + v[0];
    if (op == "cnot") return v[0] + " == 0";
    if (op == "sad") return v[2] + " + (" + v[0] + " < " + v[1] + " ? " + v[1] + " - " + v[0] + " : " + v[0] + " - " + v[1] + ")";
    string last = std::to_string(bits - 1);
    if (op == "shl") return "((u32)" + v[1] + " > " + last + " ? 0 : " + u(0) + " << (u32)" + v[1] + ")";
    if (op == "shr" && s == "s") return v[0] + " >> ((u32)" + v[1] + " > " + last + " ? " + last + " : (u32)" + v[1] + ")";
    if (op == "shr") return "((u32)" + v[1] + " > " + last + " ? 0 : " + v[0] + " >> (u32)" + v[1] + ")";
    if (op == "shf")
        return string(has(in, "l") ? "funnel_left(" : "funnel_right(") + v[0] + ", " + v[1] + ", " +
               (has(in, "wrap") ? "(" + v[2] + " & 31)" : "(" + v[2] + " > 32 ? 32 : " + v[2] + ")") + ")";
    if (op == "prmt" && in.op.size() == 2) return call("permute", v);
    if (op == "lop3") return call("lop3", v);
    if (op == "popc") return bits == 64 ? "__builtin_popcountll(" + v[0] + ")" : "__builtin_popcount(" + v[0] + ")";
    if (op == "clz") return call("clz" + b, v);
    if (op == "brev") return call("brev" + b, v);
    if (op == "bfind") return call(string(has(in, "shiftamt") ? "shift_" : "") + "bfind_" + type, v);
    if (op == "bfe") return call("bfe_" + type, v);
    if (op == "bfi") return call("bfi" + b, v);
    unknown(in);
}

string arithmetic(const ptx::Instruction& in, const vector<string>& raw) {
    string type = in.op.back();
    const string& op = in.op[0];
    if (op == "bfi" || op == "bfe" || op == "shl" || op == "shr" || op == "mad") {
        // Only some of the operands are of the type of the instruction.
        vector<string> v;
        string last = op == "mad" && has(in, "wide") ? type.substr(0, 1) + std::to_string(ptx::size_of(type) * 16) : type;
        for (size_t i = 0; i < raw.size(); i++) {
            bool count = (op[0] == 's' && i == 1) || (op == "bfe" && i > 0) || (op == "bfi" && i > 1);
            v.push_back(as_value(count ? "u32" : op == "mad" && i == 2 ? last : type, raw[i]));
        }
        if (is_float(type)) return as_bits(type, float_operation(in, type, v));
        bool turned = is_signed(last);
        return as_value((turned ? "s" : "u") + std::to_string(ptx::size_of(last) * 8), integer_operation(in, type, v));
    }
    size_t x2 = type.find("x2");
    if (x2 != string::npos) {
        string lane = type.substr(0, x2), out;
        string width = std::to_string(ptx::size_of(lane) * 8), word = "u" + std::to_string(ptx::size_of(type) * 8);
        for (int i = 0; i < 2; i++) {
            vector<string> v;
            for (const auto& r : raw)
                v.push_back(as_value(lane, "(u" + width + ")((" + r + ") >> " + (i ? width : "0") + ")"));
            string result = is_float(lane) ? as_bits(lane, float_operation(in, lane, v))
                                           : "(u" + width + ")(" + integer_operation(in, lane, v) + ")";
            out += (i ? " | (" : "(") + ("(" + word + ")" + result) + (i ? " << " + width + ")" : ")");
        }
        return "(" + out + ")";
    }
    vector<string> v;
    for (const auto& r : raw) v.push_back(as_value(type, r));
    // Sign bits are turned as bits, so that what a NaN holds survives.
    if (is_float(type) && (op == "neg" || op == "abs") && !has(in, "sat")) {
        string sign = type == "f64" ? "0x8000000000000000ull" : type == "f32" ? "0x80000000u" : "0x8000u";
        return op == "neg" ? "(" + raw[0] + " ^ " + sign + ")" : "(" + raw[0] + " & ~" + sign + ")";
    }
    if (is_float(type)) return as_bits(type, float_operation(in, type, v));
    string result = integer_operation(in, type, v);
    if ((op == "mul" || op == "mad") && has(in, "wide"))
        return as_value(type.substr(0, 1) + std::to_string(ptx::size_of(type) * 16), result);
    return as_value(type, result);
}
