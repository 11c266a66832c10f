// What kernels of CUDA call for exp, sin and the like, under the names of NVIDIA's libdevice, for machines that have no CUDA
// toolkit. These are all that CubeCL calls: halves are computed in float. `build` makes math.bc of it; `check` measures the
// errors, which check.c bounds; coefficients.py made the numbers.
//
// exp, log, sin, cos and tanh of floats are those that models are made of, and are written for speed. The other functions of
// floats go through double, which is slow on most cards but used by hardly anything.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned __int128 u128;

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((always_inline))
#define NAN_ __builtin_nan("")
#define INFINITY_ __builtin_inf()

/// A number as a sum, the first part being the sum rounded.
typedef struct {
    double high, low;
} Two;

#define BITS(name, from, to)                      \
    INLINE to name(from x) {                      \
        to bits;                                  \
        __builtin_memcpy(&bits, &x, sizeof bits); \
        return bits;                              \
    }
BITS(bits_of, double, u64)
BITS(of_bits, u64, double)
BITS(bits_of_float, float, u32)
BITS(float_of_bits, u32, float)

/// Values of polynomials, their coefficients from the lowest power up.
#define POLYNOMIAL(name, type, fma)                                   \
    INLINE type name(type x, const type* c, int count) {              \
        type sum = c[count - 1];                                      \
        for (int i = count - 2; i >= 0; i--) sum = fma(sum, x, c[i]); \
        return sum;                                                   \
    }
POLYNOMIAL(polynomial, double, __builtin_fma)
POLYNOMIAL(polynomialf, float, __builtin_fmaf)
#define AT(x, coefficients) polynomial(x, coefficients, sizeof(coefficients) / sizeof(double))
#define ATF(x, coefficients) polynomialf(x, coefficients, sizeof(coefficients) / sizeof(float))

// The numbers --------------------------------------------------------------------------------------------------------

static const double LOG2_E = 0x1.71547652b82fep+0, LN2 = 0x1.62e42fefa39efp-1, LN2_REST = 0x1.abc9e3b39803fp-56;
/// 32 bits of ln 2, which whole numbers of 21 bits multiply without rounding, and what they leave.
static const double LN2_SHORT = 0x1.62e42fee00000p-1, LN2_LONG = 0x1.a39ef35793c76p-33;
static const double THIRD = 0x1.5555555555555p-2, THIRD_REST = 0x1.5555555555555p-56;
static const double TWO_BY_PI = 0x1.45f306dc9c883p-1;
static const double QUARTER = 0x1.921fb54442d18p+0, QUARTER_REST = 0x1.1a62633145c07p-54, QUARTER_LAST = -0x1.f1976b7ed8fbcp-110;

/// (e^r - 1 - r) / r², |r| <= ln 2 / 2.
static const double EXP[] = {0x1.0000000000000p-1,  0x1.555555555555cp-3,  0x1.5555555555541p-5,  0x1.111111110e9f7p-7,
                             0x1.6c16c16c1faaep-10, 0x1.a01a01b447ac6p-13, 0x1.a01a0176e85cep-16, 0x1.71ddee6798f7dp-19,
                             0x1.27e540af1f60ep-22, 0x1.af6e9a29a09b0p-26, 0x1.1ed9d5c6d2699p-29};
/// (ln m - 2 s) / s³ of s², where s = (m - 1) / (m + 1) and m is from √½ to √2; then half of it less a third, by s².
static const double LOG[] = {0x1.5555555555555p-1, 0x1.9999999999d0dp-2, 0x1.2492492439dc7p-2, 0x1.c71c724b00b54p-3,
                             0x1.745ce1e46b4ebp-3, 0x1.3b202098f5061p-3, 0x1.0f678a3d1e989p-3, 0x1.0f0befb1d6faep-3};
static const double LOG_FIFTH[] = {0x1.9999999999995p-3, 0x1.2492492493153p-3, 0x1.c71c71c563a8ep-4, 0x1.745d183e4e87ap-4,
                                   0x1.3b135fe084404p-4, 0x1.112117e6e98e1p-4, 0x1.de25389d2da68p-5, 0x1.eb7e3f7d17bbdp-5};
/// (sin x - x) / x³ and (cos x - 1 + x² / 2) / x⁴ of x², |x| <= π / 4.
static const double SIN[] = {-0x1.5555555555548p-3, 0x1.111111110f76cp-7,  -0x1.a01a019bf47c8p-13,
                             0x1.71de356101f76p-19, -0x1.ae5e55ce16221p-26, 0x1.5d8e865cf0aa1p-33};
static const double COS[] = {0x1.555555555554bp-5,  -0x1.6c16c16c1503fp-10, 0x1.a01a019c95689p-16,
                             -0x1.27e4f7f6ea6fcp-22, 0x1.1ee9dfb7cf91ep-29, -0x1.8fa8985847226p-37};
/// (sinh x - x) / x³ of x², |x| <= 1.
static const double SINH[] = {0x1.5555555555555p-3,  0x1.111111111117cp-7,  0x1.a01a01a00dbafp-13, 0x1.71de3a609a725p-19,
                              0x1.ae644b4bc34dcp-26, 0x1.612aab540f0a1p-33, 0x1.aac7adbc70edcp-41, 0x1.3e9107333b361p-48};
/// (arcsin x - x) / x³ of x², |x| <= ½.
static const double ASIN[] = {0x1.5555555555577p-3, 0x1.333333332e1d7p-4, 0x1.6db6db72067c3p-5, 0x1.f1c71a9a612bcp-6,
                              0x1.6e8bde357e3ffp-6, 0x1.1c49fd309612cp-6, 0x1.ca1e4bde65f16p-7, 0x1.759020e3f57d1p-7,
                              0x1.60fff6c6f49f2p-7, 0x1.e995aa7ea282cp-9, 0x1.627f8e45fcf05p-6, -0x1.5667f5d274d99p-6,
                              0x1.0ac783d4e1577p-5};
/// (arctan x - x) / x³ of x², |x| <= tan(π / 8).
static const double ATAN[] = {-0x1.5555555555555p-2, 0x1.99999999998c3p-3,  -0x1.249249248bd1fp-3, 0x1.c71c71c3cb68cp-4,
                              -0x1.745d16c08b11dp-4, 0x1.3b13a36a3d1cbp-4,  -0x1.111013e2c64adp-4, 0x1.e1c83427a5ff2p-5,
                              -0x1.ae39758d40a53p-5, 0x1.7fde962402417p-5,  -0x1.46c6b2c394674p-5, 0x1.cfe2ef1b1c11dp-6,
                              -0x1.84481b7d5fec6p-7};
/// (ln(1 + f) - f + f² / 2) / f³, |f| <= ⅓.
static const float LOGF[] = {0x1.555500p-2f, -0x1.ffff6ap-3f, 0x1.99d268p-3f, -0x1.55884ep-3f,
                             0x1.1eb8dep-3f, -0x1.f56284p-4f, 0x1.1ee68ap-3f, -0x1.03037ap-3f};
static const float SINF[] = {-0x1.555556p-3f, 0x1.111166p-7f, -0x1.a04a76p-13f, 0x1.7864f8p-19f};
static const float COSF[] = {0x1.55554ap-5f, -0x1.6c0c2cp-10f, 0x1.99e9d4p-16f};
/// (tanh x - x) / x³ of x², |x| <= ⅝.
static const float TANHF[] = {-0x1.555532p-2f, 0x1.110708p-3f, -0x1.b8395ep-5f, 0x1.521744p-6f, -0x1.75a990p-8f};

/// The bits of 2 / π behind the point, after 64 in front of it.
static const u64 BITS_OF_TWO_BY_PI[] = {
    0,
    0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561,
    0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484,
    0xe99c7026b45f7e41, 0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f,
    0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7, 0x4f463f669e5fea2d, 0x7527bac7ebe5f17b,
    0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab,
};

// Powers of e and logarithms -----------------------------------------------------------------------------------------

/// x · 2^k, rounded once also where it has fewer bits.
INLINE double scaled(double x, int k) {
    int half = k >> 1;
    return x * of_bits((u64)(half + 1023) << 52) * of_bits((u64)(k - half + 1023) << 52);
}

/// 2^k · e^(x + rest), where the rest is far smaller than x or than 1.
INLINE double exponential(double x, double rest, int k) {
    double within = __builtin_fmin(__builtin_fmax(x, -800), 800), n = __builtin_rint(within * LOG2_E);
    double r = __builtin_fma(-n, LN2_REST, __builtin_fma(-n, LN2, within)) + rest;
    double power = scaled(1 + __builtin_fma(r * r, AT(r, EXP), r), (int)n + k);
    return x != x ? x : power;
}

/// The number from √½ to √2 that is x, positive and finite, without a power of two.
INLINE double mantissa(double x, int* power) {
    const u64 from = 0x3fe6a09e00000000;
    int least = x < 0x1p-1022 ? 54 : 0;
    u64 bits = bits_of(least ? x * 0x1p54 : x) + (0x3ff0000000000000 - from);
    *power = (int)(bits >> 52) - 1023 - least;
    return of_bits((bits & 0x000fffffffffffff) + from);
}

INLINE double logarithm(double x) {
    int k;
    double f = mantissa(x, &k) - 1, s = f / (2 + f), z = s * s, square = 0.5 * f * f;
    double rest = __builtin_fma(k, LN2_LONG, s * (square + z * AT(z, LOG)));
    double sum = __builtin_fma(k, LN2_SHORT, f - (square - rest));
    return x > 0 ? x < INFINITY_ ? sum : x : x == 0 ? -INFINITY_ : NAN_;
}

/// The logarithm of a number that is positive and finite, to 2^-65 of it.
INLINE Two logarithm_in_two(double x) {
    int k;
    double f = mantissa(x, &k) - 1, d = 2 + f;
    double s = f / d, s_rest = (__builtin_fma(-s, d, f) - s * (f - (d - 2))) / d;
    double z = s * s, z_rest = __builtin_fma(s, s, -z) + 2 * s * s_rest;
    // ln = 2 s (1 + z w), w being a third and what follows.
    double follows = z * AT(z, LOG_FIFTH), w = THIRD + follows, w_rest = (THIRD - w) + follows + THIRD_REST;
    double p = z * w, p_rest = __builtin_fma(z, w, -p) + (z * w_rest + z_rest * w);
    double a = s * p, a_rest = __builtin_fma(s, p, -a) + (s * p_rest + s_rest * p);
    double h = s + a, h_rest = (s - h) + a + (a_rest + s_rest);
    double high = k * LN2_SHORT, sum = high + 2 * h;
    return (Two){sum, (high - sum) + 2 * h + (2 * h_rest + k * LN2_LONG)};
}

/// What x^y is, where |x|^y is `power`: its sign, and the cases that have rules of their own.
INLINE double with_rules(double x, double y, double power) {
    int whole = y == __builtin_trunc(y), odd = whole && __builtin_fabs(y * 0.5) != __builtin_trunc(__builtin_fabs(y * 0.5));
    if (x < 0 && x > -INFINITY_ && !whole) power = NAN_;
    if (__builtin_signbit(x) && odd) power = -power;
    if (x != x || y != y) power = x + y;
    return x == 1 || y == 0 || (x == -1 && __builtin_fabs(y) == INFINITY_) ? 1 : power;
}

EXPORT double __nv_exp(double x) { return exponential(x, 0, 0); }

EXPORT double __nv_log(double x) { return logarithm(x); }

EXPORT double __nv_pow(double x, double y) {
    double a = __builtin_fabs(x);
    if (a == 0 || a == INFINITY_) return with_rules(x, y, (a == 0) == (y > 0) ? 0 : INFINITY_);
    Two log = logarithm_in_two(a);
    double product = y * log.high, rest = __builtin_fma(y, log.high, -product) + y * log.low;
    return with_rules(x, y, exponential(product, __builtin_fabs(product) < 800 ? rest : 0, 0));
}

EXPORT float __nv_powf(float x, float y) {
    return (float)with_rules(x, y, exponential(y * logarithm(__builtin_fabsf(x)), 0, 0));
}

/// 2^x, off by 2 in the last place at most, as PTX promises.
INLINE float power_of_two(float x) {
#ifdef __NVPTX__
    return __nvvm_ex2_approx_ftz_f(x);
#else
    return (float)__builtin_exp2((double)x);
#endif
}

/// 1 / x for x from 1 on, off by 1 in the last place at most.
INLINE float reciprocal(float x) {
#ifdef __NVPTX__
    return __nvvm_rcp_approx_ftz_f(x);
#else
    return 1 / x;
#endif
}

EXPORT float __nv_expf(float x) {
    // The power of two, bounded to what a float can hold, stands in the last bits of `shifted`.
    float share = __builtin_fminf(__builtin_fmaxf(__builtin_fmaf(x, 0x1.715476p+0f / 252, 0.5f), 0), 1);
    float shifted = __builtin_fmaf(share, 252, 0x1.8p23f + 1), n = shifted - (0x1.8p23f + 127);
    float rest = __builtin_fmaf(x, 0x1.4ae0c0p-26f, __builtin_fmaf(x, 0x1.715476p+0f, -n));
    return power_of_two(rest) * float_of_bits(bits_of_float(shifted) << 23);
}

EXPORT float __nv_logf(float x) {
    int least = x < 0x1p-126f;
    u32 bits = bits_of_float(least ? x * 0x1p23f : x), whole = (bits - 0x3f2aaaab) & 0xff800000;
    float f = float_of_bits(bits - whole) - 1, k = __builtin_fmaf((int)whole, 0x1p-23f, least ? -23 : 0);
    float rest = __builtin_fmaf(f * f, __builtin_fmaf(f, ATF(f, LOGF), -0.5f), f);
    float sum = __builtin_fmaf(k, 0x1.62e430p-1f, rest);
    return x > 0 ? x < (float)INFINITY_ ? sum : x : x == 0 ? -(float)INFINITY_ : (float)NAN_;
}

// Hyperbolic functions -----------------------------------------------------------------------------------------------

INLINE double sinh_of_small(double x) { return __builtin_fma(x * x * x, AT(x * x, SINH), x); }

EXPORT double __nv_sinh(double x) {
    double a = __builtin_fabs(x), half = exponential(a, 0, -1);
    return __builtin_copysign(a < 1 ? sinh_of_small(a) : half - 0.25 / half, x);
}

EXPORT double __nv_cosh(double x) {
    double half = exponential(__builtin_fabs(x), 0, -1);
    return half + 0.25 / half;
}

EXPORT double __nv_tanh(double x) {
    double a = __builtin_fabs(x), s = sinh_of_small(__builtin_fmin(a, 1));
    double small = s / __builtin_sqrt(__builtin_fma(s, s, 1)), large = 1 - 2 / (exponential(2 * a, 0, 0) + 1);
    return __builtin_copysign(a < 1 ? small : large, x);
}

EXPORT float __nv_sinhf(float x) { return (float)__nv_sinh(x); }
EXPORT float __nv_coshf(float x) { return (float)__nv_cosh(x); }

EXPORT float __nv_tanhf(float x) {
    float a = __builtin_fabsf(x), z = x * x;
    float small = __builtin_fmaf(a * z, ATF(z, TANHF), a), large = __builtin_fmaf(-2, reciprocal(__nv_expf(2 * a) + 1), 1);
    return __builtin_copysignf(a < 0.625f ? small : large, x);
}

// Trigonometric functions --------------------------------------------------------------------------------------------

/// x, from 2^20 on, as a whole number of quarters of a turn, of which the last two bits are kept, and what is left of it.
INLINE Two turned_far(double x, u32* quarters) {
    u64 bits = bits_of(x), m = (bits & 0x000fffffffffffff) | 0x0010000000000000;
    // 192 bits of 2 / π; those in front of them make whole turns, and those behind them are too small to matter.
    u32 at = ((u32)(bits >> 52) & 0x7ff) - 1075 + 62;
    const u64* word = BITS_OF_TWO_BY_PI + (at >> 6);
    u64 w[3];
    for (int i = 0; i < 3; i++) w[i] = word[i] << (at & 63) | word[i + 1] >> 1 >> (63 - (at & 63));
    u128 low = (u128)m * w[2], middle = (u128)m * w[1] + (u64)(low >> 64);
    u64 top = m * w[0] + (u64)(middle >> 64);
    // Two bits of quarters, then their fraction; one above a half is what is missing of the next quarter.
    u64 first = top << 2 | (u64)middle >> 62, second = (u64)middle << 2 | (u64)low >> 62, above = first >> 63;
    *quarters = (u32)(top >> 62) + (u32)above;
    first ^= -above, second ^= -above;
    double a = (double)first, b = (double)(long long)(first - (u64)a) * 0x1p-64 + (double)second * 0x1p-128;
    a *= 0x1p-64;
    double r = a * QUARTER, rest = __builtin_fma(a, QUARTER, -r) + (a * QUARTER_REST + b * QUARTER);
    double sign = (above != 0) == (x < 0) ? 1 : -1, sum = r + rest;
    if (bits >> 63) *quarters = -*quarters;
    return (Two){sign * sum, sign * ((r - sum) + rest)};
}

/// x as a whole number of quarters of a turn, of which the last two bits are kept, and what is left of it.
INLINE Two turned(double x, u32* quarters) {
    if (!(__builtin_fabs(x) < 0x1p20)) {
        if (!(__builtin_fabs(x) < INFINITY_)) return *quarters = 0, (Two){NAN_, 0};
        return turned_far(x, quarters);
    }
    double shifted = __builtin_fma(x, TWO_BY_PI, 0x1.8p52), n = shifted - 0x1.8p52;
    *quarters = (u32)bits_of(shifted);
    double a = __builtin_fma(-n, QUARTER, x), b = n * QUARTER_REST, b_rest = __builtin_fma(n, QUARTER_REST, -b);
    double r = a - b, back = r - a, rest = (a - (r - back)) - (b + back) - b_rest;
    rest = __builtin_fma(-n, QUARTER_LAST, rest);
    double sum = r + rest;
    return (Two){sum, (r - sum) + rest};
}

INLINE double sin_within(Two r) {
    double z = r.high * r.high;
    return r.high + __builtin_fma(z * r.high, AT(z, SIN), r.low * (1 - 0.5 * z));
}

INLINE double cos_within(Two r) {
    double z = r.high * r.high, half = 0.5 * z, w = 1 - half;
    return w + (((1 - w) - half) + __builtin_fma(z * z, AT(z, COS), -r.high * r.low));
}

INLINE double sin_after(double x, u32 later) {
    u32 quarters;
    Two r = turned(x, &quarters);
    quarters += later;
    double value = quarters & 1 ? cos_within(r) : sin_within(r);
    return quarters & 2 ? -value : value;
}

EXPORT double __nv_sin(double x) { return x == 0 ? x : sin_after(x, 0); }
EXPORT double __nv_cos(double x) { return sin_after(x, 1); }

EXPORT double __nv_tan(double x) {
    u32 quarters;
    Two r = turned(x, &quarters);
    double s = sin_within(r), c = cos_within(r);
    return x == 0 ? x : quarters & 1 ? -c / s : s / c;
}

EXPORT float __nv_tanf(float x) { return (float)__nv_tan(x); }

INLINE float sin_after_float(float x, u32 later) {
    u32 quarters;
    float r;
    if (__builtin_fabsf(x) < 0x1p16f) {
        float shifted = __builtin_fmaf(x, 0x1.45f306p-1f, 0x1.8p23f), n = shifted - 0x1.8p23f;
        quarters = bits_of_float(shifted);
        r = __builtin_fmaf(-n, 0x1.921fb6p+0f, x);
        r = __builtin_fmaf(n, 0x1.777a5cp-25f, r);
        r = __builtin_fmaf(n, 0x1.ee59dap-50f, r);
    } else {
        r = (float)turned(x, &quarters).high;
    }
    quarters += later;
    float z = r * r, s = __builtin_fmaf(z * r, ATF(z, SINF), r);
    float c = __builtin_fmaf(z, __builtin_fmaf(z, ATF(z, COSF), -0.5f), 1);
    float value = quarters & 1 ? c : s;
    return quarters & 2 ? -value : value;
}

EXPORT float __nv_sinf(float x) { return x == 0 ? x : sin_after_float(x, 0); }
EXPORT float __nv_cosf(float x) { return sin_after_float(x, 1); }

// Angles -------------------------------------------------------------------------------------------------------------

/// (arcsin x - x) / x, of x².
INLINE double asin_rest(double z) { return z * AT(z, ASIN); }

/// Half of arccos a, for a from ½ to 1, as the root of (1 - a) / 2 and a rest.
INLINE Two half_acos(double a) {
    double z = 0.5 - 0.5 * a, s = __builtin_sqrt(z);
    double missing = s > 0 ? __builtin_fma(-s, s, z) / (2 * s) : 0;
    return (Two){s, __builtin_fma(s, asin_rest(z), missing)};
}

EXPORT double __nv_asin(double x) {
    double a = __builtin_fabs(x);
    if (a <= 0.5) return __builtin_fma(x, asin_rest(x * x), x);
    Two half = half_acos(a);
    return __builtin_copysign((QUARTER - 2 * half.high) - (2 * half.low - QUARTER_REST), x);
}

EXPORT double __nv_acos(double x) {
    double a = __builtin_fabs(x);
    if (a <= 0.5) return QUARTER - (x - __builtin_fma(-x, asin_rest(x * x), QUARTER_REST));
    Two half = half_acos(a);
    if (x > 0) return 2 * (half.high + half.low);
    return 2 * (QUARTER - (half.high + (half.low - QUARTER_REST)));
}

EXPORT double __nv_atan2(double y, double x) {
    double a = __builtin_fabs(x), b = __builtin_fabs(y), small = __builtin_fmin(a, b), large = __builtin_fmax(a, b);
    if (x != x || y != y) return x + y;
    if (small == INFINITY_) small = large = 1;
    if (large == 0) large = 1;
    // No sum of them is beyond what doubles hold.
    if (large > 0x1p1000) small *= 0x1p-30, large *= 0x1p-30;
    // Beyond an eighth of π the angle is measured from a quarter of it.
    int beyond = small > 0x1.a827999fcef32p-2 * large;
    double t = beyond ? (small - large) / (small + large) : small / large, z = t * t;
    double angle = __builtin_fma(t * z, AT(z, ATAN), t);
    if (beyond) angle = 0.5 * QUARTER + (angle + 0.5 * QUARTER_REST);
    if (b > a) angle = QUARTER - (angle - QUARTER_REST);
    if (__builtin_signbit(x)) angle = 2 * QUARTER - (angle - 2 * QUARTER_REST);
    return __builtin_copysign(angle, y);
}

EXPORT double __nv_atan(double x) { return __nv_atan2(x, 1); }

EXPORT float __nv_asinf(float x) { return (float)__nv_asin(x); }
EXPORT float __nv_acosf(float x) { return (float)__nv_acos(x); }
EXPORT float __nv_atanf(float x) { return (float)__nv_atan(x); }
EXPORT float __nv_atan2f(float y, float x) { return (float)__nv_atan2(y, x); }
