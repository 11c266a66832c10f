// A stand-in for NVIDIA's driver, libcuda.so.1, with what the CUDA backend calls. It runs kernels on the processor, so
// that the whole path from tensors to PTX can be tested where there is no card. Nothing here says anything of speed.
//
// CubeCL compiles kernels to PTX itself. cuModuleLoadData turns that into C (emit.cpp and its neighbours), lets the
// machine's C compiler make a shared object of it, and keeps that on disk. A launch runs every block with one small
// stack for each thread (run.cpp); barriers and the instructions of a warp change stacks. Streams work at once and in
// order; a stream that captures keeps its calls, which a graph repeats. scripts/test-cuda builds it and runs tests on it.
//
// Environment:
//   CUDA_EMULATOR_CACHE     where compiled kernels are kept [/tmp/cuda-emulator]
//   CUDA_EMULATOR_CC        C compiler [gcc]
//   CUDA_EMULATOR_PTXAS     NVIDIA's ptxas (the PyPI package nvidia-cuda-nvcc-cu12 has it): a kernel that it rejects
//                           fails to load; what it says of registers and spills lies in the cache as *.accepted
//   CUDA_EMULATOR_DEVICES   devices [1]
//   CUDA_EMULATOR_MEMORY    MiB of each device, separated by commas; the last is that of the others too [8192]
//   CUDA_EMULATOR_ARCH      compute capability [90]
//   CUDA_EMULATOR_DRIVER    version of the driver [12090]
//   CUDA_EMULATOR_THREADS   processor threads [all]
//   CUDA_EMULATOR_FAULT     a file: once it is there, the next launch fails, and from then on all else, as on a card that is broken
//   CUDA_EMULATOR_TRACE     set: name every launch on standard error
// Besides, kernels that call exp, sin and the like need libdevice.10.bc, which CubeCL looks for under CUDA_PATH.
//
// What it cannot find: races between threads that a real card runs side by side, errors of its approximate functions
// (they are exact here), and accesses beyond a tensor that stay within an allocation.
#include "driver.hpp"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

int fault = 0;
std::recursive_mutex driver_mutex;

namespace {

int setting(const char* name, int otherwise) {
    const char* set = getenv(name);
    return set && *set ? atoi(set) : otherwise;
}

int devices() { return setting("CUDA_EMULATOR_DEVICES", 1); }

size_t memory_of(int device) {
    const char* at = getenv("CUDA_EMULATOR_MEMORY");
    if (!at || !*at) return (size_t)8192 << 20;
    for (const char* next; device-- && (next = strchr(at, ',')); at = next + 1) {}
    return (size_t)atoi(at) << 20;
}

const size_t FILLED_AT_MOST = 64 << 20;

struct Context {
    int device;
    size_t used = 0;
};

std::map<int, Context*> contexts;
thread_local Context* current = nullptr;

struct Allocation {
    size_t bytes, mapped;
    Context* context;
};
std::map<u64, Allocation> allocations;

}  // namespace

bool is_device_memory(u64 address, size_t bytes) {
    if (bytes == 0) return true;
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    --after;
    return address + bytes <= after->first + after->second.bytes;
}

extern "C" {

CUresult cuInit(unsigned) {
    static bool once = (catch_faults(), true);
    (void)once;
    return devices() > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

CUresult cuDriverGetVersion(int* version) {
    *version = setting("CUDA_EMULATOR_DRIVER", 12090);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    *count = devices();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= devices()) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, length, "Emulated CUDA device %d", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* id, int length, int device) {
    snprintf(id, length, "0000:%02X:00.0", device + 1);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(char* uuid, int device) {
    memset(uuid, device + 1, 16);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = memory_of(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    int arch = setting("CUDA_EMULATOR_ARCH", 90);
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;       // threads of a block
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;                 // blocks of a grid
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;                   // shared memory
    case 10: *value = 32; break;                        // threads of a warp
    case 16: *value = 4; break;                         // multiprocessors: few, so that small grids are thought to fill it
    case 75: *value = arch / 10; break;
    case 76: *value = arch % 10; break;
    case 81: *value = 228 << 10; break;
    case 97: *value = SHARED_AT_MOST; break;
    case 115: *value = 1; break;                        // memory pools
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(Context** context, int device) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    auto& own = contexts[device];
    if (!own) own = new Context{device};
    *context = own;
    return fault;
}

CUresult cuDevicePrimaryCtxRelease_v2(int) { return CUDA_SUCCESS; }

CUresult cuCtxSetCurrent(Context* context) {
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(Context** context) {
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = *greatest = 0;
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *total = memory_of(current->device);
    *free = *total - current->used;
    return CUDA_SUCCESS;
}

static CUresult allocate(u64* address, size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    if (fault) return fault;
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (current->used + bytes > memory_of(current->device)) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t mapped = (bytes + 4095) / 4096 * 4096;
    // A page on either side stays out of reach, so that what strays far faults.
    auto* at = (char*)mmap(nullptr, mapped + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    mprotect(at + 4096, mapped, PROT_READ | PROT_WRITE);
    *address = (u64)at + 4096;
    // Memory of a card holds whatever was there before: no numbers, so that what is read unwritten shows.
    memset((void*)*address, 0xff, bytes < FILLED_AT_MOST ? bytes : FILLED_AT_MOST);
    allocations[*address] = {bytes, mapped, current};
    current->used += bytes;
    return CUDA_SUCCESS;
}

static CUresult release(u64 address) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex);
    if (fault) return fault;
    auto found = allocations.find(address);
    if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
    found->second.context->used -= found->second.bytes;
    munmap((char*)address - 4096, found->second.mapped + 8192);
    allocations.erase(found);
    return CUDA_SUCCESS;
}

// What is not ordered by a stream is refused while any stream captures in the global mode.
CUresult cuMemAlloc_v2(u64* address, size_t bytes) {
    return spoil_captures() ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : allocate(address, bytes);
}

CUresult cuMemFree_v2(u64 address) {
    return spoil_captures() ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : release(address);
}

CUresult cuMemAllocAsync(u64* address, size_t bytes, Stream* stream) {
    CUresult result = allocate(address, bytes);
    if (stream && stream->graph) stream->graph->nodes.push_back({NODE_ALLOCATION, [] { return CUDA_SUCCESS; }});
    return result;
}

CUresult cuMemFreeAsync(u64 address, Stream* stream) {
    if (stream && stream->graph) {
        stream->graph->nodes.push_back({NODE_FREE, [] { return CUDA_SUCCESS; }});
        return CUDA_SUCCESS;
    }
    return release(address);
}

CUresult cuMemAllocHost_v2(void** address, size_t bytes) {
    if (spoil_captures()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    *address = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *address ? fault : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void* address) {
    free(address);
    return fault;
}

static const std::map<int, std::pair<const char*, const char*>> errors = {
    {0, {"CUDA_SUCCESS", "no error"}},
    {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {218, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
    {222, {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."}},
    {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {600, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {715, {"CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"}},
    {719, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {900, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {905, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    {907, {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
};

CUresult cuGetErrorName(int error, const char** text) {
    auto found = errors.find(error);
    *text = found == errors.end() ? "CUDA_ERROR_UNKNOWN" : found->second.first;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(int error, const char** text) {
    auto found = errors.find(error);
    *text = found == errors.end() ? "unknown error" : found->second.second;
    return CUDA_SUCCESS;
}

}  // extern "C"
