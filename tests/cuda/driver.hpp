// What the two halves of the driver share: devices and memory (driver.cpp), streams and launches (streams.cpp).
#pragma once

#include "compile.hpp"

#include <chrono>
#include <functional>
#include <mutex>

typedef int CUresult;
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
    CUDA_ERROR_CAPTURED_EVENT = 907,
};

const int SHARED_AT_MOST = 227 << 10;
enum { NODE_KERNEL = 0, NODE_COPY = 1, NODE_SET = 2, NODE_ALLOCATION = 10, NODE_FREE = 11 };

struct Node {
    int kind;
    std::function<CUresult()> again;
};

struct Graph {
    std::vector<Node> nodes;
};

struct Stream {
    Graph* graph = nullptr;     // what is captured
    bool spoilt = false;
};

/// The error that a kernel left its context with, which every later call returns.
extern int fault;
extern std::recursive_mutex driver_mutex;

/// Ends every capture in an error where there is one.
bool spoil_captures();
bool is_device_memory(u64 address, size_t bytes);
