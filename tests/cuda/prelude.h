// What the C that PTX is turned into stands on. Included by the compiler ahead of every kernel.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned __int128 u128;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef __int128 s128;
typedef float f32;
typedef double f64;

typedef struct Thread {
    u32 tid[3], ctaid[3], ntid[3], nctaid[3];
    u32 lane, warp;
    void** params;
    u8* shared;
    // Waits for the other threads that stand at the same place, then does one operation over all of them.
    u32 (*meet)(struct Thread*, u32 place, u32 what, u32 mask, void* operands);
    void (*barrier)(struct Thread*);
    u32 met;        // the predicate beside the result of a meeting
} Thread;

enum { ACTIVE, SHFL_IDX, SHFL_UP, SHFL_DOWN, SHFL_BFLY, BALLOT, VOTE_ALL, VOTE_ANY, VOTE_UNI, WARP_SYNC,
       REDUX_ADD, REDUX_AND, REDUX_OR, REDUX_XOR, REDUX_UMIN, REDUX_UMAX, REDUX_SMIN, REDUX_SMAX, ELECT,
       WMMA, MMA, LDMATRIX, STMATRIX };

typedef struct { u32 value, lane, clamp; } Shuffle;
/// A product of tiles: element types 0 f16, 1 bf16, 2 tf32, 3 f32, 4 s32, 5 s8, 6 u8.
typedef struct { u32 m, n, k, ta, tb, tc; u32 *a, *b, *c, *d; u32 na, nb, nc; } Product;
/// Rows of 8x8 tiles of 16 bits.
typedef struct { u64 address; u32 count, transposed; u32* words; } Tiles;

#ifndef __cplusplus
static inline f32 F(u32 x) { union { u32 u; f32 f; } v = {x}; return v.f; }
static inline u32 UF(f32 x) { union { f32 f; u32 u; } v = {x}; return v.u; }
static inline f64 D(u64 x) { union { u64 u; f64 f; } v = {x}; return v.f; }
static inline u64 UD(f64 x) { union { f64 f; u64 u; } v = {x}; return v.u; }
static inline f32 H(u16 x) { union { u16 u; _Float16 f; } v = {x}; return (f32)v.f; }
/// From double, so that a sum of halves is rounded once.
static inline u16 UH(f64 x) { union { _Float16 f; u16 u; } v = {(_Float16)x}; return v.u; }
static inline f32 B(u16 x) { return F((u32)x << 16); }
static inline u16 UB(f64 x) {
    f32 f = (f32)x;
    u32 bits = UF(f);
    if (f != f) return 0x7fff;
    // A double that the float rounded away from exactly the middle must not be rounded a second time.
    if ((bits & 0xffff) == 0x8000 && (f64)f != x) bits += (((f64)f < x) == (f > 0)) ? 1 : -1;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
f32 sinf(f32); f32 cosf(f32); f32 tanhf(f32); f32 log2f(f32); f32 exp2f(f32);
f64 sin(f64); f64 cos(f64); f64 tanh(f64); f64 log2(f64); f64 exp2(f64);
static inline f32 nan_minf(f32 a, f32 b) { return a != a ? a : b != b ? b : a < b ? a : b; }
static inline f32 nan_maxf(f32 a, f32 b) { return a != a ? a : b != b ? b : a > b ? a : b; }
static inline f64 saturate(f64 x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline f32 down(f64 x) { f32 f = (f32)x; return (f64)f > x ? __builtin_nextafterf(f, -__builtin_inff()) : f; }
static inline f32 up(f64 x) { f32 f = (f32)x; return (f64)f < x ? __builtin_nextafterf(f, __builtin_inff()) : f; }
static inline f32 toward_zero(f64 x) { return x < 0 ? up(x) : down(x); }
static inline u32 to_tf32(f32 x) { return UF(x) + 0x1000 & ~0x1fffu; }
/// Floats become whole numbers with saturation; no number becomes 0.
static inline s64 whole(f64 x, f64 least, f64 most, s64 low, s64 high) {
    return x != x ? 0 : x <= least ? low : x >= most ? high : (s64)x;
}
static inline s64 to_s64(f64 x) {
    return x != x ? (s64)1 << 63 : whole(x, -0x1p63, 0x1p63, (s64)1 << 63, ~((s64)1 << 63));
}
static inline u64 to_u64(f64 x) {
    return x != x ? 1ull << 63 : x <= 0 ? 0 : x >= 0x1p64 ? ~0ull : (u64)x;
}
static inline s32 clamp_s32(s64 x) { return x > 2147483647 ? 2147483647 : x < -2147483648ll ? -2147483648ll : x; }
#define DIVIDE(s, b) \
    static inline s##b s##div##b(s##b a, s##b c) { return (s##128)a / c; } \
    static inline s##b s##rem##b(s##b a, s##b c) { return (s##128)a % c; }
#define DIVIDE_NARROW(s, b) \
    static inline s##b s##div##b(s##b a, s##b c) { return (s##64)a / c; } \
    static inline s##b s##rem##b(s##b a, s##b c) { return (s##64)a % c; }
DIVIDE(s, 64) DIVIDE(u, 64) DIVIDE_NARROW(s, 32) DIVIDE_NARROW(u, 32) DIVIDE_NARROW(s, 16) DIVIDE_NARROW(u, 16)
static inline u32 funnel_left(u32 a, u32 b, u32 n) { return (((u64)b << 32 | a) << n) >> 32; }
static inline u32 funnel_right(u32 a, u32 b, u32 n) { return ((u64)b << 32 | a) >> n; }
static inline u32 permute(u32 a, u32 b, u32 c) {
    u64 bytes = (u64)b << 32 | a;
    u32 out = 0;
    for (int i = 0; i < 4; i++) {
        u32 pick = c >> 4 * i & 15, byte = bytes >> 8 * (pick & 7) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << 8 * i;
    }
    return out;
}
static inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
    u32 out = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return out;
}
static inline u32 clz32(u32 x) { return x ? __builtin_clz(x) : 32; }
static inline u32 clz64(u64 x) { return x ? __builtin_clzll(x) : 64; }
static inline u32 brev32(u32 x) { u32 r = 0; for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i); return r; }
static inline u64 brev64(u64 x) { return (u64)brev32(x) << 32 | brev32(x >> 32); }
static inline u32 bfind_u32(u32 x) { return x ? 31 - __builtin_clz(x) : ~0u; }
static inline u32 bfind_s32(s32 x) { return bfind_u32(x < 0 ? ~x : x); }
static inline u32 bfind_u64(u64 x) { return x ? 63 - __builtin_clzll(x) : ~0u; }
static inline u32 bfind_s64(s64 x) { return bfind_u64(x < 0 ? ~x : x); }
static inline u32 shift_bfind_u32(u32 x) { return x ? 31 - bfind_u32(x) : ~0u; }
static inline u32 shift_bfind_u64(u64 x) { return x ? 63 - bfind_u64(x) : ~0u; }
static inline u64 bfe_u64(u64 a, u32 at, u32 n) {
    at &= 255, n &= 255;
    return at > 63 || n == 0 ? 0 : a >> at & (n > 63 ? ~0ull : (1ull << n) - 1);
}
static inline u32 bfe_u32(u32 a, u32 at, u32 n) { return bfe_u64(a, at, n); }
static inline s64 bfe_s64(s64 a, u32 at, u32 n) {
    at &= 255, n &= 255;
    if (n == 0) return 0;
    if (at > 63) return a >> 63;
    a >>= at;
    return n + at > 63 ? a : (s64)((u64)a << (64 - n)) >> (64 - n);
}
static inline s32 bfe_s32(s32 a, u32 at, u32 n) {
    at &= 255, n &= 255;
    return n + at > 32 && n ? bfe_s64(a, at, 32) : bfe_s64(a, at, n);
}
static inline u64 bfi64(u64 a, u64 b, u32 at, u32 n) {
    at &= 255, n &= 255;
    u64 mask = at > 63 || n == 0 ? 0 : (n > 63 ? ~0ull : (1ull << n) - 1) << at;
    return b & ~mask | a << (at & 63) & mask;
}
static inline u32 bfi32(u32 a, u32 b, u32 at, u32 n) { return bfi64(a, b, at, n); }
static inline u32 dot4(u32 a, u32 b, u32 c, int signed_a, int signed_b) {
    for (int i = 0; i < 4; i++) {
        s32 x = signed_a ? (s8)(a >> 8 * i) : (u8)(a >> 8 * i);
        s32 y = signed_b ? (s8)(b >> 8 * i) : (u8)(b >> 8 * i);
        c += x * y;
    }
    return c;
}
/// Where an element of a fragment lies is open to the implementation; here in order, lane by lane, repeated where
/// the registers hold more than the tile.
#define EACH_ELEMENT(what) \
    for (u32 i = 0, per = 4 / bytes; i < count * per; i++) { \
        u32 at = (lane * count * per + i) % (rows * columns), row = at / columns, column = at % columns; \
        u64 there = address + (by_row ? (u64)row * stride + column : (u64)column * stride + row) * bytes; \
        what; \
    }
static inline void fragment_load(u32 lane, u32* f, u32 count, u32 bytes, u32 rows, u32 columns, u32 by_row, u64 address, u32 stride) {
    if (bytes == 4) EACH_ELEMENT(f[i] = *(u32*)there)
    else EACH_ELEMENT(((u16*)f)[i] = *(u16*)there)
}
static inline void fragment_store(u32 lane, u32* f, u32 count, u32 bytes, u32 rows, u32 columns, u32 by_row, u64 address, u32 stride) {
    if (bytes == 4) EACH_ELEMENT(*(u32*)there = f[i])
    else EACH_ELEMENT(*(u16*)there = ((u16*)f)[i])
}
/// Reads, changes and writes a place as one step; `what` computes the new value from `old`.
#define ATOMIC(type, address, what) ({ \
    type old = __atomic_load_n((type*)(address), __ATOMIC_RELAXED), put; \
    do put = (what); while (!__atomic_compare_exchange_n((type*)(address), &old, put, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)); \
    old; })
#endif
