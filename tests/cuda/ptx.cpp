#include "ptx.hpp"

#include <cctype>
#include <stdexcept>

namespace ptx {
namespace {

std::string without_comments(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        if (text.compare(i, 2, "//") == 0) {
            while (i < text.size() && text[i] != '\n') i++;
            out += '\n';
        } else if (text.compare(i, 2, "/*") == 0) {
            i = text.find("*/", i) + 1;
        } else {
            out += text[i];
        }
    }
    return out;
}

std::string trimmed(const std::string& s) {
    size_t a = s.find_first_not_of(" \t\r\n"), b = s.find_last_not_of(" \t\r\n");
    return a == std::string::npos ? "" : s.substr(a, b - a + 1);
}

std::vector<std::string> split(const std::string& s, char at) {
    std::vector<std::string> parts;
    std::string part;
    int depth = 0;
    for (char c : s) {
        if (c == '{' || c == '[' || c == '(') depth++;
        if (c == '}' || c == ']' || c == ')') depth--;
        if (c == at && depth == 0) {
            parts.push_back(trimmed(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trimmed(part).empty() || !parts.empty()) parts.push_back(trimmed(part));
    return parts;
}

std::vector<std::string> words(const std::string& s) {
    std::vector<std::string> out;
    std::string word;
    for (char c : s + " ") {
        if (isspace((unsigned char)c)) {
            if (!word.empty()) out.push_back(word);
            word.clear();
        } else {
            word += c;
        }
    }
    return out;
}

bool is_type(const std::string& w) {
    return w == ".pred" || (w.size() >= 3 && w[0] == '.' && std::string("bsuf").find(w[1]) != std::string::npos &&
                            isdigit((unsigned char)w[2]));
}

/// `.align 4 .b8 name[16] = {1, 2}`, `.b32 %r<7>`, `.u64 .ptr .global .align 1 k_param_0`.
Declaration declaration(const std::string& text) {
    Declaration d;
    std::string head = text;
    size_t equals = text.find('=');
    if (equals != std::string::npos) {
        head = text.substr(0, equals);
        d.init = trimmed(text.substr(equals + 1));
        if (d.init.size() > 1 && d.init[0] == '{') d.init = d.init.substr(1, d.init.size() - 2);
    }
    auto w = words(head);
    for (size_t i = 0; i < w.size(); i++) {
        if (w[i] == ".align") d.align = std::stoul(w[++i]);
        else if (is_type(w[i])) d.type = w[i].substr(1);
        else if (w[i][0] != '.') d.name += w[i];
    }
    size_t open = d.name.find_first_of("[<");
    if (open != std::string::npos) {
        std::string inside = d.name.substr(open + 1, d.name.size() - open - 2);
        d.count = inside.empty() ? 0 : std::stol(inside);
        d.name.resize(open);
    }
    return d;
}

Instruction instruction(const std::string& text) {
    Instruction in;
    std::string rest = text;
    if (rest[0] == '@') {
        size_t end = rest.find_first_of(" \t");
        in.guard = rest.substr(1, end - 1);
        if (in.guard[0] == '!') {
            in.negated = true;
            in.guard.erase(0, 1);
        }
        rest = trimmed(rest.substr(end));
    }
    size_t end = rest.find_first_of(" \t\n");
    std::string op = rest.substr(0, end);
    for (const auto& part : split(op, '.'))
        if (!part.empty()) in.op.push_back(part);
    if (end != std::string::npos) in.operands = split(trimmed(rest.substr(end)), ',');
    return in;
}

struct Parser {
    std::string text;
    size_t at = 0;

    void skip() {
        while (at < text.size() && isspace((unsigned char)text[at])) at++;
    }

    bool done() {
        skip();
        return at >= text.size();
    }

    /// Up to one of the characters outside of brackets (braces count where `braces`), which is left unread.
    std::string until(const std::string& ends, bool braces) {
        int depth = 0;
        std::string out;
        for (; at < text.size(); at++) {
            char c = text[at];
            if (depth == 0 && ends.find(c) != std::string::npos) break;
            if (c == '(' || c == '[' || (braces && c == '{')) depth++;
            if (c == ')' || c == ']' || (braces && c == '}')) depth--;
            out += c;
        }
        return trimmed(out);
    }

    std::vector<Declaration> params() {
        at++;
        std::string inside = until(")", false);
        at++;
        std::vector<Declaration> out;
        for (const auto& p : split(inside, ','))
            if (!p.empty()) out.push_back(declaration(p));
        return out;
    }

    void statement(Function& f) {
        skip();
        // A label is a word with a colon behind it.
        size_t end = at;
        while (end < text.size() && (isalnum((unsigned char)text[end]) || text[end] == '_' || text[end] == '$')) end++;
        Statement s{};
        if (end > at && text[end] == ':') {
            s.label = text.substr(at, end - at);
            at = end + 1;
            skip();
            if (text.compare(at, 14, ".branchtargets") == 0) {
                at += 14;
                s.kind = Statement::Targets;
                s.targets = split(until(";", true), ',');
                at++;
            } else {
                s.kind = Statement::Label;
            }
            f.statements.push_back(s);
            return;
        }
        std::string line = until(";", true);
        at++;
        if (line[0] == '.') {
            auto first = words(line)[0];
            if (first == ".reg") s.kind = Statement::Register;
            else if (first == ".param") s.kind = Statement::Param;
            else if (first == ".local") s.kind = Statement::Local;
            else if (first == ".shared") s.kind = Statement::Shared;
            else if (first == ".loc" || first == ".pragma") return;
            else throw std::runtime_error("unknown declaration: " + line);
            auto rest = trimmed(line.substr(first.size()));
            // `.reg .b32 a, b;` declares both.
            auto parts = split(rest, ',');
            std::string type = words(parts[0])[0];
            for (size_t i = 0; i < parts.size(); i++) {
                s.declared = declaration(i == 0 ? parts[0] : type + " " + parts[i]);
                f.statements.push_back(s);
            }
            return;
        }
        s.kind = Statement::Code;
        s.code = instruction(line);
        f.statements.push_back(s);
    }

    void body(Function& f) {
        f.body = true;
        at++;
        for (int depth = 1;;) {
            skip();
            if (at >= text.size()) throw std::runtime_error("a function without an end: " + f.name);
            if (text[at] == '{') {
                f.statements.push_back({Statement::Open, {}, {}, "", {}});
                depth++;
                at++;
            } else if (text[at] == '}') {
                at++;
                if (--depth == 0) return;
                f.statements.push_back({Statement::Close, {}, {}, "", {}});
            } else {
                statement(f);
            }
        }
    }

    Function function(bool entry) {
        Function f;
        f.entry = entry;
        skip();
        if (text[at] == '(') f.returns = params();
        skip();
        f.name = until(" \t\n(;{", false);
        skip();
        if (text[at] == '(') f.params = params();
        // What stands between the parameters and the body bounds threads and registers.
        until("{;", false);
        if (text[at] == '{') body(f);
        else at++;
        return f;
    }

    Module module() {
        Module m;
        while (!done()) {
            size_t start = at;
            std::string line = until(" \t\n", false);
            if (line == ".version" || line == ".address_size" || line == ".target" || line == ".file") {
                std::string rest = until("\n", false);
                if (line == ".target") m.target = trimmed(rest.substr(0, rest.find(',')));
                continue;
            }
            if (line == ".section") {
                until("{", false);
                at++;
                until("}", false);
                at++;
                continue;
            }
            bool external = false;
            while (line == ".extern" || line == ".visible" || line == ".weak" || line == ".common") {
                external |= line == ".extern";
                skip();
                line = until(" \t\n", false);
            }
            if (line == ".entry" || line == ".func") {
                m.functions.push_back(function(line == ".entry"));
            } else if (line == ".shared" || line == ".global" || line == ".const") {
                auto d = declaration(until(";", true));
                at++;
                if (line == ".shared") (external ? m.external_shared : m.shared).push_back(d);
                else m.globals.push_back(d);
            } else {
                throw std::runtime_error("unknown directive: " + text.substr(start, 80));
            }
        }
        return m;
    }
};

}  // namespace

Module parse(const std::string& text) {
    Parser parser{without_comments(text)};
    return parser.module();
}

unsigned size_of(const std::string& type) {
    if (type == "pred") return 1;
    std::string digits;
    for (char c : type)
        if (isdigit((unsigned char)c)) digits += c;
        else if (!digits.empty()) break;
    unsigned bits = std::stoul(digits);
    return type.find("x2") != std::string::npos ? bits / 4 : bits / 8;
}

}  // namespace ptx
