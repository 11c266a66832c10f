// Measures the functions of math.c on this machine, in units of the last place of what is exact, and fails where one is off by
// more than is bounded here. `check` compiles and runs it; a number, 4093 otherwise, chooses how many floats there are between those that are tried.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "math.c"

typedef long double exact;

static u64 state = 1;

static u64 drawn(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

/// How far `found` lies from `right`, of `digits` bits from the power of two `least` up.
static double units(exact right, exact found, int digits, int least) {
    if (isnan(right) || isnan(found)) return isnan(right) == isnan(found) ? 0 : INFINITY;
    exact most = ldexpl(1 - ldexpl(1, -digits), 1 - least - digits + 2);
    // What is rounded to infinity is as far off as the number in its place would be.
    if (isinf(found)) found = copysignl(ldexpl(1, 1 - least - digits + 2), found);
    if (fabsl(right) > most) right = copysignl(fminl(fabsl(right), ldexpl(1, 1 - least - digits + 2)), right);
    if (right == found) return signbit(right) == signbit(found) ? 0 : INFINITY;
    int power;
    frexpl(right, &power);
    return (double)(fabsl(found - right) / ldexpl(1, power - digits < least ? least : power - digits));
}

typedef struct {
    double worst, x, y;
    u64 count;
} Found;

static void note(Found* found, double units, double x, double y) {
    found->count++;
    if (units > found->worst) *found = (Found){units, x, y, found->count};
}

static int failures = 0;

static void report(const char* name, Found found, double bound) {
    int bad = !(found.worst <= bound);
    printf("%-8s %8.3f of %.1f at %a %a, %llu values%s\n", name, found.worst, bound, found.x, found.y, found.count, bad ? "  TOO MUCH" : "");
    fflush(stdout);
    failures += bad;
}

static const double SPECIAL[] = {0, 0x1p-1074, 0x1p-1022, 0x1p-149, 0x1p-126, 0x1p-30, 0.5, 0x1.6a09e667f3bcdp-1, 0x1.fffffffffffffp-1, 1, 0x1.0000000000001p0,
                                 1.5, 2, 3, 4, 88.5, 89, 104, 709.5, 710.3, 745, 746, 0x1p16, 0x1p20, 0x1p24, 9007199254740991, 0x1p53, 0x1.fffffep127, 0x1p1000,
                                 0x1.fffffffffffffp1023, INFINITY, NAN};
enum { SPECIALS = sizeof(SPECIAL) / sizeof(double) };

/// A special number, one of any size, or one of a usual size; of either sign.
static double number(u64 i) {
    if (i < 2 * SPECIALS) return i & 1 ? -SPECIAL[i / 2] : SPECIAL[i / 2];
    u64 bits = drawn();
    if (i % 4 == 0) return of_bits(bits);
    return of_bits((bits & 0x800fffffffffffff) | (1023 - 12 + drawn() % (i % 4 == 1 ? 40 : 16)) << 52);
}

/// Every `step`-th float.
static void one_float(const char* name, float (*f)(float), exact (*g)(exact), double bound, u64 step) {
    Found found = {0};
    for (u64 i = 0; i < ((u64)1 << 32) + 2 * SPECIALS; i += i < (u64)1 << 32 ? step : 1) {
        float x = i >> 32 ? (float)number(i & 0xffff) : float_of_bits((u32)i);
        note(&found, units(g(x), f(x), 24, -149), x, 0);
    }
    report(name, found, bound);
}

static void one_double(const char* name, double (*f)(double), exact (*g)(exact), double bound, u64 count) {
    Found found = {0};
    for (u64 i = 0; i < count; i++) {
        double x = number(i);
        note(&found, units(g(x), f(x), 53, -1074), x, 0);
    }
    // Next to whole numbers of quarters of a turn nearly everything cancels.
    for (u64 i = 0; i < count / 4; i++) {
        double x = (double)((exact)(drawn() >> drawn() % 64) * 1.57079632679489661923132169163975144L);
        note(&found, units(g(x), f(x), 53, -1074), x, 0);
    }
    report(name, found, bound);
}

/// The pairs of all special numbers, then drawn ones; powers also with bases near 1.
static void two_numbers(const char* name, void* f, exact (*g)(exact, exact), double bound, u64 count, int single) {
    Found found = {0};
    for (u64 i = 0; i < count; i++) {
        int fixed = i < 4 * SPECIALS * SPECIALS;
        double x = number(fixed ? i / (2 * SPECIALS) : i + 2 * SPECIALS), y = number(fixed ? i % (2 * SPECIALS) : i * 3 + 2 * SPECIALS);
        if (!fixed && i % 5 == 0) x = 1 + (x > 0 ? 1 : -1) * (double)(drawn() >> 11) * ldexp(1, -54 - (int)(drawn() % 20));
        if (!fixed && i % 7 == 0) y = (double)(long long)y;
        float a = (float)x, b = (float)y;
        if (single) note(&found, units(g(a, b), ((float (*)(float, float))f)(a, b), 24, -149), a, b);
        else note(&found, units(g(x, y), ((double (*)(double, double))f)(x, y), 53, -1074), x, y);
    }
    report(name, found, bound);
}

/// glibc takes -2^63 for an odd number.
static exact power(exact x, exact y) { return y == -0x1p63L ? powl(x * x, y / 2) : powl(x, y); }

int main(int count, char** arguments) {
    u64 step = count > 1 ? strtoull(arguments[1], 0, 10) : 4093, many = ((u64)1 << 32) / step;
#define FLOAT(name, bound) one_float(#name "f", __nv_##name##f, name##l, bound, step)
#define DOUBLE(name, bound) one_double(#name, __nv_##name, name##l, bound, many)
    FLOAT(exp, 2), FLOAT(log, 1.5), FLOAT(sin, 2), FLOAT(cos, 2), FLOAT(tanh, 2);
    FLOAT(tan, 0.51), FLOAT(sinh, 0.51), FLOAT(cosh, 0.51), FLOAT(asin, 0.51), FLOAT(acos, 0.51), FLOAT(atan, 0.51);
    two_numbers("atan2f", __nv_atan2f, atan2l, 0.51, many, 1);
    two_numbers("powf", __nv_powf, power, 0.51, many, 1);
    DOUBLE(exp, 1), DOUBLE(log, 1), DOUBLE(sin, 1), DOUBLE(cos, 1), DOUBLE(tan, 2.5);
    DOUBLE(sinh, 2), DOUBLE(cosh, 2), DOUBLE(tanh, 3), DOUBLE(asin, 2), DOUBLE(acos, 1), DOUBLE(atan, 3);
    two_numbers("atan2", __nv_atan2, atan2l, 3, many, 0);
    two_numbers("pow", __nv_pow, power, 1.5, many, 0);
    return failures != 0;
}
