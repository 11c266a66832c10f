// PTX to code that this machine runs, kept on disk by what was compiled.
#pragma once

#include "run.hpp"

#include <map>
#include <string>
#include <vector>

struct Compiled {
    Entry entry;
    bool waits;
    u32 static_shared;
    std::vector<unsigned> params;
};

/// Every kernel of a module by name; throws std::runtime_error with what a compiler said.
std::map<std::string, Compiled> compile(const std::string& ptx);
