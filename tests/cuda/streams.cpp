// Streams, events, captures, copies, modules and launches.
#include "driver.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <unistd.h>

namespace {

std::set<Stream*> streams;

struct Event {
    std::chrono::steady_clock::time_point at;
    Graph* captured = nullptr;
};

struct Function {
    std::string name;
    Compiled code;
    int dynamic_shared = 48 << 10;
};

struct Module {
    std::map<std::string, Function> functions;
};

/// Does the work at once, or keeps it where the stream captures.
CUresult enqueue(Stream* stream, int kind, std::function<CUresult()> work) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    if (fault) return fault;
    if (!stream || !stream->graph) return work();
    if (stream->spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->graph->nodes.push_back({kind, std::move(work)});
    return CUDA_SUCCESS;
}

CUresult spoil(Stream* stream, CUresult error) {
    stream->spoilt = true;
    return error;
}

}  // namespace

bool spoil_captures() {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    bool any = false;
    for (Stream* s : streams)
        if (s->graph) any = s->spoilt = true;
    return any;
}

extern "C" {

CUresult cuStreamCreateWithPriority(Stream** stream, unsigned, int) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    if (fault) return fault;
    streams.insert(*stream = new Stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(Stream** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

CUresult cuStreamDestroy_v2(Stream* stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(Stream* stream) {
    if (stream && stream->graph) return spoil(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return fault;
}

CUresult cuStreamQuery(Stream* stream) { return cuStreamSynchronize(stream); }

CUresult cuCtxSynchronize() { return spoil_captures() ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : fault; }

CUresult cuEventCreate(Event** event, unsigned) {
    *event = new Event;
    return fault;
}

CUresult cuEventDestroy_v2(Event* event) {
    delete event;
    return fault;
}

CUresult cuEventRecord(Event* event, Stream* stream) {
    event->at = std::chrono::steady_clock::now();
    event->captured = stream ? stream->graph : nullptr;
    return fault;
}

CUresult cuEventSynchronize(Event* event) {
    if (fault) return fault;
    return event->captured ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS;
}

CUresult cuEventQuery(Event* event) { return cuEventSynchronize(event); }

CUresult cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
    if (fault) return fault;
    if (start->captured || end->captured) return CUDA_ERROR_CAPTURED_EVENT;
    *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count();
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

CUresult cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    if (stream && stream->graph && event->captured != stream->graph)
        return spoil(stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    return fault;
}

CUresult cuStreamBeginCapture_v2(Stream* stream, int) {
    if (fault) return fault;
    if (!stream || stream->graph) return CUDA_ERROR_INVALID_VALUE;
    stream->graph = new Graph;
    stream->spoilt = false;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(Stream* stream, Graph** graph) {
    if (!stream->graph) return CUDA_ERROR_INVALID_VALUE;
    *graph = stream->spoilt ? nullptr : stream->graph;
    if (stream->spoilt) delete stream->graph;
    stream->graph = nullptr;
    return stream->spoilt ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : fault;
}

CUresult cuGraphGetNodes(Graph* graph, Node** nodes, size_t* count) {
    for (size_t i = 0; nodes && i < *count && i < graph->nodes.size(); i++) nodes[i] = &graph->nodes[i];
    *count = graph->nodes.size();
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(Node* node, int* kind) {
    *kind = node->kind;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, u64) {
    *executable = new Graph(*graph);
    return fault;
}

CUresult cuGraphDestroy(Graph* graph) {
    delete graph;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(Graph* graph) { return cuGraphDestroy(graph); }

CUresult cuGraphUpload(Graph*, Stream*) { return fault; }

CUresult cuGraphLaunch(Graph* graph, Stream* stream) {
    if (stream && stream->graph) return spoil(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    for (const Node& node : graph->nodes)
        if (CUresult error = enqueue(nullptr, node.kind, node.again)) return error;
    return fault;
}

CUresult cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, Stream* stream) {
    if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, NODE_COPY, [=] { return memcpy((void*)to, from, bytes), CUDA_SUCCESS; });
}

CUresult cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, Stream* stream) {
    if (!is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, NODE_COPY, [=] { return memcpy(to, (void*)from, bytes), CUDA_SUCCESS; });
}

CUresult cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, Stream* stream) {
    if (!is_device_memory(to, bytes) || !is_device_memory(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, NODE_COPY, [=] { return memmove((void*)to, (void*)from, bytes), CUDA_SUCCESS; });
}

CUresult cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, Stream* stream) {
    if (!is_device_memory(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, NODE_SET, [=] { return memset((void*)to, value, bytes), CUDA_SUCCESS; });
}

struct Side {
    size_t x, y;
    int memory;     // 1 host, 2 device
    char* host;
    u64 device;
    void* array;
    size_t pitch;

    char* row(size_t i) const { return (memory == 1 ? host : (char*)device) + (y + i) * pitch + x; }
};

struct Copy2D {
    Side from, to;
    size_t width, height;
};

CUresult cuMemcpy2DAsync_v2(const Copy2D* given, Stream* stream) {
    Copy2D c = *given;
    for (const Side& side : {c.from, c.to}) {
        bool fits = c.width <= side.pitch || c.height <= 1;
        bool own = side.memory == 1 || c.height == 0 || is_device_memory((u64)side.row(0), (c.height - 1) * side.pitch + c.width);
        if (!fits || !own) return CUDA_ERROR_INVALID_VALUE;
    }
    return enqueue(stream, NODE_COPY, [=] {
        for (size_t i = 0; i < c.height; i++) memcpy(c.to.row(i), c.from.row(i), c.width);
        return CUDA_SUCCESS;
    });
}

CUresult cuModuleLoadData(Module** module, const void* image) {
    // A driver that loads code lazily may have to allocate for it.
    if (spoil_captures()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (fault) return fault;
    auto loaded = std::make_unique<Module>();
    try {
        for (auto& [name, code] : compile((const char*)image)) loaded->functions[name] = {name, code};
    } catch (const std::exception& error) {
        fprintf(stderr, "cuda-emulator: %s\n", error.what());
        return CUDA_ERROR_INVALID_PTX;
    }
    *module = loaded.release();
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(Function** function, Module* module, const char* name) {
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *function = &found->second;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute != 8) return CUDA_SUCCESS;
    if (value + (int)function->code.static_shared > SHARED_AT_MOST) return CUDA_ERROR_INVALID_VALUE;
    function->dynamic_shared = value;
    return fault;
}

CUresult cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, Stream* stream, void** params, void**) {
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (!bx || !by || !bz || bx > 1024 || by > 1024 || bz > 64 || bx * by * bz > 1024) return CUDA_ERROR_INVALID_VALUE;
    if ((int)shared > std::max(function->dynamic_shared, 48 << 10)) return CUDA_ERROR_INVALID_VALUE;
    std::vector<std::string> given;
    for (size_t i = 0; i < function->code.params.size(); i++)
        given.emplace_back((const char*)params[i], function->code.params[i]);
    auto kernel = [=]() mutable {
        std::vector<void*> pointers;
        for (auto& p : given) pointers.push_back(p.data());
        const Compiled& code = function->code;
        Launch launch = {code.entry, code.waits, {gx, gy, gz}, {bx, by, bz}, pointers.data(), code.static_shared + shared};
        if (getenv("CUDA_EMULATOR_TRACE")) fprintf(stderr, "cuda-emulator: %s %ux%ux%u of %ux%ux%u\n", function->name.c_str(), gx, gy, gz, bx, by, bz);
        std::string report = "as CUDA_EMULATOR_FAULT has it";
        const char* broken = getenv("CUDA_EMULATOR_FAULT");
        Outcome outcome = broken && access(broken, F_OK) == 0 ? Outcome::BadAddress : run(launch, report);
        if (outcome == Outcome::Done) return CUDA_SUCCESS;
        fault = outcome == Outcome::BadAddress ? CUDA_ERROR_ILLEGAL_ADDRESS
              : outcome == Outcome::Trap ? CUDA_ERROR_ILLEGAL_INSTRUCTION : CUDA_ERROR_LAUNCH_FAILED;
        fprintf(stderr, "cuda-emulator: %s failed (%d) %s\n", function->name.c_str(), fault, report.c_str());
        // As on a card, the launch itself is accepted: what follows reports the fault.
        return CUDA_SUCCESS;
    };
    return enqueue(stream, NODE_KERNEL, kernel);
}

}  // extern "C"
