// What the threads of a warp do together.
#include "run.hpp"

#include <cstring>

namespace {

u32 operand(const Waiting* t) { return *(u32*)t->operands; }

void shuffle(Waiting* const threads[32], u32 what) {
    for (u32 lane = 0; lane < 32; lane++) {
        Waiting* t = threads[lane];
        if (!t) continue;
        auto& s = *(Shuffle*)t->operands;
        u32 clamp = s.clamp & 31, segment = s.clamp >> 8 & 31, by = s.lane & 31;
        s32 least = lane & segment, most = (lane & segment) | (clamp & ~segment), from = lane;
        bool inside = true;
        if (what == SHFL_UP) from = (s32)lane - (s32)by, inside = from >= most;
        if (what == SHFL_DOWN) from = lane + by, inside = from <= most;
        if (what == SHFL_BFLY) from = lane ^ by, inside = from <= most;
        if (what == SHFL_IDX) from = least | (by & ~segment), inside = from <= most;
        if (!inside) from = lane;
        // A lane that takes no part has no value to give; what is read there is undefined.
        t->result = threads[from] ? ((Shuffle*)threads[from]->operands)->value : 0xdeadbeef;
        t->thread.met = inside;
    }
}

void reduce(Waiting* const threads[32], u32 what) {
    bool first = true;
    u32 all = 0;
    for (u32 lane = 0; lane < 32; lane++) {
        if (!threads[lane]) continue;
        u32 x = operand(threads[lane]);
        if (first) all = x;
        else if (what == REDUX_ADD) all += x;
        else if (what == REDUX_AND) all &= x;
        else if (what == REDUX_OR) all |= x;
        else if (what == REDUX_XOR) all ^= x;
        else if (what == REDUX_UMIN) all = x < all ? x : all;
        else if (what == REDUX_UMAX) all = x > all ? x : all;
        else if (what == REDUX_SMIN) all = (s32)x < (s32)all ? x : all;
        else if (what == REDUX_SMAX) all = (s32)x > (s32)all ? x : all;
        first = false;
    }
    for (u32 lane = 0; lane < 32; lane++)
        if (threads[lane]) threads[lane]->result = all;
}

float from_half(u16 h) {
    u32 sign = (u32)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    if (exponent == 31) bits = sign | 0x7f800000 | mantissa << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else {
        float small = (float)mantissa / 16777216.0f;
        memcpy(&bits, &small, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

u16 to_half(float f) {
    u32 bits;
    memcpy(&bits, &f, 4);
    u16 sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7fff;
    if (bits >= 0x477ff000) return sign | 0x7c00;
    if (bits < 0x38800000) {
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        return sign | (u16)__builtin_rintf(magnitude * 16777216.0f);
    }
    return sign | (u16)((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

enum Type { F16, BF16, TF32, F32, S32, S8, U8 };

u32 bytes_of(u32 type) { return type <= BF16 ? 2 : type <= S32 ? 4 : 1; }

double element(const u32* words, u32 i, u32 type) {
    u32 wide;
    float f;
    switch (type) {
    case F16: return from_half(((const u16*)words)[i]);
    case BF16: wide = (u32)((const u16*)words)[i] << 16; break;
    case TF32: wide = words[i] & ~0x1fffu; break;
    case S32: return (s32)words[i];
    case S8: return ((const s8*)words)[i];
    case U8: return ((const u8*)words)[i];
    default: wide = words[i];
    }
    memcpy(&f, &wide, 4);
    return f;
}

void put(u32* words, u32 i, u32 type, double x) {
    if (type == F16) ((u16*)words)[i] = to_half((float)x);
    else if (type == S32) words[i] = (u32)(s64)x;
    else {
        float f = (float)x;
        memcpy(&words[i], &f, 4);
    }
}

/// Row and column of an element in the fragments of `mma.sync`, as the PTX manual lays them out.
void mma_place(char matrix, const Product& p, u32 lane, u32 i, u32& row, u32& column) {
    u32 group = lane >> 2, within = lane & 3;
    if (matrix == 'c') {
        row = group + 8 * (i >> 1);
        column = within * 2 + (i & 1);
        return;
    }
    u32 per = 4 / bytes_of(p.ta);   // elements of one register
    u32 word = i / per, k;
    if (matrix == 'a') {
        row = group + 8 * (word & 1);
        k = (word >> 1) * 4 * per + within * per + i % per;
        column = k;
    } else {
        row = word * 4 * per + within * per + i % per;
        column = group;
    }
}

void multiply(Waiting* const threads[32], bool fragments_in_order) {
    const Product& any = *(Product*)threads[0]->operands;
    const u32 m = any.m, n = any.n, k = any.k;
    static thread_local double a[32 * 32], b[32 * 32], c[32 * 32];
    auto each = [&](char matrix, auto what) {
        u32 words = matrix == 'a' ? any.na : matrix == 'b' ? any.nb : any.nc;
        u32 type = matrix == 'a' ? any.ta : matrix == 'b' ? any.tb : any.tc;
        u32 rows = matrix == 'b' ? k : m, columns = matrix == 'a' ? k : n, per = 4 / bytes_of(type);
        for (u32 lane = 0; lane < 32; lane++)
            for (u32 i = 0; i < words * per; i++) {
                u32 at = (lane * words * per + i) % (rows * columns), row = at / columns, column = at % columns;
                if (!fragments_in_order) mma_place(matrix, any, lane, i, row, column);
                what(*(Product*)threads[lane]->operands, i, row * columns + column);
            }
    };
    each('a', [&](const Product& p, u32 i, u32 at) { a[at] = element(p.a, i, p.ta); });
    each('b', [&](const Product& p, u32 i, u32 at) { b[at] = element(p.b, i, p.tb); });
    each('c', [&](const Product& p, u32 i, u32 at) { c[at] = element(p.c, i, p.tc); });
    for (u32 row = 0; row < m; row++)
        for (u32 i = 0; i < k; i++)
            for (u32 column = 0; column < n; column++) c[row * n + column] += a[row * k + i] * b[i * n + column];
    each('c', [&](const Product& p, u32 i, u32 at) { put(p.d, i, p.tc, c[at]); });
}

/// Lane 8 t + r names row r of tile t; lane l holds columns 2 (l mod 4) and the next of row l / 4.
void move_tiles(Waiting* const threads[32], bool load) {
    const Tiles& any = *(Tiles*)threads[0]->operands;
    for (u32 tile = 0; tile < any.count; tile++)
        for (u32 lane = 0; lane < 32; lane++)
            for (u32 i = 0; i < 2; i++) {
                u32 row = lane / 4, column = lane % 4 * 2 + i;
                if (any.transposed) std::swap(row, column);
                auto* memory = (u16*)((Tiles*)threads[tile * 8 + row]->operands)->address + column;
                auto* half = (u16*)&((Tiles*)threads[lane]->operands)->words[tile] + i;
                if (load) *half = *memory;
                else *memory = *half;
            }
}

}  // namespace

void meet(Waiting* const threads[32]) {
    u32 together = 0, votes = 0, first = 32;
    for (u32 lane = 32; lane-- > 0;)
        if (threads[lane]) together |= 1u << lane, first = lane;
    u32 what = threads[first]->what;
    auto all = [&](u32 result) {
        for (u32 lane = 0; lane < 32; lane++)
            if (threads[lane]) threads[lane]->result = result;
    };
    if (what >= BALLOT && what <= VOTE_UNI)
        for (u32 lane = 0; lane < 32; lane++)
            if (threads[lane] && operand(threads[lane])) votes |= 1u << lane;
    switch (what) {
    case ACTIVE: return all(together);
    case BALLOT: return all(votes);
    case VOTE_ALL: return all(votes == together);
    case VOTE_ANY: return all(votes != 0);
    case VOTE_UNI: return all(votes == 0 || votes == together);
    case WARP_SYNC: return;
    case ELECT:
        for (u32 lane = 0; lane < 32; lane++)
            if (threads[lane]) threads[lane]->result = first, threads[lane]->thread.met = lane == first;
        return;
    case WMMA: return multiply(threads, true);
    case MMA: return multiply(threads, false);
    case LDMATRIX: return move_tiles(threads, true);
    case STMATRIX: return move_tiles(threads, false);
    }
    if (what >= SHFL_IDX && what <= SHFL_BFLY) shuffle(threads, what);
    else reduce(threads, what);
}
