// Instructions at which threads wait for each other, and the matrix instructions.
#include "function.hpp"

using std::string;
using std::vector;

bool FunctionEmitter::together(const ptx::Instruction& in) {
    const auto& op = in.op;
    const auto& o = in.operands;
    if (op[0] == "bar" && op[1] == "warp") {
        line("T->meet(T, " + place() + ", WARP_SYNC, " + raw(o[0]) + ", 0);");
    } else if (op[0] == "bar" || op[0] == "barrier") {
        if (!has(in, "sync") || o.size() != 1) unknown(in);
        line("T->barrier(T);");
    } else if (op[0] == "activemask") {
        set(o[0], "b32", "T->meet(T, " + place() + ", ACTIVE, ~0u, 0)");
    } else if (op[0] == "shfl") {
        string what = op[2] == "idx" ? "SHFL_IDX" : op[2] == "up" ? "SHFL_UP" : op[2] == "down" ? "SHFL_DOWN" : "SHFL_BFLY";
        size_t both = o[0].find('|');
        line("{ Shuffle s = {" + raw(o[1]) + ", " + raw(o[2]) + ", " + raw(o[3]) + "};");
        set(o[0].substr(0, both), "b32", "T->meet(T, " + place() + ", " + what + ", " + raw(o[4]) + ", &s)");
        if (both != string::npos) set(o[0].substr(both + 1), "pred", "T->met");
        line("}");
    } else if (op[0] == "vote" && op[1] == "sync") {
        string what = op[2] == "ballot" ? "BALLOT" : op[2] == "all" ? "VOTE_ALL" : op[2] == "any" ? "VOTE_ANY" : "VOTE_UNI";
        string predicate = o[1][0] == '!' ? "!" + raw(o[1].substr(1)) : raw(o[1]);
        line("{ u32 vote = " + predicate + ";");
        set(o[0], op.back(), "T->meet(T, " + place() + ", " + what + ", " + raw(o[2]) + ", &vote)");
        line("}");
    } else if (op[0] == "redux") {
        string kind = op[2], sign = kind != "min" && kind != "max" ? "" : op[3] == "s32" ? "S" : "U";
        if (op[3] == "f32") unknown(in);
        for (char& c : kind) c = toupper(c);
        line("{ u32 value = " + raw(o[1]) + ";");
        set(o[0], "b32", "T->meet(T, " + place() + ", REDUX_" + sign + kind + ", " + raw(o[2]) + ", &value)");
        line("}");
    } else if (op[0] == "elect") {
        size_t both = o[0].find('|');
        set(o[0].substr(0, both), "b32", "T->meet(T, " + place() + ", ELECT, " + raw(o[1]) + ", 0)");
        set(o[0].substr(both + 1), "pred", "T->met");
    } else {
        return false;
    }
    waits = true;
    return true;
}

namespace {

struct Shape {
    unsigned m = 0, n = 0, k = 0;
};

Shape shape_of(const ptx::Instruction& in) {
    Shape s;
    for (const auto& part : in.op)
        if (sscanf(part.c_str(), "m%un%uk%u", &s.m, &s.n, &s.k) == 3) return s;
    unknown(in);
}

unsigned element(const ptx::Instruction& in, const string& type) {
    static const vector<string> known = {"f16", "bf16", "tf32", "f32", "s32", "s8", "u8"};
    for (unsigned i = 0; i < known.size(); i++)
        if (known[i] == type) return i;
    unknown(in);
}

string array(const string& name, const vector<string>& of) {
    string out = "u32 " + name + "[" + std::to_string(of.size()) + "] = {";
    for (const auto& x : of) out += x + ", ";
    return out + "};";
}

}  // namespace

bool FunctionEmitter::matrices(const ptx::Instruction& in) {
    const auto& op = in.op;
    const auto& o = in.operands;
    auto raws = [&](const string& operand) {
        vector<string> out;
        for (const auto& part : list(operand)) out.push_back(raw(part));
        return out;
    };
    if (op[0] == "wmma" && (op[1] == "load" || op[1] == "store")) {
        Shape s = shape_of(in);
        bool load = op[1] == "load";
        auto registers = list(o[load ? 0 : 1]);
        unsigned rows = op[2] == "b" ? s.k : s.m, columns = op[2] == "a" ? s.k : s.n;
        unsigned bytes = ptx::size_of(op.back());
        bool by_row = has(in, "row");
        string stride = o.size() > 2 ? raw(o[2]) : std::to_string(by_row ? columns : rows);
        line(load ? "{ u32 f[" + std::to_string(registers.size()) + "];" : "{ " + array("f", raws(o[1])));
        line(string(load ? "fragment_load" : "fragment_store") + "(T->lane, f, " + std::to_string(registers.size()) + ", " +
             std::to_string(bytes) + ", " + std::to_string(rows) + ", " + std::to_string(columns) + ", " + (by_row ? "1" : "0") +
             ", " + address(o[load ? 1 : 0]) + ", " + stride + ");");
        for (size_t i = 0; load && i < registers.size(); i++) set(registers[i], "b32", "f[" + std::to_string(i) + "]");
        line("}");
        // Neither waits here: a product does, and what goes through memory has barriers of its own.
        return true;
    }
    if ((op[0] == "wmma" || op[0] == "mma") && has(in, "sync")) {
        Shape s = shape_of(in);
        // Types stand as D.A.B.C, except for f16 in wmma: D.C.
        string d = op[op.size() - 4], a = op[op.size() - 3], b = op[op.size() - 2], c = op.back();
        if (a[0] == 'm') d = b, a = b = "f16";
        if (d != c) unknown(in);
        auto to = list(o[0]);
        auto ra = raws(o[1]), rb = raws(o[2]), rc = raws(o[3]);
        line("{ " + array("a", ra) + " " + array("b", rb) + " " + array("c", rc));
        line("u32 d[" + std::to_string(to.size()) + "];");
        string sizes;
        for (unsigned x : {s.m, s.n, s.k, element(in, a), element(in, b), element(in, c)}) sizes += std::to_string(x) + ", ";
        line("Product p = {" + sizes + "a, b, c, d, " + std::to_string(ra.size()) + ", " + std::to_string(rb.size()) + ", " + std::to_string(rc.size()) + "};");
        line("T->meet(T, " + place() + ", " + (op[0] == "wmma" ? "WMMA" : "MMA") + ", ~0u, &p);");
        for (size_t i = 0; i < to.size(); i++) set(to[i], "b32", "d[" + std::to_string(i) + "]");
        line("}");
        return waits = true;
    }
    if (op[0] == "ldmatrix" || op[0] == "stmatrix") {
        bool load = op[0] == "ldmatrix";
        auto registers = list(o[load ? 0 : 1]);
        if (!has(in, "m8n8") || op.back() != "b16") unknown(in);
        string count = std::to_string(registers.size()), turned = has(in, "trans") ? "1" : "0";
        line(load ? "{ u32 w[" + count + "];" : "{ " + array("w", raws(o[1])));
        line("Tiles t = {" + address(o[load ? 1 : 0]) + ", " + count + ", " + turned + ", w};");
        line("T->meet(T, " + place() + ", " + (load ? "LDMATRIX" : "STMATRIX") + ", ~0u, &t);");
        for (size_t i = 0; load && i < registers.size(); i++) set(registers[i], "b32", "w[" + std::to_string(i) + "]");
        line("}");
        return waits = true;
    }
    return false;
}
