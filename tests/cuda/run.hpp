// Runs the blocks of a launch: every thread on a stack of its own where threads wait for each other.
#pragma once

#include "prelude.h"

#include <string>

typedef void (*Entry)(Thread*);

struct Launch {
    Entry entry;
    bool waits;
    u32 grid[3], block[3];
    void** params;
    u32 shared;         // bytes, what is declared in the kernel included
};

enum class Outcome { Done, BadAddress, Trap, Stuck };

Outcome run(const Launch& launch, std::string& report);

/// Faults within kernels become outcomes; others go on to whoever handled them before.
void catch_faults();

/// One meeting of the threads of a warp; `threads[lane]` is null where a lane takes no part.
struct Waiting {
    Thread thread;
    u32 place, what, mask, result;
    void* operands;
};
void meet(Waiting* const threads[32]);
