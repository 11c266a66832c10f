#include "run.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <thread>
#include <ucontext.h>
#include <vector>

namespace {

const size_t STACK = 256 << 10;
const size_t SHARED = 256 << 10;

enum class State { Ready, Meeting, AtBarrier, Done };

struct Fiber : Waiting {
    State state;
    void* stack_pointer;
    char* stack;
};

/// Runs one block at a time.
struct Worker {
    std::vector<Fiber*> fibers;
    u8* shared = nullptr;
    void* stack_pointer = nullptr;
    Fiber* current = nullptr;
    const Launch* launch = nullptr;
    int fault = 0;
    void* fault_address = nullptr;
};

thread_local Worker worker;

}  // namespace

// Saves what a call must keep, and goes on where the other stack was left.
extern "C" void change_stack(void** save, void* to);
asm(R"(
.text
.type change_stack, @function
change_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

namespace {

// Thread-local state is looked up anew behind every change of stacks; a fiber stays on its worker.
__attribute__((noinline)) Worker& here() {
    asm volatile("");
    return worker;
}

void leave(Fiber* fiber, State state) {
    fiber->state = state;
    change_stack(&fiber->stack_pointer, here().stack_pointer);
}

u32 meet_others(Thread* thread, u32 place, u32 what, u32 mask, void* operands) {
    auto* fiber = (Fiber*)thread;
    fiber->place = place, fiber->what = what, fiber->mask = mask, fiber->operands = operands;
    leave(fiber, State::Meeting);
    return fiber->result;
}

void wait_at_barrier(Thread* thread) { leave((Fiber*)thread, State::AtBarrier); }

/// Where threads do not wait, one fiber is all of them in turn.
void run_in_turn(Fiber* fiber, const Launch& launch) {
    Thread& t = fiber->thread;
    for (t.tid[2] = 0; t.tid[2] < launch.block[2]; t.tid[2]++)
        for (t.tid[1] = 0; t.tid[1] < launch.block[1]; t.tid[1]++)
            for (t.tid[0] = 0; t.tid[0] < launch.block[0]; t.tid[0]++) {
                u32 linear = t.tid[0] + launch.block[0] * (t.tid[1] + launch.block[1] * t.tid[2]);
                t.lane = linear & 31, t.warp = linear >> 5;
                launch.entry(&t);
            }
}

void fiber_main() {
    Fiber* fiber = here().current;
    const Launch& launch = *here().launch;
    if (launch.waits) launch.entry(&fiber->thread);
    else run_in_turn(fiber, launch);
    leave(fiber, State::Done);
}

void fiber_faulted() { leave(here().current, State::Done); }

void ready(Fiber* fiber) {
    if (!fiber->stack) {
        void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) abort();
        mprotect(stack, 4096, PROT_NONE);
        fiber->stack = (char*)stack;
    }
    auto** top = (void**)(fiber->stack + STACK);
    *--top = nullptr;
    *--top = (void*)fiber_main;
    top -= 6;
    fiber->stack_pointer = top;
    fiber->state = State::Ready;
}

/// Lets the threads of a warp meet that can; the earliest place in the program first, as they come together again there.
bool let_meet(Fiber* const* fibers, u32 count) {
    u32 after = 0;
    for (;;) {
        u32 place = ~0u, alive = 0;
        for (u32 i = 0; i < count; i++) {
            if (fibers[i]->state != State::Done) alive |= 1u << i;
            if (fibers[i]->state == State::Meeting && fibers[i]->place > after) place = std::min(place, fibers[i]->place);
        }
        if (place == ~0u) return false;
        u32 tried = 0;
        for (u32 first = 0; first < count; first++) {
            if (fibers[first]->state != State::Meeting || fibers[first]->place != place || tried >> first & 1) continue;
            u32 together = 0, mask = fibers[first]->mask;
            for (u32 i = first; i < count; i++) {
                bool same = fibers[i]->state == State::Meeting && fibers[i]->place == place && fibers[i]->mask == mask;
                if (same) together |= 1u << i;
            }
            tried |= together;
            if (fibers[first]->what != ACTIVE && (mask & alive & ~together)) continue;
            // The matrix instructions need whole warps.
            if (fibers[first]->what >= WMMA && together != ~0u) continue;
            Waiting* threads[32] = {};
            for (u32 i = 0; i < count; i++)
                if (together >> i & 1) threads[i] = fibers[i];
            meet(threads);
            for (u32 i = 0; i < count; i++)
                if (together >> i & 1) fibers[i]->state = State::Ready;
            return true;
        }
        after = place;
    }
}

Outcome run_block(const Launch& launch, u32 block, std::string& report) {
    Worker& w = worker;
    u32 count = launch.waits ? launch.block[0] * launch.block[1] * launch.block[2] : 1;
    w.launch = &launch;
    if (!w.shared) {
        // Within 32 bits, so that shared addresses fit narrow registers too.
        w.shared = (u8*)mmap(nullptr, SHARED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        if (w.shared == MAP_FAILED) abort();
    }
    // What the kernel did not write is no number.
    memset(w.shared, 0xff, launch.shared);
    while (w.fibers.size() < count) w.fibers.push_back(new Fiber{});
    for (u32 i = 0; i < count; i++) {
        Fiber* f = w.fibers[i];
        Thread& t = f->thread;
        t.tid[0] = i % launch.block[0], t.tid[1] = i / launch.block[0] % launch.block[1];
        t.tid[2] = i / launch.block[0] / launch.block[1];
        t.ctaid[0] = block % launch.grid[0], t.ctaid[1] = block / launch.grid[0] % launch.grid[1];
        t.ctaid[2] = block / launch.grid[0] / launch.grid[1];
        memcpy(t.ntid, launch.block, sizeof t.ntid);
        memcpy(t.nctaid, launch.grid, sizeof t.nctaid);
        t.lane = i & 31, t.warp = i >> 5;
        t.params = launch.params, t.shared = w.shared;
        t.meet = meet_others, t.barrier = wait_at_barrier;
        ready(f);
    }
    for (;;) {
        bool moved = false;
        u32 at_barrier = 0, done = 0;
        for (u32 first = 0; first < count; first += 32) {
            u32 lanes = std::min(32u, count - first);
            do {
                for (u32 i = first; i < first + lanes; i++) {
                    if (w.fibers[i]->state != State::Ready) continue;
                    moved = true;
                    w.current = w.fibers[i];
                    change_stack(&w.stack_pointer, w.current->stack_pointer);
                    if (w.fault) {
                        bool trap = w.fault == SIGILL || w.fault == SIGFPE;
                        w.fault = 0;
                        char where[160];
                        const Thread& t = w.current->thread;
                        snprintf(where, sizeof where, "in block %u, %u, %u, thread %u, %u, %u, at %p", t.ctaid[0], t.ctaid[1],
                                 t.ctaid[2], t.tid[0], t.tid[1], t.tid[2], w.fault_address);
                        report = where;
                        return trap ? Outcome::Trap : Outcome::BadAddress;
                    }
                }
            } while (let_meet(&w.fibers[first], lanes));
            for (u32 i = first; i < first + lanes; i++) {
                at_barrier += w.fibers[i]->state == State::AtBarrier;
                done += w.fibers[i]->state == State::Done;
            }
        }
        if (done == count) return Outcome::Done;
        if (at_barrier + done == count) {
            for (u32 i = 0; i < count; i++)
                if (w.fibers[i]->state == State::AtBarrier) w.fibers[i]->state = State::Ready;
            continue;
        }
        if (!moved) {
            report = std::to_string(at_barrier) + " of " + std::to_string(count) + " threads wait at a barrier, " +
                     std::to_string(done) + " are done, and the others wait within their warps for threads that do not come";
            return Outcome::Stuck;
        }
    }
}

/// Threads that take blocks of a launch beside the one that launches.
struct Pool {
    std::mutex mutex;
    std::condition_variable start, finished;
    const Launch* launch = nullptr;
    u64 round = 0;
    u32 busy = 0, helpers = 0;
    std::atomic<u64> next{0};
    u64 blocks = 0;
    std::atomic<int> outcome{0};
    std::string report;

    void take_blocks(const Launch& l) {
        for (u64 b; outcome == 0 && (b = next++) < blocks;) {
            std::string why;
            Outcome o = run_block(l, (u32)b, why);
            if (o == Outcome::Done) continue;
            std::lock_guard<std::mutex> lock(mutex);
            outcome = (int)o;
            report = why;
        }
    }

    void help() {
        for (u64 seen = 0;;) {
            std::unique_lock<std::mutex> lock(mutex);
            start.wait(lock, [&] { return round != seen; });
            seen = round;
            const Launch* l = launch;
            if (!l) continue;
            busy++;
            lock.unlock();
            take_blocks(*l);
            lock.lock();
            if (--busy == 0) finished.notify_all();
        }
    }

    Outcome run(const Launch& l, std::string& why) {
        blocks = (u64)l.grid[0] * l.grid[1] * l.grid[2];
        next = 0;
        outcome = 0;
        report.clear();
        bool large = blocks > 1 && blocks * l.block[0] * l.block[1] * l.block[2] > 2048;
        if (large) {
            std::lock_guard<std::mutex> lock(mutex);
            if (!helpers) {
                const char* wanted = getenv("CUDA_EMULATOR_THREADS");
                int threads = wanted ? atoi(wanted) : (int)std::thread::hardware_concurrency();
                for (int i = 1; i < threads; i++) std::thread([this] { help(); }).detach();
                helpers = 1;
            }
            launch = &l;
            round++;
            start.notify_all();
        }
        take_blocks(l);
        std::unique_lock<std::mutex> lock(mutex);
        launch = nullptr;
        finished.wait(lock, [&] { return busy == 0; });
        why = report;
        return (Outcome)outcome.load();
    }
};

struct sigaction before[4];
const int FAULTS[4] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

void on_fault(int signal, siginfo_t* info, void* context) {
    Worker& w = worker;
    auto* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    char* at = (char*)registers[REG_RSP];
    if (w.current && at >= w.current->stack && at < w.current->stack + STACK) {
        w.fault = signal;
        w.fault_address = info->si_addr;
        registers[REG_RIP] = (greg_t)fiber_faulted;
        registers[REG_RSP] = (greg_t)((u64)(w.current->stack + STACK) - 8);
        return;
    }
    const auto& old = before[std::find(FAULTS, FAULTS + 4, signal) - FAULTS];
    if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) return old.sa_sigaction(signal, info, context);
    sigaction(signal, &old, nullptr);
}

}  // namespace

Outcome run(const Launch& launch, std::string& report) {
    static auto* pool = new Pool;
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return pool->run(launch, report);
}

void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; i++) sigaction(FAULTS[i], &action, &before[i]);
}
