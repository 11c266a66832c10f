#include "compile.hpp"

#include "emit.hpp"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <sys/stat.h>
#include <unistd.h>

using std::string;

namespace {

string text_of(const string& path) {
    std::ifstream file(path);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}

bool exists(const string& path) { return access(path.c_str(), F_OK) == 0; }

u64 hash(const string& text, u64 h) {
    for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
    return h;
}

/// Where this library lies, and the prelude beside it.
string folder() {
    Dl_info info;
    dladdr((void*)folder, &info);
    string path = info.dli_fname;
    size_t slash = path.rfind('/');
    return slash == string::npos ? "." : path.substr(0, slash);
}

string setting(const char* name, const string& otherwise) {
    const char* set = getenv(name);
    return set && *set ? set : otherwise;
}

/// Runs a command; its output goes to a file, whose text is thrown when it fails.
string checked(const string& command, const string& log) {
    int status = system((command + " > " + log + " 2>&1").c_str());
    string said = text_of(log);
    unlink(log.c_str());
    if (status != 0) throw std::runtime_error(command + "\n" + said.substr(0, 4000));
    return said;
}

/// Lets NVIDIA's assembler judge the PTX, and notes registers, spills and shared memory.
void assemble(const string& ptxas, const string& ptx, const string& base, const string& temporary) {
    string source = temporary + ".ptx", accepted = base + ".accepted";
    if (exists(accepted)) return;
    std::ofstream(source) << ptx;
    size_t at = ptx.find(".target");
    std::istringstream words(ptx.substr(at + 7));
    string target;
    std::getline(words >> std::ws, target);
    target = target.substr(0, target.find_first_of(", \r"));
    string command = ptxas + " -v -arch=" + target + " " + source + " -o " + temporary + ".cubin";
    string said;
    try {
        said = checked(command, temporary + ".log");
    } catch (...) {
        rename(source.c_str(), (base + ".rejected.ptx").c_str());
        throw;
    }
    unlink(source.c_str());
    unlink((temporary + ".cubin").c_str());
    std::ofstream(temporary + ".accepted") << said;
    rename((temporary + ".accepted").c_str(), accepted.c_str());
}

}  // namespace

std::map<string, Compiled> compile(const string& ptx) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    static const string prelude = text_of(folder() + "/prelude.h");
    static const string options = " -O1 -march=native -ffp-contract=off -fno-strict-aliasing -fno-math-errno -fno-builtin-printf -w"
                                  " -shared -fPIC -x c -include " + folder() + "/prelude.h ";
    static const string compiler = setting("CUDA_EMULATOR_CC", "gcc");
    static const string kept = setting("CUDA_EMULATOR_CACHE", "/tmp/cuda-emulator");
    mkdir(kept.c_str(), 0777);
    Translation t;
    char name[64];
    snprintf(name, sizeof name, "/%016llx", hash(ptx, 0xcbf29ce484222325));
    string temporary = kept + name + "." + std::to_string(getpid());
    if (const char* ptxas = getenv("CUDA_EMULATOR_PTXAS"))
        if (*ptxas) assemble(ptxas, ptx, kept + name, temporary);
    try {
        t = translate(ptx);
    } catch (const std::exception&) {
        std::ofstream(kept + name + ".unknown.ptx") << ptx;
        throw;
    }
    snprintf(name, sizeof name, "/%016llx", hash(t.source, hash(prelude + options, 0xcbf29ce484222325)));
    string object = kept + name + ".so";
    if (!exists(object)) {
        temporary = kept + name + "." + std::to_string(getpid());
        std::ofstream(temporary + ".c") << t.source;
        checked(compiler + options + temporary + ".c -o " + temporary + ".so -lm", temporary + ".log");
        unlink((temporary + ".c").c_str());
        rename((temporary + ".so").c_str(), object.c_str());
    }
    void* library = dlopen(object.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    std::map<string, Compiled> out;
    for (const auto& k : t.kernels)
        out[k.name] = {(Entry)dlsym(library, k.name.c_str()), k.waits, k.static_shared, k.params};
    return out;
}
